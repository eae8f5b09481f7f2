"""Frames whose RECEIPT has not come yet, in their order, and what becomes of each when the connection is lost.

Knows no connection: frames that are to be written again come out of `again`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from common.client.errors import BrokerError, ClientClosed, ClientError, OutcomeUnknown
from common.client.limits import GENEROUS
from common.client.receipt import Receipt
from common.decoder import Decoder
from common.frame import Frame
from common.negotiation import Version

__all__ = ["SEND_BYTES", "OnLoss", "Unconfirmed"]


SEND_BYTES = 600
"""What a SEND costs in memory beside its body, roughly."""


class OnLoss(Enum):
    """What happens to a frame without RECEIPT when its connection is lost."""

    AGAIN = "again"
    """It is written again on the next connection: a SEND with a key, or one that may come twice."""
    UNKNOWN = "unknown"
    """Whoever waits is told that nobody knows."""
    DONE = "done"
    """The loss has done what it was to do, an UNSUBSCRIBE for one; so has an ERROR, since that ends the connection."""
    FORGET = "forget"
    """Somebody makes another frame of it: a SUBSCRIBE for one. Its future is cancelled."""


_OTHER = 1 << 48
"""What another frame than a SEND counts among those without a receipt, of which there are never so many: both are one
number, so that a frame which has one notes only that."""

_ALWAYS_CONFIRMED = frozenset({"SUBSCRIBE", "UNSUBSCRIBE", "COMMIT", "DISCONNECT"})
"""Commands that are never written without a receipt."""

# A member of an enum takes longer to look up than all else that is done with it.
_AGAIN, _FORGET = OnLoss.AGAIN, OnLoss.FORGET


class _Awaited:
    """`frame` is as it is written where that is the same in every version. `size` is its share of the window in bytes,
    0 if it has none; `blind` what was written without a receipt before it."""

    __slots__ = ("blind", "frame", "future", "on_loss", "size")

    def __init__(
        self, frame: Frame | bytes, future: asyncio.Future[Receipt], on_loss: OnLoss, size: int, blind: int
    ) -> None:
        self.frame = frame
        self.future = future
        self.on_loss = on_loss
        self.size = size
        self.blind = blind

    @property
    def command(self) -> str:
        return "SEND" if isinstance(self.frame, bytes) else self.frame.command


class Unconfirmed:
    """The frames of one client that await a RECEIPT. `window` SENDs and `window_bytes` of them have room; a single
    one has it always. `on_refused` is told of each SEND that the broker refuses: its destination, why, its future."""

    def __init__(
        self,
        window: int,
        window_bytes: int,
        on_refused: Callable[[str, BrokerError, asyncio.Future[Receipt]], None] | None = None,
    ) -> None:
        self._on_refused = on_refused
        self._window = window
        self._window_bytes = window_bytes
        self._frames: dict[str, _Awaited] = {}
        self.last_id = 0
        """That of the frame that was added last."""
        self._sends = 0
        self._bytes = 0
        self._blind = 0
        self._proven = 0
        # Up to which id those that are written again were on this connection (None: all of them), and on any before.
        self._written: int | None = None
        self._written_before = 0
        # To those who have been told that there is room, and have not added their SEND yet.
        self._promised = self._promised_bytes = 0
        self._room: deque[tuple[asyncio.Future[None], int]] = deque()
        self._idle: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def sends(self) -> int:
        """How many SENDs there are among them."""
        return self._sends

    @property
    def unknown(self) -> int:
        """How many SENDs without a receipt were written after the last frame that the broker has confirmed."""
        return (self._blind - self._proven) % _OTHER

    def add(self, frame: Frame, future: asyncio.Future[Receipt], on_loss: OnLoss, size: int = 0) -> None:
        """Give `frame` a `receipt` header and remember it; `size` is its share of the window in bytes, 0 if it has
        none. `future` gets the Receipt, BrokerError, or what its `on_loss` brings."""
        self.last_id += 1
        id = str(self.last_id)
        frame.headers.append(("receipt", id))
        self._remember(id, _Awaited(frame, future, on_loss, size, self._blind))

    def add_send(self, head: bytes, body: bytes, key: bytes | None, future: asyncio.Future[Receipt]) -> bytes:
        """A SEND that is written again when its connection is lost: returns it as it is written, in every version.

        `head` is its headers, each with its LF, without any that is escaped. `key` begins its `idempotency-key`, None
        for none.
        """
        self.last_id = number = self.last_id + 1
        size = len(body)
        if key is None:
            data = b"SEND\n%breceipt:%d\ncontent-length:%d\n\n%b\0" % (head, number, size, body)
        else:
            data = b"SEND\n%breceipt:%d\nidempotency-key:%b%d\ncontent-length:%d\n\n%b\0" % (
                head, number, key, number, size, body
            )  # fmt: skip
        self._remember(str(number), _Awaited(data, future, _AGAIN, size + SEND_BYTES, self._blind))
        return data

    def _remember(self, id: str, awaited: _Awaited) -> None:
        self._frames[id] = awaited
        if awaited.size:
            self._sends += 1
            self._bytes += awaited.size

    def add_blind(self) -> None:
        """A SEND without a receipt is written, outside of any transaction."""
        self._blind += 1

    def add_unnamed(self) -> None:
        """Another frame without a receipt is written, of which nobody asks what became of it: the ERROR to it cannot
        say so. The plain ACKs of `Subscription.acknowledge` are not counted, see `refuse`."""
        self._blind += _OTHER

    @property
    def has_room(self) -> bool:
        """Whether there is room for another SEND."""
        taken = self._sends + self._promised
        return taken < self._window and (self._bytes + self._promised_bytes < self._window_bytes or not taken)

    @property
    def is_open(self) -> bool:
        """Whether there is room, and nobody waits for it."""
        return not self._room and self.has_room

    async def room(self, size: int) -> None:
        """Return when a SEND of `size` may be added, which then has to be done at once. Those who wait come in their
        order."""
        if self.is_open:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append((waiter, size))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with suppress(ValueError):
                    self._room.remove((waiter, size))
            else:
                # It was this one's turn: the next one's now.
                self._promise(-1, size)
                self._give_room()
            raise
        self._promise(-1, size)

    def _promise(self, count: int, size: int) -> None:
        self._promised += count
        self._promised_bytes += count * size

    def _give_room(self) -> None:
        while self._room and self.has_room:
            self._give_place()

    def _give_place(self) -> None:
        waiter, size = self._room.popleft()
        # One that is cancelled may not have noticed it yet.
        if not waiter.done():
            self._promise(1, size)
            waiter.set_result(None)

    async def idle(self) -> None:
        """Wait until there may be no SEND; look again then."""
        await _wait_in(self._idle)

    def confirm(self, frame: Frame) -> bool:
        """A RECEIPT has come. One that nothing waits for is ignored. Returns whether it is of more than what each
        connection begins with."""
        awaited = self._take(frame.get("receipt-id") or "")
        if awaited is None:
            return False
        if awaited.blind > self._proven:
            self._proven = awaited.blind
        if not awaited.future.done():
            awaited.future.set_result(Receipt(frame))
        return awaited.on_loss is not _FORGET

    def refuse(self, receipt_id: str | None, error: BrokerError, *, acks: bool = False) -> bool:
        """The broker has refused this frame; without an id the only one that it can be, since it is written, it is what
        the `frame` of the ERROR says, and nothing is written that has no receipt. Of the latter, `acks` says whether
        there may be ACKs that were not counted. A COMMIT behind all that it can be has failed with it. Returns whether
        there is nothing left to find out."""
        if receipt_id is None:
            return self._refuse_unnamed(error, acks)
        awaited = self._take(receipt_id)
        if awaited is not None and not awaited.future.done():
            _fail(awaited, error)
            if awaited.size and self._on_refused is not None:
                self._on_refused(_frame_of(awaited).get("destination") or "", error, awaited.future)
        return awaited is not None

    def _refuse_unnamed(self, error: BrokerError, acks: bool) -> bool:
        command = error.frame.get("frame")
        may_be = [id for id in self._on_this_connection() if command in (None, self._frames[id].command)]
        acks = acks and command in (None, "ACK")
        if len(may_be) == 1 and (command in _ALWAYS_CONFIRMED or (self._blind == self._proven and not acks)):
            return self.refuse(may_be[0], error)
        if command is None or not (may_be or self._blind != self._proven):
            return False
        # A broker that says the command is one that closes after its ERROR, and has looked at nothing behind the frame.
        in_vain = [
            id
            for id in self._on_this_connection()
            if self._frames[id].command == "COMMIT"
            and all(int(other) <= int(id) for other in may_be)
            and (command in _ALWAYS_CONFIRMED or (self._frames[id].blind == self._blind and not acks))
        ]
        for id in in_vain:
            self.refuse(id, error)
        return bool(in_vain) and not may_be

    def _on_this_connection(self) -> list[str]:
        """Ids of the frames that may be answered."""
        upto = self.last_id if self._written is None else self._written
        return [id for id, each in self._frames.items() if each.on_loss is not OnLoss.AGAIN or int(id) <= upto]

    def _take(self, id: str) -> _Awaited | None:
        awaited = self._frames.pop(id, None)
        if awaited is not None and awaited.size:
            self._sends -= 1
            self._bytes -= awaited.size
            if self._room:
                self._give_room()
            if self._idle and not self._sends:
                _wake(self._idle)
        return awaited

    def lost(self, error: ClientError) -> None:
        """The connection is gone, for `error`: what is not written again is settled one way or the other."""
        for id, awaited in list(self._frames.items()):
            if awaited.on_loss is OnLoss.AGAIN or isinstance(awaited.frame, bytes):
                continue
            self._take(id)
            if awaited.future.done():
                continue
            if awaited.on_loss is OnLoss.FORGET:
                awaited.future.cancel()
            elif awaited.on_loss is OnLoss.UNKNOWN:
                awaited.future.set_exception(OutcomeUnknown(awaited.frame, error))
            else:
                _fail(awaited, error)
        self._proven = self._blind
        self._written_before = self._ever_written
        self._written = 0

    @property
    def _ever_written(self) -> int:
        """Up to which id SENDs were written, on whatever connection."""
        return self.last_id if self._written is None else max(self._written, self._written_before)

    def again(self) -> list[Frame | bytes]:
        """What is to be written on a new connection, in its order; bytes as they are. From now on it counts as
        written, and so does what is added."""
        self._written = None
        return [awaited.frame for awaited in self._frames.values() if awaited.on_loss is OnLoss.AGAIN]

    def next_again(self, up_to: int) -> tuple[int, Frame | bytes] | None:
        """The first of what `again` would give, with its id, unless that is over `up_to`. None that comes after it
        counts as written."""
        for text, awaited in self._frames.items():
            if awaited.on_loss is OnLoss.AGAIN:
                id = int(text)
                if id > up_to:
                    return None
                self._written = id
                return id, awaited.frame
        return None

    def awaits(self, id: int) -> bool:
        """Whether the frame with that id has no RECEIPT yet."""
        return str(id) in self._frames

    def end(self, error: ClientError) -> None:
        """There will be no other connection: all that is left fails with `error`, if that is a failure. A refusal is
        that of another frame: what was written may be stored."""
        written = self._ever_written
        for id, awaited in self._frames.items():
            if awaited.future.done():
                continue
            if awaited.on_loss is OnLoss.AGAIN and isinstance(error, BrokerError) and int(id) <= written:
                awaited.future.set_exception(OutcomeUnknown(_frame_of(awaited), error))
            else:
                _fail(awaited, error)
            if isinstance(error, ClientClosed) and awaited.on_loss is not OnLoss.DONE:
                # Whoever closed it knows: asyncio need not report each that nobody waits for.
                awaited.future.exception()
        self._frames.clear()
        self._sends = self._bytes = 0
        while self._room:
            self._give_place()
        _wake(self._idle)


def _frame_of(awaited: _Awaited) -> Frame:
    frame = awaited.frame
    return next(iter(Decoder(Version.V1_2, GENEROUS).feed(frame))) if isinstance(frame, bytes) else frame


def _fail(awaited: _Awaited, error: ClientError) -> None:
    if awaited.on_loss is OnLoss.DONE:
        awaited.future.set_result(Receipt(Frame("RECEIPT")))
    else:
        awaited.future.set_exception(error)


async def _wait_in(line: list[asyncio.Future[None]]) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    line.append(waiter)
    await waiter


def _wake(line: list[asyncio.Future[None]]) -> None:
    for waiter in line:
        if not waiter.done():
            waiter.set_result(None)
    line.clear()
