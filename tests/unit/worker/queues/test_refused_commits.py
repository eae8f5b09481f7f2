"""A COMMIT whose SENDs find no room in the store: what it settled is not settled."""

from __future__ import annotations

import pytest

from tests.unit.worker.queues.lone_owner import LoneOwner
from worker.queues.letters import NACK, SETTLE, Operation

LARGE = b"x" * 1000


def settling(lone: LoneOwner, *ids: str) -> Operation:
    return [SETTLE, b"/queue/q", 1, [lone.keys[id] for id in ids]]


def test_what_it_settled_is_delivered_again() -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "a", "b", "c")
    lone.settled()
    lone.store.room = 100
    [outcome] = lone.commit_of(lone.transact(settling(lone, "a", "b"), lone.adding("/queue/r", "r", body=LARGE)))
    assert outcome.refused is not None and outcome.refused[0] == "store-full"
    assert lone.stored() == ["a", "b", "c"]
    lone.detach("/queue/q", 1)
    lone.attach("/queue/q", 2)
    lone.settled()
    assert [id for id, _ in lone.delivered[2]] == ["a", "b", "c"]
    assert min(count for _, count in lone.delivered[2]) > 1, "delivered before, and not marked so"
    lone.settle("/queue/q", 2, "a", "b", "c")
    lone.settled()
    assert lone.stored() == []
    assert (lone.queue("/queue/q").queue.messages, lone.queue("/queue/q").queue.bytes) == (0, 0)


def test_with_room_it_is_settled() -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "a", "b")
    lone.settled()
    lone.store.room = 5000
    [outcome] = lone.commit_of(lone.transact(settling(lone, "a"), lone.adding("/queue/r", "r", body=LARGE)))
    assert outcome.refused is None
    assert sorted(lone.stored()) == ["b", "r"]


def test_a_settlement_alone_needs_no_room() -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "a")
    lone.settled()
    lone.store.room = 0
    [outcome] = lone.commit_of(lone.transact(settling(lone, "a")))
    assert outcome.refused is None
    assert lone.stored() == []


@pytest.mark.parametrize("requeue", [True, False])
def test_what_it_refused_is_delivered_again_and_no_dead_letter(requeue: bool) -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "a")
    lone.settled()
    lone.store.room = 100
    nack = [NACK, b"/queue/q", 1, [lone.keys["a"]], 0, requeue, "no good"]
    [outcome] = lone.commit_of(lone.transact(nack, lone.adding("/queue/r", "r", body=LARGE)))
    assert outcome.refused is not None
    lone.detach("/queue/q", 1)
    lone.attach("/queue/q", 2)
    lone.settled()
    assert lone.ids(2)[:1] == ["a"]
    assert lone.stored() == ["a"]
    assert not lone.queue_is_used("/queue/dlq.q")
    # The next life knows that it was delivered.
    again = LoneOwner(lone.store, lone.store.recovered())
    again.attach("/queue/q", 3)
    again.settled()
    assert again.delivered[3][0][1] > 1


def test_more_than_fits_into_the_window() -> None:
    """What comes back beyond what is in memory is on disk, and comes from there in its order."""
    lone = LoneOwner(queue={"window_messages": 16})
    ids = [f"{number:03}" for number in range(100)]
    for start in range(0, 100, 10):
        lone.add("/queue/q", *ids[start : start + 10])
        lone.settled()
    lone.attach("/queue/q", 1, prefetch=40)
    lone.settled()
    held = lone.ids(1)
    assert held == ids[:40]
    lone.store.room = 100
    lone.transact(settling(lone, *held), lone.adding("/queue/r", "r", body=LARGE))
    # Before the store says so the consumer has others.
    lone.settled()
    lone.detach("/queue/q", 1)
    lone.settled()
    lone.attach("/queue/q", 2, prefetch=7)
    lone.settled()
    while len(seen := lone.ids(2)) < 100:
        lone.settle("/queue/q", 2, *seen[-7:])
        lone.settled()
        assert lone.ids(2) != seen, "no more came"
    assert lone.ids(2) == ids
