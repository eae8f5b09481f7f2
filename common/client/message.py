"""A message as its consumer gets it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from common.client.bodies import Body, decode_text, header_list
from common.client.errors import ClientError
from common.frame import Frame

if TYPE_CHECKING:
    from common.client.receipt import Receipt
    from common.client.session import Session
    from common.client.subscription import Subscription
    from common.client.transaction import Transaction

__all__ = ["Content", "Message", "NackOptions"]


class NackOptions(TypedDict, total=False):
    """What a NACK may ask for, see `Message.nack`."""

    delay: float | None
    requeue: bool
    reason: str | None


class Content:
    """What a MESSAGE frame says. `body` is its bytes, `text` and `json()` read it; `get` reads a header."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.destination}, {len(self.body)} bytes>"

    @property
    def body(self) -> bytes:
        """The body as it came."""
        return self.frame.body

    @property
    def text(self) -> str:
        """The body in the charset of its content type, UTF-8 without one. Raises ValueError if it is not that."""
        return decode_text(self.frame.body, self.content_type)

    def json(self) -> Any:
        """The body read as JSON, whatever its content type is. Raises ValueError if it is none."""
        return json.loads(self.frame.body)

    def get(self, name: str) -> str | None:
        """The value of a header, the first if it is repeated, or None."""
        return self.frame.get(name)

    @property
    def headers(self) -> dict[str, str]:
        """All headers; of one that is repeated the first (1.2 section Repeated Header Entries)."""
        found: dict[str, str] = {}
        for name, value in self.frame.headers:
            found.setdefault(name, value)
        return found

    @property
    def id(self) -> str:
        """`message-id`."""
        return self.frame.get("message-id") or ""

    @property
    def destination(self) -> str:
        """Where it was sent to."""
        return self.frame.get("destination") or ""

    @property
    def content_type(self) -> str | None:
        """`content-type`, None without one."""
        return self.frame.get("content-type")

    @property
    def reply_to(self) -> str | None:
        """Where an answer is wanted, None if none is."""
        return self.frame.get("reply-to")

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        return self.frame.get("redelivered") == "true"

    @property
    def delivery_count(self) -> int:
        """How often it was delivered, this time included, as far as the broker says so."""
        text = self.frame.get("delivery-count")
        return int(text) if text is not None and text.isdecimal() else 1 + self.redelivered


class Message(Content):
    """A message and the subscription it came by; `number` counts those, `session` is the connection it came on.

    With `ack:client` or `client-individual` one of `ack` and `nack` settles it, on that connection.
    """

    __slots__ = ("number", "session", "settled_alone", "subscription")

    def __init__(self, frame: Frame, subscription: Subscription, session: Session, number: int, settled: bool) -> None:
        self.frame = frame
        self.subscription = subscription
        self.session = session
        self.number = number
        self.settled_alone = settled

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to acknowledge."""
        return self.settled_alone or self.number <= self.subscription.settled_up_to

    @property
    def is_current(self) -> bool:
        """Whether the connection it came on is still there. If not, a message that was not settled comes again."""
        return self.session.loss is None

    @overload
    async def ack(self, *, transaction: Transaction | None = None, receipt: Literal[False] = False) -> None: ...
    @overload
    async def ack(self, *, transaction: Transaction | None = None, receipt: Literal[True]) -> Receipt: ...
    @overload
    async def ack(self, *, transaction: Transaction | None = None, receipt: bool) -> Receipt | None: ...
    async def ack(self, *, transaction: Transaction | None = None, receipt: bool = False) -> Receipt | None:
        """It is done with; with `ack:client` all that came before it on its subscription, too. With `receipt` wait
        until the broker has taken that to its disk.

        Raises StaleDelivery if the connection it came on is gone, AlreadySettled, and with `receipt` BrokerError and
        OutcomeUnknown.
        """
        if transaction is None and not receipt and self.subscription.acknowledge(self):
            return None
        return await self.subscription.settle(self, "ACK", [], transaction, receipt)

    @overload
    async def nack(
        self,
        *,
        transaction: Transaction | None = None,
        receipt: Literal[False] = False,
        **options: Unpack[NackOptions],
    ) -> None: ...
    @overload
    async def nack(
        self, *, transaction: Transaction | None = None, receipt: Literal[True], **options: Unpack[NackOptions]
    ) -> Receipt: ...
    @overload
    async def nack(
        self, *, transaction: Transaction | None = None, receipt: bool, **options: Unpack[NackOptions]
    ) -> Receipt | None: ...
    async def nack(
        self,
        *,
        delay: float | None = None,
        requeue: bool = True,
        reason: str | None = None,
        transaction: Transaction | None = None,
        receipt: bool = False,
    ) -> Receipt | None:
        """It failed: the broker delivers it again, after `delay` seconds if given, or makes it a dead letter without
        `requeue`, with its `reason`. Those three are Stampede's. Raises as `ack` does."""
        headers: list[tuple[str, str]] = []
        if delay is not None:
            headers.append(("delay", str(round(delay * 1000))))
        if not requeue:
            headers.append(("requeue", "false"))
        if reason is not None:
            headers.append(("reason", reason))
        return await self.subscription.settle(self, "NACK", headers, transaction, receipt)

    async def reply(self, body: Body = b"", **options: Any) -> Receipt | None:
        """Send `body` to `reply_to`, with the `correlation-id` that came; `options` as in `Client.send`.

        Raises ClientError if no answer is wanted.
        """
        if self.reply_to is None:
            raise ClientError(f"{self!r} has no reply-to")
        headers = header_list(options.pop("headers", ()))
        correlation_id = self.get("correlation-id")
        if correlation_id is not None:
            headers.append(("correlation-id", correlation_id))
        receipt: bool = options.pop("receipt", True)
        return await self.subscription.client.send(self.reply_to, body, receipt=receipt, headers=headers, **options)
