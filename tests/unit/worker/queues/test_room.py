"""Limits of queues: what fits, what is refused, and what a transaction needs room for."""

from __future__ import annotations

from tests.unit.worker.queues.lone_owner import LoneOwner
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
