"""A pair of streams in memory, for tests and for a client and a broker in one process."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from common.client.errors import ConnectionClosed, ConnectionLost
from common.client.streams.interface import HIGH_MARK, LOW_MARK, Stream, StreamEvents

__all__ = ["pipe"]


class PipeStream:
    """One end. It holds what is on its way to it and hands that over in a later turn of the loop."""

    peername = "the other end of the pipe"

    def __init__(self, events: StreamEvents) -> None:
        self.congested = False
        self.other = cast(PipeStream, None)
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._coming: deque[bytes] = deque()
        self._bytes = 0
        self._paused = False
        self._scheduled = False
        self._open = True
        self._reset = False
        self._gone = asyncio.Event()

    # --- its user calls

    def write(self, data: bytes, /) -> None:
        if self._open and data and self.other._open:
            self.other._coming.append(data)
            self.other._bytes += len(data)
            self.congested = self.other._bytes > HIGH_MARK
            self.other._schedule()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._schedule()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._drop()
            self._schedule()
            self.other._schedule()

    def abort(self) -> None:
        if not self._gone.is_set():
            self.close()
            self.other._reset = True
            self.other._drop()
            self._schedule()
            self.other._schedule()

    async def wait_closed(self) -> None:
        await self._gone.wait()

    # --- between the ends

    def _drop(self) -> None:
        """Nothing of what is on its way here will be taken."""
        self._coming.clear()
        self._bytes = 0
        self._loop.call_soon(self.other._relieve)

    def _relieve(self) -> None:
        if self.congested and self.other._bytes <= LOW_MARK:
            self.congested = False
            if self._open:
                self._events.writable()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        while self._coming and not self._paused:
            data = self._coming.popleft()
            self._bytes -= len(data)
            self.other._relieve()
            self._events.received(data)
        if self._gone.is_set() or self._coming:
            return
        if not self._open:
            if not self.other._coming:
                self._lose(ConnectionClosed("the pipe was closed by this side"))
        elif not self.other._open:
            if self._reset:
                self._lose(ConnectionLost(f"connection reset by {self.peername}"))
            else:
                self._lose(ConnectionClosed(f"{self.peername} closed the connection"))
            self.other._schedule()

    def _lose(self, error: ConnectionLost) -> None:
        self._open = self.congested = False
        self._gone.set()
        self._events.lost(error)


def pipe(first: StreamEvents, second: StreamEvents) -> tuple[Stream, Stream]:
    """Two streams in memory, each the other side of the other; to be called where an event loop runs."""
    one, other = PipeStream(first), PipeStream(second)
    one.other, other.other = other, one
    return one, other
