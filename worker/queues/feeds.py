"""Which queues take copies of what is sent to topics: durable and shared subscriptions, as every worker knows them."""

from __future__ import annotations

from typing import NamedTuple

from common.destination import PatternTrie
from common.selector import Selector
from common.temporary import TEMPORARY

__all__ = ["DURABLE", "FED", "SHARED", "Feed", "Feeds"]

DURABLE = b"/durable/"
SHARED = b"/shared/"
FED = (DURABLE, SHARED)
"""What the names of queues that are fed by topics start with. They are no destinations: clients cannot send to them."""

_MAX_FOUND = 65536
"""Destinations whose feeds are remembered; beyond, all are forgotten and found again as they come."""


class Feed(NamedTuple):
    """What is sent to `pattern`, and matches `selector` unless that is empty, goes to `queue`. Only `shared` ones have
    more than one consumer at a time; those not `durable` end with their last consumer."""

    queue: bytes
    pattern: bytes
    selector: str
    shared: bool
    durable: bool


class Feeds:
    def __init__(self) -> None:
        self._feeds: dict[bytes, tuple[int, Feed, Selector | None]] = {}
        self._patterns: PatternTrie[bytes] = PatternTrie()
        self._found: dict[bytes, list[tuple[bytes, Selector | None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def __contains__(self, queue: bytes) -> bool:
        """Whether there is a feed of that queue."""
        return queue in self._feeds

    def add(self, slot: int, feed: Feed) -> None:
        """`feed` has its queue at the owner in `slot`."""
        self.remove(feed.queue)
        self._feeds[feed.queue] = slot, feed, Selector.parse(feed.selector) if feed.selector else None
        self._patterns.add(feed.pattern, feed.queue)

    def remove(self, queue: bytes) -> None:
        known = self._feeds.pop(queue, None)
        if known is not None:
            self._patterns.remove(known[1].pattern, queue)
        self._found.clear()

    def replace(self, slot: int, feeds: list[Feed]) -> None:
        """The owner in `slot` is in a new life, and has these."""
        for queue in [queue for queue, known in self._feeds.items() if known[0] == slot]:
            self.remove(queue)
        for feed in feeds:
            self.add(slot, feed)

    def of(self, slot: int) -> list[Feed]:
        return [feed for owner, feed, _ in self._feeds.values() if owner == slot]

    def find(self, destination: bytes) -> list[tuple[bytes, Selector | None]]:
        """The queues that take copies of what is sent to `destination`, and of which of it."""
        found = self._found.get(destination)
        if found is None:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            # What is temporary is its connection's alone.
            queues = [] if destination.startswith(TEMPORARY) else self._patterns.match(destination)
            found = self._found[destination] = [(queue, self._feeds[queue][2]) for queue in queues]
        return found
