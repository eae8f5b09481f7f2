"""Promises 2 and 3: after the RECEIPT of SUBSCRIBE nothing is missed, after that of UNSUBSCRIBE nothing comes.

Each round subscribes on one worker and, the moment the RECEIPT is there, publishes on another. Without the barrier
between the workers a good part of the rounds would lose its message.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.actors import Publisher, join_all
from tests.cluster.conftest import Clusters, ConnectOn
from tests.conftest import StartBroker
from tests.harness.broker import Broker, BrokerFailed
from tests.harness.wire import TIMEOUT, Wire, encode

Topic = Callable[[], str]


def pairs(slots: int) -> Iterator[tuple[int, int]]:
    """Every (subscriber's, publisher's) worker, two different ones where there are two, for ever."""
    return itertools.cycle([(a, b) for a in range(slots) for b in range(slots) if a != b] or [(0, 0)])


def play(subscriber: Wire, publisher: Wire, number: int, pattern: str, destination: str) -> None:
    """One round. `subscribe` and `unsubscribe` take the RECEIPT for the very next frame: nothing stray comes."""
    subscriber.subscribe(pattern, id=str(number))
    publisher.publish(destination, b"%d" % number)
    message = subscriber.expect("MESSAGE", subscription=str(number))
    assert message.body == b"%d" % number
    subscriber.request("UNSUBSCRIBE", [("id", str(number))])
    # With a RECEIPT, or it might still be on its way when the next round subscribes to the same name.
    publisher.request("SEND", [("destination", destination)], b"too late")


NAMES: dict[str, Callable[[str, int], tuple[str, str]]] = {
    "new": lambda name, number: (f"{name}.{number}", f"{name}.{number}"),
    # The link's own subscription comes and goes each time, in the other workers' eyes too.
    "again": lambda name, number: (name, name),
    "wildcard": lambda name, number: (f"{name}.{number}.*", f"{name}.{number}.y"),
    "same-wildcard": lambda name, number: (f"{name}.#", f"{name}.{number}"),
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_no_round_is_missed(workers: int, names: str, cluster_of: Clusters, on: ConnectOn, topic: Topic) -> None:
    broker, name = cluster_of(workers), topic()
    subscribers = [on(broker, slot) for slot in range(workers)]
    publishers = [on(broker, slot) for slot in range(workers)]
    for number, (a, b) in zip(range(1000), pairs(workers)):  # noqa: B905  # the pairs never end
        play(subscribers[a], publishers[b], number, *NAMES[names](name, number))


def test_many_subscriptions_at_once_miss_nothing(cluster_of: Clusters, on: ConnectOn, topic: Topic) -> None:
    """Requests made together share one round trip between the workers; each is still proved by its own RECEIPT."""
    broker, name = cluster_of(4), topic()
    subscriber, publishers = on(broker, 0), [on(broker, slot) for slot in (1, 2, 3)]
    wanted = 0
    messages: list[bytes] = []
    for start in range(0, 3000, 300):
        numbers = range(start, start + 300)
        subscriber.send(
            b"".join(
                encode("SUBSCRIBE", [("id", str(n)), ("destination", f"{name}.{n}"), ("receipt", f"r{n}")])
                for n in numbers
            )
        )
        for number in numbers:
            while (frame := subscriber.read()).command == "MESSAGE":
                messages.append(frame.body)
            assert frame["receipt-id"] == f"r{number}"
            if number % 5 == 0:
                publishers[number // 5 % 3].publish(f"{name}.{number}", b"%d" % number)
                wanted += 1
    messages += [subscriber.expect("MESSAGE").body for _ in range(wanted - len(messages))]
    assert sorted(messages, key=int) == [b"%d" % number for number in range(0, 3000, 5)]


def test_nothing_comes_after_the_receipt_of_unsubscribe(cluster_of: Clusters, on: ConnectOn, topic: Topic) -> None:
    """While other workers publish as fast as they can."""
    broker, name = cluster_of(4), topic()
    subscriber = on(broker, 0)
    publishers = [Publisher(on(broker, slot), f"p{slot}", name, most_at_once=3) for slot in (1, 2)]
    for publisher in publishers:
        publisher.start()
    try:
        for number in range(200):
            id = str(number)
            subscriber.frame("SUBSCRIBE", [("destination", name), ("id", id), ("receipt", "in")])
            # Messages may come before the RECEIPT does; one must have come before it goes on.
            came = {subscriber.read().command}
            while len(came) < 2:
                came.add(subscriber.read().command)
            subscriber.frame("UNSUBSCRIBE", [("id", id), ("receipt", id)])
            while (frame := subscriber.read()).command == "MESSAGE":
                assert frame["subscription"] == id
            assert frame["receipt-id"] == id
            subscriber.quiet()
    finally:
        for publisher in publishers:
            publisher.stop()
        join_all(publishers)


def kill_and_wait_for(broker: Broker, slot: int, incarnation: int, meanwhile: Callable[[], None]) -> None:
    """kill -9 the worker and do `meanwhile` over and over until its successor is ready."""
    os.kill(broker.worker_pids()[slot], signal.SIGKILL)
    while not broker.events("worker.ready", slot=slot, incarnation=incarnation):
        meanwhile()
        if broker.returncode is not None:
            raise broker.failure("the broker has ended")
    meanwhile()


@pytest.mark.parametrize("names", ["again", "new", "wildcard"])
def test_no_round_is_missed_while_a_sibling_dies_and_comes_back(
    names: str, start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    broker, name = start_broker(workers=3), topic()
    subscribers, publishers = [on(broker, 0), on(broker, 1)], [on(broker, 0), on(broker, 1)]
    numbers, ways = itertools.count(), pairs(2)

    def rounds() -> None:
        for _ in range(20):
            number, (a, b) = next(numbers), next(ways)
            play(subscribers[a], publishers[b], number, *NAMES[names](name, number))

    for incarnation in (2, 3):
        kill_and_wait_for(broker, 2, incarnation, rounds)
        # And with the successor at once, both ways.
        with_subscriber, with_publisher = on(broker, 2), on(broker, 2)
        for number in range(100):
            play(with_subscriber, publishers[number % 2], number, *NAMES[names](f"{name}.in", number))
            play(subscribers[number % 2], with_publisher, 10**6 + number, *NAMES[names](f"{name}.out", number))
    assert next(numbers) > 100


def test_the_receipt_waits_for_every_worker(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """With the publisher's worker stopped there is none; once it goes on nothing is missed."""
    broker, name = start_broker(workers=3), topic()
    subscriber, near, far = on(broker, 0), on(broker, 0), on(broker, 2)
    pid = broker.worker_pids()[2]
    for number in range(40):
        # The own worker delivers at once, whatever the others know: that is the sign that it has the SUBSCRIBE.
        destination = f"{name}.{number}.y"
        pattern = [destination, f"{name}.{number}.*"][number % 2]
        os.kill(pid, signal.SIGSTOP)
        try:
            subscriber.frame("SUBSCRIBE", [("destination", pattern), ("id", str(number)), ("receipt", str(number))])
            while not subscriber.readable():
                near.request("SEND", [("destination", destination)], b"near")
            early = subscriber.read()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert early.command == "MESSAGE" and early.body == b"near", "the RECEIPT did not wait for the stopped worker"
        while (frame := subscriber.read()).command == "MESSAGE":
            assert frame.body == b"near"
        assert frame["receipt-id"] == str(number)
        far.publish(destination, b"far")
        assert subscriber.expect("MESSAGE").body == b"far"


