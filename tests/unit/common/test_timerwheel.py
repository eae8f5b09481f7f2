"""The wheel against a sorted list: nothing early, nothing later than a tick, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.timerwheel import TimerWheel

TICK = 0.02
times = st.one_of(
    st.floats(0, 1e7, allow_nan=False, allow_infinity=False), st.integers(0, 10**9).map(lambda n: n * TICK)
)


@settings(max_examples=500, deadline=None)
@given(times, st.sampled_from([0.02, 0.1, 1.0, 0.3, 1 / 3]))
@example(when=502535.7, tick=0.3)
def test_due_never_early_and_at_most_a_tick_late(when: float, tick: float) -> None:
    wheel: TimerWheel[int] = TimerWheel(tick)
    due = wheel.add(when, 1)
    assert when <= due < when + tick * 1.0001
    assert wheel.next_due() == due
    if when < due:
        assert wheel.take_due(when) == []
    assert wheel.take_due(due) == [1]


def test_earliest_first_and_in_order_of_filing_within_a_tick() -> None:
    wheel: TimerWheel[str] = TimerWheel(1.0)
    for when, thing in [(5.0, "e"), (1.5, "b"), (0.2, "a"), (1.9, "c"), (1.1, "d")]:
        wheel.add(when, thing)
    assert wheel.take_due(10.0) == ["a", "b", "c", "d", "e"]


def test_empty() -> None:
    wheel: TimerWheel[str] = TimerWheel(1.0)
    assert wheel.next_due() is None
    assert wheel.take_due(1e9) == []


def test_a_time_in_the_past_is_due_at_once() -> None:
    wheel: TimerWheel[str] = TimerWheel(1.0)
    assert wheel.add(-3.0, "a") == -3.0
    assert wheel.take_due(0.0) == ["a"]


@pytest.mark.parametrize("when", [1e30, 1e59])
def test_a_time_beyond_all_reason_is_never_due(when: float) -> None:
    wheel: TimerWheel[str] = TimerWheel(TICK)
    assert wheel.add(when, "a") >= when
    assert wheel.take_due(1e12) == []


class Wheel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.wheel: TimerWheel[int] = TimerWheel(TICK)
        self.filed: dict[int, float] = {}
        self.now = 0.0
        self.number = 0

    @rule(after=st.floats(0, 1), count=st.integers(1, 3))
    def add(self, after: float, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.filed[self.number] = self.now + after
            self.wheel.add(self.now + after, self.number)

    @rule(seconds=st.floats(0, 0.5))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._take()

    @precondition(lambda self: self.filed)
    @rule()
    def wait_until_due(self) -> None:
        due = self.wheel.next_due()
        assert due is not None
        self.now = max(self.now, due)
        assert self._take()

    def _take(self) -> int:
        taken = self.wheel.take_due(self.now)
        for number in taken:
            assert self.filed.pop(number) <= self.now
        assert all(when + TICK * 1.0001 > self.now for when in self.filed.values())
        return len(taken)

    @invariant()
    def tells_when(self) -> None:
        due = self.wheel.next_due()
        assert (due is None) == (not self.filed)
        assert due is None or due >= min(self.filed.values())


TestWheel = Wheel.TestCase
TestWheel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
