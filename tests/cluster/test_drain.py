"""The end in good order: SIGTERM under load, a second one, clients that hold it up, and the front's own death."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from broker.service import SAME_SIGNAL
from tests.cluster.actors import LONG, Actor, wait_until
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import Frame, Wire, encode

Topic = Callable[[], str]
Mortal = Callable[..., Broker]


class Witness(Actor):
    """Reads everything up to the end of the connection."""

    def __init__(self, wire: Wire, name: str) -> None:
        super().__init__(wire, name)
        self.frames: list[Frame] = []

    def work(self) -> None:
        self.frames = self.wire.read_rest(LONG)

    def check(self, promised: dict[str, int]) -> None:
        """All that was promised came, in order, and the last frame says why it is over."""
        self.finish()
        *messages, error = self.frames
        assert error.command == "ERROR" and error["error-code"] == "shutting-down", error
        numbers: dict[str, list[int]] = {name: [] for name in promised}
        for message in messages:
            publisher, number = message.body.decode().split(" ")[:2]
            numbers[publisher].append(int(number))
        for publisher, count in promised.items():
            assert numbers[publisher] == list(range(len(numbers[publisher])))
            assert len(numbers[publisher]) >= count, f"{self.name} lost receipted messages of {publisher}"


class Tireless(Actor):
    """Publishes with receipts, many at a time, until the broker says goodbye; counts what it was promised."""

    def __init__(self, wire: Wire, name: str, destination: str) -> None:
        super().__init__(wire, name)
        self.destination = destination
        self.promised = 0
        self.last: Frame | None = None

    def work(self) -> None:
        writer = threading.Thread(target=self._write, daemon=True)
        writer.start()
        while self.last is None:
            frame = self.wire.read(LONG)
            if frame.command == "RECEIPT":
                # A RECEIPT speaks for all frames before it as well.
                self.promised = int(frame["receipt-id"]) + 1
                with self.changed:
                    self.changed.notify_all()
            else:
                self.last = frame
        self.wire.expect_closed(LONG)
        self.wire.close()
        writer.join(LONG)

    def _write(self) -> None:
        numbers = itertools.count()
        try:
            while self.last is None:
                number = next(numbers)
                headers = [("destination", self.destination)]
                if number % 3 == 0:
                    headers.append(("receipt", str(number)))
                frame = encode("SEND", headers, b"%s %d " % (self.name.encode(), number) + b"." * 500)
                self.wire.socket.sendall(frame)
        except OSError:
            return  # The broker has closed: what was not receipted was not promised.

    def wait_promised(self, count: int) -> None:
        self._wait(lambda: self.promised >= count, f"{count} receipts", LONG)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_what_was_receipted_is_delivered_everywhere(workers: int, mortal: Mortal, on: ConnectOn, topic: Topic) -> None:
    broker, name = mortal(workers=workers), topic()
    witnesses = []
    for slot in range(workers):
        wire = on(broker, slot)
        wire.subscribe(name, ack="auto")
        witnesses.append(Witness(wire, f"w{slot}"))
    publishers = [Tireless(on(broker, slot), f"p{slot}", name) for slot in range(workers)]
    idle = on(broker, 0)
    for actor in (*witnesses, *publishers):
        actor.start()
    for publisher in publishers:
        publisher.wait_promised(500)
    os.kill(broker.pid, signal.SIGTERM)
    assert broker.wait(LONG) == 0
    for publisher in publishers:
        publisher.finish()
        assert publisher.last is not None and publisher.last["error-code"] == "shutting-down"
    for witness in witnesses:
        witness.check({publisher.name: publisher.promised for publisher in publishers})
    idle.expect_error("shutting-down")
    broker.check_log()


def test_nothing_in_flight_between_workers_is_lost(mortal: Mortal, on: ConnectOn, topic: Topic) -> None:
    """The publisher's worker stays until the other, which stood still, has read what was receipted."""
    config = {"broker": {"drain_timeout": "60s"}, "backplane": {"high_water_mark": 64}}
    broker, name = mortal(workers=2, config=config), topic()
    subscriber, publisher = on(broker, 1), on(broker, 0)
    subscriber.subscribe(name)
    workers = broker.worker_pids()
    os.kill(workers[1], signal.SIGSTOP)
    try:
        # Within the high-water mark of the link, far more than what the kernel holds between the two.
        for number in range(50):
            publisher.request("SEND", [("destination", name)], b"%d " % number + b"." * 200_000)
        os.kill(broker.pid, signal.SIGTERM)
        broker.wait_event("broker.draining")
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(workers[0]).wait(1.5)
    finally:
        os.kill(workers[1], signal.SIGCONT)
    *messages, error = subscriber.read_rest(LONG)
    assert error["error-code"] == "shutting-down"
    assert [int(frame.body.split()[0]) for frame in messages] == list(range(50))
    publisher.expect_error("shutting-down")
    publisher.close()
    subscriber.close()
    assert broker.wait(LONG) == 0


def test_clients_that_leave_at_once_hold_nothing_up(mortal: Mortal, on: ConnectOn) -> None:
    """The linger is for clients that stay: with all gone the broker goes too."""
    broker = mortal(workers=2, config={"outbox": {"linger": "60s"}, "broker": {"drain_timeout": "60s"}})
    wires = [on(broker, slot) for slot in (0, 1, 0, 1)]
    os.kill(broker.pid, signal.SIGTERM)
    for wire in wires:
        wire.expect_error("shutting-down")
        wire.close()
    assert broker.wait(15) == 0


