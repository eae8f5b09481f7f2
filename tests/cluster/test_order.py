"""Promise 1: what one connection sends to one destination reaches each subscriber in that order, on any worker."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.cluster.actors import LONG, Publisher, Subscriber, join_all
from tests.cluster.conftest import Clusters, ConnectOn
from tests.conftest import StartBroker
from tests.harness.wire import VERSIONS

Topic = Callable[[], str]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_order_and_completeness(workers: int, cluster_of: Clusters, on: ConnectOn, topic: Topic) -> None:
    broker, name = cluster_of(workers), topic()
    ways = [(name, "auto"), (name.replace(".x", ".*"), "auto"), (name.replace(".x", ".>"), "client"), (name, "client")]
    publishers = [f"p{number}" for number in range(max(4, workers))]
    actors: list[Publisher | Subscriber] = []
    for slot in range(workers):
        for number in range(4 if workers < 4 else 2):
            destination, ack = ways[(number + 2 * slot) % 4]
            wire = on(broker, slot, VERSIONS[(slot + number) % 3])
            wire.subscribe(destination, ack=ack)
            actors.append(Subscriber(wire, f"s{slot}-{number} {destination} {ack}", publishers))
    for number, publisher in enumerate(publishers):
        wire = on(broker, number % workers, VERSIONS[number % 3])
        # Writes of up to 300 frames are cut anywhere by the network and by what the broker reads at once.
        actors.append(Publisher(wire, publisher, name, count=1500, most_at_once=300))
    for actor in actors:
        actor.start()
    join_all(actors)


def test_order_under_back_pressure(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    """Full outboxes and full links at every moment: what had to be kept must not be overtaken."""
    outbox = {"high_bytes": "32KiB", "low_bytes": "4KiB", "block_timeout": "60s"}
    broker = start_broker(workers=2, config={"outbox": outbox, "backplane": {"high_water_mark": 1}}, log_level="debug")
    name = topic()
    publishers = ["p0", "p1", "p2"]
    chance = random.Random(2)
    actors: list[Publisher | Subscriber] = []

    def pace(number: int) -> None:
        if number == 0:
            broker.wait_event("subscriber.slow", timeout=LONG)

    for slot in (0, 1):
        for number in range(2):
            wire = on(broker, slot, receive_buffer=4096)
            wire.subscribe(name, ack="auto" if number else "client-individual")
            actors.append(Subscriber(wire, f"s{slot}-{number}", publishers, pace=pace))
    for number, publisher in enumerate(publishers):
        wire = on(broker, number % 2)
        padding = chance.choice([1000, 5000])
        actors.append(Publisher(wire, publisher, name, count=2000, padding=padding, most_at_once=40))
    for actor in actors:
        actor.start()
    join_all(actors)
    assert not broker.events("connection.closed", reason="slow-consumer")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_transaction_is_published_where_its_commit_stands(
    workers: int, cluster_of: Clusters, on: ConnectOn, topic: Topic
) -> None:
    broker, name = cluster_of(workers), topic()
    publisher = on(broker, 0)
    subscribers = [on(broker, slot) for slot in range(workers)]
    for subscriber in subscribers:
        subscriber.subscribe(name)
    wanted = []
    for number in range(200):
        transaction = f"t{number}"
        publisher.frame("BEGIN", [("transaction", transaction)])
        publisher.publish(name, b"in %d" % number, [("transaction", transaction)])
        publisher.publish(name, b"before %d" % number)
        publisher.frame("COMMIT", [("transaction", transaction)])
        publisher.publish(name, b"after %d" % number)
        wanted += [b"before %d" % number, b"in %d" % number, b"after %d" % number]
    for subscriber in subscribers:
        assert [frame.body for frame in subscriber.read_many(len(wanted))] == wanted
