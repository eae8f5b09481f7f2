"""Deadlines for very many things with one timer: things due in the same tick share a bucket.

Told the time, never reading it. A thing that wants to be woken again says so when it is woken.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import ceil
from typing import Generic, TypeVar

__all__ = ["TimerWheel"]

T = TypeVar("T")


class TimerWheel(Generic[T]):
    """`tick` is the resolution in seconds: things are due up to one tick late, never early."""

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._buckets: dict[int, list[T]] = {}
        self._ticks: list[int] = []

    def add(self, when: float, thing: T) -> float:
        """File `thing` under time `when` (seconds); returns the time of its bucket."""
        number = ceil(when / self._tick)
        if number * self._tick < when:
            # The division was rounded down to a whole number, just below `when`.
            number += 1
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = [thing]
            heappush(self._ticks, number)
        else:
            bucket.append(thing)
        return number * self._tick

    def next_due(self) -> float | None:
        """When the earliest bucket is due, or None if nothing is filed."""
        return self._ticks[0] * self._tick if self._ticks else None

    def take_due(self, now: float) -> list[T]:
        """Remove and return everything that is due at `now`, earliest first."""
        due: list[T] = []
        while self._ticks and self._ticks[0] * self._tick <= now:
            due += self._buckets.pop(heappop(self._ticks))
        return due