def test_a_slow_reader_gets_all_of_it_within_the_drain_timeout(mortal: Mortal, on: ConnectOn, topic: Topic) -> None:
    """What is queued is delivered for as long as the drain may take, not only for as long as a lingering close."""
    config = {"outbox": {"linger": "500ms", "high_bytes": "16MiB", "max_bytes": "64MiB"}}
    broker, name = mortal(workers=2, config={**config, "broker": {"drain_timeout": "60s"}}), topic()
    slow, publisher = on(broker, 1, receive_buffer=4096), on(broker, 0)
    slow.subscribe(name)
    for number in range(150):
        publisher.request("SEND", [("destination", name)], b"%d " % number + b"." * 100_000)
    os.kill(broker.pid, signal.SIGTERM)
    publisher.expect_error("shutting-down", timeout=LONG)
    publisher.close()
    # Longer than the linger: the reader was busy, not gone.
    started = time.monotonic()
    wait_until(lambda: time.monotonic() - started > 1.0, "a second")
    *messages, error = slow.read_rest(LONG)
    assert error["error-code"] == "shutting-down"
    assert [int(frame.body.split()[0]) for frame in messages] == list(range(150))
    slow.close()
    assert broker.wait(15) == 0


def stuck_client(broker: Broker, on: ConnectOn, name: str) -> Wire:
    """Has more waiting for it than the network holds, and never reads."""
    stuck, publisher = on(broker, 1, receive_buffer=4096), on(broker, 0)
    stuck.subscribe(name)
    for _ in range(150):
        publisher.request("SEND", [("destination", name)], b"." * 100_000)
    publisher.close()
    return stuck


def test_the_time_is_bounded(mortal: Mortal, on: ConnectOn, topic: Topic) -> None:
    config = {
        "broker": {"drain_timeout": "1500ms"},
        "outbox": {"linger": "60s", "high_bytes": "32MiB", "max_bytes": "64MiB"},
    }
    broker = mortal(workers=2, config=config)
    stuck_client(broker, on, topic())
    os.kill(broker.pid, signal.SIGTERM)
    assert broker.wait(15) == 0
    broker.check_log()


def test_a_second_signal_ends_it_at_once(mortal: Mortal, on: ConnectOn, topic: Topic) -> None:
    config = {
        "broker": {"drain_timeout": "100s"},
        "outbox": {"linger": "60s", "high_bytes": "32MiB", "max_bytes": "64MiB"},
    }
    broker = mortal(workers=2, config=config)
    stuck_client(broker, on, topic())
    os.kill(broker.pid, signal.SIGTERM)
    broker.wait_event("broker.draining")
    assert broker.returncode is None
    # Sooner it would be the same one again.
    time.sleep(2 * SAME_SIGNAL)
    os.kill(broker.pid, signal.SIGTERM)
    assert broker.wait(10) == 1


def test_new_clients_are_not_let_in_meanwhile(mortal: Mortal, on: ConnectOn, topic: Topic) -> None:
    config = {
        "broker": {"drain_timeout": "100s"},
        "outbox": {"linger": "60s", "high_bytes": "32MiB", "max_bytes": "64MiB"},
    }
    broker = mortal(workers=2, config=config)
    stuck = stuck_client(broker, on, topic())
    os.kill(broker.pid, signal.SIGTERM)
    broker.wait_event("broker.draining")

    def refused() -> bool:
        try:
            socket.create_connection(broker.address, 1).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(refused, "connections are refused while the broker drains")
    assert broker.returncode is None
    stuck.close()
    assert broker.wait(15) == 0


def test_the_workers_go_when_the_front_is_killed(mortal: Mortal, on: ConnectOn, topic: Topic) -> None:
    broker, name = mortal(workers=2), topic()
    workers = [psutil.Process(pid) for pid in broker.worker_pids().values()]
    witnesses = []
    for slot in (0, 1):
        wire = on(broker, slot)
        wire.subscribe(name)
        witnesses.append(Witness(wire, f"w{slot}"))
    publishers = [Tireless(on(broker, slot), f"p{slot}", name) for slot in (0, 1)]
    for actor in (*witnesses, *publishers):
        actor.start()
    for publisher in publishers:
        publisher.wait_promised(300)
    os.kill(broker.pid, signal.SIGKILL)
    assert broker.wait(LONG) == -signal.SIGKILL
    for publisher in publishers:
        publisher.finish()
    for witness in witnesses:
        witness.check({publisher.name: publisher.promised for publisher in publishers})
    assert not psutil.wait_procs(workers, LONG)[1]
    broker.check_log()
    # Nobody holds the port: another broker can have it.
    with Broker(workers=2, bind=[f"{broker.address[0]}:{broker.address[1]}"]) as successor:
        assert successor.address == broker.address


def test_a_worker_that_is_stopped_does_not_keep_the_others_from_ending(
    mortal: Mortal, on: ConnectOn, topic: Topic
) -> None:
    broker = mortal(workers=2, config={"broker": {"drain_timeout": "2s"}})
    wire = on(broker, 0)
    stopped = on(broker, 1)
    os.kill(broker.worker_pids()[1], signal.SIGSTOP)
    os.kill(broker.pid, signal.SIGTERM)
    wire.expect_error("shutting-down", timeout=LONG)
    assert broker.wait(15) in (0, 1)
    stopped.close()


def test_it_can_start_again_on_the_same_port_at_once(start_broker: StartBroker, on: ConnectOn) -> None:
    broker = start_broker(workers=2)
    wires = [on(broker, slot) for slot in (0, 1)]
    host, port = broker.address
    broker.stop()
    for wire in wires:
        wire.expect_error("shutting-down")
    # The old connections are not even closed on the clients' side.
    again = start_broker(workers=2, bind=[f"{host}:{port}"])
    on(again, 1).subscribe("/topic/again")
