"""Delayed messages come once, when they are due, however the store splits or delays what it was told and asked."""

from __future__ import annotations

from tests.unit.worker.queues.lone_owner import NOW, LoneOwner
from worker.traits import Traits


def test_what_is_due_at_once_is_delivered_once() -> None:
    """However the store splits what it was told into commits."""
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", *[f"m{each}" for each in range(5)], traits={each: Traits(delay=1000) for each in range(5)})
    lone.settled()
    lone.wake(1000)
    while lone.store.waits:
        lone.store.commit(1)
        lone.wake()
    assert lone.ids(1) == [f"m{each}" for each in range(5)]


def test_a_delay_shorter_than_a_commit() -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.settled()
    lone.add("/queue/q", "m", traits={0: Traits(delay=1)})
    lone.wake(2)
    lone.settled()
    lone.wake()
    lone.settled()
    assert lone.ids(1) == ["m"]


def test_what_is_due_comes_in_portions_and_what_is_not_stays_on_disk() -> None:
    size = 1 << 20
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    for number in range(10):
        delay = 1000 if number < 8 else 5000
        lone.add("/queue/q", f"m{number}", traits={0: Traits(delay=delay)}, body=b"x" * size)
    lone.settled()
    lone.wake(500)
    lone.settled()
    assert not any(lone.store.fetched)
    lone.wake(500)
    lone.settled()
    assert lone.ids(1) == [f"m{number}" for number in range(8)]
    assert max(lone.store.fetched) <= 6 * size
    assert NOW + 5000 in lone.wakes


def test_put_off_while_others_are_looked_for() -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    lone.add("/queue/q", "a", traits={0: Traits(delay=10)})
    lone.settled()
    lone.store.answers_wait = True
    lone.wake(10)
    lone.add("/queue/q", "b", traits={0: Traits(delay=5)})
    lone.settled()
    lone.store.answer()
    lone.wakes.clear()
    lone.store.answers_wait = False
    lone.settled()
    lone.wake(5)
    lone.settled()
    assert sorted(lone.ids(1)) == ["a", "b"]


def test_someone_is_woken_for_what_is_due_much_later() -> None:
    """Also when its queue, which is empty, is forgotten long before."""
    lone = LoneOwner(queue={"idle_timeout": "1s"})
    lone.add("/queue/q", "m", traits={0: Traits(delay=100_000)})
    lone.settled()
    for _ in range(1000):
        due = [when for when in lone.wakes if when > lone.time]
        if not due or lone.queue_is_used("/queue/q"):
            break
        lone.wakes = [when for when in lone.wakes if when > min(due)]
        lone.wake(min(due) - lone.time)
        lone.settled()
    assert lone.queue_is_used("/queue/q")
