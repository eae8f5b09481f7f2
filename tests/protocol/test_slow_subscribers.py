"""Clients that do not read: what happens to them, and that it happens to nobody else. Statements 114 and 115.

The kernel's buffers take megabytes before the broker notices that a client does not read, so every test sends more
than those can hold.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import CLOCK_GRAIN, Frame, Headers, Wire, connect_on, encode

ACROSS = pytest.mark.parametrize("slot", [0, 1], ids=["same-worker", "other-worker"])

PLAIN, BEATING = 0, 1
BODY = 40_000
COUNT = 400
"""Messages of BODY bytes: four times what the buffers of one connection hold."""

BLOCK_TIMEOUT = 2.0
"""For how long a publisher may be kept waiting by the broker that loses patience, in seconds."""

OUTBOX: dict[str, object] = {
    "high_bytes": "256KiB", "low_bytes": "64KiB", "max_bytes": "1GiB", "block_timeout": "60s", "linger": "20s",
}  # fmt: skip
CONFIG: dict[str, object] = {
    "outbox": OUTBOX,
    # Or the link between two workers takes everything before the subscriber's worker has its turn.
    "backplane": {"high_water_mark": 4},
    "listener": [
        {"bind": "127.0.0.1:0"},
        {"bind": "127.0.0.1:0", "heart_beat": {"minimum": "400ms", "wish": "1500ms"}},
    ],
    "destination": [
        {"pattern": "/topic/drop.>", "slow_consumer": "drop"},
        {"pattern": "/topic/cut.>", "slow_consumer": "disconnect"},
        {"pattern": "/topic/block.>", "slow_consumer": "block"},
    ],
}  # fmt: skip

Connect = Callable[..., Wire]


@pytest.fixture(scope="module")
def slow_broker() -> Iterator[Broker]:
    """Two workers with small outboxes and a policy of each kind."""
    with Broker(workers=2, config=CONFIG, log_level="debug") as broker:
        yield broker


@pytest.fixture
def connect(slow_broker: Broker) -> Iterator[Connect]:
    """Logs in to `slow_broker`; `lazy` makes the kernel hold little for this client."""
    with ExitStack() as stack:

        def connected(slot: int = 0, *, lazy: bool = False, listener: int = PLAIN, headers: Headers = ()) -> Wire:
            wire = connect_on(
                slow_broker, slot, headers=headers, listener=listener, receive_buffer=16384 if lazy else None
            )
            return stack.enter_context(wire)

        yield connected
    slow_broker.check_log()


@contextmanager
def working(*jobs: Callable[[], None]) -> Iterator[list[threading.Thread]]:
    """Run the jobs in threads, which are returned; what goes wrong in one is raised at the end."""
    faults: list[Exception] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except (AssertionError, OSError) as fault:
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    yield threads
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if faults:
        raise faults[0]


def numbered(destination: str, number: int) -> bytes:
    """One SEND of BODY bytes that starts with its number."""
    body = b"%08d" % number + b"x" * (BODY - 8)
    return encode("SEND", [("destination", destination), ("content-length", str(BODY))], body)


def publish(wire: Wire, destination: str, count: int = COUNT) -> None:
    """Send `count` numbered messages and wait until the broker has taken the last."""
    for number in range(count):
        wire.send(numbered(destination, number), timeout=30)
    wire.frame("SEND", [("destination", "/topic/nobody"), ("receipt", "all-taken")])
    wire.expect("RECEIPT", receipt_id="all-taken", timeout=30)


def publish_in_step(wire: Wire, destination: str, reader: Wire, count: int = COUNT) -> None:
    """Send `count` numbered messages, never far ahead of `reader`, which must get every one of them in order."""
    window = 10
    for start in range(0, count, window):
        for number in range(start, start + window):
            wire.send(numbered(destination, number))
        assert numbers(reader.read_many(window)) == list(range(start, start + window))


def numbers(frames: list[Frame]) -> list[int]:
    return [int(frame.body[:8]) for frame in frames]


def expect_numbers(wire: Wire, count: int = COUNT) -> None:
    """Every message, in order."""
    assert numbers(wire.read_many(count, timeout=40)) == list(range(count))


class Endless:
    """Publishes numbered messages until told to stop, then one that is empty."""

    def __init__(self, wire: Wire, destination: str) -> None:
        self.sent = 0
        self.stop = threading.Event()
        self._wire = wire
        self._destination = destination

    def run(self) -> None:
        while not self.stop.is_set():
            self._wire.send(numbered(self._destination, self.sent), timeout=60)
            self.sent += 1
        self._wire.publish(self._destination)

    def wait_for_standstill(self) -> None:
        """For half a second nothing was sent. A machine that sleeps itself only makes this come too early."""
        seen, deadline = -1, time.monotonic() + 30
        while seen != self.sent:
            assert time.monotonic() < deadline, f"{self.sent} messages, and more to come"
            seen = self.sent
            time.sleep(0.5)


def expect_all(wire: Wire) -> None:
    """Every message of an `Endless`, in order, and its end."""
    number = 0
    while body := wire.read(timeout=40).body:
        assert int(body[:8]) == number
        number += 1


@pytest.mark.statement(115)
@ACROSS
def test_block_pauses_the_publisher_until_the_subscriber_reads(
    slow_broker: Broker, connect: Connect, slot: int
) -> None:
    slow, fast, publisher = connect(lazy=True), connect(), connect(slot)
    other, other_publisher = connect(), connect(slot)
    for wire in (slow, fast):
        wire.subscribe(f"/topic/block.{slot}")
    other.subscribe("/topic/other")
    endless = Endless(publisher, f"/topic/block.{slot}")
    with working(endless.run, lambda: expect_all(fast)):
        try:
            slow_broker.wait_event("subscriber.slow", session=slow.session)
            # How much went by before a publisher at another worker hears of it depends on the machine.
            endless.wait_for_standstill()
            # The topic stands still; nothing else does.
            for number in range(20):
                other_publisher.publish("/topic/other", b"%d" % number)
                assert other.expect("MESSAGE").body == b"%d" % number
            slow.widen()
        finally:
            endless.stop.set()
        expect_all(slow)
    slow.quiet()
    assert slow_broker.events("connection.closed", session=slow.session) == []


@pytest.mark.statement(115)
@ACROSS
def test_block_ends_with_the_disconnection_of_who_never_reads(start_broker: StartBroker, slot: int) -> None:
    broker = start_broker(workers=2, config={"outbox": OUTBOX | {"block_timeout": BLOCK_TIMEOUT}})
    with (
        connect_on(broker, 0, receive_buffer=16384) as slow,
        connect_on(broker, 0) as fast,
        connect_on(broker, slot) as publisher,
    ):
        for wire in (slow, fast):
            wire.subscribe("/topic/end")
        started = time.monotonic()
        with working(lambda: publish(publisher, "/topic/end"), lambda: expect_numbers(fast)):
            closed = broker.wait_event("connection.closed", timeout=30, session=slow.session)
            assert time.monotonic() - started >= BLOCK_TIMEOUT - CLOCK_GRAIN
        assert (closed["reason"], closed["error_code"]) == ("slow-consumer", "slow-consumer")
        # When it reads at last: whole messages without a gap, then the reason, then the end.
        slow.widen()
        *messages, error = slow.read_rest()
    assert numbers(messages) == list(range(len(messages)))
    assert error["error-code"] == "slow-consumer" and b"outbox.block_timeout" in error.body


@ACROSS
def test_drop_leaves_messages_out_for_the_slow_one_only(slow_broker: Broker, connect: Connect, slot: int) -> None:
    slow, fast, publisher = connect(lazy=True), connect(), connect(slot)
    for wire in (slow, fast):
        wire.subscribe(f"/topic/drop.{slot}")
    publish_in_step(publisher, f"/topic/drop.{slot}", fast)
    slow_broker.wait_event("subscriber.dropping", session=slow.session)
    slow.widen()
    # Its own answer comes behind all that was kept for it.
    slow.frame("BEGIN", [("transaction", "t"), ("receipt", "r")])
    received: list[Frame] = []
    while (frame := slow.read()).command == "MESSAGE":
        received.append(frame)
    assert 0 < len(received) < COUNT
    assert numbers(received) == sorted(set(numbers(received)))
    # Having caught up it gets everything again.
    publish(publisher, f"/topic/drop.{slot}", 3)
    assert numbers(slow.read_many(3)) == [0, 1, 2]
    slow.close()
    assert slow_broker.wait_event("connection.closed", session=slow.session)["dropped"] == COUNT - len(received)


@ACROSS
def test_disconnect_does_not_wait(slow_broker: Broker, connect: Connect, slot: int) -> None:
    slow, fast, publisher = connect(lazy=True), connect(), connect(slot)
    for wire in (slow, fast):
        wire.subscribe(f"/topic/cut.{slot}")
    publish_in_step(publisher, f"/topic/cut.{slot}", fast)
    assert slow_broker.events("subscriber.slow", session=slow.session) == []
    slow.widen()
    *messages, error = slow.read_rest()
    assert numbers(messages) == list(range(len(messages)))
    assert error["error-code"] == "slow-consumer" and b"outbox.high_bytes" in error.body


def test_the_outbox_never_exceeds_its_maximum(start_broker: StartBroker) -> None:
    outbox = {"high_bytes": "256KiB", "low_bytes": "64KiB", "max_bytes": "4MiB", "block_timeout": "30s"}
    broker = start_broker(config={"outbox": outbox})
    with (
        connect_on(broker, 0, receive_buffer=16384) as slow,
        connect_on(broker, 0) as first,
        connect_on(broker, 0) as second,
    ):
        slow.subscribe("/topic/max.*")
        with working(lambda: publish(first, "/topic/max.a")):
            broker.wait_event("subscriber.slow", session=slow.session)
            # Another destination of the same subscriber is not paused yet; this is more than the rest of its outbox.
            second.publish("/topic/max.b", b"x" * (4 << 20))
            broker.wait_event("connection.closed", session=slow.session, error_code="slow-consumer")
        slow.widen()
        *messages, error = slow.read_rest()
    assert numbers(messages) == list(range(len(messages)))
    assert error["error-code"] == "slow-consumer" and b"outbox.max_bytes" in error.body


def test_one_message_larger_than_the_outbox_is_delivered(connect: Connect) -> None:
    receiver, publisher = connect(), connect()
    receiver.subscribe("/topic/block.large")
    body = b"x" * (6 << 20)
    publisher.publish("/topic/block.large", body)
    publisher.publish("/topic/block.large", b"next")
    assert receiver.read(timeout=30).body == body
    assert receiver.read().body == b"next"


@pytest.mark.statement(114)
def test_a_large_answer_to_one_does_not_delay_the_beats_of_others(slow_broker: Broker, connect: Connect) -> None:
    slow, publisher = connect(lazy=True), connect()
    beating = connect(listener=BEATING, headers=[("heart-beat", "0,400")])
    slow.subscribe("/topic/block.beats")
    with working(lambda: publish(publisher, "/topic/block.beats")) as jobs:
        slow_broker.wait_event("subscriber.slow", session=slow.session)
        beating.collect_beats(0.1)
        # All this time there is more for the slow one than any buffer takes.
        beating.wait_beats(5)
        assert slow.readable() and jobs[0].is_alive()
        slow.widen()
        expect_numbers(slow)


@pytest.mark.statement(52, 115)
def test_a_publisher_that_is_kept_waiting_is_not_taken_for_dead(slow_broker: Broker, connect: Connect) -> None:
    slow = connect(lazy=True)
    publisher = connect(listener=BEATING, headers=[("heart-beat", "400,0")])
    slow.subscribe("/topic/block.waiting")
    with working(lambda: publish(publisher, "/topic/block.waiting")) as jobs:
        slow_broker.wait_event("subscriber.slow", session=slow.session)
        # For longer than the 3 s of silence it is allowed: one that made the same promise, but later, is given up.
        connect(listener=BEATING, headers=[("heart-beat", "400,0")]).expect_error("heart-beat-timeout")
        assert slow.readable() and jobs[0].is_alive()
        slow.widen()
        expect_numbers(slow)


@pytest.mark.statement(115)
def test_a_client_that_does_not_read_its_receipts_stops_only_itself(connect: Connect) -> None:
    lazy, other = connect(lazy=True), connect()
    other.subscribe("/topic/other")
    count = 6000
    padding = "x" * 1500
    frames = [encode("SEND", [("destination", "/topic/nobody"), ("receipt", f"{n} {padding}")]) for n in range(count)]

    def write() -> None:
        for start in range(0, count, 100):
            lazy.send(b"".join(frames[start : start + 100]), timeout=30)

    with working(write):
        # The broker stops reading from it once its answers pile up.
        while select.select([], [lazy.socket], [], 0.3)[1]:
            other.publish("/topic/other", b"x")
            other.expect("MESSAGE")
        other.publish("/topic/other", b"still served")
        assert other.expect("MESSAGE").body == b"still served"
        lazy.widen()
        receipts = lazy.read_many(count, timeout=40)
    assert [frame["receipt-id"] for frame in receipts] == [f"{n} {padding}" for n in range(count)]


@pytest.mark.statement(115)
def test_a_slow_subscriber_may_still_publish_and_leave(slow_broker: Broker, connect: Connect) -> None:
    slow, publisher, other = connect(lazy=True), connect(), connect()
    slow.subscribe("/topic/drop.talkative")
    other.subscribe("/topic/talk")
    publish(publisher, "/topic/drop.talkative")
    slow.publish("/topic/talk", b"I am busy")
    assert other.expect("MESSAGE").body == b"I am busy"
    slow.reset()
    slow_broker.wait_event("connection.closed", session=slow.session)


def test_the_death_of_a_slow_subscriber_sets_its_publishers_free(slow_broker: Broker, connect: Connect) -> None:
    slow, fast, publisher = connect(lazy=True), connect(1), connect(1)
    for wire in (slow, fast):
        wire.subscribe("/topic/block.death")
    with working(lambda: publish(publisher, "/topic/block.death"), lambda: expect_numbers(fast)):
        slow_broker.wait_event("subscriber.slow", session=slow.session)
        slow.reset()
    slow_broker.wait_event("connection.closed", session=slow.session, reason="connection-lost")
