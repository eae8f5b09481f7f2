"""Request and reply over a temporary queue: one queue per client, made by its first request."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from common.client.errors import ClientClosed, ClientError, OutcomeUnknown
from common.client.message import Message
from common.client.receipt import Receipt
from common.client.subscription import Subscription
from common.client.unconfirmed import OnLoss
from common.frame import Frame

if TYPE_CHECKING:
    from common.client.client import Client
    from common.client.link import Link
    from common.client.session import Session

__all__ = ["Requests"]

_REPLIES = "/temp-queue/replies"
"""Every connection has its own by this name."""


class Requests:
    """Those of one client that wait for their reply."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = secrets.token_hex(4)
        self._last = 0
        self._waiting: dict[str, tuple[Frame, asyncio.Future[Receipt], asyncio.Future[Message]]] = {}
        self._replies: asyncio.Task[_Replies] | None = None

    async def request(self, link: Link, frame: Frame, within: float | None) -> Message:
        """Send `frame` with `reply-to` and `correlation-id`; see `Client.request`."""
        self._last += 1
        id = f"{self._prefix}-{self._last}"
        frame.headers += [("reply-to", _REPLIES), ("correlation-id", id)]
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        awaited = "queue of replies"
        try:
            async with asyncio.timeout(within) as limit:
                await self._listen(link)
                session = await link.connected()
                sent = link.request(session, frame, OnLoss.UNKNOWN)
                self._waiting[id] = frame, sent, reply
                link.replies_awaited += 1
                try:
                    awaited = "RECEIPT"
                    await sent
                    awaited = "reply"
                    return await reply
                finally:
                    link.replies_awaited -= 1
                    del self._waiting[id]
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(
                f"no {awaited} within {within:g} s for a request to {frame.get('destination')}"
            ) from None

    async def _listen(self, link: Link) -> None:
        if self._replies is None:
            self._replies = asyncio.ensure_future(self._subscribe(link))
            # All who asked may have given up by the time it fails.
            self._replies.add_done_callback(_hear)
        # Shared by those who ask at the same time, so none of them may cancel it.
        await asyncio.shield(self._replies)

    async def _subscribe(self, link: Link) -> _Replies:
        replies = _Replies(self, self._client, link)
        await replies.start()
        return replies

    def take(self, message: Message) -> None:
        """A message has come to the queue of replies. One that nobody waits for is dropped."""
        waiting = self._waiting.get(message.get("correlation-id") or "")
        if waiting is not None and not waiting[2].done():
            waiting[2].set_result(message)

    def lost(self, error: ClientError) -> None:
        """The queue of replies is gone, and what was in it."""
        for frame, sent, reply in self._waiting.values():
            # What was not confirmed is told by its own future.
            if sent.done() and not sent.cancelled() and sent.exception() is None and not reply.done():
                reply.set_exception(OutcomeUnknown(frame, error))

    def ended(self, error: ClientError) -> None:
        """The queue of replies is not made again; whoever asks next makes another."""
        self._replies = None
        self.lost(error)


def _hear(task: asyncio.Task[_Replies]) -> None:
    if not task.cancelled():
        task.exception()


class _Replies(Subscription):
    """The queue of replies, whose messages go to those who wait for them and to no buffer."""

    def __init__(self, requests: Requests, client: Client, link: Link) -> None:
        # RabbitMQ makes the subscription by itself, with this id.
        super().__init__(client, link, _REPLIES, _REPLIES, "auto", [], None, False)
        self._requests = requests

    def subscribe(self, session: Session) -> None:
        if session.is_rabbitmq:
            self.made(Receipt(Frame("RECEIPT")))
        else:
            super().subscribe(session)

    def take(self, session: Session, frame: Frame) -> None:
        self._requests.take(Message(frame, self, session, 0, True))

    def lost(self, error: ClientError) -> None:
        self._requests.lost(error)

    def end(self, error: ClientError | None) -> None:
        super().end(error)
        self._requests.ended(error or ClientClosed())
