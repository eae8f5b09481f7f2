"""Promises 4 and 5 under load, while processes are killed with -9 at random: nothing receipted is lost, nothing
acknowledged with a receipt comes again, redeliveries say so, order is kept, transactions are whole.

    STAMPEDE_CHAOS_ROUNDS=500 STAMPEDE_CHAOS_SEED=7 pytest tests/chaos/test_random_kills.py
"""

from __future__ import annotations

import pytest

from tests.chaos.actors import Actor, Consumer, Producer, Transactor
from tests.chaos.mortal import Mortal
from tests.chaos.run import ROUNDS, rounds, run
from tests.chaos.world import World

# A round with a restart of everything takes two seconds on a busy machine.
pytestmark = pytest.mark.timeout(120 + 5 * ROUNDS)

QUEUES = [f"{letter}.{number}" for letter in "ab" for number in range(3)]


def many_clients(world: World) -> list[Actor]:
    """All share queues; the redelivered and the unsubscribed go from one to another."""
    first, second = world.queues[:3], world.queues[3:]
    return [
        Producer(world, "p1", world.queues),
        Producer(world, "p2", first, window=256, most=200),
        Producer(world, "p3", second, window=1, most=1),
        Consumer(world, "c1", first),
        Consumer(world, "c2", world.queues),
        Consumer(world, "c3", second, "client"),
        Consumer(world, "c4", second[:1], "client"),
    ]


def one_consumer_each(world: World) -> list[Actor]:
    """A queue has one consumer at a time, so all it receives for the first time is in order."""
    return [
        Producer(world, "p1", world.queues),
        Producer(world, "p2", world.queues, window=512, most=100),
        *(
            Consumer(world, f"c{queue}", [queue], mode, steady=True)
            for queue, mode in zip(world.queues, ["client", "client-individual"] * len(world.queues), strict=False)
        ),
    ]


def with_transactions(world: World) -> list[Actor]:
    """Messages go round: what a transaction receives from some queues, it answers to others."""
    first, second = world.queues[:3], world.queues[3:]
    return [
        Producer(world, "p1", first, most=10),
        Transactor(world, "t1", first, world.queues, "client-individual"),
        Transactor(world, "t2", world.queues[:2], second, "client"),
        Transactor(world, "t3", second[:1], first[:2], "client-individual"),
        Consumer(world, "c1", second),
        Consumer(world, "c2", second, "client"),
        Consumer(world, "c3", first[2:]),
    ]


@pytest.mark.parametrize(("workers", "kills"), [(1, 3), (2, 5), (4, 4)])
def test_nothing_receipted_is_lost(workers: int, kills: int) -> None:
    with Mortal(workers) as mortal:
        counts = run(mortal, QUEUES, many_clients, count=rounds(kills))
    assert counts["Receipted"] and counts["AcknowledgementReceipted"] and counts["redeliveries"]


@pytest.mark.parametrize(("workers", "kills"), [(2, 4), (4, 3)])
def test_order_is_kept(workers: int, kills: int) -> None:
    with Mortal(workers) as mortal:
        counts = run(mortal, QUEUES, one_consumer_each, count=rounds(kills))
    assert counts["Delivered"] > counts["redeliveries"] + counts["marked at first"]


@pytest.mark.parametrize(("workers", "kills"), [(1, 3), (2, 5), (4, 4)])
def test_transactions_are_whole(workers: int, kills: int) -> None:
    with Mortal(workers) as mortal:
        counts = run(mortal, QUEUES, with_transactions, count=rounds(kills))
    assert counts["CommitReceipted"] and counts["redeliveries"]
