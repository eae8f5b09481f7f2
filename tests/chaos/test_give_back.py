"""What a consumer had and did not settle comes back, to its place at the head of the queue, and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from tests.chaos.conftest import Mortals
from tests.chaos.mortal import PATIENCE, Mortal
from tests.chaos.steps import connect, number, put, queue_owned_by, settle, subscribe
from tests.harness.wire import Frame, Wire, encode

Leave = Callable[[Mortal, Wire], None]


def vanish(mortal: Mortal, wire: Wire) -> None:
    wire.reset()


def close(mortal: Mortal, wire: Wire) -> None:
    wire.close()


def disconnect(mortal: Mortal, wire: Wire) -> None:
    wire.request("DISCONNECT")


def unsubscribe(mortal: Mortal, wire: Wire) -> None:
    wire.request("UNSUBSCRIBE", [("id", "0")])
    wire.request("UNSUBSCRIBE", [("id", "witness")])


def lose_the_worker(mortal: Mortal, wire: Wire) -> None:
    mortal.replace_worker(wire.slot)


LEAVE = [vanish, close, disconnect, unsubscribe, lose_the_worker]


def is_marked(message: Frame, count: int) -> bool:
    return message.get("redelivered") == "true" and message.get("delivery-count") == str(count)


def is_unmarked(message: Frame) -> bool:
    return "redelivered" not in message and message.get("delivery-count") in (None, "1")


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize(
    ("mode", "workers", "owner", "consumer"),
    [("client", 1, 0, 0), ("client-individual", 2, 0, 0), ("client", 2, 0, 1), ("client-individual", 4, 3, 1)],
)
def test_back_to_the_head(
    mode: str, workers: int, owner: int, consumer: int, leave: Leave, mortals: Mortals, unused: int
) -> None:
    if leave is lose_the_worker and owner == consumer:
        # The owner's own death is another test's.
        return
    queue, mortal = queue_owned_by(owner, workers, number=unused), mortals(workers)
    witness = queue_owned_by(owner, workers, number=unused + 1)
    with connect(mortal, consumer) as leaver, connect(mortal, owner) as other:
        put(other, queue, range(8))
        put(other, witness, [100])
        subscribe(leaver, queue, 4, mode=mode)
        messages = leaver.read_many(4)
        assert [number(each) for each in messages] == [0, 1, 2, 3] and all(map(is_unmarked, messages))
        # The prefetch lets one more come for what is acknowledged.
        [another] = settle(leaver, messages[0]) or [leaver.read(PATIENCE)]
        assert number(another) == 4
        subscribe(other, queue, 1)
        first = other.read(PATIENCE)
        assert number(first) == 5 and is_unmarked(first)
        subscribe(leaver, witness, 1, id="witness")
        leaver.read(PATIENCE)
        with connect(mortal, owner) as watcher:
            subscribe(watcher, witness, 1)
            leave(mortal, leaver)
            # It is returned after the others.
            settle(watcher, watcher.read(PATIENCE))
        came = follow(other, first, 6)
        assert [number(each) for each in came] == [1, 2, 3, 4, 6, 7]
        assert all(is_marked(each, 2) for each in came[:4]), came
        assert all(is_unmarked(each) for each in came[4:]), came
        settle(other, came[-1])


def follow(wire: Wire, first: Frame, count: int) -> list[Frame]:
    """Acknowledge one after the other, and what comes then."""
    came: list[Frame] = []
    message = first
    while len(came) < count:
        before = settle(wire, message)
        message = before[0] if before else wire.read(PATIENCE)
        came.append(message)
    return came


@pytest.mark.parametrize(("workers", "consumer"), [(1, 0), (2, 0), (2, 1), (4, 2)])
def test_the_owner_dies(workers: int, consumer: int) -> None:
    """The consumers of other workers keep what they have, and may acknowledge it; all else is there, in order."""
    owner = 0
    queue = queue_owned_by(owner, workers)
    with Mortal(workers) as mortal, connect(mortal, consumer) as wire:
        put(wire, queue, range(8))
        subscribe(wire, queue, 4)
        messages = wire.read_many(4)
        mortal.replace_worker(owner)
        if consumer == owner:
            with connect(mortal) as other:
                subscribe(other, queue, 1)
                first = other.read(PATIENCE)
                came = [first, *follow(other, first, 7)]
            assert [number(each) for each in came] == list(range(8))
            assert all(int(each["delivery-count"]) >= 2 for each in came[:4])
            return
        for message in messages:
            assert all(number(each) > 3 for each in settle(wire, message))
        mortal.restart()
        with connect(mortal) as other:
            subscribe(other, queue, 1)
            first = other.read(PATIENCE)
            assert [number(each) for each in [first, *follow(other, first, 3)]] == [4, 5, 6, 7]


def test_the_owner_dies_before_it_has_stored_what_it_delivered(mortals: Mortals, unused: int) -> None:
    """Its successor gets those messages again from the producer's worker, which lives. They were delivered, and the
    RECEIPT of an ACK means the same for them as for others."""
    mortal, busy = mortals(2), b"x" * 20_000
    for attempt in range(3):
        queue, other = (queue_owned_by(0, 2, number=unused + 3 * attempt + each) for each in range(2))
        with connect(mortal, 1) as consumer, connect(mortal, 1) as producer, connect(mortal, 0) as load:
            subscribe(consumer, queue, 1000)
            # The disk has much to do, so that what comes now is delivered long before it is stored.
            load.send(encode("SEND", [("destination", other)], busy) * 400)
            producer.send(b"".join(encode("SEND", [("destination", queue)], b"%d" % each) for each in range(60)))
            seen = {number(message): message for message in [consumer.read(PATIENCE)]}
            incarnation = mortal.kill_worker(0)
            with contextlib.suppress(TimeoutError):
                while True:
                    message = consumer.read(0.1)
                    seen[number(message)] = message
            for each, message in seen.items():
                consumer.frame("ACK", [*consumer.acknowledgement(message), ("receipt", f"ack {each}")])
            mortal.wait_worker(0, incarnation)
            producer.request("SEND", [("destination", queue)], b"-1")
            done: set[str] = set()
            is_over = False
            while len(done) < len(seen) or not is_over:
                frame = consumer.read(PATIENCE)
                if frame.command == "RECEIPT":
                    done.add(frame["receipt-id"])
                elif number(frame) in seen:
                    assert f"ack {number(frame)}" not in done, f"{frame.body!r} came again after the receipt of its ACK"
                    assert frame.get("redelivered") == "true" and int(frame["delivery-count"]) >= 2
                is_over = is_over or frame.body == b"-1"


@pytest.mark.parametrize("workers", [1, 2])
def test_every_return_is_counted(workers: int, mortals: Mortals, unused: int) -> None:
    queue, mortal = queue_owned_by(0, workers, number=unused), mortals(workers)
    with connect(mortal) as wire:
        put(wire, queue, [1])
    for count in range(1, 5):
        with connect(mortal, workers - 1) as wire:
            subscribe(wire, queue, 1)
            message = wire.read(PATIENCE)
            assert is_unmarked(message) if count == 1 else is_marked(message, count)


def test_what_was_returned_stays_at_the_head_after_the_end_of_everything() -> None:
    queue = queue_owned_by(0, 2)
    with Mortal(2) as mortal:
        with connect(mortal, 1) as wire:
            put(wire, queue, range(6))
            subscribe(wire, queue, 3)
            wire.read_many(3)
        mortal.restart()
        with connect(mortal) as wire:
            subscribe(wire, queue, 1)
            first = wire.read(PATIENCE)
            came = [first, *follow(wire, first, 5)]
            assert [number(each) for each in came] == list(range(6))
            assert all(each["redelivered"] == "true" and int(each["delivery-count"]) >= 2 for each in came[:3])
