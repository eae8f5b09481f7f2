"""The messages of the control channel between the front and a worker, and their framing.

Each message is one msgpack array `[name, field, ...]` on a stream socket, read with `ControlDecoder`. Both ends are
ours and of the same version; a message that does not fit is a bug or a foreign writer and raises `ControlError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any, ClassVar

import msgpack

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Answer",
    "Bound",
    "CannotStart",
    "Configure",
    "ControlDecoder",
    "ControlError",
    "Drain",
    "Drained",
    "Happened",
    "Message",
    "NameSession",
    "Ping",
    "Pong",
    "Query",
    "Ready",
    "Roster",
    "SessionNamed",
    "Start",
    "encode",
]

MAX_MESSAGE_BYTES = 4 << 20


class ControlError(Exception):
    """A control message that is malformed, unknown or over `MAX_MESSAGE_BYTES`."""


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all control messages; a subclass is found by its class name."""

    kinds: ClassVar[dict[str, type[Message]]] = {}

    def __init_subclass__(cls) -> None:
        # dataclass(slots=True) makes a second class of the same name; the later one is the one to keep.
        Message.kinds[cls.__name__] = cls


# --- front to worker


@dataclass(frozen=True, slots=True)
class Start(Message):
    """First message to a worker. `listeners` are `[fd, index into config.listener, "host:port"]`; `boot` identifies
    this start of the broker and `incarnation` this life of the slot, so ids made from them never repeat. With `reports`
    the front wants `Happened`, with `names` it is to be asked by `NameSession` at each CONNECT."""

    slot: int
    workers: int
    incarnation: int
    boot: str
    runtime_dir: str
    listeners: list[tuple[int, int, str]]
    config: dict[str, Any]
    reports: bool
    names: bool


@dataclass(frozen=True, slots=True)
class Roster(Message):
    """Every live worker whose backplane is bound, the receiver included: `[slot, incarnation, endpoint]`."""

    members: list[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class Configure(Message):
    """Go by `config` from now on. It differs from the one in `Start` in keys that are hot only."""

    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Answered with `Pong(number)` by the worker's event loop."""

    number: int


@dataclass(frozen=True, slots=True)
class Query(Message):
    """Answered with `Answer(number, ...)` by the worker's event loop; `what` and `arguments` as `worker.inspection`
    has them. Not an order: a worker that is busy or gone may never answer."""

    number: int
    what: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Drain(Message):
    """Stop accepting, deliver what is queued, tell the clients, answer `Drained` and exit within `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class SessionNamed(Message):
    """Answer to `NameSession`: the session id for that connection, None if its CONNECT is to be refused."""

    number: int
    session: str | None


# --- worker to front


@dataclass(frozen=True, slots=True)
class Bound(Message):
    """The worker's backplane socket listens at `endpoint`."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The worker routes for every sibling of its roster and accepts clients."""


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Answer to `Ping`, with the worker's counters."""

    number: int
    stats: dict[str, int]


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """Answer to `Query`; `result` is None where what was asked about does not exist."""

    number: int
    result: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class NameSession(Message):
    """The connection of that `number`, whose own address within the broker is `locator`, sent CONNECT."""

    number: int
    locator: str


@dataclass(frozen=True, slots=True)
class Happened(Message):
    """What clients did, in its order; those of one turn of the loop together. By the number of their connection:

    `["connected", number, session, host, port, version, login]`, `["subscribed", number, subscription, id, destination,
    ack]`, `["unsubscribed", number, subscription]`, `["left", number, reason]`. `subscription` is a number, too; `left`
    ends its subscriptions, and also tells of a connection that was asked a name for and did not live to be connected.
    """

    events: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Drained(Message):
    """All clients are gone; the worker exits next."""


@dataclass(frozen=True, slots=True)
class CannotStart(Message):
    """The worker cannot start, and trying again will not help; `message` is one clear line for the operator."""

    message: str


def encode(message: Message) -> bytes:
    """The wire form of `message`."""
    return msgpack.packb([type(message).__name__, *astuple(message)])


class ControlDecoder:
    """Bytes in, messages out."""

    def __init__(self) -> None:
        self._unpacker = msgpack.Unpacker(max_buffer_size=MAX_MESSAGE_BYTES, use_list=True)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield each complete message; raises `ControlError` on one that does not fit."""
        try:
            self._unpacker.feed(data)
            for parts in self._unpacker:
                yield self._build(parts)
        except (ValueError, msgpack.UnpackException) as error:
            raise ControlError(f"undecodable control message: {error}") from error

    @staticmethod
    def _build(parts: object) -> Message:
        if not isinstance(parts, list) or not parts:
            raise ControlError(f"a control message is a non-empty array, not {type(parts).__name__}")
        kind = Message.kinds.get(parts[0]) if isinstance(parts[0], str) else None
        if kind is None:
            raise ControlError(f"unknown control message {parts[0]!r}")
        if len(parts) - 1 != len(fields(kind)):
            raise ControlError(f"{parts[0]} takes {len(fields(kind))} fields, got {len(parts) - 1}")
        return kind(*parts[1:])
