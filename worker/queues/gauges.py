"""How much is in the queues of a worker and on its way to those of others, for statistics that are asked for all the
time: one look at no more than `SCAN` queues, however many there are."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from worker.queues.links import Link
from worker.queues.owned import OwnedQueue
from worker.queues.owner import Owner
from worker.store.interface import Store

__all__ = ["DEEPEST", "SCAN", "Gauges"]

SCAN = 2000
"""Queues that one look takes in, 1 ms; with more of them the totals are as old as it takes to go round."""
DEEPEST = 100
"""Queues whose depth is told by name."""


class Depth(NamedTuple):
    messages: int
    unsettled: int
    consumers: int
    name: str


class _Round:
    """Going through all queues there were at its beginning."""

    def __init__(self, queues: Iterable[OwnedQueue]) -> None:
        self._queues = iter(list(queues))
        self.messages = self.bytes = self.unsettled = self.consumers = 0
        self.deepest: list[Depth] = []

    def go_on(self, count: int) -> bool:
        """Look at so many more; False when all were looked at."""
        deepest = self.deepest
        for _ in range(count):
            owned = next(self._queues, None)
            if owned is None:
                return False
            queue = owned.queue
            messages = queue.messages
            self.messages += messages
            self.bytes += queue.bytes
            self.unsettled += queue.unsettled
            self.consumers += len(queue.consumers)
            if messages and (len(deepest) < DEEPEST or messages > deepest[0].messages):
                depth = Depth(messages, queue.unsettled, len(queue.consumers), owned.name.decode(errors="replace"))
                if len(deepest) < DEEPEST:
                    heapq.heappush(deepest, depth)
                else:
                    heapq.heapreplace(deepest, depth)
        return True


class Gauges:
    def __init__(self, owner: Owner, links: Iterable[Link], store: Store) -> None:
        self._owner = owner
        self._links = links
        self._store = store
        self._last = self._round = _Round(())

    def read(self) -> dict[str, int]:
        """Counters since the start of this worker, and gauges."""
        self._look()
        found = self._last
        store = self._store.stats()
        failing = self._store.failing
        return {
            "queues": len(self._owner.registry),
            "queue_messages": found.messages,
            "queue_bytes": found.bytes,
            "queue_unsettled": found.unsettled,
            "queue_consumers": found.consumers,
            "retained_messages": len(self._owner.retention),
            "retained_bytes": self._owner.retention.bytes,
            "dead_lettered": self._owner.departures.dead_lettered,
            "unconfirmed_bytes": sum(map(attrgetter("unconfirmed_bytes"), self._links)),
            "store_commits": store.get("commits", 0),
            "store_failures": store.get("failures", 0),
            "store_bytes": store.get("bytes", 0),
            "store_pending_bytes": self._store.pending_bytes,
            "store_failing": int(failing is not None),
            "store_full": int(failing is not None and failing.full),
        }

    def deepest(self) -> list[Depth]:
        """Those that hold the most, the deepest first; as of the last `read`s."""
        return sorted(self._last.deepest, reverse=True)

    def _look(self) -> None:
        if self._round is self._last:
            self._round = _Round(self._owner.registry)
        if not self._round.go_on(SCAN):
            self._last = self._round
