"""What `stampede subscribe` does once its arguments are understood."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from broker.shell.printing import Output, ReaderGone, render
from broker.shell.running import CommandFailed, Notices
from common.client import Client, Message, StaleDelivery, Subscription
from common.exitcodes import ExitCode

__all__ = ["Receiving", "receive"]

_LEAVING = 5.0
"""Seconds that UNSUBSCRIBE may take."""


@dataclass(frozen=True, slots=True)
class Receiving:
    """What to receive: `count` messages, None for all that come; `patience` is how many seconds there may be none,
    None for any number; `options` are those of `Client.subscribe`."""

    destination: str
    ack: str
    count: int | None
    form: str
    patience: float | None
    options: dict[str, Any]


async def receive(client: Client, receiving: Receiving, notices: Notices) -> int:
    """Connect, subscribe, write messages until the end that is asked for, and leave in order. Returns the exit code,
    raises CommandFailed."""
    async with client:
        try:
            return await _subscribe(client, receiving, notices)
        except BaseException:
            # Left in order whatever happens, which the client does of itself only after success.
            await client.close()
            raise


async def _subscribe(client: Client, receiving: Receiving, notices: Notices) -> int:
    subscription = client.subscribe(receiving.destination, ack=receiving.ack, **receiving.options)
    await subscription.start()
    notices.tell(f"subscribed to {receiving.destination} with ack:{receiving.ack}")
    try:
        return await _Reader(subscription, receiving).run()
    except ReaderGone:
        return ExitCode.OK
    finally:
        notices.leaving = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVING):
                await subscription.stop()


class _Reader:
    """Takes messages from a subscription to standard output, and acknowledges each one that got there."""

    def __init__(self, subscription: Subscription, receiving: Receiving) -> None:
        self._subscription = subscription
        self._receiving = receiving
        self._acknowledges = receiving.ack != "auto"
        self._output = Output(1, stepwise=self._acknowledges, on_gone=self._reader_gone)
        self._waiting: asyncio.Timeout | None = None

    async def run(self) -> int:
        """Returns the exit code. Raises ReaderGone, CommandFailed, ClientError."""
        receiving, output, written = self._receiving, self._output, 0
        with output:
            while receiving.count is None or written < receiving.count:
                message = await self._next()
                if message is None:
                    break
                await output.write(render(message, receiving.form, terminal=output.is_terminal))
                if self._acknowledges:
                    await self._acknowledge(message)
                written += 1
        if receiving.count is not None and written < receiving.count:
            raise CommandFailed(f"{written} of {receiving.count} messages came", ExitCode.TIMED_OUT)
        return ExitCode.OK

    async def _acknowledge(self, message: Message) -> None:
        try:
            await self._output.taken()
        except asyncio.CancelledError:
            # The signal may be here sooner than the news that all has been read.
            if self._output.is_taken:
                await self._ack(message)
            raise
        await self._ack(message)

    async def _ack(self, message: Message) -> None:
        # If the connection it came on is gone, the message comes again.
        with suppress(StaleDelivery):
            await message.ack()

    async def _next(self) -> Message | None:
        """The next message, None if there is none for too long or no more at all. Raises ReaderGone."""
        if self._output.gone:
            raise ReaderGone
        try:
            async with asyncio.timeout(self._receiving.patience) as self._waiting:
                return await anext(self._subscription, None)
        except TimeoutError:
            if self._output.gone:
                raise ReaderGone from None
            return None
        finally:
            self._waiting = None

    def _reader_gone(self) -> None:
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())
