"""Messages that rest, on their own."""

from __future__ import annotations

from tests.unit.worker.queues.one_queue import counters, message
from worker.queues.consumer import Consumer
from worker.queues.resting import Resting, pause


def test_messages_wake_when_they_are_due_with_whom_they_avoid() -> None:
    resting = Resting()
    here = Consumer(0, 1, 1)
    first, second, third = message(1), message(2), message(3)
    resting.add(first, 30, here)
    resting.add(second, 10, None)
    resting.add(third, 20, here)
    woken, avoided, due = resting.wake(20)
    assert (counters(woken), avoided, due) == ([2, 3], {third.key: here}, 30)
    assert resting.wake(29) == ([], {}, 30)
    assert resting.wake(30) == ([first], {first.key: here}, None)
    assert (resting.messages, resting.avoided) == ({}, {})


def test_what_was_taken_out_wakes_nobody() -> None:
    resting = Resting()
    first, second = message(1), message(2)
    resting.add(first, 10, Consumer(0, 1, 1))
    resting.add(second, 20, None)
    assert resting.take([first.key, 7]) == [first]
    assert resting.avoided == {}
    assert resting.wake(5) == ([], {}, 20)


def test_pauses_double_up_to_the_longest_however_often() -> None:
    assert [pause(count, 100, 500) for count in (0, 1, 2, 3, 4, 5, 10**9)] == [0, 0, 100, 200, 400, 500, 500]
    assert pause(5, 0, 500) == 0
