"""Promise 6: a slow, silent, hostile or crashing client costs the others nothing but its fair share."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.cluster.actors import LONG, wait_until
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import Wire, WireFault, encode

Topic = Callable[[], str]

MIB = 1 << 20
BEAT = {"minimum": "200ms", "wish": "200ms"}


class Neighbours:
    """A publisher and a subscriber on every worker who must be served promptly whatever others do."""

    def __init__(self, broker: Broker, on: ConnectOn, name: str) -> None:
        self._name = name
        self._number = 0
        self._publishers = [on(broker, slot) for slot in range(broker.workers)]
        self._subscribers = [on(broker, slot) for slot in range(broker.workers)]
        for subscriber in self._subscribers:
            subscriber.subscribe(name)

    def talk(self, rounds: int = 20) -> None:
        for _ in range(rounds):
            for publisher in self._publishers:
                self._number += 1
                publisher.request("SEND", [("destination", self._name)], b"%d" % self._number)
                for subscriber in self._subscribers:
                    assert subscriber.expect("MESSAGE").body == b"%d" % self._number


def memory(broker: Broker) -> int:
    """Bytes resident in the workers."""
    return sum(psutil.Process(pid).memory_info().rss for pid in broker.worker_pids().values())


def reset(wire: Wire) -> None:
    """End the connection with a reset, as a crashed machine or an impolite program does."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


@contextmanager
def flood(wire: Wire, chunk: bytes) -> Iterator[Callable[[], int]]:
    """Write `chunk` again and again in another thread; gives a function that tells how many bytes went."""
    sent = 0
    stopped = threading.Event()

    def write() -> None:
        nonlocal sent
        wire.socket.settimeout(0.1)
        while not stopped.is_set():
            try:
                sent += wire.socket.send(chunk)
            except TimeoutError:
                continue
            except OSError:
                return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield lambda: sent
    finally:
        stopped.set()
        thread.join(LONG)


