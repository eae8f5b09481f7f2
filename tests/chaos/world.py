"""What the clients of one run share: the history they write, the broker's address, and when to stop."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from tests.chaos.history import Closed, Delivered, Event, History, Receipted, Refused, Sent
from tests.chaos.session import Frame, Lost, Session, frame

__all__ = ["QUEUE", "World", "body", "parse"]

QUEUE = "/queue/chaos."

_PATIENCE = 60.0
"""Seconds a client tries to connect: a broker that is not there for so long does not come back."""


def body(id: str, size: int) -> str:
    """A body that tells which message it is, and whether it is all there."""
    return f"{id} {size} " + "x" * size


def parse(text: str) -> str:
    """The id in a `body`; AssertionError if the rest is damaged."""
    id, size, rest = text.split(" ", 2)
    assert rest == "x" * int(size), f"a damaged body: {text[:200]!r}"
    return id


@dataclass
class World:
    """`queues` are names without the prefix; `backlog` is how many messages may wait before producers pause."""

    address: tuple[str, int]
    queues: list[str]
    seed: int
    backlog: int = 2000
    history: History = field(default_factory=list)
    is_over: bool = False
    sent: int = 0
    settled: int = 0
    connections: int = 0

    def note(self, event: Event) -> None:
        self.history.append(event)

    def random(self, name: str) -> random.Random:
        """The choices of one actor: the same in every run with the same seed, as far as the broker lets it."""
        return random.Random(f"{self.seed} {name}")

    def name(self, actor: str) -> str:
        """A name for a connection of that actor, used once."""
        self.connections += 1
        return f"{actor}.{self.connections}"

    async def connect(self, on_message: object = None) -> Session:
        """A session, trying until the port answers. Raises Lost when the run is over before that."""
        async with asyncio.timeout(_PATIENCE):
            while not self.is_over:
                try:
                    return await Session.open(self.address, on_message or _unexpected, self.refused)  # type: ignore[arg-type]
                except (Lost, OSError):
                    await asyncio.sleep(0.01)
        raise Lost

    def refused(self, error: Frame) -> None:
        """An ERROR: allowed only as the goodbye of a broker whose front is gone."""
        _, headers, text = error
        if headers.get("error-code") != "shutting-down":
            self.note(Refused(f"{headers} {text}"))

    def send(
        self, session: Session, producer: str, number: int, queue: str, size: int = 0, transaction: str | None = None
    ) -> bytes:
        """A SEND with a receipt (one in a transaction has none), written down."""
        id = f"{producer}.{number}"
        self.note(Sent(id, queue, producer, number, transaction))
        headers = [("destination", QUEUE + queue)]
        if transaction is None:
            headers.append(session.expect(lambda: self.note(Receipted(id))))
        else:
            headers.append(("transaction", transaction))
        self.sent += 1
        return frame("SEND", headers, body(id, size))

    def delivered(self, consumer: str, message: Frame) -> str:
        """Write a MESSAGE down; its id."""
        _, headers, text = message
        id = parse(text)
        self.note(
            Delivered(
                id,
                headers["destination"].removeprefix(QUEUE),
                consumer,
                headers.get("redelivered") == "true",
                int(headers.get("delivery-count", "0")),
                headers["message-id"],
            )
        )
        return id

    def closed(self, consumer: str) -> None:
        self.note(Closed(consumer))


def _unexpected(message: Frame) -> None:
    raise AssertionError(f"a MESSAGE without a subscription: {message}")
