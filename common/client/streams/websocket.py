"""Streams over WebSocket."""

from __future__ import annotations

import ssl

from common.client.address import Address
from common.client.errors import ConnectionLost
from common.client.streams.interface import Stream, StreamEvents

__all__ = ["open_websocket"]


async def open_websocket(
    address: Address, events: StreamEvents, context: ssl.SSLContext | None, seconds: float
) -> Stream:
    """A stream to a `ws` or `wss` address within `seconds`; raises ConnectionLost."""
    raise ConnectionLost(f"no WebSocket yet: {address}")
