"""The other side of a stream, for tests: a server for each transport, which hands each connection to a coroutine.

`running` runs a test on a loop and finds that nothing is left behind: no task, no socket, no unheard exception.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import aiohttp
import uvloop
from aiohttp import web

from common.client.address import Address
from common.client.errors import ConnectionLost

__all__ = ["KINDS", "LOOPS", "Far", "Handler", "Heard", "Tls", "listening", "make_tls", "running"]

KINDS = ("tcp", "tls", "unix", "ws", "wss")
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TIMEOUT = 10.0


class Heard:
    """`StreamEvents` that keeps what it hears."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.losses: list[ConnectionLost] = []
        self.writables = 0
        self._changed = asyncio.Event()

    def received(self, data: bytes) -> None:
        assert not self.losses, "received after lost"
        assert isinstance(data, bytes)
        assert data
        self.data += data
        self._changed.set()

    def writable(self) -> None:
        assert not self.losses, "writable after lost"
        self.writables += 1
        self._changed.set()

    def lost(self, error: ConnectionLost) -> None:
        self.losses.append(error)
        self._changed.set()

    @property
    def nothing(self) -> bool:
        return not (self.data or self.losses or self.writables)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def loss(self) -> ConnectionLost:
        """The one loss there is."""
        await self.until(lambda: bool(self.losses))
        (error,) = self.losses
        return error


class Far(Protocol):
    """The server's side of one connection."""

    async def read(self) -> bytes:
        """Some bytes; `b""` at the end, however it came."""

    async def write(self, data: bytes) -> None:
        """Returns when the client has taken most of it."""

    async def close(self) -> None: ...

    def reset(self) -> None: ...

    def deafen(self) -> None:
        """Take no more bytes from the kernel at all."""


Handler = Callable[[Far], Awaitable[None]]


class SocketFar:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self) -> bytes:
        try:
            return await self.reader.read(1 << 16)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        try:
            await self.writer.drain()
        except OSError:
            # The client is gone; reading says so too.
            return

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            # The client dropped the connection first.
            return

    def reset(self) -> None:
        _linger_not(self.writer.transport)
        self.writer.transport.abort()

    def deafen(self) -> None:
        self.writer.transport.pause_reading()


class WebSocketFar:
    def __init__(self, request: web.Request, websocket: web.WebSocketResponse) -> None:
        self.request, self.websocket = request, websocket
        self.protocols = request.headers.get("Sec-WebSocket-Protocol", "")

    async def read(self) -> bytes:
        message = await self.websocket.receive()
        return message.data if message.type is aiohttp.WSMsgType.BINARY else b""

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), 1 << 18):
            try:
                await self.websocket.send_bytes(data[start : start + (1 << 18)])
            except OSError:
                return

    async def close(self) -> None:
        await self.websocket.close()

    def reset(self) -> None:
        assert self.request.transport is not None
        _linger_not(self.request.transport)
        self.request.transport.abort()

    def deafen(self) -> None:
        assert self.request.transport is not None
        self.request.transport.pause_reading()


def _linger_not(transport: asyncio.WriteTransport | asyncio.Transport) -> None:
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as copy:
        if copy.family != socket.AF_UNIX:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


class Tls:
    """Both ends' contexts for one self-signed certificate of localhost and 127.0.0.1."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(certificate, key)
        self.client = ssl.create_default_context(cafile=str(certificate))


def make_tls(folder: Path) -> Tls:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return Tls(certificate, key)


@asynccontextmanager
async def listening(kind: str, handler: Handler, tls: Tls, folder: Path) -> AsyncIterator[Address]:
    """A server of one of `KINDS`; at its end it waits until the handler of each connection is through."""
    handlers: set[asyncio.Task[None]] = set()

    async def serve(far: Far) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await handler(far)
        finally:
            await far.close()

    context = tls.server if kind in ("tls", "wss") else None
    if kind in ("ws", "wss"):

        async def accept(request: web.Request) -> web.WebSocketResponse:
            websocket = web.WebSocketResponse(protocols=("v12.stomp", "v11.stomp"), max_msg_size=64 << 10)
            await websocket.prepare(request)
            await serve(WebSocketFar(request, websocket))
            return websocket

        application = web.Application()
        application.router.add_get("/ws", accept)
        runner = web.AppRunner(application, handle_signals=False, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        try:
            yield Address("wss" if context else "ws", "127.0.0.1", runner.addresses[0][1], "/ws")
        except BaseException:
            _cancel(handlers)
            raise
        finally:
            await _all(handlers)
            await runner.cleanup()
        return

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(SocketFar(reader, writer))

    if kind == "unix":
        path = str(folder / "s")
        server: asyncio.AbstractServer = await asyncio.start_unix_server(connected, path)
        address = Address("unix", path=path)
    else:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        address = Address("tls" if context else "tcp", "127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield address
    except BaseException:
        _cancel(handlers)
        raise
    finally:
        server.close()
        await _all(handlers)
        await server.wait_closed()
        if kind == "unix":
            Path(address.path).unlink(missing_ok=True)  # noqa: ASYNC240 - it does not wait for anything


def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Or a failed test would wait for a far end that waits for the test."""
    for task in tasks:
        task.cancel()


async def _all(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        done, pending = await asyncio.wait(tasks, timeout=TIMEOUT)
        assert not pending, f"the far end still waits: {pending}"
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                raise error


def running(
    loop: str, main: Callable[[], Coroutine[None, None, None]], *, faulty: bool = False
) -> list[dict[str, object]]:
    """Run `main` on a loop of `LOOPS`; fails if it takes too long or leaves anything behind. What the loop's exception
    handler was told is returned, and must be nothing unless `faulty`."""
    faults: list[dict[str, object]] = []

    async def timed() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        before = asyncio.all_tasks()
        async with asyncio.timeout(TIMEOUT):
            await main()
        left = asyncio.all_tasks() - before
        if left:
            # The servers' own are about to end.
            _, left = await asyncio.wait(left, timeout=TIMEOUT / 4)
        assert not left, f"tasks left behind: {left}"

    gc.collect()
    sockets = _sockets()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(timed())
    gc.collect()
    assert faulty or not faults
    assert _sockets() == sockets
    return faults


def _sockets() -> set[str]:
    """Those of this process. Other descriptors come and go with the loops themselves."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            # The one of the listing itself.
            continue
    return {name for name in found if name.startswith("socket:")}
