"""SUBSCRIBE with `browser:true`: a copy of what is in a queue, in the order of its delivery, then an end marker."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.conftest import Connect, StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Frame, Wire, connect_on, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
ANYWHERE = pytest.mark.parametrize("slot", [0, 1], ids=["worker-0", "worker-1"])
"""One of the two has the queue."""
LONG = 60.0
SPILLING = {"queue": {"window_messages": 64, "window_bytes": "256KiB"}}
"""More than the first messages of a queue are only on disk."""

_numbers = itertools.count()


@pytest.fixture
def queue() -> str:
    return f"/queue/browsed.{next(_numbers)}"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def fill(wire: Wire, queue: str, bodies: list[bytes], headers: list[tuple[str, str]] | None = None) -> None:
    """SEND all, and have a RECEIPT for the last."""
    for body in bodies[:-1]:
        wire.publish(queue, body, headers or ())
    wire.request("SEND", [("destination", queue), *(headers or ())], bodies[-1])


def read_to_end(wire: Wire, *, timeout: float = 10.0) -> list[Frame]:
    """The messages of a browser up to its end marker, which must be whole."""
    found: list[Frame] = []
    while True:
        frame = wire.read(timeout)
        assert frame.command == "MESSAGE"
        if "browser" not in frame:
            found.append(frame)
            continue
        assert frame["browser"] == "end"
        assert frame.body == b""
        assert frame["message-id"] not in {each["message-id"] for each in found}
        return found


def browse(wire: Wire, queue: str, *, id: str = "b", headers: list[tuple[str, str]] | None = None) -> list[Frame]:
    """What a new browser sees."""
    wire.subscribe(queue, id=id, headers=[("browser", "true"), *(headers or [])])
    found = read_to_end(wire)
    assert all(frame["subscription"] == id for frame in found)
    return found


def memory(broker: Broker, slot: int) -> int:
    """Resident bytes of a worker."""
    rss: int = psutil.Process(broker.worker_pids()[slot]).memory_info().rss
    return rss


def bodies(frames: list[Frame]) -> list[bytes]:
    return [frame.body for frame in frames]


@ALL
@ANYWHERE
def test_all_that_waits_in_order_and_nothing_is_consumed(connect: Connect, queue: str, version: str, slot: int) -> None:
    wire, sender = connect(version, slot=slot), connect()
    sent = [b"%d" % n for n in range(250)]
    fill(sender, queue, sent, [("odd", "a:b\\c")])
    for round in "xy":
        found = browse(wire, queue, id=round)
        assert bodies(found) == sent
        assert all(frame["destination"] == queue for frame in found)
        assert all(frame["odd"] == "a:b\\c" for frame in found)
        assert all("ack" not in frame and "redelivered" not in frame for frame in found)
        assert len({frame["message-id"] for frame in found}) == len(sent)
    # Nothing comes after the end, neither of what is sent now.
    fill(sender, queue, [b"later"])
    wire.quiet()
    wire.request("UNSUBSCRIBE", [("id", "x")])
    assert bodies(browse(wire, queue, id="x")) == [*sent, b"later"]
    wire.subscribe(queue, id="consumer")
    assert bodies(wire.read_many(251)) == [*sent, b"later"]
    assert browse(wire, queue, id="z") == []


@ALL
def test_the_end_marker(connect: Connect, queue: str, version: str) -> None:
    wire = connect(version)
    ends = []
    for id in ("one", "two"):
        wire.subscribe(queue, id=id, headers=[("browser", "true")])
        end = wire.expect("MESSAGE", subscription=id, destination=queue, browser="end")
        assert end.body == b""
        ends.append(end["message-id"])
    assert len(set(ends)) == 2


@pytest.mark.statement(76)
def test_version_1_0_without_an_id(connect: Connect, queue: str) -> None:
    wire = connect("1.0")
    fill(wire, queue, [b"a", b"b"])
    wire.subscribe(queue, id=None, headers=[("browser", "true")])
    found = read_to_end(wire)
    assert bodies(found) == [b"a", b"b"]
    assert all("subscription" not in frame for frame in found)
    wire.request("UNSUBSCRIBE", [("destination", queue)])


@ANYWHERE
def test_by_priority_as_it_would_be_delivered(connect: Connect, queue: str, slot: int) -> None:
    wire = connect(slot=slot)
    for priority in "1537":
        wire.publish(queue, priority.encode(), [("priority", priority)])
    wire.publish(queue, b"4")
    wire.quiet()
    fill(wire, queue, [b"0"], [("priority", "0")])
    assert bodies(browse(wire, queue)) == [b"7", b"5", b"4", b"3", b"1", b"0"]


@ANYWHERE
def test_what_consumers_have_and_what_rests_is_seen(connect: Connect, queue: str, slot: int) -> None:
    consumer, wire = connect(), connect(slot=slot)
    fill(consumer, queue, [b"%d" % n for n in range(6)])
    consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "3")])
    first, second, third = consumer.read_many(3)
    consumer.frame("NACK", [*consumer.acknowledgement(second), ("delay", "600000")])
    # One more in its place.
    assert consumer.expect("MESSAGE").body == b"3"
    assert bodies(browse(wire, queue)) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    consumer.frame("ACK", consumer.acknowledgement(first))
    assert consumer.expect("MESSAGE").body == b"4"
    assert bodies(browse(wire, queue, id="again")) == [b"1", b"2", b"3", b"4", b"5"]
    assert third.body == b"2"


@ANYWHERE
def test_what_expired_is_not_seen(connect: Connect, queue: str, slot: int) -> None:
    wire = connect(slot=slot)
    wire.publish(queue, b"gone", [("expires", "1")])
    fill(wire, queue, [b"here"], [("ttl", "600000")])
    assert bodies(browse(wire, queue)) == [b"here"]


@ALL
@ANYWHERE
def test_selector(connect: Connect, queue: str, version: str, slot: int) -> None:
    wire = connect(version, slot=slot)
    for n in range(300):
        wire.publish(queue, b"%d" % n, [("n", str(n)), ("colour", "blue" if n % 3 else "red")])
    wire.request("SEND", [("destination", queue)])
    found = browse(wire, queue, headers=[("selector", "colour = 'red' AND n BETWEEN 30 AND 290")])
    assert bodies(found) == [b"%d" % n for n in range(30, 291, 3)]
    assert browse(wire, queue, id="none", headers=[("selector", "colour = 'green'")]) == []


def test_the_cost_of_selectors_comes_back(connect: Connect, queue: str) -> None:
    wire = connect()
    for _ in range(10):
        browse(wire, queue, headers=[("selector", " OR ".join(["colour = 'red'"] * 50))])
        wire.request("UNSUBSCRIBE", [("id", "b")])


def test_nothing_is_to_be_acknowledged(connect: Connect, queue: str) -> None:
    wire = connect()
    fill(wire, queue, [b"a"])
    wire.subscribe(queue, ack="client", headers=[("browser", "true")])
    (message,) = read_to_end(wire)
    assert "ack" not in message
    wire.frame("ACK", [("id", message["message-id"])])
    wire.expect_error("unknown-message")


def test_nothing_stays_of_a_browser_that_wanted_to_acknowledge(connect: Connect, queue: str) -> None:
    wire = connect("1.0")
    # More than a client of 1.0 may have of those that acknowledge.
    for _ in range(300):
        wire.frame("SUBSCRIBE", [("id", "b"), ("destination", queue), ("ack", "client"), ("browser", "true")])
        wire.frame("UNSUBSCRIBE", [("id", "b")])
    wire.frame("SEND", [("destination", "/topic/unused"), ("receipt", "last")])
    while (frame := wire.read()).command == "MESSAGE":
        assert frame["browser"] == "end"
    assert frame["receipt-id"] == "last"


@ANYWHERE
def test_a_queue_that_does_not_exist_is_not_made(start_broker: StartBroker, stack: ExitStack, slot: int) -> None:
    broker = start_broker(workers=2, config={"queue": {"max_queues": 1}})
    wire = stack.enter_context(connect_on(broker, slot))
    for n in range(10):
        assert browse(wire, f"/queue/unknown.{n}", id=str(n)) == []
    # Each of the two workers has room for one, and still has it.
    wire.frame("SEND", [("destination", "/queue/other"), ("receipt", "r")], b"x")
    wire.expect("RECEIPT")


@pytest.mark.parametrize("destination", ["/topic/browsed", "/queue/browsed"])
def test_what_cannot_be_browsed(connect: Connect, destination: str) -> None:
    wire = connect()
    wanted = "true" if destination.startswith("/topic/") else "yes"
    wire.frame("SUBSCRIBE", [("id", "1"), ("destination", destination), ("browser", wanted)])
    wire.expect_error("bad-value", frame="SUBSCRIBE")


def test_browser_false_is_a_consumer(connect: Connect, queue: str) -> None:
    wire = connect()
    fill(wire, queue, [b"a"])
    wire.subscribe(queue, headers=[("browser", "false")])
    assert wire.expect("MESSAGE").body == b"a"
    assert browse(wire, queue) == []


# --- longer than the window of the queue, longer than what a client takes at once


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_on_disk_is_seen_once_and_in_order(start_broker: StartBroker, stack: ExitStack, workers: int) -> None:
    broker = start_broker(workers=workers, config=SPILLING)
    wires = [stack.enter_context(connect_on(broker, slot)) for slot in range(workers)]
    queue = "/queue/long"
    sent = [b"%d" % n for n in range(1500)]
    fill(wires[0], queue, sent)
    fill(wires[0], queue, [b"first"], [("priority", "9")])
    fill(wires[0], queue, [b"volatile"], [("persistent", "false")])
    consumer = stack.enter_context(connect_on(broker, 0))
    consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "200")])
    taken = consumer.read_many(200)
    for message in [*taken[1::2], taken[0]]:
        consumer.frame("ACK", [*consumer.acknowledgement(message), ("receipt", message["message-id"])])
    # What comes in their place, and the RECEIPTs.
    assert len(consumer.read_many(202)) == 202
    gone = {message.body for message in [taken[0], *taken[1::2]]}
    left = [body for body in [b"first", *sent, b"volatile"] if body not in gone]
    assert len(left) == 1502 - 101
    for wire in wires:
        assert bodies(browse(wire, queue)) == left
    consumer.close()
    for wire in wires:
        assert bodies(browse(wire, queue, id="again")) == left


def test_beside_producers_and_consumers_nothing_that_stays_is_missed(
    start_broker: StartBroker, stack: ExitStack
) -> None:
    """Browsed again and again while messages come and go: what is there all the time is there each time, in order,
    and nothing is seen twice."""
    broker = start_broker(workers=2, config=SPILLING)
    queue = "/queue/busy"
    wires = [stack.enter_context(connect_on(broker, slot)) for slot in (0, 1)]
    staying = [b"stays %d" % n for n in range(400)]
    fill(wires[0], queue, staying, [("stays", "yes")])
    busy = stack.enter_context(connect_on(broker, 1))
    busy.subscribe(queue, headers=[("selector", "stays IS NULL")])
    for round in range(15):
        # In one write: no answer is waited for, so that they are on their way while the browser reads.
        busy.send(
            b"".join(
                encode("SEND", [("destination", queue), ("priority", str(n % 10))], b"goes %d %d" % (round, n))
                for n in range(100)
            )
        )
        for wire in wires:
            found = browse(wire, queue, id=str(round))
            assert [frame.body for frame in found if "stays" in frame] == staying
            ids = [frame["message-id"] for frame in found]
            assert len(ids) == len(set(ids))


@ANYWHERE
def test_a_client_that_does_not_read_holds_nothing_up(start_broker: StartBroker, stack: ExitStack, slot: int) -> None:
    """Ten browsers of 6 MB that are not read: the broker keeps a page or two for their connection, not more."""
    broker = start_broker(workers=2)
    queue, body = "/queue/heavy", b"x" * 20_000
    sender = stack.enter_context(connect_on(broker, 0))
    for n in range(300):
        sender.publish(queue, b"%d " % n + body)
    sender.request("SEND", [("destination", queue)], b"last")
    lazy = stack.enter_context(connect_on(broker, slot, receive_buffer=4096))
    for id in range(10):
        lazy.frame("SUBSCRIBE", [("id", str(id)), ("destination", queue), ("browser", "true")])
    waiting = memory(broker, slot)
    other = stack.enter_context(connect_on(broker, slot))
    assert len(browse(other, queue)) == 301
    assert memory(broker, slot) - waiting < 15 << 20
    lazy.widen()
    ended = set()
    seen: dict[str, int] = {}
    while len(ended) < 2:
        frame = lazy.read(LONG)
        id = frame["subscription"]
        if "browser" in frame:
            ended.add(id)
            assert seen[id] == 301
        else:
            seen[id] = seen.get(id, 0) + 1
    assert not lazy.readable() or lazy.read(LONG)


def test_unsubscribed_in_the_middle(start_broker: StartBroker, stack: ExitStack) -> None:
    broker = start_broker(workers=2)
    queue, body = "/queue/stopped", b"x" * 10_000
    for slot in (0, 1):
        wire = stack.enter_context(connect_on(broker, slot))
        if not slot:
            fill(wire, queue, [b"%d " % n + body for n in range(1000)])
        for round in range(50):
            wire.frame("SUBSCRIBE", [("id", str(round)), ("destination", queue), ("browser", "true")])
            wire.frame("UNSUBSCRIBE", [("id", str(round))])
        wire.frame("BEGIN", [("transaction", "t"), ("receipt", "end")])
        while wire.read().command != "RECEIPT":
            pass
        wire.quiet()
        assert len(browse(wire, queue)) == 1000


def test_the_owner_dies_in_the_middle(start_broker: StartBroker, stack: ExitStack) -> None:
    """What it was asked for and did not answer is asked of its next life: nothing is missing, nothing comes twice."""
    broker = start_broker(workers=2)
    queues = [f"/queue/mortal.{n}" for n in range(8)]
    wire = stack.enter_context(connect_on(broker, 0, receive_buffer=65536))
    for queue in queues:
        fill(wire, queue, [b"%d " % n + b"x" * 1000 for n in range(1000)])
    found: dict[str, list[int]] = {queue: [] for queue in queues}
    ended: set[str] = set()

    def take() -> bool:
        frame = wire.read(LONG)
        if frame.command == "RECEIPT":
            return False
        if "browser" in frame:
            ended.add(frame["subscription"])
        else:
            found[frame["subscription"]].append(int(frame.body.split()[0]))
        return True

    for queue in queues:
        wire.frame("SUBSCRIBE", [("id", queue), ("destination", queue), ("browser", "true")])
    for _ in range(500):
        take()
    os.kill(broker.worker_pids()[1], signal.SIGSTOP)
    silent = 0
    while silent < 5:
        # As long as pages come, one comes with every turn of the loop, and so between two frames and their RECEIPTs.
        wire.frame("BEGIN", [("transaction", "t"), ("receipt", "begin")])
        wire.frame("ABORT", [("transaction", "t"), ("receipt", "abort")])
        receipts = messages = 0
        while receipts < 2:
            if take():
                messages += 1
            else:
                receipts += 1
        silent = 0 if messages else silent + 1
    assert len(ended) < len(queues)
    position = broker.position
    os.kill(broker.worker_pids()[1], signal.SIGKILL)
    broker.wait_event("worker.ready", since=position, slot=1, timeout=LONG)
    while len(ended) < len(queues):
        take()
    assert found == {queue: list(range(1000)) for queue in queues}
