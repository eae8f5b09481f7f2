"""RECEIPT frames of one connection in the order of the frames that asked for them.

A RECEIPT says that its frame and every one before it was processed (1.2 section RECEIPT), so one that has to wait for
an effect elsewhere holds back those that follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["Ticket", "hold"]


class Ticket:
    """The place of one RECEIPT in its connection's line; `release` it once the effect is there."""

    __slots__ = ("_line", "_ready", "_send")

    def __init__(self, line: deque[Ticket], send: Callable[[], None]) -> None:
        self._line = line
        self._send: Callable[[], None] | None = send
        self._ready = False

    def release(self) -> None:
        """Send this RECEIPT and those that waited only for it. The connection may be gone: `send` must cope."""
        self._ready = True
        line = self._line
        while line and line[0]._ready:
            send = line.popleft()._send
            if send is not None:
                send()


def hold(line: deque[Ticket], send: Callable[[], None]) -> Ticket:
    """Take a place in `line` for the RECEIPT that `send` writes."""
    ticket = Ticket(line, send)
    line.append(ticket)
    return ticket
