"""What the queues need from a store. Names no database: a second implementation replaces only its neighbour file.

Promises every implementation keeps (one contract suite runs over all of them):

* a `Unit` is stored whole or not at all, in the order of the `write` calls, and its `done` is called once it would
  survive the loss of power, or has failed; the `done`s are called in that order, too, but for those of `must` units
  that have to wait;
* everything that was written while the last commit ran is one commit (group commit), so a unit waits for at most two;
* a unit that fails for want of room or a read error leaves nothing behind, and takes no other unit with it that there
  is room for. One with `must` is kept and tried again, with all `must` units in their order, until it is stored;
  nothing overtakes it: what is written meanwhile is tried after it, or fails. A quota does not hold for it. It fails
  only when the store is closed, or if it never can be stored (a key used twice), which is a bug and logged;
* `write` never raises for the state of the disk;
* callbacks come from the event loop, never from within a call into the store, and none after that of `close`.

Keys are positions in queues, see `worker.queues.message`: sorted by queue, then priority, then arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "Change",
    "Done",
    "DropQueue",
    "Expired",
    "Forget",
    "ForgetTransaction",
    "Mark",
    "Park",
    "PutKeys",
    "PutQueue",
    "PutTransaction",
    "QueueRow",
    "Recovered",
    "Retain",
    "SetCount",
    "SetExpiry",
    "Store",
    "StoreError",
    "Unit",
    "Unpark",
]


class StoreError(Exception):
    """The store could not do what was asked; the text is one clear line for a client or an operator. `full` if there
    is no room on the disk or the configured quota is reached."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


Done = Callable[[StoreError | None], None]

Expired = tuple[int, int]
"""When the time of a message was up (ms since the epoch), and its key."""


# --- changes that are rarer than messages


@dataclass(frozen=True, slots=True)
class PutQueue:
    """Make or replace what is known of a queue. Counters of `number` below `reserved` may have been used;
    `delivered` is the highest key that may have been delivered; `options` is the owner's own (msgpack)."""

    number: int
    name: str
    reserved: int
    delivered: int
    options: bytes = b""


@dataclass(frozen=True, slots=True)
class DropQueue:
    """Forget a queue, with whatever it still holds."""

    number: int


@dataclass(frozen=True, slots=True)
class Mark:
    """All hand-offs of `origin` up to `sequence` are in; its high bits are the owner's own (`worker.queues.marks`)."""

    origin: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing more comes from `origin`."""

    origin: str


@dataclass(frozen=True, slots=True)
class SetCount:
    """Message `key` was delivered `count` times and did not stay. Gone with the message."""

    key: int
    count: int


@dataclass(frozen=True, slots=True)
class SetExpiry:
    """Message `key` expires at `at` (ms since the epoch). Gone with the message."""

    key: int
    at: int


@dataclass(frozen=True, slots=True)
class Park:
    """Keep a message out of its queue until `due` (ms since the epoch). `id` is unique among the parked."""

    id: int
    due: int
    queue: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Unpark:
    id: int


@dataclass(frozen=True, slots=True)
class PutKeys:
    """`destination` has seen the idempotency `keys`, as 1.2 writes them, each with the message of `message_ids` at its
    place, at `at` (ms since the epoch)."""

    destination: str
    keys: list[bytes]
    message_ids: list[bytes]
    at: int


@dataclass(frozen=True, slots=True)
class PutTransaction:
    """A COMMIT that is to be applied to several owners."""

    id: str
    record: bytes


@dataclass(frozen=True, slots=True)
class ForgetTransaction:
    id: str


@dataclass(frozen=True, slots=True)
class Retain:
    """The last message of a destination; None for none any more."""

    destination: str
    frame: bytes | None


Change = (
    PutQueue
    | DropQueue
    | Mark
    | Forget
    | SetCount
    | SetExpiry
    | Park
    | Unpark
    | PutKeys
    | PutTransaction
    | ForgetTransaction
    | Retain
)


@dataclass(slots=True)
class Unit:
    """What is stored whole or not at all.

    `inserts` are pairs of key and frame, keys never used before. `deletes` are keys, which may be unknown. `depths` are
    (queue number, messages more, bytes more), both may be negative: kept with the queue, so that opening counts
    nothing; they may come before the queue's `PutQueue`. Inserts apply before deletes; `changes` come last, in their
    order. What is told of a message that is gone (`SetCount`, `SetExpiry`) is void.
    """

    inserts: list[tuple[int, bytes]] = field(default_factory=list)
    deletes: list[int] = field(default_factory=list)
    depths: list[tuple[int, int, int]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    must: bool = False


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue as it was stored, with what it holds: `messages`, and their `bytes`."""

    number: int
    name: str
    reserved: int
    delivered: int
    options: bytes
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a worker needs to know before it can own anything. Times in ms since the epoch."""

    queues: list[QueueRow]
    marks: dict[str, int]
    transactions: list[PutTransaction]
    """Oldest first."""
    keys: list[PutKeys]
    """Oldest first; of a key that is there twice the later one counts."""
    retained: dict[str, bytes]
    next_parked: int
    """Ids of parked messages from here on were never used."""


class Store(Protocol):
    def open(self) -> Recovered:
        """Raises StoreError with a clear line: no permission, read-only, not a store, damaged, of another version."""

    def write(self, unit: Unit, done: Done | None = None) -> None:
        """Store `unit` with the next commit. It is the store's from here on."""

    def page(
        self, after: int, before: int, count: int, size: int, done: Callable[[list[tuple[int, bytes, int]]], None]
    ) -> None:
        """Read the messages with `after` < key < `before` that are committed, in the order of their keys, at most
        `count` and about `size` bytes: (key, frame, times delivered). A read error is logged and tried again."""

    def fetch(
        self, keys: Sequence[int], done: Callable[[list[tuple[int, bytes, int]]], None], size: int | None = None
    ) -> None:
        """Read those of `keys` that are there, in order; the first of them, of about `size` bytes, if that is given."""

    def expired(self, now: int, limit: int, done: Callable[[list[Expired]], None], after: Expired = (0, 0)) -> None:
        """Messages whose time was up by `now`, in the order of time and key, at most `limit` of those `after` that."""

    def parked(self, now: int, limit: int, size: int, done: Callable[[tuple[list[Park], int]], None]) -> None:
        """The parked messages that are due by `now`, the earliest first, at most `limit` and about `size` bytes; and
        when the first of all others is due, 0 if there is none."""

    def forget_keys(self, before: int) -> None:
        """Idempotency keys older than `before` (ms since the epoch) are not needed any more."""

    @property
    def pending_bytes(self) -> int:
        """What was written and waits for its commit, `must` units included."""

    @property
    def failing(self) -> StoreError | None:
        """Why the last commit failed, None once one succeeds."""

    def stats(self) -> dict[str, int]:
        """Commits, messages inserted and deleted, bytes on disk, microseconds spent in commits: since the start."""

    def close(self, done: Callable[[], None]) -> None:
        """Commit what is pending, call its `done`s, then `done`. What cannot be stored by then fails, `must` or not;
        what is written or asked for later is dropped, and so are questions without an answer yet."""
