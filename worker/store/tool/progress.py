"""How far something is that takes long: a bar for people, lines for programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO

__all__ = ["Bar", "Paced"]

_AFTER: Final = 1.0
"""Seconds within which nothing is shown: what is done by then needs no bar."""
_EVERY: Final = 0.2
_WIDTH: Final = 30


class Paced:
    """Calls `tell` with what it is called with, but not too often. `clock` in seconds."""

    def __init__(
        self,
        tell: Callable[[int, int], None],
        *,
        after: float = 0.0,
        every: float = _EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._every = every
        self._clock = clock
        self._due = clock() + after

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if now >= self._due:
            self._due = now + self._every
            self._tell(done, total)


class Bar:
    """A bar in the last line of a terminal, from the second second on. With a `total` of 0 it is unknown, and there is
    a number only."""

    def __init__(self, stream: TextIO, what: str, noun: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._what = what
        self._noun = noun
        self._clock = clock
        self._began = clock()
        self._shown = 0
        self._paced = Paced(self._show, after=_AFTER, clock=clock)

    def __call__(self, done: int, total: int) -> None:
        self._paced(done, total)

    def _show(self, done: int, total: int) -> None:
        if total:
            part = min(1.0, done / total)
            bar = "#" * round(part * _WIDTH)
            left = (self._clock() - self._began) * (1 - part) / part if part else 0.0
            line = f"{self._what} [{bar:<{_WIDTH}}] {part:4.0%}, {done:,} of {total:,} {self._noun}, {left:.0f} s left"
        else:
            line = f"{self._what} {done:,} {self._noun}"
        self._stream.write(f"\r{line:<{self._shown}}")
        self._stream.flush()
        self._shown = len(line)

    def clear(self) -> None:
        """Leave the line to others."""
        if self._shown:
            self._stream.write(f"\r{'':<{self._shown}}\r")
            self._stream.flush()
            self._shown = 0
