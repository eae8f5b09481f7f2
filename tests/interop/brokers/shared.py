"""What these tests share: running one, names of its own, reading messages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from common.client import Client, Message, Subscription

__all__ = ["DISK", "Told", "bodies", "fill", "queue", "running", "take", "topic"]

DISK = {"persistent": "true"}
"""What the two need to be told to keep a message on disk."""

TIMEOUT = 60.0


def running(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main`; fails if it takes too long, leaves a task behind, or if something raised where nobody heard it."""
    faults: list[dict[str, Any]] = []

    async def timed() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with asyncio.timeout(TIMEOUT):
            await main()
        # What ends in this turn of the loop is let end.
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    asyncio.run(timed())
    assert not faults


def queue() -> str:
    """A queue nobody else has."""
    return f"/queue/interop.{secrets.token_hex(6)}"


def topic() -> str:
    """A topic nobody else has."""
    return f"/topic/interop.{secrets.token_hex(6)}"


async def fill(client: Client, destination: str, count: int) -> None:
    """Send `count` messages with their numbers as bodies."""
    for receipt in [await client.post(destination, b"%d" % number, headers=DISK) for number in range(count)]:
        await receipt


async def take(subscription: Subscription, count: int) -> list[Message]:
    """The next `count` messages."""
    return [await anext(subscription) for _ in range(count)]


async def bodies(client: Client, destination: str, count: int) -> list[bytes]:
    """Of the next `count` messages, which are taken from the queue, and of what came with them."""
    async with client.subscribe(destination, ack="client-individual", prefetch=count) as subscription:
        found = await take(subscription, count)
        for message in found:
            await message.ack(receipt=True)
    return [message.body for message in found]


class Told:
    """The events of a client; `until` waits for the next of a kind."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._changed = asyncio.Event()
        self._seen = 0

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, kind: type[Any]) -> Any:
        """The next event of that kind, after the one returned last."""
        while True:
            while self._seen < len(self.events):
                self._seen += 1
                if isinstance(self.events[self._seen - 1], kind):
                    return self.events[self._seen - 1]
            self._changed.clear()
            await self._changed.wait()
