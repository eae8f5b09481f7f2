"""The waits between attempts to connect."""

from __future__ import annotations

import math

import pytest

from common.client.backoff import Backoff


def test_it_doubles_up_to_the_longest() -> None:
    backoff = Backoff(first=0.1, longest=1.0)
    assert [backoff.wait(failures, lambda: 1.0) for failures in range(1, 7)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1, 1]
    )


def test_half_of_it_is_chance() -> None:
    backoff = Backoff(first=1.0, longest=8.0)
    assert [backoff.wait(3, lambda chance=chance: chance) for chance in (0, 0.5, 1)] == [2.0, 3.0, 4.0]


def test_any_number_of_failures_is_bearable() -> None:
    assert Backoff(first=0.1, longest=10.0).wait(100_000, lambda: 1.0) == 10.0
    assert math.isfinite(Backoff(first=1e-300, longest=math.inf).wait(100_000, lambda: 1.0))


@pytest.mark.parametrize(
    "wrong", [{"first": 0}, {"first": -1}, {"first": 2, "longest": 1}, {"give_up_after": -1}, {"first": math.nan}]
)
def test_waits_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Backoff(**wrong)
