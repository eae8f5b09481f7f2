"""Connections that are reset in the very turn in which the client closes them."""

from __future__ import annotations

import asyncio
import socket

import pytest

from common.client.address import Address
from common.client.errors import ConnectionLost
from common.client.streams import open_stream
from tests.client.faults import LOOPS, run


class Ignored:
    def received(self, data: bytes) -> None:
        pass

    def writable(self) -> None:
        pass

    def lost(self, error: ConnectionLost) -> None:
        pass


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [0, 10, 8 << 20])
def test_closing_what_was_reset_and_has_not_been_noticed(loop: str, size: int) -> None:
    """`size` bytes wait to be written: the end of them all may come when the other side is gone."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stream = await open_stream(Address("tcp", "127.0.0.1", listener.getsockname()[1]), Ignored())
            far, _ = listener.accept()
            stream.write(bytes(size))
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            far.close()
            # No turn of the loop in between.
            stream.close()
            async with asyncio.timeout(10):
                await stream.wait_closed()

    run(main, loop)
