"""Messages whose time is up leave their queues wherever they wait: in the middle of a queue, on disk, or at rest. What
consumers hold stays theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker.queues.message import queue_number
from worker.queues.owned import OwnedQueue
from worker.queues.withdrawal import discard_stored, discard_waiting
from worker.queues.work import Work
from worker.store.interface import Expired, Store

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["Expiry"]

_AT_ONCE = 1000
"""Messages asked for, and taken out, in one go."""
_BYTES_AT_ONCE = 4 << 20
"""Of those that are only on disk: their frames are needed, for the dead letter queue or the books."""

_PATIENCE = 10_000
"""Milliseconds after which a sweep that waits for the disk is begun anew, without the queues that cannot be read."""


class Expiry:
    """The store tells of what it has. What is in memory alone is looked for in the queues that have such messages."""

    def __init__(self, owner: Owner, store: Store) -> None:
        self._owner = owner
        self._store = store
        self._sweeping = False
        self._moved_at = 0
        self._number = 0
        # Queues whose messages are being read.
        self._reading: set[OwnedQueue] = set()
        self._fleeting: set[OwnedQueue] = set()

    def watch(self, owned: OwnedQueue) -> None:
        """There are messages in `owned` that expire, and that the store does not know of."""
        self._fleeting.add(owned)

    def sweep(self, now: int) -> None:
        """Take out all whose time is up by `now`."""
        for owned in [each for each in self._fleeting if each.fleeting <= now]:
            self._sweep_memory(owned, now)
        if not self._sweeping or self._moved_at + _PATIENCE <= now:
            self._sweeping = True
            self._number += 1
            self._ask(now, (0, 0))

    def _ask(self, now: int, after: Expired) -> None:
        self._moved_at = now
        self._store.expired(now, _AT_ONCE, functools.partial(self._found, self._number), after)

    def _sweep_memory(self, owned: OwnedQueue, now: int) -> None:
        if self._owner.registry.by_number(owned.number) is not owned:
            self._fleeting.discard(owned)
            return
        owned.queue.expire(now)
        if owned.queue.expired:
            unit = Work(must=True)
            self._owner.departures.expired(unit, owned)
            self._owner.write(unit)
        left = [each.expires for each in owned.queue.in_memory() if each.expires and not each.persistent]
        # What waits for others to be stored is in no queue yet.
        owned.fleeting = min(left, default=now if owned.pending else 0)
        if not owned.fleeting:
            self._fleeting.discard(owned)

    def _found(self, sweep: int, found: list[Expired]) -> None:
        unit = Work(must=True)
        self._expire(unit, [key for _, key in found])

        def expired() -> None:
            # Not before: what the store still has is found again.
            if sweep != self._number:
                return
            if len(found) == _AT_ONCE:
                self._ask(self._owner.now(), found[-1])
            else:
                self._sweeping = False

        if unit.is_idle:
            expired()
        else:
            self._owner.write(unit, lambda error: expired())
        self._owner.flush()

    def _expire(self, unit: Work, keys: list[int]) -> None:
        """The time of these is up; `unit` tells the store."""
        by_queue: dict[OwnedQueue, list[int]] = {}
        for key in keys:
            owned = self._owner.registry.by_number(queue_number(key))
            if owned is not None and owned not in self._reading and not owned.is_pending(key):
                by_queue.setdefault(owned, []).append(key)
        for owned, each in by_queue.items():
            found = discard_waiting(owned.queue, each)
            if found:
                owned.queue.expired += found
                self._owner.departures.expired(unit, owned)
            missing = set(each).difference([message.key for message in found])
            for consumer in owned.queue.consumers.values():
                missing.difference_update(consumer.unsettled)
            if missing and (owned.queue.spilled or owned.queue.away):
                unit.awaited.append(functools.partial(self._expire_stored, owned, sorted(missing)))

    def _expire_stored(self, owned: OwnedQueue, keys: list[int], then: Callable[[], None]) -> None:
        """The same for what is only on disk, a portion after the other."""

        def fetched(rows: list[tuple[int, bytes, int]]) -> None:
            self._reading.discard(owned)
            if not rows or self._owner.registry.by_number(owned.number) is not owned:
                then()
                return
            unit = Work(must=True)
            owned.queue.expired += discard_stored(owned.queue, [owned.stored(*row) for row in rows])
            self._owner.departures.expired(unit, owned)
            later = [key for key in keys if key > rows[-1][0]]
            if later:
                unit.awaited.append(functools.partial(self._expire_stored, owned, later))
            self._owner.write(unit, lambda error: then())

        self._reading.add(owned)
        self._store.fetch(keys, fetched, _BYTES_AT_ONCE)
