"""The promise as users have it: producers and consumers of stomp.py and stompman, processes killed with -9."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.chaos.actors import Actor
from tests.chaos.libraries import StompManConsumer, StompManProducer, StompPyConsumer, StompPyProducer
from tests.chaos.mortal import Mortal
from tests.chaos.run import ROUNDS, rounds, run
from tests.chaos.world import World

pytestmark = pytest.mark.timeout(120 + 5 * ROUNDS)

QUEUES = [f"shop.{number}" for number in range(5)]


@pytest.fixture(autouse=True)
def _short_turns() -> Iterator[None]:
    """stomp.py has a thread for each client: that one reads late must not look as if it was told late."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(before)


def clients(world: World) -> list[Actor]:
    first, second = world.queues[:3], world.queues[2:]
    return [
        StompPyProducer(world, "stomp.py-p1", world.queues),
        StompPyProducer(world, "stomp.py-p2", first),
        StompManProducer(world, "stompman-p1", world.queues),
        StompManProducer(world, "stompman-p2", second),
        StompPyConsumer(world, "stomp.py-c1", first),
        StompPyConsumer(world, "stomp.py-c2", second, "client"),
        StompManConsumer(world, "stompman-c1", world.queues),
        StompManConsumer(world, "stompman-c2", first),
    ]


@pytest.mark.parametrize(("workers", "kills"), [(2, 4), (4, 3)])
def test_clients_of_others_lose_nothing(workers: int, kills: int) -> None:
    with Mortal(workers) as mortal:
        counts = run(mortal, QUEUES, clients, count=rounds(kills), certain=("worker", "all"))
    assert counts["Receipted"] and counts["AcknowledgementReceipted"] and counts["redeliveries"]
