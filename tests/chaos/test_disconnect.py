"""The RECEIPT of DISCONNECT speaks for everything the client sent before, with or without receipts of its own: on disk
by then, whichever worker owns the queue, and there after the end of everything.

The disk is slow, or held, so that a RECEIPT that did not wait would come long before.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.mortal import PATIENCE, Mortal
from tests.chaos.steps import connect, drained, number, put, queue_owned_by, subscribe
from tests.chaos.test_slow_disk import COMMIT_MS, Disk, library, make_disk, told
from tests.harness.broker import Broker
from tests.harness.wire import Wire, connect_on, encode

__all__ = ["library", "make_disk"]

COUNT = 4000
PLACES = pytest.mark.parametrize(
    ("workers", "owner"), [(1, 0), (2, 0), (2, 1)], ids=["alone", "same-worker", "other-worker"]
)
"""The client is on worker 0."""


def sends(queue: str, count: int, *headers: tuple[str, str]) -> bytes:
    """So large that thousands are several reads: what comes with the first one is in the first commit, and in files
    that outlive a kill, whether or not anybody waited for the disk."""
    given = [("destination", queue), ("padding", "x" * 400), *headers]
    return b"".join(encode("SEND", given, b"%d" % each) for each in range(count))


def goodbye(wire: Wire) -> None:
    """DISCONNECT, its RECEIPT as the next frame but for messages, and the end."""
    wire.frame("DISCONNECT", [("receipt", "bye")])
    frames = [frame for frame in wire.read_rest(PATIENCE) if frame.command != "MESSAGE"]
    assert [(frame.command, frame["receipt-id"]) for frame in frames] == [("RECEIPT", "bye")]


def is_quiet(wire: Wire) -> None:
    """Nothing came in a time in which an answer that waits for nothing would have come over and over."""
    with pytest.raises(TimeoutError):
        wire.read(0.5)


@PLACES
def test_what_was_sent_is_there(make_disk: Callable[..., Disk], workers: int, owner: int) -> None:
    disk = make_disk(COMMIT_MS)
    queue = queue_owned_by(owner, workers)
    with Mortal(workers, environment=disk.environment) as mortal:
        disk.hold()
        with connect(mortal, 0) as wire:
            wire.send(sends(queue, COUNT))
            goodbye(wire)
            mortal.kill_all()
        disk.release()
        mortal.start_again()
        assert [number(each) for each in drained(mortal, queue)] == list(range(COUNT))


def test_what_durable_subscriptions_took_is_there(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(COMMIT_MS)
    durable = [("durable", "true")]
    names = ["a", "b", "c", "d", "e", "f"]
    with Mortal(2, environment=disk.environment) as mortal:
        with connect(mortal, 1) as wire:
            for name in names:
                wire.subscribe("/topic/news", id=name, ack="client", headers=[*durable, ("durable-name", name)])
            wire.request("DISCONNECT")
        disk.hold()
        with connect(mortal, 0) as wire:
            wire.send(sends("/topic/news", 1000))
            goodbye(wire)
            mortal.kill_all()
        disk.release()
        mortal.start_again()
        with connect(mortal, 0) as wire:
            for name in names:
                headers = [*durable, ("durable-name", name), ("prefetch-count", "1000")]
                wire.subscribe("/topic/news", id=name, ack="client-individual", headers=headers)
                assert [number(each) for each in wire.read_many(1000, PATIENCE)] == list(range(1000))


def test_what_is_to_be_retained_is_there(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk(COMMIT_MS)
    topics = [f"/topic/last.{each}" for each in range(1000)]
    with Mortal(2, environment=disk.environment) as mortal:
        disk.hold()
        with connect(mortal, 0) as wire:
            for each, topic in enumerate(topics):
                wire.publish(topic, b"%d" % each, [("retain", "true")])
            goodbye(wire)
            mortal.kill_all()
        disk.release()
        mortal.start_again()
        with connect(mortal, 0) as wire:
            wire.subscribe("/topic/last.>")
            assert sorted(number(each) for each in wire.read_many(1000, PATIENCE)) == list(range(1000))


@PLACES
@pytest.mark.parametrize("command", ["ACK", "NACK"])
def test_what_was_settled_does_not_come_back(
    make_disk: Callable[..., Disk], workers: int, owner: int, command: str
) -> None:
    disk = make_disk(COMMIT_MS)
    queue = queue_owned_by(owner, workers)
    count = 600
    refusing = [("requeue", "false")] if command == "NACK" else []
    with Mortal(workers, environment=disk.environment) as mortal:
        with connect(mortal, 0) as producer:
            put(producer, queue, range(count))
        with connect(mortal, 0) as wire:
            subscribe(wire, queue, count)
            messages = wire.read_many(count, PATIENCE)
            disk.hold()
            for message in messages:
                wire.frame(command, [*wire.acknowledgement(message), *refusing])
            goodbye(wire)
            mortal.kill_all()
        disk.release()
        mortal.start_again()
        assert drained(mortal, queue) == []
        if command == "NACK":
            dead = drained(mortal, f"/queue/dlq.{queue.removeprefix('/queue/')}")
            assert sorted(number(each) for each in dead) == list(range(count))


def test_what_was_committed_is_there(make_disk: Callable[..., Disk]) -> None:
    """By several owners, with more behind it in the same write."""
    disk = make_disk(COMMIT_MS)
    queues = [queue_owned_by(slot, 2) for slot in range(2)]
    with Mortal(2, environment=disk.environment) as mortal:
        disk.hold()
        with connect(mortal, 0) as wire:
            inside = b"".join(sends(queue, 100, ("transaction", "t")) for queue in queues)
            transaction = [("transaction", "t")]
            after = b"".join(sends(queue, 100) for queue in queues)
            wire.send(encode("BEGIN", transaction) + inside + encode("COMMIT", transaction) + after)
            goodbye(wire)
            mortal.kill_all()
        disk.release()
        mortal.start_again()
        for queue in queues:
            assert [number(each) for each in drained(mortal, queue)] == [*range(100)] * 2


def test_the_owner_dies_before_it_has_stored_it(make_disk: Callable[..., Disk]) -> None:
    """Its next life is handed it again, and the RECEIPT waits for that."""
    disk = make_disk()
    queue = queue_owned_by(1, 2)
    with Mortal(2, environment=disk.environment) as mortal:
        disk.hold()
        with connect(mortal, 0) as wire:
            wire.send(sends(queue, COUNT) + encode("DISCONNECT", [("receipt", "bye")]))
            is_quiet(wire)
            killed = mortal.kill_worker(1)
            is_quiet(wire)
            disk.release()
            mortal.wait_worker(1, killed)
            wire.expect("RECEIPT", receipt_id="bye", timeout=PATIENCE)
            mortal.kill_all()
        mortal.start_again()
        assert [number(each) for each in drained(mortal, queue)] == list(range(COUNT))


@PLACES
def test_only_who_sent_it_waits_for_a_disk_that_does_not_answer(
    make_disk: Callable[..., Disk], workers: int, owner: int
) -> None:
    disk = make_disk()
    queue = queue_owned_by(owner, workers)
    memory = [("destination", queue_owned_by(0, workers, number=1)), ("persistent", "false")]
    with Mortal(workers, environment=disk.environment) as mortal:
        with connect(mortal, 0) as wire:
            # What is known of a queue is stored with its first message.
            wire.request("SEND", memory, b"1")
            goodbye(wire)
        disk.hold()
        with connect(mortal, 0) as wire:
            wire.send(sends(queue, 10) + encode("DISCONNECT", [("receipt", "bye")]))
            is_quiet(wire)
            if workers == 2:
                told(mortal, 20)
            with connect(mortal, 0) as other:
                other.publish("/topic/news", b"all is well")
                goodbye(other)
            with connect(mortal, 0) as hasty:
                # Without a receipt nothing is promised, and nothing waited for.
                hasty.send(sends(queue, 10) + encode("DISCONNECT"))
                assert hasty.read_rest(PATIENCE) == []
            if owner:
                # The disk of another worker is no concern of who sent nothing there.
                with connect(mortal, 0) as near:
                    near.frame("SEND", memory, b"2")
                    goodbye(near)
            assert not wire.readable()
            disk.release()
            wire.expect("RECEIPT", receipt_id="bye", timeout=PATIENCE)
        assert [number(each) for each in drained(mortal, queue)] == [*range(10)] * 2


@PLACES
def test_a_broker_that_stops_does_not_wait_for_the_disk_to_say_so(
    make_disk: Callable[..., Disk], workers: int, owner: int
) -> None:
    disk = make_disk()
    queue = queue_owned_by(owner, workers)
    with Mortal(workers, environment=disk.environment) as mortal:
        disk.hold()
        with connect(mortal, 0) as wire:
            wire.send(sends(queue, 10) + encode("DISCONNECT", [("receipt", "bye")]))
            is_quiet(wire)
            mortal.broker.terminate()
            wire.expect_error("shutting-down", timeout=PATIENCE)
        disk.release()
        mortal.broker.wait(PATIENCE)


@pytest.mark.parametrize("owner", [0, 1], ids=["same-worker", "other-worker"])
def test_a_client_that_gave_up_waiting_is_forgotten(make_disk: Callable[..., Disk], owner: int) -> None:
    """And one that only closed its side has its RECEIPT."""
    disk = make_disk()
    queue = queue_owned_by(owner, 2)
    with Broker(workers=2, log_level="debug", environment=disk.environment) as broker:
        disk.hold()
        with connect_on(broker, 0) as waiting, connect_on(broker, 0) as wire:
            for each in (waiting, wire):
                each.send(sends(queue, 10) + encode("DISCONNECT", [("receipt", "bye")]))
            is_quiet(wire)
            waiting.shut_write()
            wire.close()
            broker.wait_event("connection.closed", session=wire.session, timeout=PATIENCE)
            waiting.wait_beats(3, PATIENCE)
            disk.release()
            waiting.expect("RECEIPT", receipt_id="bye", timeout=PATIENCE)
            waiting.expect_closed()
