"""Whose turn it is: the consumers of a queue that have credit, in the order in which they are served."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from common.selector import Selector
from worker.queues.consumer import Consumer

__all__ = ["Turns"]


class Turns:
    """A ring for each selector of the consumers that may be served: all, or the first exclusive one alone.

    A ring may hold consumers whose credit is used up; they are left out when they come to its head, and come back with
    `enlist`.
    """

    __slots__ = ("_served", "exclusive", "members", "rings")

    def __init__(self) -> None:
        self.rings: dict[Selector | None, deque[Consumer]] = {}
        self.members: dict[Selector | None, int] = {}
        self.exclusive: Consumer | None = None
        self._served = 0

    @property
    def selecting(self) -> bool:
        return bool(self.rings) and (len(self.rings) > 1 or None not in self.rings)

    def enter(self, consumer: Consumer) -> None:
        """It may be served from now on."""
        selector = consumer.selector
        consumer.eligible = True
        self.members[selector] = self.members.get(selector, 0) + 1
        self.rings.setdefault(selector, deque())
        self.enlist(consumer)

    def leave(self, consumer: Consumer) -> None:
        if not consumer.eligible:
            return
        selector = consumer.selector
        consumer.eligible = False
        if consumer.listed:
            consumer.listed = False
            self.rings[selector].remove(consumer)
        self.members[selector] -= 1
        if not self.members[selector]:
            del self.members[selector], self.rings[selector]

    def elect(self, consumers: Iterable[Consumer]) -> None:
        """The first exclusive one of `consumers` is to be served alone, without one all of them."""
        everyone = list(consumers)
        self.exclusive = next((consumer for consumer in everyone if consumer.exclusive), None)
        for consumer in everyone:
            chosen = self.exclusive is None or consumer is self.exclusive
            if chosen and not consumer.eligible:
                self.enter(consumer)
            elif not chosen:
                self.leave(consumer)

    def enlist(self, consumer: Consumer) -> None:
        """It may have credit now."""
        if consumer.credit > 0 and not consumer.listed and consumer.eligible:
            consumer.listed = True
            consumer.turn = self._served = self._served + 1
            self.rings[consumer.selector].append(consumer)

    def take(self, count: int) -> list[Consumer]:
        """Where nobody has a selector: out of the ring, at most so many with credit. See `put_back`."""
        ring = self.rings.get(None)
        found: list[Consumer] = []
        while ring and len(found) < count:
            consumer = ring.popleft()
            if consumer.credit > 0:
                found.append(consumer)
            else:
                consumer.listed = False
        return found

    def put_back(self, consumers: list[Consumer]) -> None:
        if consumers:
            self.rings[None].extend(consumers)

    def next(self, selectors: Iterable[Selector | None], barred: Collection[Consumer]) -> Consumer | None:
        """The one with credit whose turn it is, of those with one of `selectors` that are not `barred`."""
        best: Consumer | None = None
        for selector in selectors:
            first = self._first(self.rings.get(selector), barred)
            if first is not None and (best is None or first.turn < best.turn):
                best = first
        return best

    @staticmethod
    def _first(ring: deque[Consumer] | None, barred: Collection[Consumer]) -> Consumer | None:
        while ring:
            first = ring[0]
            if first.credit <= 0:
                first.listed = False
                ring.popleft()
            elif barred and first in barred:
                return next((each for each in ring if each not in barred and each.credit > 0), None)
            else:
                return first
        return None

    def served(self, consumer: Consumer) -> None:
        """It is behind all others now."""
        ring = self.rings[consumer.selector]
        if ring[0] is consumer:
            ring.rotate(-1)
        else:
            ring.remove(consumer)
            ring.append(consumer)
        consumer.turn = self._served = self._served + 1
