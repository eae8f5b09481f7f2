"""A hand-off that was stored, and comes again to the next life of its owner, is answered as it was the first time."""

from __future__ import annotations

import pytest

from tests.unit.worker.memory_store import MemoryStore
from tests.unit.worker.queues.lone_owner import LoneOwner
from worker.queues.letters import Operation, Outcome

FIVE = {"destination": [{"pattern": "/queue/q", "max_messages": 5, "when_full": "reject"}]}
TEN = [f"m{number}" for number in range(10)]


def keyed(operation: Operation, *keys: str) -> Operation:
    """The same ADD with an idempotency key for each of its first messages."""
    return [*operation, {place: key.encode() for place, key in enumerate(keys)}]


def lives(
    store: MemoryStore, config: dict[str, object], operation: Operation, count: int = 3, *, sequence: int = 1024 + 7
) -> list[Outcome]:
    """How the same hand-off ends in each of so many lives, all on `store`."""
    outcomes = []
    for _ in range(count):
        lone = LoneOwner(store, store.recovered(), **config)
        outcomes += lone.commit_of(lone.apply(operation, sequence=sequence))
    return outcomes


def test_what_was_refused_is_refused_again() -> None:
    store = MemoryStore()
    outcomes = lives(store, FIVE, LoneOwner().adding("/queue/q", *TEN))
    assert [(each.refused is not None and each.refused[0], each.place) for each in outcomes] == [("queue-full", 5)] * 3
    assert len(store.rows) == 5


def test_what_was_refused_is_refused_also_when_there_is_room_now() -> None:
    """It is not there, and comes from nowhere but its client, who hears nothing else of it."""
    store = MemoryStore()
    operation = LoneOwner().adding("/queue/q", *TEN)
    lives(store, FIVE, operation, 1)
    store.rows.clear()
    store.queues.clear()
    [again] = lives(store, FIVE, operation, 1)
    assert again.refused is not None and again.place == 5
    assert not store.rows


def test_the_next_hand_off_in_that_place_is_not_refused_for_it() -> None:
    store = MemoryStore()
    lone = LoneOwner(store, **FIVE)
    lone.commit_of(lone.apply(lone.adding("/queue/q", *TEN), sequence=7))
    other = lone.adding("/queue/other", "a")
    for _ in range(2):
        [outcome] = lone.commit_of(lone.apply(other, sequence=1024 + 7))
        assert outcome.refused is None
        lone = LoneOwner(store, store.recovered(), **FIVE)


def test_repeats_are_repeats_again() -> None:
    store = MemoryStore()
    lone = LoneOwner(store)
    lone.commit_of(lone.add("/queue/q", "first", keys={0: b"a"}))
    operation = keyed(lone.adding("/queue/q", "x", "y", "z"), "a", "b", "b")
    assert [each.duplicates for each in lives(store, {}, operation)] == [{0: b"first", 2: b"y"}] * 3
    assert len(store.rows) == 2


def test_repeats_before_what_was_refused() -> None:
    store = MemoryStore()
    lone = LoneOwner(store, **FIVE)
    lone.commit_of(lone.add("/queue/q", "first", keys={0: b"a"}))
    operation = keyed(lone.adding("/queue/q", *TEN), "a", *TEN[1:9], "a")
    outcomes = lives(store, FIVE, operation)
    assert [(each.duplicates, each.place) for each in outcomes] == [({0: b"first"}, 5)] * 3


def test_a_repeat_of_what_was_not_stored_is_refused_again() -> None:
    store = MemoryStore()
    lone = LoneOwner(store)
    large = keyed(lone.adding("/queue/q", "large", body=b"x" * 1000), "a")
    small = keyed(lone.adding("/queue/q", "repeat", "b"), "a")
    store.room = 100
    first, second = lone.apply(large, sequence=5), lone.apply(small, sequence=6)
    lone.settled()
    store.room = None
    [again] = lives(store, {}, small, 1, sequence=6)
    assert [each.refused and each.refused[0] for each in (*first, *second, again)] == [
        "store-full",
        *["store-failed"] * 2,
    ]
    assert again.place == second[0].place == 0
    assert lone.stored() == ["b"]


@pytest.mark.parametrize("room", [1, 4])
def test_a_transaction_that_filled_its_queues_is_not_refused(room: int) -> None:
    store = MemoryStore()
    config = {"destination": [{"pattern": "/queue/#", "max_messages": room, "when_full": "reject"}]}
    for _ in range(2):
        lone = LoneOwner(store, store.recovered(), **config)
        operations = [lone.adding(queue, *TEN[:room]) for queue in ("/queue/a", "/queue/b")]
        [outcome] = lone.commit_of(lone.transact(*operations, sequence=3))
        assert outcome.refused is None
        assert len(store.rows) == 2 * room
