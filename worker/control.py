"""The worker's end of the control channel: messages from the front in, answers out. Closed means the front is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from common.messages import ControlDecoder, ControlError, Message, encode

__all__ = ["ControlChannel"]


class ControlChannel(asyncio.Protocol):
    """`on_message` is called for each message, `on_lost` once, with why, when there is nobody to talk to any more, and
    `on_full` with whether the front is behind with reading."""

    def __init__(
        self,
        on_message: Callable[[Message], None],
        on_lost: Callable[[str], None],
        on_full: Callable[[bool], None],
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_full = on_full
        self._decoder = ControlDecoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._on_message(message)
        except ControlError as error:
            self._on_lost(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._on_lost("closed" if error is None else str(error))

    def pause_writing(self) -> None:
        self._on_full(True)

    def resume_writing(self) -> None:
        self._on_full(False)

    def send(self, message: Message) -> None:
        """Send `message`, or drop it if the front is gone."""
        if self._transport is not None:
            self._transport.write(encode(message))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
