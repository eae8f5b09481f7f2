"""How much a client holds of what it has received and nobody has taken yet: over its bound, nothing more is read.

With one exception: as long as somebody waits for an answer of the broker there is reading, since the answer comes
behind those messages, and whoever waits may be who would take them. That has a bound of its own, over which a
subscription that the broker does not hold back has to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.client.session import Session

__all__ = ["Incoming"]


_TIMES = 16
"""So many times the first bound is the last one."""

MESSAGE_BYTES = 400
"""What a message costs in memory beside its body, roughly."""


class Incoming:
    """What one client holds: `held` bytes, of which those who count call `over` when they are more than `most`, and
    `look` when they are fewer than before. `awaited` tells how many answers somebody waits for. `too_much` is called
    when `held` is over `limit`, and again whenever it has grown by `most`."""

    __slots__ = ("_awaited", "_session", "_too_much", "_too_much_at", "held", "limit", "most", "paused")

    def __init__(self, most: int, awaited: Callable[[], int], too_much: Callable[[], None]) -> None:
        self.most = most
        self.limit = self._too_much_at = _TIMES * most
        self._too_much = too_much
        self.held = 0
        self.paused = False
        self._awaited = awaited
        self._session: Session | None = None

    def over(self) -> None:
        """There is more than should be."""
        if not self.paused and self._session is not None and not self._awaited():
            self.paused = True
            self._session.pause_reading()
        if self.held > self._too_much_at:
            self._too_much_at = self.held + self.most
            self._too_much()
        elif self.held <= self.limit:
            self._too_much_at = self.limit

    def look(self) -> None:
        """Read again if there is room for it."""
        if self.paused and self.held <= self.most // 2:
            self.go_on()

    def connected(self, session: Session | None) -> None:
        """There is another connection, which is read from, or none."""
        self._session = session
        self.paused = False

    def go_on(self) -> None:
        """Read again, also over the bound: somebody begins to wait."""
        if self.paused and self._session is not None:
            self.paused = False
            self._session.resume_reading()
