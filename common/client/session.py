"""One connection of a client that is logged in: from an open stream to its loss.

Owns the handshake, the version, the heart-beats, and what is about to be written. What the frames mean is its owner's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from ssl import SSLContext
from typing import Protocol, Self

from common.client.address import Address
from common.client.beats import Beats
from common.client.errors import BrokerError, ClientError, ConnectionLost, ProtocolFault
from common.client.limits import GENEROUS
from common.client.streams import Stream, open_stream
from common.codec import encode
from common.decoder import Decoder
from common.errors import StompError
from common.frame import Frame
from common.negotiation import Version, agree_heart_beat, negotiate, parse_heart_beat

__all__ = ["Session", "SessionEvents"]

_FLUSH_BYTES = 16 << 10
_EOL = b"\n"


class SessionEvents(Protocol):
    """Whoever a session belongs to."""

    def on_frame(self, session: Session, frame: Frame) -> None:
        """A MESSAGE, RECEIPT or ERROR has come."""

    def on_frames(self, session: Session, frames: Iterator[Frame]) -> None:
        """`on_frame` of each frame of a read; what `frames` raises is the session's."""

    def on_lost(self, session: Session, error: ClientError) -> None:
        """Nothing comes or goes any more. Once; it may be before `open` has returned the session."""


