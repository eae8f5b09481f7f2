"""Messages being put together into batches, and their ids."""

from __future__ import annotations

from typing import NamedTuple

from worker.backplane.interface import Batch
from worker.routes import Route

__all__ = ["Assembly", "MessageIds", "Sent"]


class Sent(NamedTuple):
    """A SEND that asked for a RECEIPT: `receipt` as the client's version writes it, `place` in the batch of its
    destination. Without a destination it waits for its COMMIT, and only the frame was taken."""

    receipt: bytes
    destination: bytes = b""
    place: int = 0
    message_id: bytes = b""


class MessageIds:
    """Ids no two messages of this broker share: worker, life, batch, place in the batch."""

    __slots__ = ("_batch", "_prefix")

    def __init__(self, slot: int, boot: str, incarnation: int) -> None:
        self._prefix = b"%d-%b.%x-" % (slot, boot.encode(), incarnation)
        self._batch = 0

    def next_prefix(self) -> bytes:
        self._batch += 1
        return b"%b%x-" % (self._prefix, self._batch)


class Assembly:
    """Messages being put together into one batch per destination, in the order they came."""

    __slots__ = ("batches", "count", "prefix")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.count = 0
        self.batches: dict[bytes, Batch] = {}

    def sent(self, receipt: bytes, destination: bytes) -> Sent:
        """The message that was added last, which asked for `receipt`."""
        place = len(self.batches[destination].items) - 1
        return Sent(receipt, destination, place, b"%b%d" % (self.prefix, self.count - 1))

    def list_for(self, destination: bytes) -> list[bytes] | None:
        """The list that takes the items of `simple` routes to `destination`, or None where versions differ."""
        batch = self.batches.get(destination)
        if batch is None:
            batch = self.batches[destination] = Batch(self.prefix, [])
        return batch.items if batch.by_version is None else None

    def add(self, route: Route, body: bytes) -> None:
        """Add one message of any route; `body` ends with NUL."""
        # A simple route may have no other attributes.
        traits, key = (None, None) if route.simple else (route.traits, route.key)
        batch = self.batches.get(route.destination)
        if batch is None:
            batch = self.batches[route.destination] = Batch(self.prefix, [])
        number = b"%d" % self.count
        self.count += 1
        if route.length < 0:
            # Counted as the specification would have it, for a body that came without.
            size = len(body) - 1
            body = b"content-length:%d\n\n%b" % (size, body) if size else b"\n\0"
        tails = None if route.simple else route.tails
        if traits is not None:
            if batch.traits is None:
                batch.traits = {}
            batch.traits[len(batch.items)] = traits
        if key is not None:
            if batch.keys is None:
                batch.keys = {}
            batch.keys[len(batch.items)] = key
        if tails is not None and batch.by_version is None:
            batch.by_version = (batch.items.copy(), batch.items.copy(), batch.items)
        if batch.by_version is None:
            batch.items.append(number + route.tail + body)
            return
        for version, items in enumerate(batch.by_version):
            items.append(number + (route.tail if tails is None else tails[version]) + body)
