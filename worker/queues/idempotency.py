"""Which idempotency keys were seen, within a window of time and number: oldest out first."""

from __future__ import annotations

from collections.abc import Iterable

from worker.store.interface import PutKey

__all__ = ["Seen"]


class Seen:
    """`window` in seconds, `count` over all queues of this owner."""

    def __init__(self, window: float, count: int) -> None:
        self._seen: dict[tuple[bytes, str], tuple[bytes, int]] = {}
        self.limit(window, count)

    def limit(self, window: float, count: int) -> None:
        self._window = round(window * 1000)
        self._count = count

    def recover(self, keys: Iterable[PutKey]) -> None:
        for key in keys:
            self._seen[key.destination.encode(), key.key] = key.message_id.encode(), key.at

    def find(self, queue: bytes, key: str, now: int) -> bytes | None:
        """The message-id that came with `key` first, None if it is new."""
        found = self._seen.get((queue, key))
        if found is None or found[1] + self._window <= now:
            return None
        return found[0]

    def add(self, queue: bytes, key: str, message_id: bytes, now: int) -> PutKey:
        """Remember it; returns what the store is to remember."""
        self._seen.pop((queue, key), None)
        self._seen[queue, key] = message_id, now
        return PutKey(queue.decode(), key, message_id.decode(), now)

    def remove(self, key: PutKey) -> None:
        """It was not stored after all."""
        self._seen.pop((key.destination.encode(), key.key), None)

    def forget(self, now: int) -> int:
        """Let go of what is too old or too much; returns the time before which the store need keep none."""
        seen = self._seen
        while seen:
            oldest = next(iter(seen))
            at = seen[oldest][1]
            if at + self._window > now and len(seen) <= self._count:
                return at
            del seen[oldest]
        return now
