"""A fast STOMP 1.2 client connection on asyncio that outlives nothing: when the broker is gone, it is `Lost`.

Bodies here hold no NUL, so frames end at the next one, and header values are handed back as they came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

__all__ = ["CLIENT_PATIENCE", "Frame", "Lost", "Session", "frame"]

CLIENT_PATIENCE = 30.0
"""Seconds after which a broker that says nothing is a failure."""

Frame = tuple[str, dict[str, str], str]
"""Command, headers (the first of each name), body."""


class Lost(Exception):
    """The connection is gone, without an ERROR."""


def frame(command: str, headers: Iterable[tuple[str, str]], body: str = "") -> bytes:
    """One frame; values must not need escaping, or be escaped already."""
    return "\n".join([command, *(f"{name}:{value}" for name, value in headers), "", body]).encode() + b"\0"


class Session(asyncio.Protocol):
    """`on_message` is called with each MESSAGE, the callback of `expect` with its RECEIPT, `on_error` with an ERROR."""

    def __init__(self, on_message: Callable[[Frame], None], on_error: Callable[[Frame], None]) -> None:
        self.id = ""
        self.is_lost = False
        self._on_message = on_message
        self._on_error = on_error
        self._receipts: dict[str, Callable[[], None]] = {}
        self._numbers = 0
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._progress = asyncio.Event()

    @classmethod
    async def open(
        cls, address: tuple[str, int], on_message: Callable[[Frame], None], on_error: Callable[[Frame], None]
    ) -> Session:
        """A session that is logged in. Raises Lost or OSError, as a broker that is not there makes it."""
        loop = asyncio.get_running_loop()
        _, session = await loop.create_connection(lambda: cls(on_message, on_error), *address)
        session.write(frame("CONNECT", [("accept-version", "1.2"), ("host", "x"), ("heart-beat", "0,0")]))
        try:
            while not session.id:
                await session.progress()
        except BaseException:
            session.abort()
            raise
        return session

    @property
    def slot(self) -> int:
        """The worker this session is on."""
        return int(self.id.split("-")[0])

    @property
    def outstanding(self) -> int:
        """Receipts asked for that have not come."""
        return len(self._receipts)

    # --- the broker's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._progress.set()

    def data_received(self, data: bytes) -> None:
        *frames, self._rest = (self._rest + data).split(b"\0")
        for raw in frames:
            head, _, body = raw.lstrip(b"\n").decode().partition("\n\n")
            command, *lines = head.split("\n")
            headers: dict[str, str] = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers.setdefault(name, value)
            self._take((command, headers, body))
        self._progress.set()

    def _take(self, received: Frame) -> None:
        command, headers, _ = received
        if command == "MESSAGE":
            self._on_message(received)
        elif command == "RECEIPT":
            self._receipts.pop(headers["receipt-id"])()
        elif command == "CONNECTED":
            self.id = headers["session"]
        else:
            self._on_error(received)

    # --- the client's side

    def expect(self, callback: Callable[[], None]) -> tuple[str, str]:
        """A `receipt` header; `callback` is called when its RECEIPT comes."""
        self._numbers += 1
        self._receipts[str(self._numbers)] = callback
        return "receipt", str(self._numbers)

    def write(self, data: bytes) -> None:
        """Send; raises Lost if it is known that nobody is there."""
        if self.is_lost or self._transport is None or self._transport.is_closing():
            raise Lost
        self._transport.write(data)

    async def progress(self) -> None:
        """Until something came; raises Lost when the connection is gone, TimeoutError after `CLIENT_PATIENCE`."""
        if self.is_lost:
            raise Lost
        self._progress.clear()
        async with asyncio.timeout(CLIENT_PATIENCE):
            await self._progress.wait()
        if self.is_lost:
            raise Lost

    async def room(self, window: int) -> None:
        """Until fewer than `window` receipts are outstanding."""
        while self.outstanding >= window:
            await self.progress()

    def abort(self) -> None:
        """Close at once; what is buffered is lost."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
