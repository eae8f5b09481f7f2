"""What every transport offers and what it calls: bytes in, bytes out, and the end. Knows nothing of STOMP."""

from __future__ import annotations

from typing import Protocol

from common.client.errors import ConnectionLost

__all__ = ["HIGH_MARK", "LOW_MARK", "Stream", "StreamEvents"]

HIGH_MARK = 256 << 10
"""Bytes of unsent data over which a stream is congested."""
LOW_MARK = 64 << 10
"""Bytes of unsent data at which it no longer is."""


class StreamEvents(Protocol):
    """What a stream tells its user: called from the event loop, never from inside a call of the stream."""

    def received(self, data: bytes, /) -> None:
        """Bytes came in, in pieces of any size. Not called once the stream was closed on this side, or is lost."""

    def writable(self) -> None:
        """The stream is no longer congested."""

    def lost(self, error: ConnectionLost, /) -> None:
        """The connection is gone: called exactly once, last of all, also after `close` and `abort` on this side.

        `error` is a `ConnectionClosed` when one of the sides closed in order.
        """


class Stream(Protocol):
    """A connection, open from the start. Every method may be called at any time, also after the end."""

    @property
    def peername(self) -> str:
        """The other side, as in `127.0.0.1:61613`."""

    @property
    def congested(self) -> bool:
        """More than `HIGH_MARK` bytes wait to be sent; `events.writable()` tells when few are left.
        False once it is lost."""

    def write(self, data: bytes, /) -> None:
        """Send in the order written; never blocks, what cannot be sent yet is held in memory. Dropped once the
        stream is closed or lost: `events.lost` says that it is."""

    def pause_reading(self) -> None:
        """Leave further bytes with the other side. While reading rests, its end may go unnoticed."""

    def resume_reading(self) -> None:
        """Take bytes again."""

    def close(self) -> None:
        """Send what was written, then close; what still comes is dropped. Takes as long as the other side takes to
        read, and a little for it to close as well; `abort` cuts it short."""

    def abort(self) -> None:
        """Close at once; what is unsent is dropped."""

    async def wait_closed(self) -> None:
        """Return when the connection is gone and its resources are freed; closes nothing itself."""