class Session:
    """Made by `open`. `version`, `id` (the broker's `session`, may be empty) and `server` are what CONNECTED said.

    `loss` is what ended it, None while it lives; `congested` whether the broker reads more slowly than is written.
    """

    def __init__(self, address: Address, events: SessionEvents) -> None:
        self._loop = asyncio.get_running_loop()
        self.address = address
        self.version = Version.V1_2
        self.id = ""
        self.server = ""
        self._events = events
        self._stream: Stream | None = None
        self._decoder = Decoder(Version.V1_2, GENEROUS)
        self._answer: asyncio.Future[Frame] = self._loop.create_future()
        self._is_connected = False
        self.loss: ClientError | None = None
        self.congested = False
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flushing = False
        self._drained: list[asyncio.Future[None]] = []
        self._reading = True
        self._beats: Beats | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        address: Address,
        connect: Frame,
        heart_beat: tuple[int, int],
        events: SessionEvents,
        *,
        ssl: SSLContext | None,
        within: float,
    ) -> Self:
        """Connect and log in by the frame `connect`, in at most `within` seconds; its `heart_beat` in milliseconds.

        Raises ConnectionLost, ProtocolFault, and BrokerError if the broker refuses the login.
        """
        session = cls(address, events)
        try:
            async with asyncio.timeout(within):
                session._stream = await open_stream(address, session, ssl=ssl, timeout=within)
                await session._log_in(connect, heart_beat)
        except TimeoutError:
            await session.abort()
            raise ConnectionLost(f"no CONNECTED from {address} within {within:g} s") from None
        except BaseException:
            await session.abort()
            raise
        return session

    async def _log_in(self, connect: Frame, heart_beat: tuple[int, int]) -> None:
        self.write(encode(connect))
        self.flush()
        frame = await self._answer
        self.id = frame.get("session") or ""
        self.server = frame.get("server") or ""
        try:
            offered = parse_heart_beat(frame.get("heart-beat"))
        except StompError as error:
            raise ProtocolFault(f"CONNECTED of {self.address}: {error.message}: {error.detail}") from None
        self._beats = Beats(agree_heart_beat(heart_beat, offered))
        if self._beats.period is not None:
            self._timer = self._loop.call_later(self._beats.period, self._tick)

    @property
    def is_rabbitmq(self) -> bool:
        """Whether the broker is RabbitMQ, some of whose ways have to be gone along with."""
        return self.server.startswith("RabbitMQ/")

    # --- out

    def write(self, data: bytes) -> None:
        """Send `data` with what else is written in this turn of the loop."""
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= _FLUSH_BYTES:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_soon)

    def send(self, frame: Frame) -> None:
        """Write `frame` as its version has it."""
        self.write(encode(frame, self.version))

    def _flush_soon(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Hand everything written to the stream."""
        if self._out and self._stream is not None and self.loss is None:
            self._stream.write(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self.congested = self._stream.congested
            if self._beats is not None:
                self._beats.wrote = True
        self._out.clear()
        self._out_bytes = 0

    async def drained(self) -> None:
        """Wait until it is not congested; returns also when the connection is lost."""
        while self.congested:
            waiter = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    def writable(self) -> None:
        self.congested = False
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    # --- in

    def received(self, data: bytes) -> None:
        if self.loss is not None:
            return
        if self._beats is not None:
            self._beats.heard = True
        try:
            if self._is_connected:
                self._events.on_frames(self, self._decoder.feed(data))
            else:
                for frame in self._decoder.feed(data):
                    self._take(frame)
        except StompError as error:
            self.fail(ProtocolFault(f"{self.address} sent what is no STOMP: {error.message}: {error.detail}"))

    def _take(self, frame: Frame) -> None:
        """A frame of the read that CONNECTED came with, or before."""
        if self.loss is not None:
            return
        if self._is_connected:
            self._events.on_frame(self, frame)
        elif frame.command == "CONNECTED":
            # Frames that follow in the same read are of this version already.
            self.version = self._decoder.version = negotiate(frame.get("version"))
            self._is_connected = True
            if not self._answer.done():
                self._answer.set_result(frame)
        elif frame.command != "ERROR":
            self.fail(ProtocolFault(f"{self.address} answered CONNECT with {frame.command[:32]}"))
        elif not self._answer.done():
            self._answer.set_exception(BrokerError(frame))

    def pause_reading(self) -> None:
        """Take nothing from the broker until `resume_reading`."""
        if self._stream is not None and self._reading and self.loss is None:
            self._reading = False
            self._stream.pause_reading()

    def resume_reading(self) -> None:
        """Go on after `pause_reading`."""
        if self._stream is not None and not self._reading and self.loss is None:
            self._reading = True
            self._stream.resume_reading()

    # --- its end

    def lost(self, error: ConnectionLost) -> None:
        self.fail(error)

    def fail(self, error: ClientError) -> None:
        """End it for `error`: what is not written yet is not, and `on_lost` is called."""
        if self.loss is not None:
            return
        self.loss = error
        self._stop()
        if self._is_connected:
            self._events.on_lost(self, error)
        elif not self._answer.done():
            self._answer.set_exception(error)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._out.clear()
        self._out_bytes = 0
        self.writable()
        if self._stream is not None:
            self._stream.abort()

    async def abort(self) -> None:
        """Drop the connection without another word; `on_lost` is not called."""
        if self.loss is None:
            self.loss = ConnectionLost("aborted")
            self._stop()
        if not self._answer.done():
            self._answer.cancel()
        await self.wait_closed()

    async def close(self, within: float) -> None:
        """Write what is to be written, for at most `within` seconds, and close; `on_lost` is not called."""
        self.flush()
        if self.loss is None:
            self.loss = ConnectionLost("closed")
            if self._timer is not None:
                self._timer.cancel()
            self.writable()
        if self._stream is not None:
            self._stream.close()
            try:
                # A broker that takes nothing any more does not get the rest.
                with suppress(TimeoutError):
                    async with asyncio.timeout(within):
                        await self._stream.wait_closed()
            finally:
                self._stream.abort()
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return when nothing is open any more; closes nothing itself."""
        if self._stream is not None:
            await self._stream.wait_closed()

    # --- time

    def _tick(self) -> None:
        beats = self._beats
        if beats is None or beats.period is None or self.loss is not None:
            return
        due, silent = beats.tick(reading=self._reading)
        if silent:
            waited = beats.agreed.to_client * 2 / 1000
            self.fail(ConnectionLost(f"{self.address} was silent for {waited:g} s, twice the agreed heart-beat"))
            return
        if due and not self.congested:
            self.write(_EOL)
        self._timer = self._loop.call_later(beats.period, self._tick)