def test_the_successors_first_breath(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Whole conversations wait in the killed worker's accept queue: what its successor publishes first must reach
    everybody, and what it confirms first must be routed everywhere."""
    broker, name = start_broker(workers=3), topic()
    witnesses = [on(broker, 0), on(broker, 1)]
    for witness in witnesses:
        witness.subscribe(f"{name}.out")
        witness.subscribe(f"{name}.all.>", id="pattern")
    for incarnation in (2, 3):
        os.kill(broker.worker_pids()[2], signal.SIGKILL)
        broker.wait_event("worker.exited", slot=2, count=incarnation - 1)
        if incarnation == 3:
            # Held up by a sibling that says nothing, it must not begin without that.
            os.kill(broker.worker_pids()[0], signal.SIGSTOP)
        wires = [Wire(broker.address) for _ in range(30)]
        try:
            for number, wire in enumerate(wires):
                wire.send(
                    encode("CONNECT", [("accept-version", "1.2"), ("host", "x")])
                    + encode("SEND", [("destination", f"{name}.out")], b"%d" % number)
                    + encode("SEND", [("destination", f"{name}.all.{number}")], b"%d" % number)
                    + encode("SUBSCRIBE", [("destination", f"{name}.in.{number}"), ("id", "0"), ("receipt", "1")])
                )
            if incarnation == 3:
                try:
                    with pytest.raises(BrokerFailed):
                        broker.wait_event("worker.ready", slot=2, incarnation=3, timeout=3)
                finally:
                    os.kill(broker.worker_pids()[0], signal.SIGCONT)
            wanted = sorted([b"%d" % number for number in range(30)] * 2)
            for witness in witnesses:
                assert sorted(witness.expect("MESSAGE", timeout=TIMEOUT).body for _ in wanted) == wanted
            for number, wire in enumerate(wires):
                wire.connected = wire.expect("CONNECTED")
                wire.expect("RECEIPT", receipt_id="1")
                for slot, witness in enumerate(witnesses):
                    witness.publish(f"{name}.in.{number}", b"%d" % slot)
                assert sorted(frame.body for frame in wire.read_many(2)) == [b"0", b"1"]
            sessions = [wire.connected["session"] for wire in wires if wire.connected and wire.slot == 2]
            assert sessions, "none of 30 connections was for the killed worker"
        finally:
            for wire in wires:
                wire.close()
        broker.wait_event("worker.ready", slot=2, incarnation=incarnation)
