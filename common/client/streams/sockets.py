"""Streams over sockets: TCP, TLS, Unix."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import cast

from common.client.address import Address
from common.client.errors import ConnectionClosed, ConnectionLost
from common.client.streams.interface import HIGH_MARK, LOW_MARK, Stream, StreamEvents
from common.client.streams.reasons import connect_reason, loss_reason

__all__ = ["open_socket"]

_LINGER = 2.0
"""Seconds for the other side to close as well, once all is sent."""


class SocketStream(asyncio.Protocol):
    """A `Stream` that is the protocol of an asyncio transport. The loops turn Nagle's delay off by themselves."""

    def __init__(self, events: StreamEvents, peername: str) -> None:
        self.peername = peername
        self.congested = False
        self._events = events
        self._received = events.received
        self._transport = cast(asyncio.Transport, None)
        self._open = False
        self._ended_by_peer = False
        self._lingering: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()

    # --- the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_MARK, low=LOW_MARK)
        # Until `open_socket` hands the stream out, or its user would hear of a stream it does not know yet.
        self._transport.pause_reading()
        self._open = True

    def data_received(self, data: bytes) -> None:
        if self._open:
            self._received(data)

    def eof_received(self) -> None:
        self._ended_by_peer = True

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        if self._open:
            self._events.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        closed_here = not self._open
        self._open = self.congested = False
        self._gone.set()
        if self._lingering is not None:
            self._lingering.cancel()
        if closed_here:
            error: ConnectionLost = ConnectionClosed(f"the connection to {self.peername} was closed by this side")
        elif exc is not None:
            error = ConnectionLost(loss_reason(exc, self.peername))
        elif self._ended_by_peer:
            error = ConnectionClosed(f"{self.peername} closed the connection")
        else:
            error = ConnectionLost(f"connection to {self.peername} lost")
        self._events.lost(error)

    # --- its user calls

    def write(self, data: bytes, /) -> None:
        if self._open:
            self._transport.write(data)

    def pause_reading(self) -> None:
        if self._open:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._open:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._transport.can_write_eof():
                # What comes in must be read up to its end: a socket that is closed with bytes unread is reset, and
                # takes along what the other side has not read yet. TLS cannot be closed one way: uvloop reads on by
                # itself, asyncio gives the rest up when bytes come in after all. Only a RECEIPT is proof (1.2 section
                # DISCONNECT).
                try:
                    self._transport.write_eof()
                except OSError:
                    # Reset, and the loop has not come to it yet.
                    self._transport.abort()
                else:
                    self._transport.resume_reading()
                    self._linger()
            else:
                self._transport.close()

    def abort(self) -> None:
        self._open = False
        if not self._gone.is_set():
            self._transport.abort()

    def _linger(self) -> None:
        if self._lingering is not None and not self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._linger)

    async def wait_closed(self) -> None:
        await self._gone.wait()


async def open_socket(address: Address, events: StreamEvents, context: ssl.SSLContext | None, seconds: float) -> Stream:
    """A stream to a `tcp`, `tls` or `unix` address within `seconds`; raises ConnectionLost."""
    loop = asyncio.get_running_loop()
    if address.scheme == "unix":
        return await _attempt(
            address.endpoint,
            events,
            seconds,
            lambda factory: loop.create_unix_connection(factory, address.path),
        )
    if address.scheme == "tls" and context is None:
        context = ssl.create_default_context()
    tls = context if address.scheme == "tls" else None
    deadline = loop.time() + seconds
    hosts = await _look_up(address, seconds)
    while True:
        host = hosts.pop(0)
        # A host with several addresses, the first of them dead, leaves time for the others.
        share = max(deadline - loop.time(), 0) / (len(hosts) + 1)
        try:
            return await _attempt(
                address.endpoint,
                events,
                seconds,
                lambda factory, host=host: loop.create_connection(  # type: ignore[misc]
                    factory,
                    host,
                    address.port,
                    ssl=tls,
                    server_hostname=address.host if tls else None,
                    ssl_handshake_timeout=seconds if tls else None,
                ),
                share,
            )
        except ConnectionLost:
            if not hosts:
                raise


async def _look_up(address: Address, seconds: float) -> list[str]:
    """The addresses of a host in numbers, best first. A look-up goes through a thread; numbers need none."""
    try:
        return [str(ip_address(address.host))]
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise ConnectionLost(f"the look-up of the host {address.host!r} took over {seconds:g} s") from None
    except UnicodeError:
        raise ConnectionLost(f"no host can have the name {address.host!r}") from None
    except OSError as error:
        raise ConnectionLost(connect_reason(error, address.endpoint)) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


_Connect = Callable[[Callable[[], SocketStream]], Awaitable[tuple[asyncio.BaseTransport, SocketStream]]]


async def _attempt(
    endpoint: str, events: StreamEvents, seconds: float, connect: _Connect, share: float | None = None
) -> Stream:
    """Of `seconds` for all attempts, this one has `share`."""
    try:
        async with asyncio.timeout(seconds if share is None else share):
            _, stream = await connect(lambda: SocketStream(events, endpoint))
    except TimeoutError as error:
        # The kernel's own time limit has a number, ours has none.
        why = f"no connection to {endpoint} within {seconds:.3g} s" if error.errno is None else None
        raise ConnectionLost(why or connect_reason(error, endpoint)) from None
    except OSError as error:
        raise ConnectionLost(connect_reason(error, endpoint)) from error
    stream.resume_reading()
    return stream
