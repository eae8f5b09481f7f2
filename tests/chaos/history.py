"""What the clients of a broker saw, in the one order in which they saw it: the only thing the checker judges by.

A client writes down that it sends before it does, and that something came when it has read it. A message is known by
an id of the test's own, since the broker's message-id is one of the things to be judged.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Acknowledged",
    "AcknowledgementReceipted",
    "Calm",
    "Closed",
    "CommitReceipted",
    "Committed",
    "Delivered",
    "Event",
    "History",
    "Killed",
    "Receipted",
    "Recovered",
    "Refused",
    "Returned",
    "Sent",
]


@dataclass(frozen=True, slots=True)
class Sent:
    """A SEND is about to be written. `producer` is one connection; its `number`s rise. `transaction`, if it is in one,
    is unique in the history."""

    id: str
    queue: str
    producer: str
    number: int
    transaction: str | None = None


@dataclass(frozen=True, slots=True)
class Receipted:
    """The RECEIPT of a SEND has come."""

    id: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A MESSAGE was read. `consumer` is one subscription of one connection. `count` is its `delivery-count`, 0 if it
    has none."""

    id: str
    queue: str
    consumer: str
    redelivered: bool
    count: int
    message_id: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An ACK is about to be written; `ids` is all that it settles (a cumulative one: many)."""

    ids: tuple[str, ...]
    transaction: str | None = None


@dataclass(frozen=True, slots=True)
class AcknowledgementReceipted:
    """The RECEIPT of the ACK of these has come."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """A COMMIT is about to be written."""

    transaction: str


@dataclass(frozen=True, slots=True)
class CommitReceipted:
    """The RECEIPT of a COMMIT has come."""

    transaction: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A NACK of these is about to be written."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """A subscription is about to be ended by its client, or was seen to have ended: what it holds may go to others."""

    consumer: str


@dataclass(frozen=True, slots=True)
class Killed:
    """A process is about to be killed. Until as many `Recovered` as `Killed` have come, anything may be redelivered."""

    what: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """The successor of what was killed is there."""

    what: str


@dataclass(frozen=True, slots=True)
class Calm:
    """From here on no client sends, and every COMMIT that was to have an effect has had it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker sent an ERROR that nobody had asked for."""

    text: str


Event = (
    Sent
    | Receipted
    | Delivered
    | Acknowledged
    | AcknowledgementReceipted
    | Committed
    | CommitReceipted
    | Returned
    | Closed
    | Killed
    | Recovered
    | Calm
    | Refused
)

History = list[Event]
