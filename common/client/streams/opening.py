"""One way to open a stream to any address."""

from __future__ import annotations

from ssl import SSLContext

from common.client.address import Address
from common.client.streams.interface import Stream, StreamEvents
from common.client.streams.sockets import open_socket

__all__ = ["open_stream"]


async def open_stream(
    address: Address,
    events: StreamEvents,
    *,
    ssl: SSLContext | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109 - it covers steps of several kinds
) -> Stream:
    """A connected stream; `events` hears of nothing before this returns. Cancelled, it leaves nothing open.

    `ssl` replaces the default context, which verifies the certificate and its host; addresses without TLS ignore it.
    `timeout` is in seconds and covers all: look-up, connection, handshakes.

    Raises ConnectionLost with one line that says why, such as `connection refused by 127.0.0.1:61613`.
    """
    if address.scheme in ("ws", "wss"):
        # Imported only where it is wanted: aiohttp costs a start 0.2 s and 15 MB.
        from common.client.streams.websocket import open_websocket

        return await open_websocket(address, events, ssl, timeout)
    return await open_socket(address, events, ssl, timeout)
