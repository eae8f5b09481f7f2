"""What a subscription does with its messages when it has a function for them: settle each by how that ends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from common.client.errors import ClientError
from common.client.message import Message
from common.negotiation import Version

if TYPE_CHECKING:
    from common.client.subscription import Subscription

__all__ = ["OnMessage", "handle"]

OnMessage = Callable[[Message], Awaitable[object] | object]
"""What takes messages, one at a time: a coroutine function, or a plain one that returns soon."""


async def handle(subscription: Subscription, on_message: OnMessage) -> None:
    """Pass each message to `on_message` until the subscription ends. What goes wrong the loop's exception handler is
    told."""
    try:
        async for message in subscription:
            await _handle_one(on_message, message)
    except ClientError as error:
        _report(subscription, "a subscription has ended", error)


async def _handle_one(on_message: OnMessage, message: Message) -> None:
    try:
        outcome = on_message(message)
        if inspect.isawaitable(outcome):
            await outcome
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Something that on_message waited for was cancelled, not on_message.
        _report(message.subscription, f"on_message failed for {message!r}", error)
        await _settle(message, failed=True)
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises means: not done
        _report(message.subscription, f"on_message failed for {message!r}", error)
        await _settle(message, failed=True)
    else:
        await _settle(message, failed=False)


async def _settle(message: Message, *, failed: bool) -> None:
    if message.settled or message.subscription.ended or not message.is_current:
        # Settled by on_message itself, or delivered again.
        return
    if failed and message.session.version is not Version.V1_0:
        await message.nack()
    elif failed:
        # 1.0 has no NACK: it stays unsettled, and comes again when the subscription ends.
        return
    else:
        await message.ack()


def _report(subscription: Subscription, what: str, error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": what, "exception": error, "subscription": subscription}
    )
