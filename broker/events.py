"""What the program that embeds a broker can follow: the events, and how they wait for their readers."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol, Self

from common.errors import CloseReason

__all__ = [
    "EVENTS_KEPT",
    "BlockingEvents",
    "ClientConnected",
    "ClientDisconnected",
    "Event",
    "Events",
    "EventsLost",
    "Reader",
    "ServerStopped",
    "SubscriptionEnded",
    "SubscriptionStarted",
]

EVENTS_KEPT = 10_000
"""Events that wait for a reader, unless it asks for another number."""


@dataclass(frozen=True, slots=True)
class ClientConnected:
    """CONNECTED was sent. `address` is the client's host and port, `version` the protocol's, `login` what CONNECT said
    and nobody has verified, None if it said nothing."""

    session: str
    address: tuple[str, int]
    version: str
    login: str | None


@dataclass(frozen=True, slots=True)
class ClientDisconnected:
    """The client takes part no more; its subscriptions have ended before. That of a worker that died is
    `CloseReason.CONNECTION_LOST`."""

    session: str
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class SubscriptionStarted:
    """The subscription is in effect, as its RECEIPT says or would say: whatever is sent from now on reaches it. `id` is
    None for STOMP 1.0 without one, `destination` is as the client wrote it, `ack` is `auto`, `client` or
    `client-individual`."""

    session: str
    id: str | None
    destination: str
    ack: str


@dataclass(frozen=True, slots=True)
class SubscriptionEnded:
    """By UNSUBSCRIBE or with its connection."""

    session: str
    id: str | None
    destination: str


@dataclass(frozen=True, slots=True)
class ServerStopped:
    """Every process is gone; the last event. `code` is the exit code of `stampede serve`: 0 in good order."""

    code: int


Event = ClientConnected | ClientDisconnected | SubscriptionStarted | SubscriptionEnded | ServerStopped


class EventsLost(Exception):
    """The reader was too slow: `missed` events that came at this place are lost to it. It may read on."""

    def __init__(self, missed: int) -> None:
        super().__init__(f"{missed} events came while as many as are kept were waiting to be read, and are lost")
        self.missed = missed


class Reader(Protocol):
    """Who is told of events."""

    def add(self, event: Event) -> None: ...


class _Buffer:
    """At most `kept` events, and how many came beyond. The end is never lost."""

    def __init__(self, kept: int) -> None:
        if kept < 1:
            raise ValueError(f"a reader of events keeps at least 1, not {kept}")
        self._kept = kept
        self._events: deque[Event] = deque()
        self._missed = 0
        self._end: ServerStopped | None = None
        self.is_over = False

    def add(self, event: Event) -> None:
        if isinstance(event, ServerStopped):
            self._end = event
        elif self._missed or len(self._events) >= self._kept:
            # Once one is missing, so are all until the reader was told: what it gets has one gap and no holes.
            self._missed += 1
        else:
            self._events.append(event)

    def take(self) -> Event | None:
        """The next, None if there is none yet. Raises `EventsLost`."""
        if self._events:
            return self._events.popleft()
        if self._missed:
            missed, self._missed = self._missed, 0
            raise EventsLost(missed)
        end, self._end = self._end, None
        self.is_over = end is not None
        return end


class Events:
    """An asynchronous iterator over the events since it was made, up to and including `ServerStopped`.

    Reading may raise `EventsLost`, and can go on after it. For one task at a time.
    """

    def __init__(self, kept: int = EVENTS_KEPT) -> None:
        self._buffer = _Buffer(kept)
        self._news = asyncio.Event()

    def add(self, event: Event) -> None:
        """An event happened; to be called from the event loop."""
        self._buffer.add(event)
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._buffer.is_over:
            event = self._buffer.take()
            if event is not None:
                return event
            self._news.clear()
            await self._news.wait()
        raise StopAsyncIteration


class BlockingEvents:
    """The same for a program without an event loop: reading waits `timeout` seconds at most (None: for ever), and then
    raises `TimeoutError`."""

    def __init__(self, kept: int = EVENTS_KEPT, timeout: float | None = None) -> None:
        self._buffer = _Buffer(kept)
        self._timeout = timeout
        self._changed = threading.Condition()

    def add(self, event: Event) -> None:
        """An event happened; to be called from any thread."""
        with self._changed:
            self._buffer.add(event)
            self._changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        with self._changed:
            while not self._buffer.is_over:
                event = self._buffer.take()
                if event is not None:
                    return event
                if not self._changed.wait(self._timeout):
                    raise TimeoutError(f"no event within {self._timeout:g} s")
        raise StopIteration
