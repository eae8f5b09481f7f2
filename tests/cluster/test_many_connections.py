"""Thousands of clients at once, as the load tests of users have them."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest

from tests.cluster.actors import LONG, wait_until
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import Wire, WireFault, encode

Topic = Callable[[], str]

CLIENTS = 5000


@pytest.fixture
def crowd(many_files: int) -> Iterator[Callable[..., list[Wire]]]:
    """Opens many connections, and closes them after the test."""
    with ExitStack() as stack:

        def opened(broker: Broker, count: int) -> list[Wire]:
            return [stack.enter_context(Wire(broker.address)) for _ in range(count)]

        yield opened


def log_in(wires: list[Wire], name: str, heart_beat: str = "0,0") -> None:
    """CONNECT and SUBSCRIBE all at once, then wait for all answers."""
    for wire in wires:
        wire.send(
            encode("CONNECT", [("accept-version", "1.2"), ("host", "x"), ("heart-beat", heart_beat)])
            + encode("SUBSCRIBE", [("destination", name), ("id", "0"), ("receipt", "in")])
        )
    for wire in wires:
        wire.connected = wire.expect("CONNECTED", timeout=LONG)
        wire.expect("RECEIPT", receipt_id="in", timeout=LONG)


def test_five_thousand_at_once_all_get_one_message(
    start_broker: StartBroker, on: ConnectOn, crowd: Callable[..., list[Wire]], topic: Topic
) -> None:
    broker, name = start_broker(workers=2), topic()
    wires = crowd(broker, CLIENTS)
    log_in(wires, name)
    share = sum(wire.slot for wire in wires)
    assert CLIENTS * 0.4 < share < CLIENTS * 0.6, "the kernel shares connections out evenly"
    for slot in (0, 1):
        on(broker, slot).publish(name, b"from %d" % slot)
    for wire in wires:
        bodies = {wire.expect("MESSAGE", timeout=LONG).body, wire.expect("MESSAGE", timeout=LONG).body}
        assert bodies == {b"from 0", b"from 1"}
    # All of them leave at once; those who come after are served as before.
    for wire in wires:
        wire.close()
    late = on(broker, 0)
    late.subscribe(name)
    on(broker, 1).publish(name, b"after")
    assert late.expect("MESSAGE").body == b"after"


def cpu_seconds(broker: Broker) -> float:
    """Used so far by the workers."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in broker.worker_pids().values())


def test_heart_beats_of_thousands_cost_next_to_nothing(
    start_broker: StartBroker, crowd: Callable[..., list[Wire]], topic: Topic
) -> None:
    """A task or a timer per connection would take most of a core here."""
    beat = {"minimum": "500ms", "wish": "0s"}
    broker = start_broker(workers=2, config={"listener": [{"bind": "127.0.0.1:0", "heart_beat": beat}]})
    wires = crowd(broker, 4000)
    log_in(wires, topic(), "0,500")
    watched = wires[::100]
    before = cpu_seconds(broker)
    # Every 250 ms, since the broker beats twice as fast as it promised.
    for wire in watched[:1]:
        beats = wire.collect_beats(2.5)
        assert len(beats) >= 8
    used = cpu_seconds(broker) - before
    for wire in watched[1:]:
        assert len(wire.collect_beats(0.01)) >= 8, "these beat meanwhile as well"
    # 40,000 beats: measured 0.2 s of CPU on a slow machine.
    assert used < 1.25, f"{used:.2f} s of CPU in 2.5 s"


def test_thousands_open_and_close_quickly(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Rapid connects and disconnects, politely and rudely (1.2, section Connection Lingering)."""
    broker, name = start_broker(workers=2, log_level="debug"), topic()
    resident = on(broker, 0)
    resident.subscribe(name)

    def visit(number: int) -> None:
        with Wire(broker.address) as wire:
            match number % 4:
                case 0:
                    wire.connect()
                    wire.publish(name, b"%d" % number)
                    wire.request("DISCONNECT")
                    wire.expect_closed()
                case 1:
                    wire.connect()
                    wire.subscribe(f"{name}.{number}")
                case 2:
                    wire.send(encode("CONNECT", [("accept-version", "1.2"), ("host", "x")]))
                case 3:
                    pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(visit, range(4000)))
    assert sorted(int(frame.body) for frame in resident.read_many(1000)) == list(range(0, 4000, 4))
    resident.quiet()
    # Nothing is left of them: no descriptor of a worker but those of this test's own connection.
    processes = [psutil.Process(pid) for pid in broker.worker_pids().values()]
    wait_until(
        lambda: (
            sum(len([c for c in process.net_connections("tcp") if c.status == "ESTABLISHED"]) for process in processes)
            == 1
        ),
        "the workers close what the clients closed",
    )


def test_a_worker_out_of_files_lives(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """It turns away whom it cannot take; those it has are served, and there is room again when some have gone."""
    broker, name = start_broker(workers=1), topic()
    residents = [on(broker, 0), on(broker, 0)]
    residents[0].subscribe(name)
    worker = psutil.Process(broker.worker_pids()[0])
    limit = worker.num_fds() + 50
    worker.rlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(broker.address)) for _ in range(100)]
        taken = []
        for wire in wires:
            try:
                wire.connect()
                taken.append(wire)
            except (WireFault, OSError):
                continue
        assert 20 < len(taken) <= 50
        for number in range(100):
            residents[1].publish(name, b"%d" % number)
            assert residents[0].expect("MESSAGE").body == b"%d" % number
        for wire in taken:
            wire.request("DISCONNECT")
            wire.expect_closed()
            wire.close()

        def room() -> bool:
            try:
                on(broker, 0)
            except (WireFault, OSError):
                return False
            return True

        wait_until(room, "there is room again")
