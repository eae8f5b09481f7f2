"""A transaction: what takes effect together, on the connection it began on."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from common.client import frames
from common.client.bodies import Body
from common.client.errors import ClientError, TransactionLost
from common.client.heads import SendOptions, send_frame
from common.client.receipt import Receipt
from common.client.unconfirmed import OnLoss

if TYPE_CHECKING:
    from common.client.link import Link
    from common.client.message import Message, NackOptions
    from common.client.session import Session

__all__ = ["Transaction"]


class Transaction:
    """Made by `Client.transaction`; an asynchronous context manager. `receipt` is that of its COMMIT.

        async with client.transaction() as transaction:
            await transaction.send("/queue/invoices", invoice)
            await order.ack(transaction=transaction)

    COMMIT raises BrokerError if the broker refuses it, or anything in it meanwhile, TransactionLost if the connection
    was gone before (then nothing happened), and OutcomeUnknown if it was lost afterwards. It is not sent again: an ACK
    in it would mean another message, or none. The calls inside raise TransactionLost as soon as it is known.
    """

    def __init__(self, link: Link, name: str) -> None:
        self.name = name
        self.receipt: Receipt | None = None
        self._link = link
        self._session: Session | None = None
        self._over = False
        self._undo: list[Callable[[], None]] = []

    async def begin(self) -> None:
        """BEGIN, on the current connection."""
        if self._session is not None:
            raise ClientError("this transaction was begun before; make another")
        self._session = await self._link.connected()
        self._link.write_unnamed(self._session, frames.begin(self.name))

    async def send(self, destination: str, body: Body = b"", **options: Unpack[SendOptions]) -> None:
        """SEND as a part of it, see `Client.send`."""
        session = self.session
        frame = send_frame(destination, body, **options)
        frame.headers.append(("transaction", self.name))
        self._link.write_unnamed(session, frame)
        await self._link.pace()
        await self._link.drained(session)

    async def ack(self, message: Message) -> None:
        """`message.ack` as a part of it."""
        await message.ack(transaction=self)

    async def nack(self, message: Message, **options: Unpack[NackOptions]) -> None:
        """`message.nack` as a part of it."""
        await message.nack(transaction=self, **options)

    async def commit(self) -> Receipt:
        """COMMIT, and wait for its RECEIPT."""
        session = self.session
        self._over = True
        try:
            self.receipt = await self._link.request(session, frames.commit(self.name), OnLoss.UNKNOWN)
        except ClientError:
            self._unsettle()
            raise
        return self.receipt

    async def abort(self) -> None:
        """ABORT: nothing of it happens, and what was acknowledged in it is not."""
        if not self._over:
            self._over = True
            self._unsettle()
            if self._session is not None and self._session.loss is None:
                self._link.write_unnamed(self._session, frames.abort(self.name))

    @property
    def session(self) -> Session:
        """The connection it is on. Raises TransactionLost if that is gone, ClientError if it is not open."""
        if self._session is None or self._over:
            raise ClientError(f"the transaction {self.name} is not open")
        if self._session.loss is not None:
            raise TransactionLost(f"the transaction {self.name} was undone: {self._session.loss}")
        return self._session

    def on_undone(self, undo: Callable[[], None]) -> None:
        """Call `undo` if it does not take effect."""
        self._undo.append(undo)

    def _unsettle(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            await self.abort()
        elif not self._over:
            await self.commit()
