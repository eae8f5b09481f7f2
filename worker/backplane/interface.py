"""What the router needs from a backplane. Names no transport: a second implementation replaces only its
neighbour file.

Promises every implementation keeps (one contract suite runs over all of them):

* batches of one destination reach every interested sibling in the order they were published, none dropped;
* when `barrier` calls back, every live sibling routes by each `subscribe` and `unsubscribe` made before the
  call;
* a full link never loses a batch: it is kept, and goes with those after it as soon as there is room. When more is
  kept for a destination than a bound, or for all together more than a total, `on_blocked(destination)` is called once
  (in the second case for each destination that something is kept for), and `on_unblocked(destination)` once all that
  was kept for it has gone. Both bounds are in bytes, and so is what a link holds: however large a batch, a link takes
  no more than it would of small ones. Reading from siblings never stops;
* callbacks come from the event loop, never from within a call into the backplane, and none after `close`; calls after
  it do nothing.

Destinations and prefixes hold no NUL, as no STOMP header does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from worker.traits import Traits

__all__ = ["Backplane", "BackplaneEvents", "Batch", "Member"]


class Batch:
    """Messages of one destination, encoded once for all subscribers.

    `id_prefix` starts the message-id of each; an item is everything after it: the rest of the id, LF, the
    remaining header lines, the blank line, the body and NUL. `items` serves every STOMP version, unless
    `by_version` is given: then those are the items for 1.0, 1.1 and 1.2, of the same length as `items`
    (which is `by_version[2]`). `traits` are those of the items that have some, by their place, and `keys` the
    idempotency keys, as 1.2 writes them; both stay on the worker that the messages came to.
    """

    __slots__ = ("by_version", "id_prefix", "items", "keys", "traits")

    def __init__(
        self,
        id_prefix: bytes,
        items: list[bytes],
        by_version: tuple[list[bytes], list[bytes], list[bytes]] | None = None,
    ) -> None:
        self.id_prefix = id_prefix
        self.items = items
        self.by_version = by_version
        self.traits: dict[int, Traits] | None = None
        self.keys: dict[int, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A live worker: its slot, which life of the slot it is, and where its backplane listens."""

    slot: int
    incarnation: int
    endpoint: str


class BackplaneEvents(Protocol):
    """What a backplane calls on its owner, always from the event loop, never from within a call into it."""

    def on_batch(self, destination: bytes, batch: Batch) -> None:
        """A sibling published `batch` to a destination (or a prefix of one) subscribed to here."""

    def on_round_end(self) -> None:
        """What siblings had to say in this loop turn has been handed over, for now: a time to write it out."""

    def on_message(self, slot: int, message: Any) -> None:
        """A sibling sent `message` (any msgpack value) with `send` or `broadcast`."""

    def on_blocked(self, destination: bytes) -> None:
        """Too much waits for a full link; stop reading from the clients that publish to `destination`."""

    def on_unblocked(self, destination: bytes) -> None:
        """What was kept for `destination` has gone."""

    def on_sibling_lost(self, slot: int, incarnation: int) -> None:
        """A sibling left the roster. No message of it comes any more; batches it had sent before may."""


class Backplane(Protocol):
    def bind(self) -> str:
        """Listen; returns the endpoint for the roster. Raises OSError with a clear text when it cannot."""

    def set_roster(self, members: Sequence[Member]) -> None:
        """Every live worker, this one included: connect to those that are new, let go of those that are
        gone."""

    def when_joined(self, done: Callable[[], None]) -> None:
        """Call `done` once every sibling of the roster routes to and from this worker: in a next turn if
        there is none, and not before the first roster."""

    def interested(self, destination: bytes) -> bool:
        """Whether any sibling wants what is published to `destination`."""

    def publish(self, destination: bytes, batch: Batch) -> None:
        """Send `batch` to every interested sibling; sent with the others of this loop turn. It is encoded
        before the call returns, so its lists may be used again."""

    def subscribe(self, destination: bytes) -> None:
        """Want the batches of exactly this destination. Counted: each call is undone by one `unsubscribe`."""

    def unsubscribe(self, destination: bytes) -> None: ...

    def subscribe_prefix(self, prefix: bytes) -> None:
        """Want the batches of every destination that starts with `prefix`. Counted like `subscribe`; a
        batch that both an exact and a prefix subscription match comes once."""

    def unsubscribe_prefix(self, prefix: bytes) -> None: ...

    def barrier(self, done: Callable[[], None]) -> None:
        """Call `done` once every live sibling routes by all that was subscribed and unsubscribed before
        this call. Calls of one loop turn share one round trip; with no sibling `done` is called in the next
        turn."""

    def send(self, slot: int, message: Any) -> None:
        """Send any msgpack value to one sibling, in order with what was sent to it before. To a slot that is
        not on the roster nothing is sent: `on_sibling_lost` has told so."""

    def broadcast(self, message: Any) -> None:
        """Send any msgpack value to every sibling, to each in order with what `send` sends it."""

    def kept_bytes(self) -> int:
        """Bytes that were published or sent and wait here, because a link is full."""

    def finish(self, done: Callable[[], None]) -> None:
        """Nothing more will be published: call `done` when every sibling has read all of it, and has said the
        same of its own. A sibling that leaves is not waited for."""

    def close(self) -> None:
        """Let go of everything at once, sent or not; `finish` first when nothing may be lost."""
