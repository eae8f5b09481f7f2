"""Heart-beats of a client, in ticks: no clock, no loop."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.beats import Beats
from common.negotiation import HeartBeat


def ticks_until(beats: Beats, which: int, most: int = 1000) -> int | None:
    for count in range(1, most):
        if beats.tick(reading=True)[which]:
            return count
    return None


def test_nothing_agreed_is_nothing_to_do() -> None:
    beats = Beats(HeartBeat(0, 0))
    assert beats.period is None
    assert beats.tick(reading=True) == (False, False)


@pytest.mark.parametrize(("agreed", "period"), [((300, 0), 0.1), ((0, 300), 0.1), ((600, 300), 0.1), ((3000, 9000), 1)])
def test_it_ticks_three_times_in_the_shorter_interval(agreed: tuple[int, int], period: float) -> None:
    assert Beats(HeartBeat(*agreed)).period == pytest.approx(period)


def test_one_direction_does_without_the_other() -> None:
    assert ticks_until(Beats(HeartBeat(300, 0)), 0) is None
    assert ticks_until(Beats(HeartBeat(0, 300)), 1) is None


@given(st.integers(1, 20), st.integers(1, 20), st.lists(st.integers(1, 60), max_size=20))
def test_never_a_whole_interval_without_a_byte(to_client: int, from_client: int, writes: list[int]) -> None:
    """What is written is written right after a tick, where it counts for least."""
    beats = Beats(HeartBeat(to_client * 100, from_client * 100))
    assert beats.period is not None
    interval = from_client * 0.1
    written_at = [0.0]
    upcoming = set(writes)
    for tick in range(1, 100):
        beats.heard = True
        due, _ = beats.tick(reading=True)
        if due or tick in upcoming:
            written_at.append(tick * beats.period)
            beats.wrote = tick in upcoming
    gaps = [after - before for before, after in pairwise(written_at)]
    # An interval so much longer than the other is counted in whole ticks.
    assert all(gap <= interval * 1.001 for gap in gaps)
    assert (99 * beats.period - written_at[-1]) <= interval * 1.001


@given(st.integers(1, 20), st.integers(0, 20))
def test_twice_the_interval_is_silence_and_less_is_not(to_client: int, from_client: int) -> None:
    beats = Beats(HeartBeat(to_client * 100, from_client * 100))
    assert beats.period is not None
    beats.heard = True
    count = ticks_until(beats, 1)
    assert count is not None
    # The first tick after a byte is up to a whole period after it.
    shortest, longest = (count - 1) * beats.period, count * beats.period
    assert shortest >= 2 * to_client * 0.1 * 0.999
    assert longest <= 2 * to_client * 0.1 + 2 * beats.period


def test_silence_does_not_count_while_nothing_is_read() -> None:
    beats = Beats(HeartBeat(300, 0))
    for _ in range(100):
        assert beats.tick(reading=False) == (False, False)
    assert ticks_until(beats, 1) == 6


def test_a_byte_now_and_then_is_no_silence() -> None:
    beats = Beats(HeartBeat(300, 0))
    for tick in range(100):
        beats.heard = tick % 5 == 0
        assert beats.tick(reading=True) == (False, False)
