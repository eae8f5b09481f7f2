"""A slow subscriber on another worker than the publishers: they are paused, nobody else loses a message, and in the
end it is the slow one that goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

import pytest

from tests.cluster.actors import LONG, Publisher, Subscriber, join_all, wait_standstill, wait_until
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import Wire

Topic = Callable[[], str]

PADDING = 5000


def outbox(**changes: str) -> Mapping[str, object]:
    return {
        "outbox": {"high_bytes": "256KiB", "low_bytes": "64KiB", "block_timeout": "100s", "linger": "60s", **changes}
    }


def setting(
    broker: Broker, on: ConnectOn, name: str, *, publisher_slots: tuple[int, ...] = (0,)
) -> tuple[Wire, list[Publisher], list[Subscriber]]:
    """A slow subscriber on worker 1, quick ones everywhere, publishers on the others; the actors are running."""
    slow = on(broker, 1, receive_buffer=4096)
    slow.subscribe(name)
    names = [f"p{slot}" for slot in publisher_slots]
    subscribers = []
    for slot in range(broker.workers):
        wire = on(broker, slot)
        wire.subscribe(name, id="quick")
        subscribers.append(Subscriber(wire, f"s{slot}", names))
    publishers = [Publisher(on(broker, slot), f"p{slot}", name, padding=PADDING) for slot in publisher_slots]
    for actor in (*subscribers, *publishers):
        actor.start()
    return slow, publishers, subscribers


def stop(publishers: list[Publisher], subscribers: list[Subscriber]) -> None:
    for publisher in publishers:
        publisher.stop()
    join_all([*publishers, *subscribers])


def test_it_is_disconnected_after_a_while_and_publishing_goes_on(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    broker = start_broker(workers=3, config=outbox(block_timeout="5s"))
    slow, publishers, subscribers = setting(broker, on, topic(), publisher_slots=(0, 2))
    broker.wait_event("subscriber.slow", process="worker-1", timeout=LONG)
    wait_standstill(publishers, subscribers)
    stalled = [publisher.sent for publisher in publishers]
    assert not broker.events("connection.closed")
    broker.wait_event("connection.closed", reason="slow-consumer", timeout=LONG)
    for publisher, sent in zip(publishers, stalled, strict=True):
        publisher.wait_sent(sent + 500)
    stop(publishers, subscribers)
    # It reads again: whole frames, in order, as far as they went, then why it ended.
    *messages, error = slow.read_rest(LONG)
    assert error.command == "ERROR" and error["error-code"] == "slow-consumer"
    for publisher in publishers:
        mine = [frame.body.split() for frame in messages if frame.body.startswith(publisher.name.encode())]
        assert [int(words[1]) for words in mine] == list(range(len(mine)))


def test_it_catches_up_in_time_and_nobody_lost_anything(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker = start_broker(workers=2, config=outbox())
    slow, publishers, subscribers = setting(broker, on, topic())
    broker.wait_event("subscriber.slow", process="worker-1", timeout=LONG)
    wait_standstill(publishers, subscribers)
    sent = publishers[0].sent
    late = Subscriber(slow, "slow", ["p0"])
    late.start()
    publishers[0].wait_sent(sent + 500)
    stop(publishers, [*subscribers, late])
    assert not broker.events("connection.closed")


def test_other_topics_are_not_held_up(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker, name = start_broker(workers=2, config=outbox()), topic()
    slow, publishers, subscribers = setting(broker, on, name)
    wait_standstill(publishers, subscribers)
    for here, there in ((0, 1), (1, 0), (1, 1)):
        other, publisher = on(broker, here), on(broker, there)
        other.subscribe(f"{name}.other")
        for number in range(100):
            publisher.request("SEND", [("destination", f"{name}.other")], b"%d" % number)
            assert other.expect("MESSAGE").body == b"%d" % number
    slow.close()
    stop(publishers, subscribers)


def test_the_slow_one_leaving_frees_the_publishers(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker = start_broker(workers=2, config=outbox())
    slow, publishers, subscribers = setting(broker, on, topic())
    wait_standstill(publishers, subscribers)
    sent = publishers[0].sent
    slow.close()
    publishers[0].wait_sent(sent + 500)
    stop(publishers, subscribers)


def test_the_death_of_its_worker_frees_the_publishers(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker = start_broker(workers=3, config=outbox())
    name = topic()
    slow = on(broker, 1, receive_buffer=4096)
    slow.subscribe(name)
    quick = on(broker, 2)
    quick.subscribe(name)
    subscriber = Subscriber(quick, "s2", ["p0"])
    publisher = Publisher(on(broker, 0), "p0", name, padding=PADDING)
    for actor in (subscriber, publisher):
        actor.start()
    wait_standstill([publisher], [subscriber])
    sent = publisher.sent
    os.kill(broker.worker_pids()[1], signal.SIGKILL)
    publisher.wait_sent(sent + 500)
    stop([publisher], [subscriber])


def test_what_was_under_way_does_not_disconnect_it(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Full links from the other workers hold more than `outbox.max_bytes`: that is no reason to give up at once."""
    broker, name = start_broker(workers=3, config={"outbox": {"block_timeout": "100s"}}), topic()
    slow = on(broker, 2, receive_buffer=4096)
    slow.subscribe(name)
    publishers = [
        Publisher(on(broker, number % 2), f"p{number}", name, padding=1_000_000, most_at_once=1) for number in range(4)
    ]
    pid = broker.worker_pids()[2]
    # Standing still for a moment, it finds all links full; then its subscriber is slow as well.
    os.kill(pid, signal.SIGSTOP)
    try:
        for publisher in publishers:
            publisher.start()
        wait_standstill(publishers, [])
    finally:
        os.kill(pid, signal.SIGCONT)
    broker.wait_event("subscriber.slow", process="worker-2", timeout=LONG)
    wait_standstill(publishers, [], 15)
    assert not broker.events("connection.closed")
    slow.close()
    stop(publishers, [])


