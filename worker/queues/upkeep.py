"""What happens in queues by time alone: messages that become due, expire, or rested long enough; queues that nobody
uses; idempotency keys that nobody will repeat."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker.queues.owned import OwnedQueue
from worker.store.interface import Park, Store, Unit, Unpark

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["Upkeep"]

_SWEEP = 1000
"""Milliseconds between looks for what expired or idles."""
_AT_ONCE = 1000
"""Delayed messages taken from the store in one go."""
_BYTES_AT_ONCE = 4 << 20
"""And about how many bytes of them: each is written again, to its queue."""


class Upkeep:
    """Calls `wake_at` with when (ms since the epoch) `wake` is to be called."""

    def __init__(self, owner: Owner, store: Store, wake_at: Callable[[int], None]) -> None:
        self._owner = owner
        self._store = store
        self._wake_at = wake_at
        self._resting: list[tuple[int, int, OwnedQueue]] = []
        # The earliest entry of each queue; others of it are void.
        self._rests: dict[OwnedQueue, int] = {}
        self._entries = 0
        # What to call when what was asked for is there, by queue.
        self._bringing: dict[OwnedQueue, list[Callable[[], None]]] = {}
        self._parked_due = 0
        self._reading = False
        self._unparking = 0
        self._next_sweep = 0

    def start(self) -> None:
        """Look after what an earlier life left parked."""
        self._read_parked()

    def look_after(self) -> None:
        """There is a queue to look after."""
        if not self._next_sweep:
            self._next_sweep = self._owner.now() + _SWEEP
            self._wake_at(self._next_sweep)

    def rest(self, owned: OwnedQueue, until: int) -> None:
        """Messages of `owned` rest until then."""
        known = self._rests.get(owned)
        if known is None or until < known:
            self._rests[owned] = until
            self._entries += 1
            heapq.heappush(self._resting, (until, self._entries, owned))
            self._wake_at(until)

    def bring_back(self, owned: OwnedQueue, then: Callable[[], None] | None = None, *, anyway: bool = False) -> bool:
        """Have read what has rested on disk long enough, with `anyway` the rest of it, too, and call `then`. False if
        there is no room for it, or nothing."""
        waiting = self._bringing.get(owned)
        if waiting is None:
            keys = owned.queue.rested_wanted(anyway=anyway)
            if not keys:
                return False
            waiting = self._bringing[owned] = []
            self._store.fetch(keys, functools.partial(self._brought_back, owned))
        if then is not None:
            waiting.append(then)
        return True

    def _brought_back(self, owned: OwnedQueue, rows: list[tuple[int, bytes, int]]) -> None:
        waiting = self._bringing.pop(owned)
        owned.queue.rested([owned.stored(*row) for row in rows])
        self._owner.touch(owned)
        self._owner.flush()
        for then in waiting:
            then()

    def written(self, unit: Unit) -> None:
        """The store has `unit`, or refused it."""
        for change in unit.changes:
            if isinstance(change, Park):
                self._parked(change.due)
            elif isinstance(change, Unpark):
                self._unparking -= 1
                if not self._unparking:
                    # There may be more that are due.
                    self._read_parked()

    def _parked(self, due: int) -> None:
        if not self._parked_due or due < self._parked_due:
            self._parked_due = due
            self._wake_at(due)

    def wake(self, now: int) -> None:
        while self._resting and self._resting[0][0] <= now:
            until, _, owned = heapq.heappop(self._resting)
            if self._rests.get(owned) == until:
                del self._rests[owned]
                self._owner.rest(owned)
        if self._parked_due and self._parked_due <= now:
            self._read_parked()
        if 0 < self._next_sweep <= now:
            self._next_sweep = now + _SWEEP if self._owner.sweep(now) else 0
            self._owner.expiry.sweep(now)
        self._owner.flush()
        parked_due = 0 if self._reading or self._unparking else self._parked_due
        for due in (self._next_sweep, self._resting[0][0] if self._resting else 0, parked_due):
            if due:
                self._wake_at(due)

    def _read_parked(self) -> None:
        # What is being unparked is parked still in the eyes of the store.
        if not self._reading and not self._unparking:
            self._reading = True
            # What is parked from now on may not be found.
            self._parked_due = 0
            self._store.parked(self._owner.now(), _AT_ONCE, _BYTES_AT_ONCE, self._came_due)

    def _came_due(self, found: tuple[list[Park], int]) -> None:
        self._reading = False
        due, next_due = found
        if due:
            self._unparking = len(due)
            self._owner.unpark(due)
            return
        if next_due:
            self._parked(next_due)
        if self._parked_due:
            # Its time may have come while the store was asked.
            self._wake_at(self._parked_due)
