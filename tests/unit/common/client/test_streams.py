"""What every transport promises, over real sockets on loopback, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from common.client.address import Address
from common.client.errors import ConnectionClosed, ConnectionLost
from common.client.streams import HIGH_MARK, Stream, open_stream, sockets
from tests.unit.common.client.farends import KINDS, Far, Handler, Heard, Tls, listening, running

BLOCK = bytes(range(256)) * 256


class Place:
    """One transport on one loop."""

    def __init__(self, kind: str, loop: str, tls: Tls, folder: Path) -> None:
        self.kind, self.loop, self.tls, self.folder = kind, loop, tls, folder

    def run(self, main: Callable[[], Coroutine[None, None, None]]) -> None:
        running(self.loop, main)

    def listen(self, handler: Handler) -> AbstractAsyncContextManager[Address]:
        return listening(self.kind, handler, self.tls, self.folder)

    async def open(self, address: Address, heard: Heard) -> Stream:
        return await open_stream(address, heard, ssl=self.tls.client)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, loop: str, tls: Tls, folder: Path) -> Place:
    return Place(request.param, loop, tls, folder)


async def echo(far: Far) -> None:
    while data := await far.read():
        await far.write(data)


async def drain(far: Far) -> None:
    while await far.read():
        pass


async def fill(stream: Stream) -> int:
    """Write until congested, in the loop's turns, so that the kernel's buffers are full too; the bytes written."""
    written = 0
    for _ in range(10_000):
        while not stream.congested:
            stream.write(BLOCK)
            written += len(BLOCK)
        for _ in range(200):
            await asyncio.sleep(0)
        if stream.congested:
            return written
    raise AssertionError("never congested for good")


def test_bytes_come_whole_and_in_order_both_ways(place: Place) -> None:
    async def main() -> None:
        heard = Heard()
        async with place.listen(echo) as address:
            stream = await place.open(address, heard)
            assert stream.peername == address.endpoint
            sent = b"".join(number.to_bytes(4) for number in range(300_000))
            stream.write(sent[:7])
            stream.write(sent[7:])
            await heard.until(lambda: len(heard.data) == len(sent))
            assert heard.data == sent
            stream.close()
            await stream.wait_closed()

    place.run(main)


def test_nothing_is_heard_before_the_stream_is_there(place: Place) -> None:
    async def greet(far: Far) -> None:
        await far.write(b"hello")

    async def main() -> None:
        heard = Heard()
        async with place.listen(greet) as address:
            stream = await place.open(address, heard)
            assert heard.nothing
            await heard.loss()
            assert heard.data == b"hello"
            await stream.wait_closed()

    place.run(main)


def test_the_other_side_closes_in_order(place: Place) -> None:
    async def leave(far: Far) -> None:
        await far.write(await far.read())

    async def main() -> None:
        heard = Heard()
        async with place.listen(leave) as address:
            stream = await place.open(address, heard)
            stream.write(b"bye")
            error = await heard.loss()
            assert heard.data == b"bye"
            assert isinstance(error, ConnectionClosed)
            assert str(error) == f"{address.endpoint} closed the connection"
            await use_in_vain(stream)
            assert heard.losses == [error]

    place.run(main)


def test_the_other_side_fails(place: Place) -> None:
    async def fail(far: Far) -> None:
        await far.read()
        far.reset()

    async def main() -> None:
        heard = Heard()
        async with place.listen(fail) as address:
            stream = await place.open(address, heard)
            stream.write(BLOCK)
            error = await heard.loss()
            assert address.endpoint in error.reason
            # A Unix socket has no reset: it ends in order unless bytes were on their way.
            assert isinstance(error, ConnectionClosed) <= (place.kind == "unix")
            if place.kind == "tcp":
                assert error.reason == f"connection reset by {address.endpoint}"
            await stream.wait_closed()

    place.run(main)


async def use_in_vain(stream: Stream) -> None:
    """Everything may be called after the end, again and again."""
    for _ in range(10):
        stream.write(BLOCK)
        stream.pause_reading()
        stream.resume_reading()
        stream.close()
        stream.abort()
        await stream.wait_closed()
    assert not stream.congested


def test_close_sends_what_was_written_and_takes_nothing_more(place: Place) -> None:
    async def main() -> None:
        go = asyncio.Event()
        got = bytearray()

        async def collect(far: Far) -> None:
            await go.wait()
            if (place.kind, place.loop) != ("tls", "asyncio"):
                # That pair alone gives up sending when it is sent to.
                await far.write(b"too late too")
            while data := await far.read():
                got.extend(data)

        heard = Heard()
        async with place.listen(collect) as address:
            stream = await place.open(address, heard)
            written = await fill(stream)
            stream.write(b"the end")
            before = heard.writables
            stream.close()
            assert not heard.losses
            stream.write(b"too late")
            go.set()
            await stream.wait_closed()
            if place.loop == "asyncio" and place.kind not in ("tls", "wss"):
                assert transport_of(stream).get_extra_info("socket").fileno() == -1
            error = await heard.loss()
            assert isinstance(error, ConnectionClosed)
            assert str(error) == f"the connection to {address.endpoint} was closed by this side"
            await use_in_vain(stream)
            assert heard.losses == [error]
        assert not heard.data
        assert heard.writables == before
        assert len(got) == written + len(b"the end")
        assert got.endswith(BLOCK + b"the end")

    place.run(main)


def test_close_does_not_wait_for_one_that_never_closes(
    loop: str, tls: Tls, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_LINGER", 0.02)

    async def main() -> None:
        done = asyncio.Event()

        async def stay(far: Far) -> None:
            await drain(far)
            await done.wait()

        heard = Heard()
        async with listening("tcp", stay, tls, folder) as address:
            stream = await open_stream(address, heard)
            stream.write(BLOCK)
            stream.close()
            await stream.wait_closed()
            assert isinstance(await heard.loss(), ConnectionClosed)
            done.set()

    running(loop, main)


def transport_of(stream: Stream) -> asyncio.Transport:
    transport = stream._websocket.transport if hasattr(stream, "_websocket") else stream._transport
    assert isinstance(transport, asyncio.Transport)
    return transport


def test_abort_drops_a_connection_whose_other_side_does_not_read(place: Place) -> None:
    async def main() -> None:
        released = asyncio.Event()

        async def deaf(far: Far) -> None:
            far.deafen()
            await released.wait()
            far.reset()

        heard = Heard()
        async with place.listen(deaf) as address:
            stream = await place.open(address, heard)
            await fill(stream)
            stream.close()
            assert not heard.losses
            stream.abort()
            assert not heard.losses, "lost from inside abort"
            await stream.wait_closed()
            assert isinstance(await heard.loss(), ConnectionClosed)
            await use_in_vain(stream)
            assert len(heard.losses) == 1
            released.set()

    place.run(main)


def test_a_congested_stream_says_when_it_no_longer_is(place: Place) -> None:
    async def main() -> None:
        may_read = asyncio.Event()
        got = 0

        async def late(far: Far) -> None:
            nonlocal got
            await may_read.wait()
            while data := await far.read():
                got += len(data)

        heard = Heard()
        async with place.listen(late) as address:
            stream = await place.open(address, heard)
            stream.write(b"little")
            assert not stream.congested
            written = await fill(stream) + len(b"little")
            before = heard.writables
            assert written > HIGH_MARK
            may_read.set()
            await heard.until(lambda: heard.writables > before)
            assert not stream.congested
            stream.close()
            await stream.wait_closed()
        assert got == written

    place.run(main)


def test_reading_can_rest(place: Place) -> None:
    async def main() -> None:
        written = asyncio.Event()

        async def tell(far: Far) -> None:
            await far.write(await far.read())
            await far.write(BLOCK)
            written.set()
            await drain(far)

        heard = Heard()
        async with place.listen(tell) as address:
            stream = await place.open(address, heard)
            stream.pause_reading()
            stream.pause_reading()
            stream.write(b"x")
            await written.wait()
            await barrier()
            assert heard.nothing
            stream.resume_reading()
            stream.resume_reading()
            await heard.until(lambda: len(heard.data) == len(BLOCK) + 1)
            stream.pause_reading()
            stream.close()
            await stream.wait_closed()
            await heard.loss()

    place.run(main)


async def barrier() -> None:
    """Return after the loop has looked at its sockets several times and called all that was due."""
    for _ in range(5):
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.send(b"x")
            await asyncio.get_running_loop().sock_recv(here, 1)


def test_reading_can_rest_from_within_received(place: Place) -> None:
    """How a bounded buffer uses it: at most what came in the same read is still handed over."""

    async def main() -> None:
        sent = 64 * len(BLOCK)

        async def flood(far: Far) -> None:
            await far.read()
            for _ in range(64):
                await far.write(BLOCK)
            await drain(far)

        class Sipping(Heard):
            stream: Stream
            pieces = 0

            def received(self, data: bytes) -> None:
                super().received(data)
                self.pieces += 1
                self.stream.pause_reading()

        heard = Sipping()
        async with place.listen(flood) as address:
            heard.stream = stream = await place.open(address, heard)
            stream.write(b"x")
            while len(heard.data) < sent:
                pieces = heard.pieces
                await heard.until(lambda: heard.pieces > pieces)  # noqa: B023 - called before the next turn
                await barrier()
                assert heard.pieces - pieces <= 3
                stream.resume_reading()
            stream.close()
            await stream.wait_closed()

    place.run(main)


def test_the_end_of_the_other_side_is_noticed_while_reading_rests_and_much_is_unsent(place: Place) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def leave(far: Far) -> None:
            await go.wait()
            far.reset()

        heard = Heard()
        async with place.listen(leave) as address:
            stream = await place.open(address, heard)
            stream.pause_reading()
            await fill(stream)
            go.set()
            await heard.loss()
            await stream.wait_closed()
            assert len(heard.losses) == 1

    place.run(main)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_nothing_waits_for_more_to_send(kind: str, loop: str, tls: Tls, folder: Path) -> None:
    async def main() -> None:
        async with listening(kind, drain, tls, folder) as address:
            stream = await open_stream(address, Heard(), ssl=tls.client)
            number = stream._transport.get_extra_info("socket").fileno()
            with socket.socket(fileno=os.dup(number)) as copy:
                assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            stream.close()
            await stream.wait_closed()

    running(loop, main)


def look_up(monkeypatch: pytest.MonkeyPatch, *numbers: str) -> None:
    """Let every host have these addresses."""

    async def found(*_: object) -> list[str]:
        return list(numbers)

    monkeypatch.setattr(sockets, "_look_up", found)


def test_a_host_is_tried_at_each_of_its_addresses(
    loop: str, tls: Tls, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with listening("tls", drain, tls, folder) as address:
            look_up(monkeypatch, "127.0.0.3", "127.0.0.2", "127.0.0.1")
            stream = await open_stream(Address("tls", "localhost", address.port), Heard(), ssl=tls.client)
            assert stream.peername == f"localhost:{address.port}"
            stream.close()
            await stream.wait_closed()
            look_up(monkeypatch, "127.0.0.3", "127.0.0.2")
            why = await reason(open_stream(Address("tcp", "localhost", address.port), Heard()))
            assert why == f"connection refused by localhost:{address.port}"

    running(loop, main)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    loop: str, tls: Tls, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with listening("tcp", drain, tls, folder) as address:
            with unanswering("127.0.0.2", address.port):
                look_up(monkeypatch, "127.0.0.2", "127.0.0.1")
                stream = await open_stream(Address("tcp", "localhost", address.port), Heard(), timeout=0.5)
                stream.close()
                await stream.wait_closed()

    running(loop, main)


@contextmanager
def unanswering(host: str, port: int = 0) -> Iterator[int]:
    """A port, whose connections are neither accepted nor refused."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind((host, port))
        full.listen(0)
        port = full.getsockname()[1]
        for _ in range(4):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex((host, port))
        yield port


