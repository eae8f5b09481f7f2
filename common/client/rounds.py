"""Getting a connection: rounds over the addresses of a client, and the waits between them.

Knows what became of the connections it made only as far as it is told: whether they were worth anything.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ssl import SSLContext

from common.client.address import Address
from common.client.backoff import Backoff
from common.client.errors import ClientError, ConnectFailed
from common.client.events import ClientEvent, ConnectFailing
from common.client.session import Session, SessionEvents
from common.frame import Frame

__all__ = ["Rounds", "Settings"]


@dataclass(slots=True)
class Settings:
    """How to connect. `heart_beat` in milliseconds, times in seconds."""

    addresses: tuple[Address, ...]
    # It may hold a passcode.
    connect: Frame = field(repr=False)
    heart_beat: tuple[int, int]
    ssl: SSLContext | None
    connect_timeout: float
    backoff: Backoff | None
    on_event: Callable[[ClientEvent], None] | None


class Rounds:
    """Those of one client, whose sessions tell `events` what happens to them; `tell` is told of rounds that fail."""

    def __init__(self, settings: Settings, events: SessionEvents, tell: Callable[[ClientEvent], None]) -> None:
        self._settings = settings
        self._events = events
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._next_address = 0
        # Sessions in a row that led to nothing, and the seconds without one before and between them.
        self._barren = 0
        self._without = 0.0
        self._lost_at = self._loop.time()

    def lost(self, *, fruitful: bool) -> None:
        """The session is over; whether it led to anything."""
        self._lost_at = self._loop.time()
        if fruitful:
            self._barren = 0
            self._without = 0.0
        else:
            self._barren += 1

    async def reach(self, loss: ConnectFailed | None = None) -> Session:
        """Rounds over the addresses until one answers, after `loss`. Raises ConnectFailed if it gives up."""
        backoff = self._settings.backoff or Backoff()
        failures = self._barren
        if failures == 1:
            # However long it takes: who gives up has tried.
            await asyncio.sleep(backoff.wait(failures, random.random))
        elif failures and loss is not None:
            await asyncio.sleep(self._wait(backoff, failures, loss))
        while True:
            try:
                session = await self.one()
                self._without += self._loop.time() - self._lost_at
                return session
            except ConnectFailed as error:
                failures += 1
                wait = self._wait(backoff, failures, error)
                self._tell(ConnectFailing(error, failures, wait))
                await asyncio.sleep(wait)

    def _wait(self, backoff: Backoff, failures: int, error: ConnectFailed) -> float:
        """Seconds until the next attempt. Raises `error` if that is too late."""
        wait = backoff.wait(failures, random.random)
        tried = self._without + self._loop.time() + wait - self._lost_at
        if backoff.give_up_after is not None and tried > backoff.give_up_after:
            raise error
        return wait

    async def one(self) -> Session:
        """One attempt at each address, beginning with the one after the last that was used. Raises ConnectFailed."""
        settings = self._settings
        count = len(settings.addresses)
        attempts: list[tuple[Address, Exception]] = []
        for index in range(self._next_address, self._next_address + count):
            address = settings.addresses[index % count]
            try:
                session = await Session.open(
                    address,
                    settings.connect,
                    settings.heart_beat,
                    self._events,
                    ssl=settings.ssl,
                    within=settings.connect_timeout,
                )
            except ClientError as error:
                attempts.append((address, error))
            else:
                self._next_address = (index + 1) % count
                return session
        raise ConnectFailed(attempts)
