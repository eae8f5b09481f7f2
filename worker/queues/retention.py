"""The last messages of topics, those that this worker is the owner of: in which order they came, what the store knows,
and how many there may be.

A message takes the place of the one before once it is stored, in the order in which that was asked for; then, and
not before, every worker is told (`worker.retained`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from common.log import Event, EventLog
from worker.queues.letters import Operation
from worker.queues.message import Message
from worker.queues.work import Work
from worker.settings import QueueSettings
from worker.store.interface import Retain

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["News", "Retention", "expiry", "slices"]

News = list[tuple[bytes, bytes | None]]
"""Destinations, each with the frame of its last message from the id on in 1.2 form, None for none any more."""

_SLICE_BYTES = 256 << 10
_QUIET = 10_000
"""Milliseconds between two lines about messages that had to go."""


class Retention:
    """`changed` is called with a destination and its last message, None for none any more."""

    def __init__(self, owner: Owner, settings: QueueSettings, log: EventLog) -> None:
        self._owner = owner
        self._log = log
        self.changed: Callable[[bytes, bytes | None], None] = lambda destination, frame: None
        # The one that was replaced the longest ago is first.
        self._kept: dict[bytes, bytes] = {}
        self._stored: set[bytes] = set()
        self._under_way: Counter[bytes] = Counter()
        self._evicted = 0
        self._told_at = -_QUIET
        self.bytes = 0
        self.configure(settings)

    def __len__(self) -> int:
        return len(self._kept)

    def configure(self, settings: QueueSettings) -> None:
        self._max_messages = settings.retained_messages
        self._max_bytes = settings.retained_bytes

    def recover(self, retained: Mapping[str, bytes], now: int) -> None:
        """Take up what an earlier life stored; `now` in ms since the epoch."""
        unit = Work(must=True)
        for name, frame in retained.items():
            if 0 < expiry(frame) <= now:
                unit.changes.append(Retain(name, None))
                continue
            destination = name.encode()
            self._stored.add(destination)
            self._put(destination, frame)
        if unit.changes:
            self._owner.write(unit)
        self._make_room()

    def take(self, unit: Work, operation: Operation) -> None:
        """`unit` is to tell the store of a RETAIN; `taken` once that is done."""
        _, destination, frame, persistent = operation
        self._under_way[destination] += 1
        if frame is not None and persistent:
            self._stored.add(destination)
            unit.changes.append(Retain(destination.decode(), frame))
        elif destination in self._stored:
            # What is in memory alone must not have an older one come back in its place.
            self._stored.discard(destination)
            unit.changes.append(Retain(destination.decode(), None))

    def taken(self, operation: Operation, *, stored: bool) -> None:
        """Its unit is stored, or has failed: then all is as before."""
        _, destination, frame, _ = operation
        self._under_way[destination] -= 1
        if not self._under_way[destination]:
            del self._under_way[destination]
        if stored:
            self._put(destination, frame)
            self._make_room()

    def snapshot(self) -> News:
        """All there are."""
        return list(self._kept.items())

    def _put(self, destination: bytes, frame: bytes | None) -> None:
        before = self._kept.pop(destination, None)
        if before is not None:
            self.bytes -= _size(destination, before)
        if frame is not None:
            self._kept[destination] = frame
            self.bytes += _size(destination, frame)
        if frame is not None or before is not None:
            self.changed(destination, frame)

    def _make_room(self) -> None:
        unit = Work(must=True)
        # One that is too large by itself must not drive out all the others first.
        newest = next(reversed(self._kept), None)
        if newest is not None and _size(newest, self._kept[newest]) > self._max_bytes:
            self._evict(unit, newest)
        while self._kept and (len(self._kept) > self._max_messages or self.bytes > self._max_bytes):
            self._evict(unit, next(iter(self._kept)))
        if unit.changes:
            self._owner.write(unit)
        now = self._owner.now()
        if self._evicted and now - self._told_at >= _QUIET:
            self._log.warning(
                Event.RETAINED_EVICTED,
                count=self._evicted,
                kept=len(self._kept),
                bytes=self.bytes,
                why="there is more than retained.max_messages or retained.max_bytes allow",
            )
            self._evicted = 0
            self._told_at = now

    def _evict(self, unit: Work, destination: bytes) -> None:
        self._put(destination, None)
        self._evicted += 1
        # A newer one that is on its way to the store would be gone there when it is the one that counts.
        if destination in self._stored and destination not in self._under_way:
            self._stored.discard(destination)
            unit.changes.append(Retain(destination.decode(), None))


def expiry(frame: bytes) -> int:
    """When the time of a message is up (ms since the epoch), 0 for never."""
    return Message.stored(0, frame, 0).expires


def slices(news: News) -> Iterator[News]:
    """`news` in pieces of about 256 KiB."""
    piece: News = []
    size = 0
    for destination, frame in news:
        piece.append((destination, frame))
        size += _size(destination, frame or b"")
        if size >= _SLICE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _size(destination: bytes, frame: bytes) -> int:
    return len(destination) + len(frame)