def test_a_reply_larger_than_the_socket_buffer_stops_no_heart_beats(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    """Statement 114 of the list of protocol statements."""
    broker, name = start_broker(workers=1, config={"listener": [{"bind": "127.0.0.1:0", "heart_beat": BEAT}]}), topic()
    stuck, publisher = on(broker, 0, receive_buffer=4096), on(broker, 0)
    beating = on(broker, 0, headers=[("heart-beat", "0,200")])
    stuck.subscribe(name)
    publisher.request("SEND", [("destination", name)], b"x" * (16 * MIB))
    # Nobody reads that one meanwhile.
    beating.wait_beats(8)
    assert stuck.expect("MESSAGE", timeout=LONG).body == b"x" * (16 * MIB)


def test_a_client_that_stops_reading_never_blocks_others(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    """Statement 115: not other topics at all, and its own topic only for as long as is configured."""
    config = {"outbox": {"high_bytes": "256KiB", "low_bytes": "64KiB", "block_timeout": "1s", "linger": "200ms"}}
    broker, name = start_broker(workers=2, config=config), topic()
    neighbours = Neighbours(broker, on, f"{name}.neighbours")
    stuck, quick = on(broker, 1, receive_buffer=4096), on(broker, 1)
    for wire in (stuck, quick):
        wire.subscribe(name)
    sender = on(broker, 0)
    with flood(sender, encode("SEND", [("destination", name)], b"x" * 10_000)) as sent:
        quick_thread = threading.Thread(target=lambda: drain_silently(quick), daemon=True)
        quick_thread.start()
        broker.wait_event("subscriber.slow", timeout=LONG)
        neighbours.talk()
        broker.wait_event("connection.closed", reason="slow-consumer", timeout=LONG)
        before = sent()
        wait_until(lambda: sent() > before + MIB, "the publisher goes on", LONG)
        neighbours.talk()
    sender.close()
    quick.socket.shutdown(socket.SHUT_RDWR)
    quick_thread.join(LONG)
    assert broker.events("connection.closed", reason="slow-consumer", session=stuck_session(stuck))


def stuck_session(wire: Wire) -> str:
    assert wire.connected is not None
    return wire.connected["session"]


def drain_silently(wire: Wire) -> None:
    wire.socket.settimeout(LONG)
    # Shut down while the broker still sends, as the test does in the end, a socket may be reset.
    with contextlib.suppress(ConnectionResetError):
        while wire.socket.recv(MIB):
            pass


def test_a_producer_that_never_reads_its_receipts(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """It is not read from any more once its outbox is full; memory stays bounded, and it is closed in the end."""
    config = {"outbox": {"high_bytes": "1MiB", "low_bytes": "64KiB", "block_timeout": "1s", "linger": "200ms"}}
    broker, name = start_broker(workers=2, config=config), topic()
    neighbours = Neighbours(broker, on, f"{name}.neighbours")
    evil = [on(broker, slot, receive_buffer=4096) for slot in (0, 1)]
    before = memory(broker)
    with ExitStack() as stack:
        frames = b"".join(
            encode("SEND", [("destination", name), ("receipt", f"{number}" * 100)], b"x") for number in range(50)
        )
        for wire in evil:
            stack.enter_context(flood(wire, frames))
        neighbours.talk()
        broker.wait_event("connection.closed", reason="slow-consumer", count=2, timeout=LONG)
        neighbours.talk()
        assert memory(broker) < before + 64 * MIB


def test_half_open_clients(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """One that closes its writing side: what it sent counts (1.2: SHOULD), then the connection ends in order."""
    broker, name = start_broker(workers=2), topic()
    subscriber = on(broker, 1)
    subscriber.subscribe(name)
    for number in range(50):
        half = on(broker, 0)
        half.subscribe(f"{name}.own", id="own")
        half.publish(name, b"%d" % number)
        half.publish(f"{name}.own", b"x" * 300_000)
        half.shut_write()
        assert half.expect("MESSAGE").body == b"x" * 300_000
        half.expect_closed()
        half.close()
    assert [frame.body for frame in subscriber.read_many(50)] == [b"%d" % number for number in range(50)]


def test_clients_that_crash(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """In the middle of a frame, of a transaction, of reading: what was not complete never happened."""
    broker, name = start_broker(workers=2), topic()
    neighbours = Neighbours(broker, on, f"{name}.neighbours")
    subscriber = on(broker, 1)
    subscriber.subscribe(name)
    for number in range(40):
        victim = on(broker, number % 2)
        victim.subscribe(name)
        victim.frame("BEGIN", [("transaction", "t")])
        victim.publish(name, b"not committed", [("transaction", "t")])
        victim.frame("SEND", [("destination", name), ("receipt", "whole")], b"whole %d" % number)
        while victim.read().command != "RECEIPT":
            continue  # Messages: its own, and those of the victims before it.
        half = encode("SEND", [("destination", name), ("content-length", "100000")], b"torn" * 1000)
        victim.send(half[:-1])
        reset(victim)
    neighbours.talk()
    assert {frame.body for frame in subscriber.read_many(40)} == {b"whole %d" % number for number in range(40)}
    subscriber.quiet()


def test_slow_loris_before_login(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """A head that trickles in counts from the start of the connection, not from its last byte."""
    config = {"listener": [{"bind": "127.0.0.1:0", "connect_timeout": "1s"}]}
    broker = start_broker(workers=2, config=config)
    neighbours = Neighbours(broker, on, topic())
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(broker.address)) for _ in range(200)]
        started = time.monotonic()
        for wire in wires:
            wire.send(b"CONNECT\naccept-version:1.2\nhost:x\n")
        done = threading.Event()

        def trickle() -> None:
            while not done.wait(0.05):
                for wire in wires:
                    try:
                        wire.socket.send(b"a:b\n", socket.MSG_DONTWAIT)
                    except OSError:
                        continue

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        try:
            neighbours.talk(5)
            for wire in wires:
                assert wire.expect("ERROR")["error-code"] == "connect-timeout"
            assert 0.8 < time.monotonic() - started < 8
        finally:
            done.set()
            thread.join()
    neighbours.talk(5)


@pytest.mark.parametrize(
    ("start", "piece", "code"),
    [
        (b"SEND\ndestination:/topic/loris\n", b"a:%d\n", "header-too-large"),
        (b"SEND\ndestination:/topic/loris\na:", b"%d", "header-too-large"),
        (b"SEND\ndestination:/topic/loris\n\n", b"%d" * 100, "body-too-large"),
    ],
    ids=["headers", "one-header", "body"],
)
def test_frames_without_an_end_are_bounded(
    start: bytes, piece: bytes, code: str, start_broker: StartBroker, on: ConnectOn
) -> None:
    broker = start_broker(workers=1, config={"limits": {"body_bytes": "256KiB"}})
    wire = on(broker, 0)
    wire.send(start)
    chunk = b"".join(piece.replace(b"%d", b"%d" % number) for number in range(100))
    for _ in range(10_000):
        try:
            wire.send(chunk)
        except (BrokenPipeError, ConnectionResetError):
            break
        if wire.readable():
            break
    error = wire.expect("ERROR")
    assert error["error-code"] == code


def test_giant_frames_at_the_limit(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """As many as the limit allows are whole; one byte more is refused before its body is waited for."""
    broker, name = start_broker(workers=2, config={"limits": {"body_bytes": "4MiB"}}), topic()
    neighbours = Neighbours(broker, on, f"{name}.neighbours")
    before = memory(broker)
    subscriber = on(broker, 0)
    subscriber.subscribe(name)
    limit = 4 * MIB
    with ExitStack() as stack:
        # Twenty clients hold one back by its last byte: that costs one frame each, no more.
        giants = [stack.enter_context(on_any(broker)) for _ in range(20)]
        frame = encode("SEND", [("destination", name), ("content-length", str(limit))], b"g" * limit)
        for giant in giants:
            giant.send(frame[:-1])
        neighbours.talk(5)
        assert memory(broker) < before + 20 * limit * 3
        for giant in giants:
            giant.send(frame[-1:])
            assert len(subscriber.expect("MESSAGE", timeout=LONG).body) == limit
        neighbours.talk(5)
        giants[0].send(encode("SEND", [("destination", name), ("content-length", str(limit + 1))])[:-1])
        giants[0].expect_error("body-too-large")
    wait_until(lambda: memory(broker) < before + 64 * MIB, "the memory of giants is given back", LONG)


def on_any(broker: Broker) -> Wire:
    """A session on whichever worker."""
    wire = Wire(broker.address)
    try:
        wire.connect()
    except BaseException:
        wire.close()
        raise
    return wire


def test_a_flood_of_connections_over_the_limit(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    config = {"limits": {"connections": 20}, "outbox": {"linger": "60s"}}
    broker = start_broker(workers=1, config=config)
    neighbours = Neighbours(broker, on, topic())
    with ExitStack() as stack:
        wires = [stack.enter_context(on_any(broker)) for _ in range(18)]
        for _ in range(200):
            with Wire(broker.address) as refused:
                error = refused.expect_error("too-many-connections")
                assert b"20" in error.body and b"limits.connections" in error.body
        neighbours.talk()
        assert not any(wire.readable() for wire in wires)
        # Room again, as soon as one has gone.
        wires[0].request("DISCONNECT")
        wires[0].expect_closed()
        wires[0].close()

        stack.enter_context(wait_until(lambda: let_in(broker), "a place is free again"))


def let_in(broker: Broker) -> Wire | None:
    """A connection, unless it is refused, which may end it before CONNECT is written."""
    try:
        return on_any(broker)
    except (WireFault, ConnectionError):
        return None


def test_refused_connections_that_stay_are_thrown_out(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Those who were refused and do not hang up must not keep out for good those who come when there is room."""
    config = {"limits": {"connections": 10}, "outbox": {"linger": "300ms"}}
    broker = start_broker(workers=1, config=config)
    with ExitStack() as stack:
        wires = [stack.enter_context(on_any(broker)) for _ in range(10)]
        stayers = [stack.enter_context(Wire(broker.address)) for _ in range(50)]
        for stayer in stayers:
            assert stayer.expect("ERROR")["error-code"] == "too-many-connections"
        wires[0].request("DISCONNECT")
        wires[0].expect_closed()
        wires[0].close()
        stack.enter_context(wait_until(lambda: let_in(broker), "a place is free again"))


def test_noise_on_every_worker(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Random bytes, other protocols, and frames that are almost right, from many at once."""
    broker, name = start_broker(workers=2), topic()
    neighbours = Neighbours(broker, on, name)
    chance = random.Random(7)
    connect = encode("CONNECT", [("accept-version", "1.2"), ("host", "x")])
    beginnings = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303"),
        b"CONNECT\n",
        connect,
        connect + b"SEND\ndestination:/topic/noise\n",
        connect + b"SUBSCRIBE\nid:0\ndestination:/topic/#\nreceipt:1\n\n\0",
    ]
    for number in range(300):
        with Wire(broker.address) as wire:
            size = chance.choice([1, 10, 300, 5000])
            alphabet = b"\n\r\0:\\ab" if number % 2 else bytes(range(256))
            try:
                wire.send(chance.choice(beginnings) + bytes(chance.choices(alphabet, k=size)))
                if number % 3 == 0:
                    reset(wire)
                elif number % 3 == 1:
                    wire.shut_write()
                    errors = [frame for frame in wire.read_rest() if frame.command == "ERROR"]
                    assert len(errors) <= 1
            except (BrokenPipeError, ConnectionResetError):
                continue
    neighbours.talk()
    assert len(broker.events("connection.closed")) <= 300


def test_greedy_publishers_leave_their_worker_time_for_the_rest(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    """Small frames as fast as the sockets take them, from many: other clients are served, and the pings answered."""
    supervision = {"ping_interval": "100ms", "hang_timeout": "2s"}
    broker, name = start_broker(workers=2, config={"supervision": supervision}), topic()
    neighbours = Neighbours(broker, on, f"{name}.neighbours")
    greedy = [on(broker, 0) for _ in range(16)]
    frames = b"".join(encode("SEND", [("destination", name), ("n", str(n))], b"x") for n in range(5000))
    selector = selectors.DefaultSelector()
    for wire in greedy:
        wire.socket.setblocking(False)
        selector.register(wire.socket, selectors.EVENT_WRITE, wire)
    positions = dict.fromkeys(greedy, 0)
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set() and positions:
            for key, _ in selector.select(0.1):
                wire = key.data
                try:
                    sent = wire.socket.send(memoryview(frames)[positions[wire] % len(frames) :])
                except OSError:
                    selector.unregister(wire.socket)
                    del positions[wire]
                else:
                    positions[wire] += sent

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        wait_until(lambda: broker.events("worker.hung") or sum(positions.values()) > 96 * MIB, "it is flooded", LONG)
        assert not broker.events("worker.hung")
        neighbours.talk(5)
    finally:
        stopped.set()
        writer.join(LONG)
        selector.close()
    assert len(positions) == len(greedy) and not broker.events("worker.exited")
