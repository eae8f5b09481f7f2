"""What is particular to streams over WebSocket."""

from __future__ import annotations

from pathlib import Path

from aiohttp import WSMsgType

from common.client.errors import ConnectionClosed
from common.client.streams import open_stream
from tests.unit.common.client.farends import Far, Heard, Tls, WebSocketFar, listening, running


def test_the_wire(loop: str, tls: Tls, folder: Path) -> None:
    """STOMP's subprotocols are offered; text and binary are taken; large writes go as small binary messages."""
    sizes: list[int] = []
    offered: list[str] = []

    async def serve(far: Far) -> None:
        assert isinstance(far, WebSocketFar)
        offered.append(far.protocols.replace(" ", ""))
        await far.websocket.send_str("é")
        await far.websocket.ping()
        await far.websocket.send_bytes(b"\xff")
        while sum(sizes) < 100_000:
            message = await far.websocket.receive()
            assert message.type is WSMsgType.BINARY
            sizes.append(len(message.data))

    async def main() -> None:
        heard = Heard()
        async with listening("ws", serve, tls, folder) as address:
            stream = await open_stream(address, heard)
            stream.write(b"x" * 100_000)
            await heard.loss()
            await stream.wait_closed()
        assert heard.data == "é".encode() + b"\xff"

    running(loop, main)
    assert offered == ["v12.stomp,v11.stomp,v10.stomp"]
    assert sizes == [32 << 10] * 3 + [100_000 % (32 << 10)]


def test_a_close_that_is_no_orderly_one(loop: str, tls: Tls, folder: Path) -> None:
    async def refuse(far: Far) -> None:
        assert isinstance(far, WebSocketFar)
        await far.websocket.close(code=1008, message=b"no room")

    async def main() -> None:
        heard = Heard()
        async with listening("ws", refuse, tls, folder) as address:
            stream = await open_stream(address, heard)
            error = await heard.loss()
            assert not isinstance(error, ConnectionClosed)
            assert error.reason == f"{address.endpoint} closed the WebSocket with 1008 no room"
            await stream.wait_closed()

    running(loop, main)


def test_a_user_that_fails_still_hears_of_the_loss(tls: Tls, folder: Path) -> None:
    async def main() -> None:
        heard = Heard()

        async def greet(far: Far) -> None:
            await far.write(b"x")
            await far.read()

        def fail(_: bytes) -> None:
            raise ZeroDivisionError

        heard.received = fail  # type: ignore[method-assign]
        async with listening("ws", greet, tls, folder) as address:
            stream = await open_stream(address, heard)
            await heard.loss()
            await stream.wait_closed()

    faults = running("asyncio", main, faulty=True)
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError]
