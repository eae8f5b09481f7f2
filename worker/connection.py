"""One client connection: its transport, its outbox, its deadlines, and how it ends.

Reading goes to `worker.ingest`, commands to `worker.commands`. What is written goes straight to the transport while
that keeps up, else to the outbox (`worker.outbox`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from common.codec import encode, encode_headers
from common.errors import CloseReason, ErrorCode, StompError
from common.frame import Frame
from common.negotiation import HeartBeat, Version
from common.refusal import error_frame
from worker.outbox import NEVER, Outbox
from worker.receipts import Ticket, hold
from worker.standstill import LOOK_EVERY, look_at
from worker.transactions import Transactions

if TYPE_CHECKING:
    from worker.backlog import Backlog
    from worker.core import Core
    from worker.queues.subscription import QueueSubscription
    from worker.router import Subscription
    from worker.settings import ListenerSettings

__all__ = ["Connection"]

_HELD = 1024
"""RECEIPTs that may wait for effects elsewhere before their client is not read from."""
_PROBE = 1.0
"""Seconds between two EOLs to a client that has closed its side and has RECEIPTs coming."""
_FULL_READ = 64 << 10
"""Bytes of a read that suggest there is more; uvloop reads up to 256,000 at once."""


class Connection(asyncio.Protocol):
    """Thousands of these stand idle, so each attribute counts; see `ops/bench` for the bytes of one."""

    __slots__ = (
        "backlog",
        "beat_every",
        "client_id",
        "closing",
        "core",
        "crlf",
        "deadline",
        "deaf",
        "dropped",
        "due",
        "failed",
        "last_read",
        "listener",
        "next_beat",
        "number",
        "opened_at",
        "outbox",
        "owners",
        "partial",
        "partial_wanted",
        "paused_on",
        "peer_eof",
        "queues",
        "reason",
        "receipts",
        "selector_cost",
        "silence",
        "subscriptions",
        "tracked",
        "transactions",
        "transport",
        "version",
    )

    def __init__(self, core: Core, listener: ListenerSettings) -> None:
        self.core = core
        self.listener = listener
        self.transport = cast(asyncio.Transport, None)
        self.version: Version | None = None
        self.client_id: str | None = None
        self.number = 0
        self.partial: bytearray | None = None
        self.partial_wanted = 0
        self.crlf = False
        self.closing = False
        self.deaf = False
        self.failed = False
        self.peer_eof = False
        self.reason: CloseReason | None = None
        self.selector_cost = 0
        self.subscriptions: dict[str, Subscription] = {}
        self.tracked: dict[int, Subscription] = {}
        self.transactions: Transactions | None = None
        self.backlog: Backlog | None = None
        self.receipts: deque[Ticket] | None = None
        self.outbox: Outbox | None = None
        self.queues: dict[int, QueueSubscription] | None = None
        # A bit for each slot: the owners there were handed what this client sent or settled.
        self.owners = 0
        self.dropped = 0
        # Each with since when (seconds of the loop's clock).
        self.paused_on: dict[bytes, float] | None = None
        self.opened_at = core.now()
        self.deadline = 0.0
        self.due = NEVER
        self.last_read = 0.0
        self.beat_every = 0.0
        self.next_beat = NEVER
        self.silence = 0.0

    @property
    def session(self) -> str:
        """What its client, the log and the operator call it."""
        return self.core.session_names.get(self.number) or self.locator

    @property
    def locator(self) -> str:
        """Where it is: slot and life of the worker, and its number. Its temporary addresses start with it, and it
        is its session, too, unless the front names those."""
        return self.core.session_id(self.number)

    def next_number(self) -> int:
        """A number for a new subscription: unique in the connection."""
        return self.core.next_number()

    # --- the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.core.opened(self)
        if not self.closing:
            self.deadline = self.core.now() + self.listener.connect_timeout
            self.core.deadlines.wake_at(self, self.deadline)

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if self.silence:
            self.last_read = self.core.now()
        try:
            self.core.ingest.read(self, data)
        except Exception as error:  # noqa: BLE001 - a bug that one client found must not be the end of the others
            self.core.journal.internal_error(self, error)
            self.fail(
                StompError(
                    ErrorCode.INTERNAL_ERROR,
                    "internal error",
                    "the broker failed to handle this frame; its log says how",
                ),
                CloseReason.INTERNAL_ERROR,
            )
            return
        self.core.queues.end_of_read()
        if len(data) >= _FULL_READ and self.paused_on is None and not self.deaf:
            # libuv reads a full socket 32 times before it looks at another: one turn for each read, for all.
            self.transport.pause_reading()
            self.core.soon(self._read_on)

    def _read_on(self) -> None:
        if self.paused_on is None and self in self.core.connections and not self.core.draining:
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        self.peer_eof = True
        if self.closing and self.outbox is None:
            return False
        self.disconnect(None, CloseReason.CLIENT_CLOSED)
        if not self.closing:
            # It may be waiting for RECEIPTs, or be gone, which shows when something is written; and what they wait for,
            # room on a full disk perhaps, may never come.
            self.beat_every, self.next_beat = _PROBE, self.core.now()
            self.core.deadlines.wake_at(self, self.next_beat)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closing:
            self.closing = self.deaf = True
            if self.reason is None:
                self.reason = CloseReason.CLIENT_CLOSED if error is None else CloseReason.CONNECTION_LOST
            self._leave()
        self.core.closed(self)
        # A deadline may keep this object in the timer wheel for a while; not what weighs most of it.
        self.transport = cast(asyncio.Transport, None)
        self.outbox = None

    def pause_writing(self) -> None:
        if self.outbox is None:
            self.outbox = Outbox(self)
            if self.queues:
                self.core.queues.clients.congested(self)
        else:
            self.outbox.congested = True

    def resume_writing(self) -> None:
        if self.outbox is not None and self.outbox.drain():
            self.outbox = None
            if self.closing:
                self._half_close()
            else:
                self.core.queues.clients.drained(self)

    # --- reading

    def keep(self, data: bytes, wanted: int) -> None:
        """Keep an incomplete frame: `wanted` is its size if that is known, 0 if it is to be looked at with every byte,
        and below zero, by the size of its head, while the NUL after its body is missing."""
        self.partial = bytearray(data)
        self.partial_wanted = wanted

    def pause(self, destination: bytes) -> None:
        """Stop reading until `resume(destination)`; see `worker.flow`."""
        now = self.core.now()
        if self.paused_on is None:
            self.paused_on = {}
            self.transport.pause_reading()
            self.core.journal.paused(self, destination)
            self.core.deadlines.wake_at(self, now + LOOK_EVERY)
        self.paused_on.setdefault(destination, now)

    def resume(self, destination: bytes) -> None:
        if self.paused_on is None:
            return
        self.paused_on.pop(destination, None)
        if not self.paused_on:
            self.paused_on = None
            self.core.journal.resumed(self)
            # Silence while nobody listened is not the client's.
            self.last_read = self.core.now()
            self.transport.resume_reading()

    def logged_in(self, version: Version, beats: HeartBeat) -> None:
        """CONNECT was accepted: `beats` in milliseconds."""
        self.version = version
        self.core.journal.opened(self, beats)
        listener = self.listener
        now = self.core.now()
        self.deadline = NEVER
        if beats.to_client:
            self.beat_every = min(beats.to_client / 1000, listener.slowest_beat) * listener.send_factor
            self.next_beat = now + self.beat_every
        if beats.from_client:
            self.silence = beats.from_client / 1000 * listener.receive_factor
            self.last_read = now
        if beats.to_client or beats.from_client:
            self.core.deadlines.wake_at(self, now)

    # --- writing

    def send(self, data: bytes) -> None:
        """Write frames that answer this client's own."""
        if self.outbox is None:
            self.transport.write(data)
        else:
            self.outbox.push(data)

    def send_frame(self, command: str, headers: list[tuple[str, str]], body: bytes = b"") -> None:
        self.send(encode(Frame(command, headers, body), Version.V1_2 if self.version is None else self.version))

    def receipt(self, receipt: str) -> None:
        """Answer a RECEIPT, after those that were asked for before."""
        if self.receipts:
            self.hold_receipt(receipt).release()
        else:
            self._send_receipt(receipt)

    def hold_receipt(self, receipt: str | None) -> Ticket:
        """Take a place in the line of RECEIPTs, for none if the frame asked for none; released when the effect is
        there."""
        return self.hold(lambda: self._send_receipt(receipt))

    def hold(self, send: Callable[[], None]) -> Ticket:
        """Take a place in the line of RECEIPTs for what `send` writes."""
        if self.receipts is None:
            self.receipts = deque()
        line = self.receipts

        def answer() -> None:
            send()
            # Whatever was answered: the last of a long line may be no RECEIPT of a single frame.
            if self.paused_on is not None and len(line) < _HELD // 2:
                self.core.unblock(self._line, self)

        ticket = hold(line, answer)
        if len(self.receipts) >= _HELD and not self.closing:
            # Until a sibling that is slow to answer does; what this client has in the air is bounded by it.
            self.core.block(self._line, self, 0)
        return ticket

    def when_answered(self, act: Callable[[], None]) -> None:
        """Call `act` once everything asked for so far has its answer."""
        if self.receipts:
            self.hold(act).release()
        else:
            act()

    @property
    def _line(self) -> bytes:
        return b"\0receipts %d" % self.number

    def _send_receipt(self, receipt: str | None) -> None:
        if receipt is not None and not self.closing and self.version is not None:
            self.send(b"RECEIPT\n%b\n\0" % encode_headers((("receipt-id", receipt),), self.version))

    # --- a client that does not keep up

    def disconnect_slow(self, why: str) -> None:
        """Give this client up: what waits for it is dropped, and the ERROR says so when it reads again."""
        if self.closing:
            return
        if self.outbox is not None:
            self.outbox.clear()
        self.fail(
            StompError(ErrorCode.SLOW_CONSUMER, "consumer too slow", f"{why}; what was waiting is lost to this client"),
            CloseReason.SLOW_CONSUMER,
        )

    def too_many_unacknowledged(self, subscription: Subscription) -> None:
        """`subscription` was delivered more than it may leave unacknowledged."""
        limit = self.core.settings.unacknowledged
        error = StompError(
            ErrorCode.TOO_MANY_UNACKNOWLEDGED,
            "too many unacknowledged messages",
            f"subscription {subscription.id!r} has {limit} unacknowledged, which is the limit (limits.unacknowledged)",
        )
        # In the next turn, for the router is in the middle of its subscribers; nothing is delivered until then.
        self.reason = CloseReason.SLOW_CONSUMER
        self.core.soon(self.fail, error, CloseReason.SLOW_CONSUMER)

    # --- settings

    def reconfigure(self) -> None:
        """The settings of the worker are new: whatever was copied from the old ones follows them. What was agreed with
        the client, its heart-beats, stays."""
        settings = self.core.settings
        if self.transactions is not None:
            self.transactions.limit(settings.transactions, settings.transaction_frames, settings.transaction_bytes)
        if self.outbox is not None:
            self.outbox.apply_policies(self.core.router.policy)

    # --- transactions

    def open_transactions(self) -> Transactions:
        if self.transactions is None:
            settings = self.core.settings
            self.transactions = Transactions(
                settings.transactions, settings.transaction_frames, settings.transaction_bytes
            )
        return self.transactions

    # --- deadlines

    def on_timer(self, now: float) -> float:
        """Act on what is due at `now` (seconds); returns when something is due next."""
        if self.deadline <= now:
            if self.closing:
                if now < self.core.drain_until and self.transport.get_write_buffer_size():
                    # A slow reader gets the rest of what is its own, in the time there is.
                    self.deadline = min(now + self.core.settings.linger, self.core.drain_until)
                    return self.deadline
                self.transport.abort()
                return NEVER
            timeout = self.listener.connect_timeout
            self.fail(
                StompError(
                    ErrorCode.CONNECT_TIMEOUT,
                    "no CONNECT in time",
                    f"a connection has {timeout:g} seconds to send CONNECT (listener.connect_timeout)",
                ),
                CloseReason.CONNECT_TIMEOUT,
            )
        elif self.outbox is not None and self.outbox.deadline <= now:
            timeout = self.core.settings.block_timeout
            self.disconnect_slow(f"publishers stood still for {timeout:g} seconds (outbox.block_timeout)")
        elif self.silence and self.paused_on is None and not self.deaf and self.last_read + self.silence <= now:
            self.fail(
                StompError(
                    ErrorCode.HEART_BEAT_TIMEOUT,
                    "no heart-beat in time",
                    f"nothing was read for {now - self.last_read:.1f} seconds; "
                    f"the agreed heart-beat allows {self.silence:.1f}",
                ),
                CloseReason.HEART_BEAT_TIMEOUT,
            )
        elif self.paused_on is not None and not self.deaf:
            look_at(self, now)
        if self.closing:
            return self.deadline
        if self.next_beat <= now:
            # What is in the outbox is data on its way; an EOL behind it would come no sooner.
            if self.outbox is None:
                self.transport.write(b"\n")
            self.next_beat = now + self.beat_every
        if not self.silence:
            heard_by = NEVER
        elif self.paused_on is not None or self.deaf:
            heard_by = now + self.silence
        else:
            heard_by = self.last_read + self.silence
        stalled = NEVER if self.outbox is None else self.outbox.deadline
        looked_at = NEVER if self.paused_on is None or self.deaf else now + LOOK_EVERY
        return min(self.deadline, stalled, self.next_beat, heard_by, looked_at)

    # --- the end

    def fail(self, error: StompError, reason: CloseReason, head: bytes = b"") -> None:
        """Answer ERROR and close so that it still arrives; `head` starts the frame that is at fault."""
        if self.closing:
            return
        self.failed = True
        version = Version.V1_2 if self.version is None else self.version
        self.core.journal.failed(self, reason, error)
        self._finish(reason, error_frame(error, head, version))

    def disconnect(self, receipt: str | None, reason: CloseReason) -> None:
        """End in good order: after the RECEIPTs still held. A `receipt` that is asked for comes last, once everything
        this client sent and settled is where it belongs (1.2 section DISCONNECT)."""

        def end() -> None:
            if not self.closing:
                if receipt is not None:
                    self._send_receipt(receipt)
                self._finish(reason, b"")

        # No frame counts after DISCONNECT (1.2 section DISCONNECT), also while its RECEIPT has to wait.
        self.deaf = True
        if self.reason is None:
            # Also of a client that does not stay for its RECEIPT.
            self.reason = reason
        if receipt is not None and self.owners:
            self.core.queues.when_stored(self, self.hold(end).release)
        elif self.receipts:
            self.hold(end).release()
        else:
            end()

    def _finish(self, reason: CloseReason, last: bytes) -> None:
        self.closing = self.deaf = True
        self.reason = reason
        self._leave()
        if last:
            self.send(last)
        self.deadline = self.core.now() + self.core.settings.linger
        self.core.deadlines.wake_at(self, self.deadline)
        if self.outbox is None:
            self._half_close()

    def _half_close(self) -> None:
        # The client reads to the end before the socket goes: closing with unread input would reset it and may take
        # the last frame along (1.2 section Connection Lingering).
        if self.peer_eof:
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()

    def _leave(self) -> None:
        """Give back all that others would still use or wait for; called once."""
        self.core.left(self)
        if self.receipts:
            self.core.unblock(self._line, self)
        for subscription in self.subscriptions.values():
            self.core.router.unsubscribe(subscription)
        self.core.queues.clients.left(self)
        self.core.temporary.left(self)
        self.subscriptions = {}
        self.tracked = {}
        self.transactions = None
        self.partial = None
        if self.outbox is not None:
            self.outbox.unblock()
        if self.paused_on is not None:
            self.core.flow.forget(self, self.paused_on)
            self.paused_on = None
        if not self.transport.is_closing():
            # What comes now is not wanted, but only a reader sees the client close its side.
            self.transport.resume_reading()
