"""A worker that stands still (SIGSTOP) holds publishers up but loses nothing; if it stays so, it is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.cluster.actors import LONG, Publisher, Subscriber, join_all, wait_standstill
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker

Topic = Callable[[], str]

# A subscriber that happens to be slow when its worker is stopped would hold the publishers up before the link does.
ROOMY = {"high_bytes": "256MiB", "max_bytes": "1GiB"}
PATIENT = {"supervision": {"ping_interval": "100ms", "hang_timeout": "100s"}, "outbox": ROOMY}
IMPATIENT = {"supervision": {"ping_interval": "100ms", "hang_timeout": "1500ms"}, "outbox": ROOMY}
PADDING = 5000


def test_publishers_are_paused_and_nothing_is_lost(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker, name = start_broker(workers=2, config=PATIENT, log_level="debug"), topic()
    publishers = [Publisher(on(broker, 0), f"p{number}", name, padding=PADDING) for number in range(2)]
    subscribers = []
    for slot in (0, 1):
        wire = on(broker, slot)
        wire.subscribe(name)
        subscribers.append(Subscriber(wire, f"s{slot}", ["p0", "p1"]))
    bystander, other = on(broker, 0), on(broker, 0)
    other.subscribe(f"{name}.other")
    actors = [*publishers, *subscribers]
    for actor in actors:
        actor.start()
    subscribers[1].wait_received(200)
    pid = broker.worker_pids()[1]
    os.kill(pid, signal.SIGSTOP)
    try:
        broker.wait_event("backplane.blocked", process="worker-0", timeout=LONG)
        wait_standstill(publishers, subscribers[:1])
        # What was taken but cannot be passed on is bounded by the links' high-water marks, not by luck.
        assert sum(publisher.sent for publisher in publishers) * PADDING < 256 << 20
        # The subscriber beside the publishers has all that the worker took, and other topics go on.
        for number in range(200):
            bystander.request("SEND", [("destination", f"{name}.other")], b"%d" % number)
            assert other.expect("MESSAGE").body == b"%d" % number
    finally:
        os.kill(pid, signal.SIGCONT)
    for publisher in publishers:
        publisher.wait_sent(publisher.sent + 200)
        publisher.stop()
    join_all(actors)
    assert not broker.events("worker.exited")


def test_one_that_stays_stopped_is_replaced(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Publishing then goes on, and the subscribers of the others missed nothing of what was published meanwhile."""
    broker, name = start_broker(workers=3, config=IMPATIENT, log_level="debug"), topic()
    publishers = [Publisher(on(broker, slot), f"p{slot}", name, padding=PADDING) for slot in (0, 2)]
    subscribers = []
    for slot in (0, 2):
        wire = on(broker, slot)
        wire.subscribe(name)
        subscribers.append(Subscriber(wire, f"s{slot}", ["p0", "p2"]))
    stuck = on(broker, 1)
    stuck.subscribe(name)
    for actor in (*publishers, *subscribers):
        actor.start()
    stuck.expect("MESSAGE")
    os.kill(broker.worker_pids()[1], signal.SIGSTOP)
    broker.wait_event("backplane.blocked", process="worker-0", timeout=LONG)
    broker.wait_event("worker.hung", slot=1, timeout=LONG)
    broker.wait_event("worker.ready", slot=1, incarnation=2, timeout=LONG)
    for publisher in publishers:
        publisher.wait_sent(publisher.sent + 200)
    late = on(broker, 1)
    late.frame("SUBSCRIBE", [("destination", name), ("id", "0")])
    late.expect("MESSAGE")
    late.close()
    for publisher in publishers:
        publisher.stop()
    join_all([*publishers, *subscribers])


def test_receipts_of_subscribe_wait_for_it_and_come_when_it_is_replaced(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    broker, name = start_broker(workers=2, config=IMPATIENT), topic()
    subscriber, publisher = on(broker, 0), on(broker, 0)
    os.kill(broker.worker_pids()[1], signal.SIGSTOP)
    subscriber.frame("SUBSCRIBE", [("destination", name), ("id", "0"), ("receipt", "in")])
    # It is subscribed on its own worker all the same; only the promise has to wait.
    while not subscriber.readable():
        publisher.request("SEND", [("destination", name)], b"near")
    while (frame := subscriber.read(LONG)).command == "MESSAGE":
        assert frame.body == b"near"
    assert frame["receipt-id"] == "in"
    broker.wait_event("worker.exited", slot=1)
    far = on(broker, 1)
    far.publish(name, b"far")
    assert subscriber.expect("MESSAGE").body == b"far"
