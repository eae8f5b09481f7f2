"""A COMMIT whose SENDs find no room in the store: what it settled is not settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.worker.queues.lone_owner import LoneOwner
from worker.queues.letters import NACK, SETTLE, Operation

LARGE = b"x" * 1000


def settling(lone: LoneOwner, *ids: str) -> Operation:
    return [SETTLE, b"/queue/q", last(lone), [lone.keys[id] for id in ids]]


def nacking(lone: LoneOwner, *ids: str, delay: int, requeue: bool = True) -> Operation:
    return [NACK, b"/queue/q", last(lone), [lone.keys[id] for id in ids], delay, requeue, "no good"]


def last(lone: LoneOwner) -> int:
    """The consumer that was delivered something last."""
    return max(lone.delivered)


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


def test_what_a_refused_commit_had_settled_did_not_fail() -> None:
    """However often the store refuses it, the message is no dead letter; the next life does not blame it either."""
    lone = refused_commits(lambda lone: settling(lone, "a"))
    assert lone.delivered[5] == [("a", 5)]
    assert not lone.queue_is_used("/queue/dlq.q")
    assert list(lone.store.counts.values()) == [1]


@pytest.mark.parametrize("requeue", [True, False])
def test_nor_did_what_it_had_refused(requeue: bool) -> None:
    lone = refused_commits(lambda lone: nacking(lone, "a", delay=1, requeue=requeue))
    assert lone.delivered[5] == [("a", 5)]
    assert not lone.queue_is_used("/queue/dlq.q")
    assert list(lone.store.counts.values()) == [1]


def test_nor_what_it_had_put_off_and_is_only_on_disk() -> None:
    lone = refused_commits(
        lambda lone: nacking(lone, "a", delay=1),
        queue={"window_messages": 16, "window_bytes": "64KiB"},
        body=b"x" * 40_000,
    )
    assert lone.delivered[5] == [("a", 5)]
    assert not lone.queue_is_used("/queue/dlq.q")
    assert list(lone.store.counts.values()) == [1]


def test_what_was_taken_from_a_consumer_that_had_left_is_forgiven_once() -> None:
    """It had been given back by then."""
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "a")
    lone.settled()
    late = settling(lone, "a")
    lone.detach("/queue/q", 1)
    lone.settled()
    lone.store.room = 100
    lone.commit_of(lone.transact(late, lone.adding("/queue/r", "r", body=LARGE)))
    [message] = lone.queue("/queue/q").queue.snapshot()[0]
    assert (message.count, message.attempts) == (1, 0)


def refused_commits(operation: Callable[[LoneOwner], Operation], body: bytes = b"x", **config: Any) -> LoneOwner:
    """An owner whose store refused four COMMITs with that, each of another consumer; a fifth has the message."""
    lone = LoneOwner(destination=[{"pattern": "#", "redelivery_limit": 3}], **config)
    lone.add("/queue/q", "a", body=body)
    lone.settled()
    lone.store.room = 100
    for number in range(1, 5):
        lone.attach("/queue/q", number)
        lone.settled()
        assert lone.ids(number) == ["a"]
        outcomes = lone.transact(operation(lone), lone.adding("/queue/r", "r", body=LARGE))
        # Its client's connection ends by the ERROR, before it gets anything again.
        lone.store.commit()
        assert outcomes[0].refused is not None
        lone.detach("/queue/q", number, orderly=False)
        lone.settled()
        lone.wake(1)
    lone.attach("/queue/q", 5)
    lone.settled()
    lone.wake()
    return lone
