"""When something of a connection is due: a worker has one timer for all of its connections."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import TYPE_CHECKING

from common.timerwheel import TimerWheel

if TYPE_CHECKING:
    from worker.connection import Connection

__all__ = ["Deadlines"]

_TICK = 0.02
_STALL = 0.1
_READ_FIRST = 0.001
"""Seconds: a timer this late tells of a loop that stood still, and is then called again after so long."""
_FURTHEST = 30.0
"""Seconds; a deadline further away is looked at again before."""
_NEVER = float("inf")


class Deadlines:
    """Those of `connections`; one that is not among them any more is not called."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Container[Connection]) -> None:
        self._loop = loop
        self._connections = connections
        self._wheel: TimerWheel[Connection] = TimerWheel(_TICK)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = _NEVER
        self._stalled = False

    def wake_at(self, connection: Connection, when: float) -> None:
        """Call `connection.on_timer` at `when` (seconds of the loop's clock), up to a tick late."""
        if when >= connection.due:
            return
        # No further than a client can be expected to stay: a closed connection is kept until its entry is due.
        connection.due = self._wheel.add(min(when, self._loop.time() + _FURTHEST), connection)
        if connection.due < self._timer_due:
            self._set_timer()

    def next_due(self) -> float | None:
        """When it looks next, None if nothing is due."""
        return self._wheel.next_due()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self._wheel.next_due()
        self._timer_due = _NEVER if due is None else due
        self._timer = None if due is None else self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        now = self._loop.time()
        if now - self._timer_due > _STALL and not self._stalled:
            # The loop was held up, and calls timers before it reads: what clients sent meanwhile is to count first.
            self._stalled = True
            self._timer = self._loop.call_later(_READ_FIRST, self._on_timer)
            return
        self._stalled = False
        due = self._wheel.take_due(now)
        due.reverse()
        try:
            while due:
                connection = due.pop()
                # An entry that a nearer one replaced is left behind in the wheel: it is not the connection's `due`.
                if connection.due <= now and connection in self._connections:
                    connection.due = _NEVER
                    self.wake_at(connection, connection.on_timer(now))
        finally:
            # Whatever becomes of one, the others have their turn.
            for connection in due:
                connection.due = self._wheel.add(now, connection)
            self._timer = None
            self._set_timer()
