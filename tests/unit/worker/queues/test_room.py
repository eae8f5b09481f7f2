"""Limits of queues: what fits, what is refused, and what a transaction needs room for."""

from __future__ import annotations

import pytest

from tests.unit.worker.queues.lone_owner import NOW, LoneOwner
from worker.traits import Traits


def test_a_transaction_fits_whole_or_is_refused() -> None:
    lone = LoneOwner(queue={"max_queues": 1})
    lone.add("/queue/q", "a")
    [outcome] = lone.commit_of(lone.transact(lone.adding("/queue/new", "b"), lone.adding("/queue/q", "c")))
    assert outcome.refused is not None
    assert lone.stored() == ["a"]


def test_a_transaction_of_one_queue_fits_whole_or_is_refused() -> None:
    lone = LoneOwner(destination=[{"pattern": "#", "max_messages": 3, "when_full": "reject"}])
    ids = ("a", "b", "c", "d")
    [outcome] = lone.commit_of(lone.transact(lone.adding("/queue/q", *ids)))
    assert outcome.refused is not None and outcome.refused[0] == "queue-full"
    assert lone.stored() == []
    [outcome] = lone.commit_of(lone.transact(lone.adding("/queue/q", *ids[:3])))
    assert outcome.refused is None
    assert lone.stored() == ["a", "b", "c"]


def test_a_transaction_does_not_fit_into_a_queue_that_is_yet_to_be() -> None:
    lone = LoneOwner(destination=[{"pattern": "#", "max_messages": 3, "when_full": "reject"}])
    first, second = lone.adding("/queue/q", "a", "b"), lone.adding("/queue/q", "c", "d")
    [outcome] = lone.commit_of(lone.transact(first, second))
    assert outcome.refused is not None and outcome.refused[0] == "queue-full"
    assert lone.stored() == []


def test_the_place_of_what_did_not_fit() -> None:
    """It is that in the batch, repeats and what is put off included."""
    lone = LoneOwner(destination=[{"pattern": "/queue/q", "max_messages": 2, "when_full": "reject"}])
    lone.add("/queue/q", "first", keys={0: b"k"})
    traits, keys = {1: Traits(delay=1000)}, {0: b"k", 4: b"k"}
    [outcome] = lone.commit_of(lone.add("/queue/q", "repeat", "later", "a", "b", "repeat", traits=traits, keys=keys))
    assert outcome.refused and outcome.place == 3
    assert outcome.duplicates == {0: b"first"}
    assert lone.stored() == ["first", "a"]


SIZE = len(b"a\ndestination:/queue/q\n\nx\0")
"""Of each message of these tests in its queue."""


@pytest.mark.parametrize(
    ("limit", "taken"), [(3 * SIZE, 3), (3 * SIZE - 1, 2), (SIZE, 1), (SIZE - 1, 0), (9 * SIZE, 4)]
)
@pytest.mark.parametrize("keyed", [False, True])
def test_as_many_bytes_as_fit(limit: int, taken: int, keyed: bool) -> None:
    lone = LoneOwner(destination=[{"pattern": "#", "max_bytes": limit, "when_full": "reject"}])
    keys = {place: b"%d" % place for place in range(4)} if keyed else None
    [outcome] = lone.commit_of(lone.add("/queue/q", "a", "b", "c", "d", keys=keys))
    assert lone.stored() == ["a", "b", "c", "d"][:taken]
    assert (outcome.refused is not None, outcome.place) == (taken < 4, taken if taken < 4 else 0)


def test_a_message_that_is_too_large_stops_those_behind_it() -> None:
    """They come in order or not at all, for the connection of their sender ends with the ERROR."""
    lone = LoneOwner(destination=[{"pattern": "#", "max_bytes": 3 * SIZE, "when_full": "reject"}])
    first, large, third = (
        lone.adding("/queue/q", id, body=b"x" * size) for id, size in (("a", 1), ("b", 90), ("c", 1))
    )
    items = [*first[3], *large[3], *third[3]]
    [outcome] = lone.commit_of(lone.apply([*first[:3], items, None]))
    assert outcome.refused is not None and outcome.place == 1
    assert "never is room" in outcome.refused[2]
    assert lone.stored() == ["a"]


def test_both_limits_count() -> None:
    limits = {"max_bytes": 3 * SIZE, "max_messages": 2, "when_full": "reject"}
    lone = LoneOwner(destination=[{"pattern": "#", **limits}])
    [outcome] = lone.commit_of(lone.add("/queue/q", "a", "b", "c"))
    assert outcome.place == 2
    assert lone.stored() == ["a", "b"]


@pytest.mark.parametrize(("limit", "fits"), [(3 * SIZE, True), (3 * SIZE - 1, False)])
@pytest.mark.parametrize("there", [0, 1])
def test_the_bytes_of_a_transaction(limit: int, fits: bool, there: int) -> None:
    lone = LoneOwner(destination=[{"pattern": "#", "max_bytes": limit, "when_full": "reject"}])
    lone.add("/queue/q", *"a"[:there])
    lone.settled()
    [outcome] = lone.commit_of(lone.transact(lone.adding("/queue/q", *"bcd"[there:]), lone.adding("/queue/r", "r")))
    assert (outcome.refused is None) == fits
    assert (len(lone.stored()) == 4) == fits


FULL = [{"pattern": "/queue/q", "max_messages": 2, "when_full": "reject"}]


@pytest.mark.parametrize("traits", [Traits(delay=1000), Traits(deliver_at=NOW + 1000)])
@pytest.mark.parametrize("there", [0, 2, 3])
def test_what_a_transaction_puts_off_needs_no_room(traits: Traits, there: int) -> None:
    lone = LoneOwner(destination=FULL)
    lone.add("/queue/q", *"abc"[:there], traits={2: Traits(delay=1)} if there == 3 else None)
    lone.settled()
    lone.wake(1)
    lone.settled()
    assert len(lone.stored()) == there
    ids = "xyz" if there == 0 else "x"
    [outcome] = lone.commit_of(
        lone.transact(lone.adding("/queue/q", *ids, traits=dict.fromkeys(range(len(ids)), traits)))
    )
    assert outcome.refused is None
    assert len(lone.store.park) == len(ids)


def test_what_a_transaction_puts_off_to_a_time_that_is_over_does() -> None:
    lone = LoneOwner(destination=FULL)
    late = {place: Traits(deliver_at=NOW) for place in range(3)}
    [outcome] = lone.commit_of(lone.transact(lone.adding("/queue/q", *"abc", traits=late)))
    assert outcome.refused is not None


@pytest.mark.parametrize("limit", ["max_messages", "max_bytes"])
def test_what_a_transaction_repeats_needs_no_room(limit: str) -> None:
    """Be it of what is there, or of what comes with it."""
    lone = LoneOwner(
        destination=[{"pattern": "/queue/q", limit: 2 * (SIZE if limit == "max_bytes" else 1), "when_full": "reject"}]
    )
    lone.add("/queue/q", "a", keys={0: b"k"})
    lone.settled()
    keyed = [*lone.adding("/queue/q", "b", "c"), {0: b"k", 1: b"l"}]
    again = [*lone.adding("/queue/q", "d", "e"), {0: b"l", 1: b"k"}]
    [outcome] = lone.commit_of(lone.transact(keyed, again))
    assert outcome.refused is None
    assert lone.stored() == ["a", "c"]
    new = [*lone.adding("/queue/q", "f", "g"), {0: b"k"}]
    [outcome] = lone.commit_of(lone.transact(new))
    assert outcome.refused is not None and outcome.refused[0] == "queue-full"
    assert lone.stored() == ["a", "c"]
