"""What the tests of the client share: clients of a broker, queues of a test's own, and reading them."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from common.client import Client, Message
from tests.harness.broker import Broker
from tests.harness.wire import TIMEOUT

__all__ = ["on", "queue", "received", "url_of"]


def url_of(broker: Broker, listener: int = 0) -> str:
    """Where its listener is."""
    host, port = broker.addresses[listener]
    return f"stomp://{host}:{port}"


def on(broker: Broker, **options: Any) -> Client:
    """A client of `broker`, not connected yet."""
    return Client(url_of(broker), **options)


def queue() -> str:
    """A queue nobody else has."""
    return f"/queue/client.{secrets.token_hex(6)}"


async def received(client: Client, destination: str, count: int) -> list[Message]:
    """The first `count` messages, taken from the queue."""
    async with client.subscribe(destination, ack="client-individual", prefetch=count) as subscription:
        async with asyncio.timeout(TIMEOUT):
            messages = [await anext(subscription) for _ in range(count)]
        for message in messages:
            await message.ack()
    return messages
