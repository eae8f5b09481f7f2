"""A subscription of a client: made again on every connection, and what it has received and nobody has taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from common.client import frames
from common.client.errors import AlreadySettled, BrokerError, ClientError, ConnectionLost, StaleDelivery
from common.client.handler import OnMessage, handle
from common.client.incoming import MESSAGE_BYTES
from common.client.message import Message
from common.client.receipt import Receipt
from common.client.unconfirmed import OnLoss
from common.codec import escape
from common.errors import ErrorCode
from common.frame import Frame, PlainFrame
from common.negotiation import Version

if TYPE_CHECKING:
    from common.client.client import Client
    from common.client.link import Link
    from common.client.session import Session
    from common.client.transaction import Transaction

__all__ = ["Subscription"]

_ACK = b"\nack:"
# A member of an enum takes longer to look up than what else is done for an ACK.
_V1_2 = Version.V1_2


class Subscription:
    """Made by `Client.subscribe`; an asynchronous context manager and iterator of its messages.

    `ack` is its mode, `id` its STOMP id. Several tasks may iterate: each message goes to one of them.
    """

    def __init__(
        self,
        client: Client,
        link: Link,
        destination: str,
        id: str,
        ack: str,
        headers: list[tuple[str, str]],
        on_message: OnMessage | None,
        browse: bool,
    ) -> None:
        self.client = client
        self._link = link
        self._incoming = link.incoming
        self.destination = destination
        self.id = id
        self.ack = ack
        self._is_auto = ack == "auto"
        self.settled_up_to = 0
        self.mark = b"\nsubscription:%b\n" % escape(id, Version.V1_2).encode()
        """How the head of its MESSAGEs mostly begins; escaped, it is no beginning of a `PlainFrame`'s."""
        self._headers = headers
        self._on_message = on_message
        self._browse = browse
        self._buffer: deque[Message] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._received = 0
        self._made: asyncio.Future[Receipt] | None = None
        self._started = False
        self._ended = False
        self._error: ClientError | None = None
        self._over = asyncio.Event()
        self._overran: ClientError | None = None
        self.leaving: asyncio.Future[Receipt] | None = None
        """The future of an UNSUBSCRIBE that was written though it had not ended."""
        self._handler: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Subscription {self.id} to {self.destination}>"

    # --- its life

    async def start(self) -> None:
        """SUBSCRIBE, and wait until the broker has confirmed it. Raises BrokerError, ClientClosed, ConnectFailed."""
        if self._started:
            raise ClientError(f"{self!r} was started before; subscribe again for another")
        self._started = True
        made = self._made = asyncio.get_running_loop().create_future()
        try:
            self._link.subscribe(self)
            await made
        except BaseException as error:
            # Raised here already, so `made` has nobody to tell.
            made.cancel()
            self._leave(error if isinstance(error, ClientError) else None)
            raise
        if self._on_message is not None:
            self._handler = asyncio.create_task(handle(self, self._on_message), name=f"stampede {self!r}")

    async def stop(self) -> None:
        """UNSUBSCRIBE, and wait until the broker has confirmed it. What is not settled goes back to its queue; a
        durable subscription goes on at the broker, see `Client.end_durable`. Messages not taken yet are dropped."""
        if self._handler is not None and self._handler is not asyncio.current_task():
            self._handler.cancel()
            try:
                await asyncio.wait([self._handler])
            except asyncio.CancelledError:
                # Or the broker would go on to send what nobody takes.
                self._leave(None)
                raise
        unsubscribed = self._leave(None)
        # Also if it had ended before: what nobody takes any more would count as held for ever.
        self._drop_buffer()
        if unsubscribed is not None:
            await unsubscribed

    async def wait_ended(self) -> None:
        """Return when it is stopped, or what was browsed is at its end; raises what else ended it. What was received
        with `ack:auto` may still be there to be taken."""
        await self._over.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    def _leave(self, error: ClientError | None) -> asyncio.Future[Receipt] | None:
        if not self._ended:
            self.end(error)
            return self._link.unsubscribe(self)
        return None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def subscribe(self, session: Session) -> None:
        """Write SUBSCRIBE to a new connection."""
        if self._browse and session.is_rabbitmq:
            self._link.forget(self)
            self.end(ClientError(f"RabbitMQ cannot browse {self.destination}: it would take the messages from there"))
            return
        frame = frames.subscribe(self.destination, id=self.id, ack=self.ack, headers=self._headers)
        confirmed: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._link.unconfirmed.add(frame, confirmed, OnLoss.FORGET)
        confirmed.add_done_callback(self._subscribed)
        session.send(frame)

    def _subscribed(self, confirmed: asyncio.Future[Receipt]) -> None:
        if confirmed.cancelled():
            return
        error = confirmed.exception()
        if error is None:
            # What is browsed may have come to its end in the same read.
            self.made(confirmed.result())
        elif isinstance(error, ClientError) and not self._held_by_last_connection(error):
            # Whoever waits in `start` gets it, else whoever iterates.
            self._leave(error)

    def _held_by_last_connection(self, error: ClientError) -> bool:
        """A durable subscription may still have the last connection of this client for its consumer."""
        was_made = self._made is not None and self._made.done()
        return was_made and isinstance(error, BrokerError) and error.code == ErrorCode.SUBSCRIPTION_IN_USE

    def made(self, receipt: Receipt) -> None:
        """The broker has it."""
        if self._made is not None and not self._made.done():
            self._made.set_result(receipt)

    def lost(self, error: ClientError) -> None:
        """The connection is gone. What was received with `ack:auto` is still there; anything else comes again."""
        if self.leaving is not None:
            self._left()
        elif self._browse:
            self._leave(ConnectionLost(f"the browsing of {self.destination} ended early: {error}"))
        elif not self._is_auto:
            self._drop_buffer()

    def overrun(self, unsubscribed: asyncio.Future[Receipt], error: ClientError) -> None:
        """It was made to end by `error`, which is told after all that comes until UNSUBSCRIBE has its RECEIPT: what was
        sent with `ack:auto` is nowhere else any more."""
        self.leaving, self._overran = unsubscribed, error
        unsubscribed.add_done_callback(lambda _: self._left())

    def _left(self) -> None:
        self._link.forget(self)
        self.end(self._overran)

    def end(self, error: ClientError | None) -> None:
        """Nothing comes any more; iterating ends, with `error` if there is one, after what was received."""
        if self._ended:
            return
        self._ended = True
        self._over.set()
        self._error = error
        made = self._made
        if made is not None and not made.done():
            made.set_exception(error or ClientError(f"{self!r} was stopped before it was made"))
        if error is None or not self._is_auto:
            self._drop_buffer()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    @property
    def held(self) -> int:
        """What its messages that nobody has taken cost in bytes."""
        return sum(len(message.frame.body) + MESSAGE_BYTES for message in self._buffer)

    def _drop_buffer(self) -> None:
        incoming = self._incoming
        incoming.held -= self.held
        incoming.look()
        self._buffer.clear()

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._ended

    # --- messages

    def take(self, session: Session, frame: Frame) -> None:
        """A MESSAGE of this subscription has come."""
        if self._browse and frame.get("browser") == "end":
            # What was browsed before is still to be read. The RECEIPT may come later, or not any more.
            self._ended = True
            self._over.set()
            self.made(Receipt(Frame("RECEIPT")))
            self._link.unsubscribe(self)
        else:
            self._received = number = self._received + 1
            self._buffer.append(Message(frame, self, session, number, self._is_auto))
            incoming = self._incoming
            incoming.held += len(frame.body) + MESSAGE_BYTES
            if incoming.held > incoming.most:
                incoming.over()
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._buffer:
            if self._ended:
                self._wake()
                if self._error is not None:
                    raise self._error.with_traceback(None)
                raise StopAsyncIteration
            if not self._started:
                raise ClientError(f"{self!r} is not started: use 'async with', or await start()")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():
                    # It was this one's turn: somebody else's now.
                    self._wake()
                elif waiter in self._waiters:
                    # On a quiet queue nobody else would clear it away.
                    self._waiters.remove(waiter)
                raise
        message = self._buffer.popleft()
        incoming = self._incoming
        incoming.held -= len(message.frame.body) + MESSAGE_BYTES
        if incoming.paused:
            incoming.look()
        return message

    async def get(self, timeout: float | None = None) -> Message:  # noqa: ASYNC109 - as `Client.request` has it
        """The next message. Raises TimeoutError after `timeout` seconds, and what ended the subscription; at its end,
        or that of what was browsed, IndexError."""
        try:
            async with asyncio.timeout(timeout) as limit:
                return await anext(self)
        except StopAsyncIteration:
            raise IndexError(f"{self!r} has no more messages") from None
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"no message from {self.destination} within {timeout:g} s") from None

    @property
    def may_have_acknowledged(self) -> bool:
        """Whether it may have written an ACK by `acknowledge`, which counts none: it takes a good part of its time."""
        return self._received > 0 and not self._is_auto

    def acknowledge(self, message: Message) -> bool:
        """Write the ACK of one of its messages if nothing is particular about it; returns whether that is done."""
        session, frame = message.session, message.frame
        if (
            self.ack != "client-individual"
            or message.settled_alone
            or self._ended
            or session.loss is not None
            or session.congested
            or session.version is not _V1_2
            or type(frame) is not PlainFrame
        ):
            return False
        head = frame.head
        start = head.find(_ACK) + len(_ACK)
        end = head.find(b"\n", start)
        id = head[start:end] if end >= 0 else head[start:]
        if start < len(_ACK) or b":" in id:
            return False
        message.settled_alone = True
        # It goes back as it came: nothing in it is escaped.
        session.write(b"ACK\nid:%b\n\n\0" % id)
        return True

    async def settle(
        self,
        message: Message,
        command: Literal["ACK", "NACK"],
        headers: list[tuple[str, str]],
        transaction: Transaction | None,
        receipt: bool,
    ) -> Receipt | None:
        """ACK or NACK one of its messages, see `Message.ack`."""
        session = message.session
        lost = session.loss is not None
        if message.settled_alone or (message.settled and not lost):
            by = "it is ack:auto" if self._is_auto else "it had an ACK or NACK"
            raise AlreadySettled(f"{command} of {message!r}: {by}")
        if self._ended:
            raise StaleDelivery(f"{command} of {message!r}, whose subscription is over: it was given back")
        if lost or (transaction is not None and transaction.session is not session):
            raise StaleDelivery(
                f"{command} of {message!r}, which came on another connection: it comes again if it was not settled"
            )
        make = frames.ack if command == "ACK" else frames.nack
        name = None if transaction is None else transaction.name
        frame = make(message.frame, version=session.version, transaction=name, headers=headers)
        undo = self._note_settled(message)
        if transaction is not None:
            transaction.on_undone(undo)
        if receipt:
            return await self._link.request(session, frame, OnLoss.UNKNOWN)
        self._link.write_unnamed(session, frame)
        if session.congested:
            await self._link.drained(session)
        return None

    def _note_settled(self, message: Message) -> Callable[[], None]:
        """Returns what takes it back."""
        if self.ack == "client":
            before, self.settled_up_to = self.settled_up_to, message.number

            def undo() -> None:
                # A later ACK took it along.
                if self.settled_up_to == message.number:
                    self.settled_up_to = before
        else:
            message.settled_alone = True

            def undo() -> None:
                message.settled_alone = False

        return undo
