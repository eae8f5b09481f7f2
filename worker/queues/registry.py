"""The queues of one owner: by name and number, made when first used, forgotten when nobody needs them."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from common.errors import ErrorCode
from worker.queues.feeds import FED, Feed
from worker.queues.letters import Outcome
from worker.queues.message import MAX_QUEUES, first_counter
from worker.queues.owned import VOLATILE, OwnedQueue, recall
from worker.queues.policy import Policies, QueuePolicy
from worker.queues.queue import Queue
from worker.settings import QueueSettings
from worker.store.interface import Change, DropQueue, QueueRow

__all__ = ["Registry"]


class Registry:
    """All times in ms since the epoch."""

    def __init__(self, settings: QueueSettings, policies: Policies) -> None:
        self._names: dict[bytes, OwnedQueue] = {}
        self._numbers: dict[int, OwnedQueue] = {}
        self._free: list[int] = []
        # The last counters of those: what is still on its way for the old queue must find nothing in the new one.
        self._used: dict[int, int] = {}
        self._next_number = 1
        self._idle: dict[OwnedQueue, int] = {}
        self.configure(settings, policies)

    def configure(self, settings: QueueSettings, policies: Policies) -> None:
        self._settings = settings
        self._policies = policies
        for owned in self._names.values():
            owned.queue.window_messages = settings.window_messages
            owned.queue.window_bytes = settings.window_bytes
            owned.configure(self.policy(owned.name, owned.feed))

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[OwnedQueue]:
        return iter(self._names.values())

    def get(self, name: bytes) -> OwnedQueue | None:
        return self._names.get(name)

    def by_number(self, number: int) -> OwnedQueue | None:
        return self._numbers.get(number)

    def recover(self, rows: Iterable[QueueRow], now: int) -> list[Change]:
        """Take up what an earlier life had; returns what the store is to forget."""
        changes: list[Change] = []
        taken = set()
        for row in rows:
            self._next_number = max(self._next_number, row.number + 1)
            if row.options == VOLATILE:
                changes.append(DropQueue(row.number))
                self._used[row.number] = row.reserved
                continue
            taken.add(row.number)
            name = row.name.encode()
            queue = self._new_queue(row.number, name, row.messages, row.bytes)
            counter = max(row.reserved, first_counter(now))
            feed = recall(row.options)
            policy = self.policy(name, feed)
            self._put(OwnedQueue(name, queue, policy, counter, recovered=row.delivered, feed=feed), now)
        self._free = [number for number in range(1, self._next_number) if number not in taken]
        return changes

    def find(
        self, name: bytes, now: int, *, volatile: bool = False, feed: Feed | None = None, must: bool = False
    ) -> OwnedQueue | None:
        """The queue of that name, made if need be; None if there are too many. With `must` only if there can be no more
        at all: for what was let in before."""
        owned = self._names.get(name)
        if owned is None:
            if len(self._names) >= (MAX_QUEUES - 1 if must else self.limit):
                return None
            if self._free:
                number = heapq.heappop(self._free)
            else:
                number = self._next_number
                self._next_number += 1
            queue = self._new_queue(number, name)
            policy = self.policy(name, feed)
            counter = max(first_counter(now), self._used.pop(number, 0))
            owned = OwnedQueue(name, queue, policy, counter, volatile=volatile, feed=feed)
            self._put(owned, now)
        return owned

    @property
    def limit(self) -> int:
        return min(self._settings.max_queues, MAX_QUEUES - 1)

    @property
    def idle_timeout(self) -> int:
        """How long one is kept that nobody uses."""
        return round(self._settings.idle_timeout * 1000)

    def refusal(self) -> Outcome:
        """What to answer when there are too many."""
        detail = f"this worker has {len(self._names)}, the limit is {self.limit} (queue.max_queues)"
        return Outcome((ErrorCode.TOO_MANY_QUEUES.value, "too many queues", detail))

    def look_at(self, owned: OwnedQueue, now: int) -> None:
        """Something left `owned`: it may be idle from now on."""
        if not owned.in_use and owned.feed is None and not owned.temporary:
            self._idle.setdefault(owned, now)

    def idle(self, now: int) -> list[OwnedQueue]:
        """Those that nobody has used for too long."""
        timeout = self.idle_timeout
        found = []
        for owned, since in list(self._idle.items()):
            if owned.in_use:
                del self._idle[owned]
            elif since + timeout <= now:
                found.append(owned)
        return found

    def remove(self, owned: OwnedQueue) -> DropQueue:
        """Forget it; returns what the store is to be told."""
        self._idle.pop(owned, None)
        del self._names[owned.name], self._numbers[owned.number]
        heapq.heappush(self._free, owned.number)
        self._used[owned.number] = owned.counter
        return DropQueue(owned.number)

    def policy(self, name: bytes, feed: Feed | None = None) -> QueuePolicy:
        """What goes for that queue, whether or not it exists."""
        return self._policies.find(name if feed is None else feed.pattern)

    def may_refuse(self, name: bytes) -> bool:
        """Whether the owner of that queue, whoever that is, may have to refuse messages because it is full."""
        if name.startswith(FED):
            # Only its owner knows what goes for it.
            return self._policies.rejects
        return self.policy(name).rejects

    def _put(self, owned: OwnedQueue, now: int) -> None:
        self._names[owned.name] = owned
        self._numbers[owned.number] = owned
        self.look_at(owned, now)

    def _new_queue(self, number: int, name: bytes, spilled: int = 0, spilled_bytes: int = 0) -> Queue:
        settings = self._settings
        return Queue(
            number,
            name.decode(),
            window_messages=settings.window_messages,
            window_bytes=settings.window_bytes,
            spilled=spilled,
            spilled_bytes=spilled_bytes,
        )
