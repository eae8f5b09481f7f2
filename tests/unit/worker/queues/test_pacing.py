"""Bytes with one consumer: no more than the broker should hold for it, whatever prefetch it asked for."""

from __future__ import annotations

from typing import NoReturn

import pytest

from tests.unit.worker.queues.lone_owner import LoneOwner
from worker.queues.message import Message
from worker.queues.pacing import PACE_BYTES

MIB = 1 << 20
WINDOW = {"window_messages": 64, "window_bytes": "4MiB"}


def filled(prefetch: int, count: int, size: int, *, default: int = 1) -> LoneOwner:
    lone = LoneOwner(queue=WINDOW, destination=[{"pattern": "/queue/q", "prefetch": default}])
    for number in range(count):
        lone.add("/queue/q", f"m{number:03}", body=b"x" * size)
        lone.settled()
    lone.attach("/queue/q", 1, prefetch=prefetch)
    settle_down(lone)
    return lone


def settle_down(lone: LoneOwner) -> None:
    before = -1
    while len(lone.ids(1)) > before:
        before = len(lone.ids(1))
        lone.settled()


def held(lone: LoneOwner) -> int:
    return lone.queue("/queue/q").queue.held_bytes


def test_one_that_settles_nothing() -> None:
    lone = filled(65_535, 40, MIB)
    assert PACE_BYTES <= held(lone) <= PACE_BYTES + 9 * MIB


def test_it_goes_on_as_it_settles() -> None:
    lone = filled(65_535, 40, MIB)
    settled = 0
    while settled < 40:
        for id in lone.ids(1)[settled:]:
            lone.settle("/queue/q", 1, id)
            settled += 1
            settle_down(lone)
            assert held(lone) <= PACE_BYTES + 9 * MIB
    assert lone.ids(1) == [f"m{number:03}" for number in range(40)]


def test_small_ones_count_as_before() -> None:
    lone = filled(65_535, 20, MIB)
    lone.add("/queue/q", *[f"s{number:03}" for number in range(500)])
    settle_down(lone)
    for id in [f"m{number:03}" for number in range(20)]:
        lone.settle("/queue/q", 1, id)
        settle_down(lone)
    assert len(lone.ids(1)) == 520
    [consumer] = lone.consumers()
    assert consumer.prefetch == 65_535


@pytest.mark.parametrize("prefetch", [10, 20, 65_535])
def test_what_is_usual_for_the_queue_is_given_in_any_case(prefetch: int) -> None:
    """A client may acknowledge so many at a time."""
    lone = filled(prefetch, 40, MIB, default=20)
    assert len(lone.ids(1)) >= min(prefetch, 20)
    assert prefetch > 20 or len(lone.ids(1)) == prefetch


def test_what_it_costs_does_not_grow_with_what_is_held() -> None:
    """By this consumer or by others: nothing looks at those messages again."""
    lone = filled(65_535, 6, MIB)
    lone.attach("/queue/q", 2, prefetch=65_535)
    lone.add("/queue/q", "first", "second")
    settle_down(lone)
    for consumer in lone.consumers():
        consumer.unsettled = Unlooked(consumer.unsettled)
    lone.add("/queue/q", *[f"s{number}" for number in range(10)])
    settle_down(lone)
    assert (len(lone.ids(1)), len(lone.ids(2))) == (12, 6)


class Unlooked(dict[int, Message]):
    """Messages that nobody goes through."""

    def values(self) -> NoReturn:
        raise AssertionError("all that is held is looked at")
