"""The low level of the client: one connection, frames in, frames out. It sends nothing that its user did not send:
no acknowledgement, no heart-beat, no CONNECT, and it takes frames as they come.

    async with await Peer.connect("stomp://localhost:61613") as peer:
        await peer.send(frames.connect())
        await peer.receive()                     # CONNECTED
        await peer.send(frames.subscribe("/topic/prices"))
        async for frame in peer:
            print(frame.body)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from ssl import SSLContext
from types import TracebackType
from typing import Self, cast

from common.client.address import Address, parse_target
from common.client.errors import AddressError, ConnectionClosed, ConnectionLost, ProtocolFault
from common.client.limits import GENEROUS
from common.client.streams import Stream, open_stream, pipe
from common.codec import Limits, encode
from common.decoder import Decoder
from common.errors import StompError
from common.frame import Frame
from common.negotiation import Version

__all__ = ["Peer"]


class _Inbox(Decoder):
    """What came in: whole pieces first, decoded only as frames are asked for, so that `version` holds from there on."""

    def __init__(self, limits: Limits, bound: int) -> None:
        super().__init__(Version.V1_2, limits)
        self.stream = cast(Stream, None)
        self.lost_by: ConnectionLost | None = None
        self.closed_here = False
        self.changed = asyncio.Event()
        self.may_write = asyncio.Event()
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._bound = bound
        self._full = False
        self._frames: Iterator[Frame] = iter(())

    # --- the stream calls

    def received(self, data: bytes, /) -> None:
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes > self._bound and not self._full:
            self._full = True
            self.stream.pause_reading()
        self.changed.set()

    def writable(self) -> None:
        self.may_write.set()

    def lost(self, error: ConnectionLost, /) -> None:
        if self.lost_by is None:
            self.fail(error)

    # --- the peer calls

    def fail(self, error: ConnectionLost) -> None:
        """From here on this is why nothing is sent, and why nothing comes after what is here."""
        self.lost_by = error
        self.may_write.set()
        self.changed.set()

    def next(self) -> Frame | None:
        """The next whole frame, or None when there is none yet; raises StompError."""
        while True:
            frame = next(self._frames, None)
            if frame is not None or not self._pieces:
                return frame
            data = self._pieces.popleft()
            self._bytes -= len(data)
            if self._full and self._bytes <= self._bound // 2:
                self._full = False
                self.stream.resume_reading()
            self._frames = self.feed(data)

    def ends_within_a_frame(self) -> bool:
        """Whether the other side left a frame unfinished."""
        return self.is_within_frame and not self.closed_here


class Peer:
    """One end of a connection, made by `connect` or `pipe`. Several tasks may send and receive at once.

    Leaving it as a context manager closes it.
    """

    def __init__(self, limits: Limits | None = None, receive_buffer: int = 1 << 20) -> None:
        """For `connect` and `pipe`. While over `receive_buffer` bytes wait for `receive`, no more are read."""
        self._inbox = _Inbox(limits or GENEROUS, receive_buffer)
        self._stream = cast(Stream, None)

    @classmethod
    async def connect(
        cls,
        where: str | Address,
        *,
        ssl: SSLContext | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109 - as `open_stream`
        limits: Limits | None = None,
        receive_buffer: int = 1 << 20,
    ) -> Self:
        """Connect to one address; what the URL says of login and virtual host is for the caller to send.

        `ssl` replaces the default context, which verifies; `timeout` is in seconds; `limits` bound what is received.

        Raises AddressError and ConnectionLost.
        """
        if isinstance(where, str):
            address, *others = parse_target(where).addresses
            if others:
                raise AddressError("a Peer connects to one address; the URL names several")
        else:
            address = where
        peer = cls(limits, receive_buffer)
        peer._attach(await open_stream(address, peer._inbox, ssl=ssl, timeout=timeout))
        return peer

    @classmethod
    def pipe(cls, *, limits: Limits | None = None, receive_buffer: int = 1 << 20) -> tuple[Self, Self]:
        """Two peers connected in memory, for tests; to be called where an event loop runs."""
        one, other = cls(limits, receive_buffer), cls(limits, receive_buffer)
        for peer, stream in zip((one, other), pipe(one._inbox, other._inbox), strict=True):
            peer._attach(stream)
        return one, other

    def _attach(self, stream: Stream) -> None:
        self._stream = self._inbox.stream = stream

    @property
    def peername(self) -> str:
        """The other side, as in `127.0.0.1:61613`."""
        return self._stream.peername

    @property
    def version(self) -> Version:
        """How headers are escaped and read: 1.2 until set to what was negotiated; holds from the next frame on."""
        return self._inbox.version

    @version.setter
    def version(self, version: Version) -> None:
        self._inbox.version = version

    async def send(self, frame: Frame) -> None:
        """Send a frame, after waiting until the other side has taken most of those before. Cancelled while waiting,
        nothing of it is sent. Raises ConnectionLost when the connection is gone."""
        await self.send_bytes(encode(frame, self.version))

    async def send_bytes(self, data: bytes) -> None:
        """As `send`, for bytes as they are, such as the LF of a heart-beat (1.2 section Heart-beating)."""
        inbox = self._inbox
        while inbox.lost_by is None and self._stream.congested:
            inbox.may_write.clear()
            await inbox.may_write.wait()
        if inbox.lost_by is not None:
            raise inbox.lost_by
        self._stream.write(data)

    async def receive(self) -> Frame:
        """The next frame. Cancelled, it loses none.

        Raises, after the last whole frame: ConnectionClosed when the connection was closed in order, ConnectionLost
        when it failed, or ended within a frame; ProtocolFault when what came is no STOMP.
        """
        inbox = self._inbox
        while True:
            if isinstance(inbox.lost_by, ProtocolFault):
                raise inbox.lost_by
            try:
                frame = inbox.next()
            except StompError as error:
                inbox.fail(self._fault(error))
                self._stream.abort()
                continue
            if frame is not None:
                return frame
            if inbox.lost_by is not None:
                if isinstance(inbox.lost_by, ConnectionClosed) and inbox.ends_within_a_frame():
                    inbox.lost_by = ConnectionLost(f"{inbox.lost_by.reason} within a frame")
                raise inbox.lost_by
            inbox.changed.clear()
            await inbox.changed.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        """Frames until the connection is closed in order; raises as `receive` when it ends otherwise."""
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    def _fault(self, error: StompError) -> ProtocolFault:
        detail = f": {error.detail}" if error.detail else ""
        return ProtocolFault(f"{self.peername} sent what is no STOMP: {error.message}{detail}")

    async def close(self, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - its end is not an error
        """Send what is still unsent, for at most `timeout` seconds, then close; returns when the connection is gone.
        Frames that came before can still be received."""
        self._inbox.closed_here = True
        self._stream.close()
        try:
            async with asyncio.timeout(timeout):
                await self._stream.wait_closed()
        except TimeoutError:
            self._stream.abort()
            await self._stream.wait_closed()
        finally:
            # Cancelled, it would otherwise stay open for as long as the other side likes.
            self._stream.abort()

    def abort(self) -> None:
        """Drop the connection at once, with what is unsent."""
        self._inbox.closed_here = True
        self._stream.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
