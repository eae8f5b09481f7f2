"""What a client sent after a COMMIT that is still being applied: handled in its order, once that is done.

Only that connection waits, and it is not read from meanwhile, so what is kept is the rest of one read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import StompError

if TYPE_CHECKING:
    from worker.connection import Connection

__all__ = ["Backlog"]

_NAME = b"\0commit"


class Backlog:
    """`begin` makes the connection wait, `end` lets it go on: pairs, one within another for each COMMIT."""

    __slots__ = ("_calls", "_connection", "_refuse")

    def __init__(self, connection: Connection, refuse: Callable[[Connection, StompError, bytes], None]) -> None:
        self._connection = connection
        self._refuse = refuse
        self._calls: deque[tuple[Callable[[], None], bytes, bool]] = deque()
        connection.backlog = self
        connection.pause(_NAME)

    def add(self, call: Callable[[], None], head: bytes = b"", *, always: bool = False) -> None:
        """Handle a frame, whose start is `head`, by `call` in its turn; `always` if also when the client has gone."""
        self._calls.append((call, head, always))

    def end(self) -> None:
        """The COMMIT is done: go on, up to the next one."""
        connection = self._connection
        connection.backlog = None
        calls = self._calls
        over = connection.closing or connection.deaf
        while calls:
            call, head, always = calls.popleft()
            if (connection.closing or connection.deaf) and not always:
                continue
            try:
                call()
            except StompError as error:
                self._refuse(connection, error, head)
                return
            if not over and (connection.closing or connection.deaf):
                # That was refused, or a DISCONNECT: nothing that the client sent after it counts.
                break
            following = connection.backlog
            if following is not None:
                following._calls.extend(calls)
                return
        if not connection.closing:
            connection.resume(_NAME)