def test_a_reborn_worker_hears_what_is_held_up(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Its publishers are paused like those before it, instead of filling the slow subscriber to the brim."""
    broker, name = start_broker(workers=2, config=outbox(max_bytes="96MiB")), topic()
    slow = on(broker, 1, receive_buffer=4096)
    slow.subscribe(name)
    before = Publisher(on(broker, 0), "before", name, padding=PADDING)
    before.start()
    wait_standstill([before], [])
    os.kill(broker.worker_pids()[0], signal.SIGKILL)
    broker.wait_event("worker.ready", slot=0, incarnation=2, timeout=LONG)
    again = Publisher(on(broker, 0), "again", name, padding=PADDING)
    again.start()
    wait_standstill([again], [], 15)
    sent = again.sent
    assert not broker.events("connection.closed", reason="slow-consumer")
    slow.close()
    again.wait_sent(sent + 10)
    again.stop()
    again.finish()


@pytest.mark.parametrize("policy", ["drop", "disconnect"])
def test_other_policies_never_pause_publishers(
    policy: str, start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    name = topic()
    config = {**outbox(), "destination": [{"pattern": "/topic/#", "slow_consumer": policy}]}
    broker = start_broker(workers=2, config=config)
    slow = on(broker, 1, receive_buffer=4096)
    slow.subscribe(name)
    publisher = on(broker, 0)
    event, fields = {
        "drop": ("subscriber.dropping", {}),
        "disconnect": ("connection.closed", {"reason": "slow-consumer"}),
    }[policy]

    def seen() -> bool:
        # The RECEIPT comes each time: this publisher waits for nobody.
        publisher.request("SEND", [("destination", name)], b"x" * 100_000)
        return bool(broker.events(event, **fields))

    wait_until(seen, event, LONG)
    if policy == "drop":
        # It stays connected, and gets what comes once it has read what waited.
        publisher.publish(name, b"waited")
        for _ in iter(lambda: slow.readable(), False):
            slow.read()

        def heard() -> bool:
            publisher.request("SEND", [("destination", name)], b"new")
            while slow.readable():
                if slow.read().body == b"new":
                    return True
            return False

        wait_until(heard, "a message after the dropped ones", LONG)
    else:
        *_, error = slow.read_rest(LONG)
        assert error["error-code"] == "slow-consumer"
