"""What `stampede send` does once its arguments are understood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from broker.commands.output import write_error
from broker.shell.printing import Output, ReaderGone, render
from broker.shell.running import CommandFailed, Notices, one_line
from common.client import Client, ClientClosed, ClientError, Receipt
from common.exitcodes import ExitCode

__all__ = ["Sending", "request", "send"]


@dataclass(frozen=True, slots=True)
class Sending:
    """What is the same for all messages. `patience` is how many seconds the broker may take, None for any number;
    `unit` is what a message is called by its number, empty if there is only one."""

    destination: str
    headers: list[tuple[str, str]]
    content_type: str | None
    idempotency_key: str | None
    receipt: bool
    patience: float | None
    unit: str


async def send(client: Client, sending: Sending, bodies: AsyncIterator[bytes], notices: Notices) -> int:
    """Connect, send all `bodies` in their order, and leave in order. Returns the exit code, raises CommandFailed."""
    posts = _Posts(client, sending, notices)
    try:
        async with client:
            await posts.run(bodies)
            notices.leaving = True
    except ClientClosed:
        await asyncio.sleep(0)
        if not notices.unknown:
            raise
    finally:
        if sending.unit:
            write_error(posts.summary())
    # The client tells of its connection in a turn of the loop of its own.
    await asyncio.sleep(0)
    if notices.unknown:
        lost = f"up to {_messages(notices.unknown)} may be lost"
        raise CommandFailed(f"of what was sent without a receipt, {lost}: {notices.why}")
    return ExitCode.OK


class _Posts:
    """The messages of one command: how many were sent and confirmed, and the first that failed, which ends them all.

    Those behind it are under way already. Nothing says what became of them, so they are not waited for: a broker that
    keeps to STOMP closes the connection after its ERROR, and has not looked at them.
    """

    def __init__(self, client: Client, sending: Sending, notices: Notices) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._sending = sending
        self._notices = notices
        self._sent = self._confirmed = self._unrouted = 0
        self._awaited: dict[int, asyncio.Future[Receipt]] = {}
        self._idle: asyncio.Future[None] | None = None
        self._failed: tuple[int, BaseException] | None = None
        self._deadline = asyncio.timeout(None)
        self._over = False

    async def run(self, bodies: AsyncIterator[bytes]) -> None:
        """Send them, and wait until all are confirmed. Raises CommandFailed, ClientError."""
        patience = self._sending.patience
        try:
            async with self._deadline:
                if self._sending.receipt:
                    await self._post_all(bodies)
                else:
                    await self._send_all(bodies)
        except TimeoutError:
            if self._failed is None:
                raise CommandFailed(f"no answer from the broker within {patience:g} s", ExitCode.TIMED_OUT) from None
            number, error = self._failed
            if isinstance(error, ClientError) and self._sending.unit:
                raise CommandFailed(f"{self._sending.unit} {number}: {one_line(error)}") from None
            raise error from None
        finally:
            self._over = True
            for future in self._awaited.values():
                future.cancel()

    async def _send_all(self, bodies: AsyncIterator[bytes]) -> None:
        async for body in bodies:
            self._wait_from_now(True)
            await self._client.send(
                self._sending.destination,
                body,
                receipt=False,
                headers=self._sending.headers,
                content_type=self._sending.content_type,
                idempotency_key=self._sending.idempotency_key,
            )
            self._wait_from_now(False)
            self._sent += 1

    async def _post_all(self, bodies: AsyncIterator[bytes]) -> None:
        async for body in bodies:
            future = await self._client.post(
                self._sending.destination,
                body,
                headers=self._sending.headers,
                content_type=self._sending.content_type,
                idempotency_key=self._sending.idempotency_key,
            )
            self._sent = number = self._sent + 1
            if not self._awaited:
                self._wait_from_now(True)
            self._awaited[number] = future
            future.add_done_callback(partial(self._settled, number))
        while self._awaited:
            self._idle = self._loop.create_future()
            await self._idle

    def _settled(self, number: int, future: asyncio.Future[Receipt]) -> None:
        error = None if future.cancelled() else future.exception()
        if self._over or future.cancelled():
            return
        del self._awaited[number]
        if error is not None:
            self._fail(number, error)
            return
        self._confirmed += 1
        self._note(future.result())
        self._wait_from_now(bool(self._awaited))
        if not self._awaited and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _fail(self, number: int, error: BaseException) -> None:
        if self._failed is None:
            self._failed = number, error
            if not self._deadline.expired():
                self._deadline.reschedule(self._loop.time())

    def _wait_from_now(self, waiting: bool) -> None:
        """The broker has answered, or begins to be waited for; or nothing is `waiting` for it."""
        if self._failed is None and not self._deadline.expired():
            patience = self._sending.patience
            self._deadline.reschedule(self._loop.time() + patience if waiting and patience is not None else None)

    def _note(self, receipt: Receipt) -> None:
        self._unrouted += receipt.routed == 0
        if not self._sending.unit:
            if receipt.routed == 0:
                write_error(f"{self._sending.destination}: nobody was there to take it")
            self._notices.tell(f"confirmed: message-id {receipt.message_id}, routed {receipt.routed}")

    def summary(self) -> str:
        """What became of the messages, in one line."""
        if not self._sending.receipt:
            return f"{_messages(self._sent)} sent, without receipts"
        text = f"{_messages(self._confirmed)} confirmed"
        if self._unrouted:
            text += f", {self._unrouted} of them routed to nobody"
        if self._sent > self._confirmed:
            text += f", {self._sent - self._confirmed} more sent and not confirmed"
        return text


async def request(client: Client, sending: Sending, body: bytes, form: str, notices: Notices) -> int:
    """Connect, send `body`, write the reply to standard output in the format `form`, and leave in order. Returns the
    exit code, raises CommandFailed."""
    async with client:
        try:
            reply = await client.request(
                sending.destination,
                body,
                timeout=sending.patience,
                headers=sending.headers,
                content_type=sending.content_type,
            )
        except TimeoutError:
            raise CommandFailed(f"no reply within {sending.patience:g} s", ExitCode.TIMED_OUT) from None
        try:
            with Output(1, stepwise=False) as output:
                await output.write(render(reply, form, terminal=output.is_terminal))
        except ReaderGone:
            return ExitCode.OK
        finally:
            notices.leaving = True
    return ExitCode.OK


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
