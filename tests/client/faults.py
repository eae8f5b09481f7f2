"""Servers that misbehave by a script, and a proxy that spoils the traffic of a good one; and what runs a test so that
nothing it leaves behind goes unnoticed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvloop

from common.codec import encode
from common.decoder import Decoder
from common.frame import Frame
from common.negotiation import Version

__all__ = ["LOOPS", "PATIENCE", "Fake", "Proxy", "Talk", "proxying", "run", "serving"]

PATIENCE = 20.0
"""Seconds until a test has failed."""

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Headers = Iterable[tuple[str, str]]


def run(main: Callable[[], Coroutine[Any, Any, None]], loop: str = "asyncio", *, within: float = PATIENCE) -> None:
    """Run `main`; fails if it takes too long or leaves anything behind: a task, a socket, an exception unheard."""
    faults: list[dict[str, Any]] = []

    async def timed() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        before = asyncio.all_tasks()
        async with asyncio.timeout(within):
            await main()
        # What ends in this turn of the loop is let end.
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        assert not left, f"tasks left behind: {left}"
        gc.collect()

    # The first loop of a kind opens what all of them share.
    LOOPS[loop]().close()
    gc.collect()
    sockets = _sockets()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(timed())
    gc.collect()
    assert not faults, faults
    assert _sockets() <= sockets


def _sockets() -> set[str]:
    """Those that are open. Other descriptors come and go with the brokers that a test starts."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            # The one of the listing itself is gone.
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {each for each in found if each.startswith("socket:")}


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    transport = writer.transport
    with suppress(OSError):
        sock = transport.get_extra_info("socket")
        if sock is not None and not transport.is_closing():
            with socket.socket(fileno=os.dup(sock.fileno())) as copy:
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    transport.abort()


# --- a server by a script


class Talk:
    """A fake server's side of one connection, the `number`th from 0. What it receives is in `received`."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.received: list[Frame] = []
        self.version = Version.V1_2
        self._reader, self._writer = reader, writer
        self._decoder = Decoder(Version.V1_2)
        self._ready: list[Frame] = []

    async def frame(self, command: str | None = None) -> Frame:
        """The next frame, or the next with that command. Raises EOFError at the end of the connection."""
        while True:
            while not self._ready:
                data = await self._reader.read(1 << 16)
                if not data:
                    raise EOFError
                self._ready += self._decoder.feed(data)
            frame = self._ready.pop(0)
            self.received.append(frame)
            if command in (None, frame.command):
                return frame

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    def send(self, command: str, headers: Headers = (), body: bytes = b"") -> None:
        self.raw(encode(Frame(command, list(headers), body), self.version))

    async def log_in(self, version: Version | None = Version.V1_2, headers: Headers = ()) -> Frame:
        """Read CONNECT and answer it; a server of 1.0 says no version, which is None here."""
        frame = await self.frame("CONNECT")
        told = [] if version is None else [("version", version.label)]
        self.send("CONNECTED", [*told, *headers])
        self.version = self._decoder.version = version or Version.V1_0
        return frame

    def receipt(self, frame: Frame) -> None:
        """The RECEIPT of a frame that asked for one."""
        id = frame.get("receipt")
        if id is not None:
            self.send("RECEIPT", [("receipt-id", id)])

    async def serve(self) -> None:
        """Confirm everything until the client is gone."""
        while True:
            self.receipt(await self.frame())

    async def gone(self) -> None:
        """Until the client is, reading nothing of what it says."""
        while await self._reader.read(1 << 16):
            pass

    async def drain(self) -> None:
        await self._writer.drain()

    def pause(self) -> None:
        """Take nothing more from the client."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def reset(self) -> None:
        _reset(self._writer)

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


Script = Callable[[Talk], Awaitable[None]]