async def reason(opening: Awaitable[Stream]) -> str:
    with pytest.raises(ConnectionLost) as caught:
        await opening
    assert "\n" not in caught.value.reason
    return caught.value.reason


def test_why_there_is_no_connection(loop: str, tls: Tls, folder: Path) -> None:
    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            for scheme in ("tcp", "tls", "ws", "wss"):
                where = Address(scheme, "127.0.0.1", port, "/" if scheme.startswith("w") else "")
                assert await reason(open_stream(where, Heard())) == f"connection refused by 127.0.0.1:{port}"
        for scheme in ("tcp", "ws"):
            for host in ("h" * 70, "a..b"):
                assert host in await reason(open_stream(Address(scheme, host, 1, ""), Heard()))
        path = str(folder / "nobody")
        where = Address("unix", path=path)
        assert await reason(open_stream(where, Heard())) == f"no such socket {path}"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
            assert await reason(open_stream(where, Heard())) == f"connection refused by {path}"

    running(loop, main)


def test_a_host_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def main() -> None:
        for scheme in ("tcp", "ws"):
            why = await reason(open_stream(Address(scheme, "nowhere.invalid", 7), Heard()))
            assert why == "cannot look up the host 'nowhere.invalid': Name or service not known"

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    running("asyncio", main)


