"""Heart-beats of a client: when to send one, and when the broker is silent for too long (1.2 section Heart-beating).

Counts ticks and reads no clock: a loop that was held up for a minute has one late tick, not twenty missed ones.
"""

from __future__ import annotations

from common.negotiation import HeartBeat

__all__ = ["Beats"]

_TICKS = 3
"""Ticks per interval: what was written right after a tick is two thirds of an interval old when the next one is due."""
_PATIENCE = 2
"""Intervals without a byte until the broker counts as gone; the specification asks for a margin of error."""


class Beats:
    """One connection's. `wrote` and `heard` are set by whoever writes and reads, `tick` is called every `period`.

    `period` is in seconds, None if nothing was agreed on.
    """

    __slots__ = ("_heard_every", "_quiet", "_silent", "_wrote_every", "agreed", "heard", "period", "wrote")

    def __init__(self, agreed: HeartBeat) -> None:
        self.agreed = agreed
        self.wrote = False
        self.heard = False
        self._quiet = self._silent = 0
        intervals = [interval for interval in agreed if interval]
        self.period = min(intervals) / _TICKS / 1000 if intervals else None
        shortest = min(intervals, default=0)
        # In ticks; what is not agreed on never comes due.
        self._wrote_every = (_TICKS - 1) * agreed.from_client // shortest - 1 if agreed.from_client else 0
        self._heard_every = -(-_TICKS * _PATIENCE * agreed.to_client // shortest) if agreed.to_client else 0

    def tick(self, *, reading: bool) -> tuple[bool, bool]:
        """Whether to send a beat now, and whether the broker is silent. `reading` is False while nothing is read."""
        due = silent = False
        if self._wrote_every:
            self._quiet = 0 if self.wrote else self._quiet + 1
            due = self._quiet >= self._wrote_every
            if due:
                self._quiet = 0
            self.wrote = False
        if self._heard_every:
            self._silent = 0 if self.heard or not reading else self._silent + 1
            silent = self._silent >= self._heard_every
            self.heard = False
        return due, silent