class Fake:
    """A fake server: its `port`, and its `talks` so far."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.talks: list[Talk] = []
        self.changed = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"stomp://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(script: Script, port: int = 0) -> AsyncIterator[Fake]:
    """A server whose connections follow `script` each, and are closed at its end; it may end with the connection, and
    is waited for at the end. Any other exception of it is raised there."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        talk = Talk(len(fake.talks), reader, writer)
        fake.talks.append(talk)
        try:
            await script(talk)
        except (EOFError, ConnectionError):
            # The client has left.
            return
        finally:
            await talk.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    fake = Fake(server.sockets[0].getsockname()[1])
    try:
        yield fake
    finally:
        server.close()
        # A connection may be accepted whose script has not begun.
        await asyncio.sleep(0)
        if tasks:
            done, pending = await asyncio.wait(tasks, timeout=5)
            for task in pending:
                task.cancel()
            assert not pending, f"the client has left the server alone with {pending}"
            for task in done:
                task.result()
        await server.wait_closed()


# --- a proxy


class Proxy:
    """Passes on to `target` what comes to `port`, spoiled as its attributes say, which may be changed at any time.

    `cut_after`: a connection is cut after so many bytes, both ways together, between the two, by RST or by FIN.
    `chop`: passes on at most so many bytes at a time, each in a write of its own. `delay`: up to so many seconds
    before each piece. `hold_up`, `hold_down`: passes on nothing to the server, to the client. `refuse`: resets each
    new connection. `lives` counts connections.
    """

    def __init__(self, target: tuple[str, int], seed: int) -> None:
        self.target = target
        self.port = 0
        self.cut_after: tuple[int, int] | None = None
        self.chop: int | None = None
        self.delay = 0.0
        self.refuse = False
        self.lives = 0
        self.cuts = 0
        self._random = random.Random(seed)
        self._flows = {"up": asyncio.Event(), "down": asyncio.Event()}
        for flow in self._flows.values():
            flow.set()
        self._open: dict[int, list[asyncio.StreamWriter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"stomp://127.0.0.1:{self.port}"

    def hold(self, direction: str) -> None:
        self._flows[direction].clear()

    def release(self, direction: str) -> None:
        self._flows[direction].set()

    def cut(self) -> None:
        """Cut every connection, now."""
        for life in list(self._open):
            self._cut(life)

    def _cut(self, life: int) -> None:
        self.cuts += 1
        writers = self._open.pop(life, [])
        reset = self._random.random() < 0.5
        for writer in writers:
            if reset:
                _reset(writer)
            else:
                # What it still holds goes out first.
                writer.close()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.lives += 1
        life = self.lives
        try:
            if self.refuse:
                _reset(writer)
                return
            try:
                far_reader, far_writer = await asyncio.open_connection(*self.target)
            except OSError:
                _reset(writer)
                return
            self._open[life] = [writer, far_writer]
            left = [self._random.randint(*self.cut_after)] if self.cut_after else None
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(life, "up", reader, far_writer, left))
                    group.create_task(self._pump(life, "down", far_reader, writer, left))
            finally:
                self._open.pop(life, None)
                far_writer.transport.abort()
        finally:
            writer.transport.abort()

    async def _pump(
        self,
        life: int,
        direction: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        left: list[int] | None,
    ) -> None:
        flow = self._flows[direction]
        with suppress(ConnectionError):
            while life in self._open:
                data = await reader.read(self.chop or 1 << 16)
                if self.delay:
                    await asyncio.sleep(self._random.random() * self.delay)
                await flow.wait()
                if not data or life not in self._open:
                    break
                if left is not None:
                    data = data[: left[0]]
                    left[0] -= len(data)
                writer.write(data)
                if left is not None and left[0] <= 0:
                    self._cut(life)
                    return
                await writer.drain()
        for each in self._open.pop(life, []):
            each.close()

    async def end(self) -> None:
        for direction in self._flows:
            self.release(direction)
        for life in list(self._open):
            for writer in self._open.pop(life):
                writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def proxying(target: tuple[str, int], seed: int = 1) -> AsyncIterator[Proxy]:
    proxy = Proxy(target, seed)
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await asyncio.sleep(0)
        await proxy.end()
        await server.wait_closed()