@pytest.mark.parametrize("kind", ["tls", "wss"])
def test_a_certificate_is_verified_unless_told_otherwise(kind: str, loop: str, tls: Tls, folder: Path) -> None:
    async def main() -> None:
        async with listening(kind, drain, tls, folder) as address:
            failed = f"TLS handshake with {address.endpoint} failed: certificate verify failed: "
            why = await reason(open_stream(address, Heard()))
            assert why == failed + "self-signed certificate"

    running(loop, main)


def test_a_certificate_is_that_of_the_host(loop: str, tls: Tls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with listening("tls", drain, tls, folder) as address:
            look_up(monkeypatch, "127.0.0.1")
            other = Address("tls", "elsewhere.example", address.port)
            assert "Hostname mismatch" in await reason(open_stream(other, Heard(), ssl=tls.client))

    running(loop, main)


@pytest.mark.parametrize("scheme", ["tls", "wss"])
def test_tls_where_there_is_none(scheme: str, loop: str, tls: Tls, folder: Path) -> None:
    async def main() -> None:
        async def answer(far: Far) -> None:
            await far.read()
            await far.write(b"ERROR\n\n\0")

        async with listening("tcp", answer, tls, folder) as address:
            where = Address(scheme, address.host, address.port, "")
            why = await reason(open_stream(where, Heard()))
            assert why.startswith(f"TLS handshake with {address.endpoint} failed: ")

        async def leave(far: Far) -> None:
            await far.read()

        async with listening("tcp", leave, tls, folder) as address:
            why = await reason(open_stream(Address(scheme, address.host, address.port, ""), Heard()))
            assert address.endpoint in why

    running(loop, main)


def test_a_web_server_without_a_websocket(loop: str, tls: Tls, folder: Path) -> None:
    async def main() -> None:
        async with listening("ws", drain, tls, folder) as address:
            where = Address("ws", address.host, address.port, "/elsewhere")
            assert await reason(open_stream(where, Heard())) == f"no WebSocket at {address.endpoint}: HTTP 404, " + (
                "Invalid response status"
            )

        async def leave(far: Far) -> None:
            await far.read()

        async with listening("tcp", leave, tls, folder) as address:
            why = await reason(open_stream(Address("ws", address.host, address.port, "/"), Heard()))
            assert why == f"no WebSocket at {address.endpoint}: it closed the connection instead"

        async def mumble(far: Far) -> None:
            await far.read()
            await far.write(b"what?\r\n\r\n")

        async with listening("tcp", mumble, tls, folder) as address:
            why = await reason(open_stream(Address("ws", address.host, address.port, "/"), Heard()))
            assert why.startswith(f"no WebSocket at {address.endpoint}: ")

    running(loop, main)


@pytest.mark.parametrize("scheme", ["tls", "ws", "wss"])
@pytest.mark.parametrize("way", ["timeout", "cancelled"])
def test_a_handshake_that_does_not_end_leaves_nothing_open(
    scheme: str, way: str, loop: str, tls: Tls, folder: Path
) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def mute(far: Far) -> None:
            await far.read()
            began.set()
            await drain(far)

        async with listening("tcp", mute, tls, folder) as address:
            where = Address(scheme, address.host, address.port, "")
            heard = Heard()
            if way == "timeout":
                why = await reason(open_stream(where, heard, timeout=0.05))
                assert why == f"no connection to {address.endpoint} within 0.05 s"
            else:
                opening = asyncio.create_task(open_stream(where, heard))
                await began.wait()
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await opening
            # The end of `listening` finds that the far end has seen ours.
        assert heard.nothing

    running(loop, main)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_a_host_that_does_not_answer(scheme: str, loop: str) -> None:
    async def main() -> None:
        with unanswering("127.0.0.1") as port:
            why = await reason(open_stream(Address(scheme, "127.0.0.1", port, ""), Heard(), timeout=0.05))
            assert why == f"no connection to 127.0.0.1:{port} within 0.05 s"

    running(loop, main)
