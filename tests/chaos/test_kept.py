"""Promise 4, step by step: what was receipted is there after kill -9 of everything, what was settled stays so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.conftest import Mortals
from tests.chaos.mortal import Mortal
from tests.chaos.steps import connect, drained, number, put, queue_owned_by, settle, subscribe, until_receipt
from tests.harness.wire import Wire, encode


@pytest.fixture(params=[1, 2, 4])
def mortal(request: pytest.FixtureRequest, mortals: Mortals) -> Mortal:
    """One for all tests of a process: what they kill they start again."""
    return mortals(request.param)


def take(wire: Wire, queue: str, count: int) -> list[Any]:
    subscribe(wire, queue, count, id=queue)
    return wire.read_many(count)


def test_one_receipted_message_is_there_after_the_end_of_everything(mortal: Mortal, unused: int) -> None:
    """It alone, each time: nothing that comes after it brings it to the disk."""
    last = mortal.workers - 1
    for origin, owner in {(0, 0), (0, last), (last, 0)}:
        queue = queue_owned_by(owner, mortal.workers, number=unused + origin)
        with connect(mortal, origin) as wire:
            put(wire, queue, [7])
            mortal.kill_all()
        mortal.start_again()
        assert [number(each) for each in drained(mortal, queue)] == [7]


def test_a_receipted_acknowledgement_stays_done(mortal: Mortal, unused: int) -> None:
    queues = [queue_owned_by(slot, mortal.workers, number=unused) for slot in range(mortal.workers)]
    with connect(mortal) as wire:
        for queue in queues:
            put(wire, queue, range(5))
            messages = take(wire, queue, 3)
            settle(wire, messages[1])
        mortal.kill_all()
    mortal.start_again()
    for queue in queues:
        messages = drained(mortal, queue)
        assert [number(each) for each in messages] == [0, 2, 3, 4]
        assert all(each.get("redelivered") == "true" and int(each["delivery-count"]) >= 2 for each in messages[:2])
    mortal.restart()
    for queue in queues:
        assert drained(mortal, queue) == []


def test_a_cumulative_acknowledgement_stays_done(mortal: Mortal, unused: int) -> None:
    queue = queue_owned_by(mortal.workers - 1, mortal.workers, number=unused)
    with connect(mortal, 0) as wire:
        put(wire, queue, range(6))
        subscribe(wire, queue, 4, mode="client")
        settle(wire, wire.read_many(4)[2])
        mortal.kill_all()
    mortal.start_again()
    assert [number(each) for each in drained(mortal, queue)] == [3, 4, 5]


def test_a_receipted_rejection_stays_done(mortal: Mortal, unused: int) -> None:
    """The message is in the dead letter queue, whoever owns that, and not in its own any more."""
    for slot in {0, mortal.workers - 1}:
        queue = queue_owned_by(slot, mortal.workers, number=unused)
        with connect(mortal, 0) as wire:
            put(wire, queue, range(3))
            settle(wire, take(wire, queue, 1)[0], "NACK", [("requeue", "false"), ("reason", "poison")])
            mortal.kill_all()
        mortal.start_again()
        assert [number(each) for each in drained(mortal, queue)] == [1, 2]
        [dead] = drained(mortal, f"/queue/dlq.{queue.removeprefix('/queue/')}")
        assert number(dead) == 0 and dead["dlq-reason"] == "rejected" and dead["dlq-from"] == queue


def test_a_receipted_commit_stays_whole(mortal: Mortal, unused: int) -> None:
    """SENDs to queues of every owner and the ACK of a message of another, everything killed at the RECEIPT."""
    targets = [queue_owned_by(slot, mortal.workers, number=unused + 1) for slot in range(mortal.workers)]
    source = queue_owned_by(0, mortal.workers, number=unused)
    for committing in {0, mortal.workers - 1}:
        with connect(mortal, committing) as wire:
            put(wire, source, [1])
            [message] = take(wire, source, 1)
            wire.frame("BEGIN", [("transaction", "t")])
            for each, queue in enumerate(targets):
                wire.frame("SEND", [("destination", queue), ("transaction", "t")], b"%d" % each)
            wire.frame("ACK", [*wire.acknowledgement(message), ("transaction", "t")])
            receipt = wire.next_receipt()
            wire.frame("COMMIT", [("transaction", "t"), ("receipt", receipt)])
            assert until_receipt(wire, receipt) == []
            mortal.kill_all()
        mortal.start_again()
        assert drained(mortal, source) == []
        for each, queue in enumerate(targets):
            assert [number(message) for message in drained(mortal, queue)] == [each]


def test_order_and_number_of_many(mortal: Mortal, unused: int) -> None:
    """More than any window holds, from a worker that is not the owner."""
    queue = queue_owned_by(0, mortal.workers, number=unused)
    with connect(mortal, mortal.workers - 1) as wire:
        put(wire, queue, range(1000))
        mortal.kill_all(front_first=False)
    mortal.start_again()
    assert [number(each) for each in drained(mortal, queue)] == list(range(1000))


def test_a_message_that_needs_no_disk_goes_with_its_owner(mortal: Mortal, unused: int) -> None:
    queue = queue_owned_by(0, mortal.workers, number=unused)
    with connect(mortal) as wire:
        wire.request("SEND", [("destination", queue), ("persistent", "false")], b"1")
        put(wire, queue, [2])
        mortal.kill_all()
    mortal.start_again()
    assert [number(each) for each in drained(mortal, queue)] == [2]


def test_what_follows_a_commit_stays_behind_it(mortal: Mortal, unused: int) -> None:
    """Promise 1 holds for transactions of one and of several owners, and for what is sent in none."""
    queues = [queue_owned_by(slot, mortal.workers, number=unused) for slot in range(mortal.workers)]
    with connect(mortal, 0) as wire:
        frames = []
        for each in range(0, 30, 3):
            frames.append(encode("BEGIN", [("transaction", "many")]))
            for queue in queues:
                frames.append(encode("SEND", [("destination", queue), ("transaction", "many")], b"%d" % each))
            frames.append(encode("COMMIT", [("transaction", "many")]))
            for queue in queues:
                frames.append(encode("SEND", [("destination", queue)], b"%d" % (each + 1)))
            for queue in queues:
                frames.append(encode("BEGIN", [("transaction", "one")]))
                frames.append(encode("SEND", [("destination", queue), ("transaction", "one")], b"%d" % (each + 2)))
                frames.append(encode("COMMIT", [("transaction", "one")]))
        wire.send(b"".join(frames))
        wire.request("SEND", [("destination", "/topic/end")])
    for queue in queues:
        assert [number(each) for each in drained(mortal, queue)] == list(range(30))
