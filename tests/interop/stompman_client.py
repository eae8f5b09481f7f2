"""stompman with a memory: its client, the frames its connection read, and messages that can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import stompman
from stompman.connection import Connection

from tests.harness.wire import TIMEOUT

__all__ = ["StompMan", "stompman_on"]


class StompMan:
    """One client. `frames` is all that was read, over all of its connections."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        heartbeat: stompman.Heartbeat | None = None,
        **options: Any,
    ) -> None:
        self.frames: list[stompman.AnyServerFrame] = []
        self.messages: list[Any] = []
        self.errors: list[stompman.ErrorFrame] = []
        self.changed = asyncio.Condition()
        memory = self

        class Remembering(Connection):
            async def read_frames(self) -> AsyncGenerator[stompman.AnyServerFrame, None]:
                async for frame in super().read_frames():
                    memory.frames.append(frame)
                    await memory.wake()
                    yield frame

        self.client = stompman.Client(
            [stompman.ConnectionParameters(*address, "guest", "guest")],
            heartbeat=heartbeat or stompman.Heartbeat(0, 0),
            on_error_frame=self.errors.append,
            connection_class=Remembering,
            # What a test does next relies on what that RECEIPT says.
            disconnect_confirmation_timeout=int(TIMEOUT),
            **options,
        )

    async def wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def read(self, kind: type[Any]) -> list[Any]:
        """The frames of that kind."""
        return [frame for frame in self.frames if isinstance(frame, kind)]

    @property
    def slot(self) -> int:
        """The worker of the newest connection."""
        return int(self.read(stompman.ConnectedFrame)[-1].headers["session"].split("-")[0])

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT), self.changed:
            await self.changed.wait_for(holds)

    async def take(self, message: Any) -> None:
        """A handler that keeps the message, in the order of arrival."""
        self.messages.append(message)
        await self.wake()

    async def received(self, count: int) -> list[bytes]:
        """The bodies of all messages, once there are `count`."""
        await self.until(lambda: len(self.messages) >= count)
        return [message.body for message in self.messages]

    async def subscribe(self, destination: str, ack: Any = "auto", handler: Any = None) -> Any:
        """SUBSCRIBE with the client's own acknowledging, and wait for the RECEIPT."""
        return await self.client.subscribe(
            destination,
            handler or self.take,
            ack=ack,
            on_suppressed_exception=lambda *_: None,
            receipt_timeout=TIMEOUT,
        )

    async def send(self, body: bytes, destination: str, **options: Any) -> None:
        """SEND, and wait for the RECEIPT."""
        await self.client.send(body, destination, receipt_timeout=TIMEOUT, **options)


@asynccontextmanager
async def stompman_on(address: tuple[str, int], slot: int | None = None, **options: Any) -> AsyncIterator[StompMan]:
    """A client on the worker of that slot (any, if None): the kernel chooses, so try until it does right."""
    for _ in range(500):
        man = StompMan(address, **options)
        async with man.client:
            if slot is None or man.slot == slot:
                yield man
                return
    raise AssertionError(f"500 connections, and none was given to worker {slot}")
