"""Streams over WebSocket, by aiohttp. Messages are pieces of one stream of bytes: their borders mean nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any, cast

import aiohttp
from yarl import URL

from common.client.address import Address
from common.client.errors import ConnectionClosed, ConnectionLost
from common.client.streams.interface import HIGH_MARK, LOW_MARK, Stream, StreamEvents
from common.client.streams.reasons import connect_reason, tls_reason

__all__ = ["open_websocket"]

_SUBPROTOCOLS = ("v12.stomp", "v11.stomp", "v10.stomp")
_LARGEST_IN = 1 << 30
"""Bytes of a message that is received; brokers that put one frame into each make them as large as that."""
_LARGEST_OUT = 32 << 10
"""Bytes of a message that is sent. Brokers that read a stream refuse messages over 64 KiB all the same."""
_ORDERLY = (aiohttp.WSCloseCode.OK, aiohttp.WSCloseCode.GOING_AWAY)


class _WebSocket(aiohttp.ClientWebSocketResponse):
    """With its transport, the only one that can drop a connection whose other side reads no more."""

    def __init__(self, reader: Any, writer: Any, protocol: Any, response: Any, *more: Any, **named: Any) -> None:
        super().__init__(reader, writer, protocol, response, *more, **named)
        self.transport: asyncio.Transport = response.connection.transport


class WebSocketStream:
    """A `Stream` that two tasks serve, one for each direction, under a third that sees them end."""

    def __init__(
        self, session: aiohttp.ClientSession, websocket: _WebSocket, events: StreamEvents, peername: str
    ) -> None:
        self.peername = peername
        self.congested = False
        self._session = session
        self._websocket = websocket
        self._events = events
        self._open = True
        self._aborted = False
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._wake_writer = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._life = asyncio.create_task(self._live())

    # --- its user calls

    def write(self, data: bytes, /) -> None:
        if self._open and data:
            self._unsent.append(data)
            self._unsent_bytes += len(data)
            self.congested = self._unsent_bytes > HIGH_MARK
            self._wake_writer.set()

    def pause_reading(self) -> None:
        if self._open:
            self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def close(self) -> None:
        self._open = False
        self._wake_writer.set()
        # What comes is dropped now, but must come, or both sides might wait for the other to read.
        self._may_read.set()

    def abort(self) -> None:
        self.close()
        self._aborted = True
        self._websocket.transport.abort()

    async def wait_closed(self) -> None:
        # Whoever waits may be cancelled, the stream is not.
        await asyncio.wait([self._life])

    # --- the tasks

    async def _live(self) -> None:
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        error = ConnectionLost(f"connection to {self.peername} lost")
        try:
            await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
            if not (self._open or self._aborted):
                await asyncio.wait([writer])
            elif not reader.done():
                # It knows best why writing failed, and ends by itself unless reading rests.
                self._websocket.transport.abort()
                self._may_read.set()
                await asyncio.wait([reader])
            if self._open:
                error = reader.result()
            else:
                error = ConnectionClosed(f"the connection to {self.peername} was closed by this side")
        finally:
            self._open = self.congested = False
            for task in (reader, writer):
                task.cancel()
            await asyncio.wait([reader, writer])
            await self._release()
            self._events.lost(error)

    async def _release(self) -> None:
        # After the closing handshake there is nothing left to wait for, and before it nothing worth it.
        self._websocket.transport.abort()
        await self._websocket.close()
        await self._session.close()
        # The loop closes the socket of an aborted transport in its next turns, with TLS on top in its third.
        for _ in range(3):
            await asyncio.sleep(0)

    async def _read(self) -> ConnectionLost:
        """Pass on what comes, and return why no more does."""
        websocket = self._websocket
        while True:
            message = await websocket.receive()
            if not self._may_read.is_set():
                await self._may_read.wait()
            kind = message.type
            if kind is aiohttp.WSMsgType.BINARY:
                data = cast(bytes, message.data)
            elif kind is aiohttp.WSMsgType.TEXT:
                data = cast(str, message.data).encode()
            else:
                return self._end(message)
            if self._open and data:
                self._events.received(data)

    def _end(self, message: aiohttp.WSMessage) -> ConnectionLost:
        if message.type is aiohttp.WSMsgType.CLOSE:
            if message.data in _ORDERLY:
                return ConnectionClosed(f"{self.peername} closed the connection")
            why = f" {message.extra}" if message.extra else ""
            return ConnectionLost(f"{self.peername} closed the WebSocket with {message.data}{why}")
        if message.type is aiohttp.WSMsgType.ERROR:
            return ConnectionLost(f"WebSocket failure with {self.peername}: {self._websocket.exception()}")
        return ConnectionLost(f"{self.peername} ended the connection without closing the WebSocket")

    async def _write(self) -> None:
        """Send what is written; return when the connection fails, or is closed on this side with all of it sent."""
        try:
            while self._open or self._unsent:
                if self._unsent:
                    await self._send(self._unsent.popleft())
                else:
                    self._wake_writer.clear()
                    await self._wake_writer.wait()
            await self._websocket.close()
        except (OSError, aiohttp.ClientError):
            # The reader learns of it too, and why.
            return

    async def _send(self, data: bytes) -> None:
        for start in range(0, len(data), _LARGEST_OUT):
            await self._websocket.send_bytes(data[start : start + _LARGEST_OUT])
        self._unsent_bytes -= len(data)
        if self.congested and self._unsent_bytes <= LOW_MARK:
            self.congested = False
            if self._open:
                self._events.writable()


async def open_websocket(
    address: Address, events: StreamEvents, context: ssl.SSLContext | None, seconds: float
) -> Stream:
    """A stream to a `ws` or `wss` address within `seconds`; raises ConnectionLost."""
    if address.scheme == "wss" and context is None:
        context = ssl.create_default_context()
    session = aiohttp.ClientSession(
        ws_response_class=_WebSocket,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
    )
    opened = False
    try:
        async with asyncio.timeout(seconds):
            websocket = await session.ws_connect(
                URL(f"{address.scheme}://{address.endpoint}{address.path}", encoded=True),
                protocols=_SUBPROTOCOLS,
                ssl=context if address.scheme == "wss" and context is not None else True,
                max_msg_size=_LARGEST_IN,
            )
        opened = True
    except TimeoutError:
        raise ConnectionLost(f"no connection to {address.endpoint} within {seconds:.3g} s") from None
    except (OSError, UnicodeError, aiohttp.ClientError) as error:
        raise ConnectionLost(_reason(error, address.endpoint)) from error
    finally:
        if not opened:
            await session.close()
    return WebSocketStream(session, cast(_WebSocket, websocket), events, address.endpoint)


def _reason(error: Exception, endpoint: str) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLError() as found):
            return tls_reason(found, endpoint)
        case aiohttp.ClientConnectorError(os_error=found):
            return connect_reason(found, endpoint)
        case aiohttp.WSServerHandshakeError(status=status, message=message):
            return f"no WebSocket at {endpoint}: HTTP {status}, {message}"
        case aiohttp.ServerDisconnectedError():
            return f"no WebSocket at {endpoint}: it closed the connection instead"
        case OSError():
            return connect_reason(error, endpoint)
        case _:
            return f"no WebSocket at {endpoint}: {' '.join(str(error).split())}"
