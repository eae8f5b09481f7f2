"""kill -9 of a worker costs its own clients their connection, and nobody else anything."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.cluster.actors import LONG, Publisher, Subscriber, join_all
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker
from tests.harness.wire import Wire, encode

Topic = Callable[[], str]

BEATING = {"bind": "127.0.0.1:0", "heart_beat": {"minimum": "200ms", "wish": "200ms"}}


def test_siblings_clients_never_notice(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Under load in every direction, three times: nothing between survivors is lost, repeated or out of order."""
    broker, name = start_broker(workers=3, config={"listener": [BEATING]}), topic()
    publishers = [
        Publisher(on(broker, slot), f"p{slot}{way}", name + way, most_at_once=5) for slot in (0, 1) for way in "ab"
    ]
    subscribers = []
    for slot in (0, 1):
        for way in "ab":
            wire = on(broker, slot)
            wire.subscribe(name + way)
            subscribers.append(Subscriber(wire, f"s{slot}{way}", [f"p0{way}", f"p1{way}"]))
    # Idle, beating clients notice no pause either.
    idle = [on(broker, slot, headers=[("heart-beat", "0,200")]) for slot in (0, 1)]
    actors = [*publishers, *subscribers]
    for actor in actors:
        actor.start()
    for life in (1, 2, 3):
        victims = [on(broker, 2), on(broker, 2)]
        victims[0].frame("SUBSCRIBE", [("destination", f"{name}a"), ("id", "0")])
        victims[0].expect("MESSAGE")
        # What the dead worker's clients publish reaches everybody up to a point; nothing of it may be torn.
        victims[1].publish(f"{name}.other", b"x" * 100_000)
        os.kill(broker.worker_pids()[2], signal.SIGKILL)
        broker.wait_event("worker.ready", slot=2, incarnation=life + 1, timeout=LONG)
        # Not idle after the death, either: another five hundred from each, at least.
        for publisher in publishers:
            publisher.wait_sent(publisher.sent + 500)
    for publisher in publishers:
        publisher.stop()
    join_all(actors)
    for wire in idle:
        assert wire.collect_beats(1.0)


def test_the_accept_queue_is_served_by_the_successor(start_broker: StartBroker) -> None:
    broker = start_broker(workers=2)
    pid = broker.worker_pids()[1]
    # A stopped worker accepts nobody: the kernel goes on giving it connections, which wait.
    os.kill(pid, signal.SIGSTOP)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(broker.address)) for _ in range(60)]
        for wire in wires:
            wire.send(encode("CONNECT", [("accept-version", "1.2"), ("host", "x")]))
        os.kill(pid, signal.SIGKILL)
        for wire in wires:
            wire.connected = wire.expect("CONNECTED", timeout=LONG)
            wire.subscribe("/topic/served")
        served = [wire for wire in wires if wire.slot == 1]
        # Each was given to either worker with equal chance: none of 60 would be odd indeed.
        assert served
        assert len({wire.connected["session"].rpartition("-")[0] for wire in served if wire.connected}) == 1
        wires[0].publish("/topic/served", b"all of you")
        for wire in wires:
            assert wire.expect("MESSAGE").body == b"all of you"


def test_nobody_is_refused_while_a_worker_is_gone(start_broker: StartBroker) -> None:
    broker = start_broker(workers=2)
    slots = set()
    with ExitStack() as stack:
        for life in (1, 2):
            os.kill(broker.worker_pids()[1], signal.SIGKILL)
            wires = []
            while not broker.events("worker.ready", slot=1, incarnation=life + 1):
                # A refused connection would raise here; those for the dead worker wait in the kernel.
                wires.append(stack.enter_context(Wire(broker.address)))
                wires[-1].send(encode("CONNECT", [("accept-version", "1.2"), ("host", "x")]))
                if len(wires) == 500:
                    break
            for wire in wires:
                wire.connected = wire.expect("CONNECTED", timeout=LONG)
                slots.add(wire.slot)
            broker.wait_event("worker.ready", slot=1, incarnation=life + 1, timeout=LONG)
    assert slots == {0, 1}


def test_its_own_clients_see_the_end_and_can_come_back(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker, name = start_broker(workers=2), topic()
    lost = on(broker, 1)
    lost.subscribe(name)
    os.kill(broker.worker_pids()[1], signal.SIGKILL)
    with pytest.raises((AssertionError, ConnectionResetError)):
        lost.read()
    again = on(broker, None)
    again.subscribe(name)
    again.publish(name, b"here again")
    assert again.expect("MESSAGE").body == b"here again"


def test_all_workers_killed_at_once(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker, name = start_broker(workers=3), topic()
    for pid in broker.worker_pids().values():
        os.kill(pid, signal.SIGKILL)
    for slot in range(3):
        broker.wait_event("worker.ready", slot=slot, incarnation=2, timeout=LONG)
    wires = [on(broker, slot) for slot in range(3)]
    for wire in wires:
        wire.subscribe(name)
    for number, wire in enumerate(wires):
        wire.publish(name, b"%d" % number)
    for wire in wires:
        assert sorted(frame.body for frame in wire.read_many(3)) == [b"0", b"1", b"2"]
