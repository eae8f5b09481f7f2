"""Which idempotency keys were seen, within a window of time and number: oldest out first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from worker.queues.message import message_id
from worker.store.interface import PutKeys

__all__ = ["Seen"]

Added = tuple[PutKeys | None, dict[int, bytes]]
"""What the store is to remember of those that are new, and the message-ids that came first with the others."""


class Seen:
    """`window` in seconds, `count` over all queues of this owner. Times are in ms and never go back."""

    def __init__(self, window: float, count: int) -> None:
        # By queue, then key: the message-id that came with it.
        self._seen: dict[bytes, dict[bytes, bytes]] = {}
        # Oldest first, and how many of the first are gone already. What is not what `_seen` has is gone, too.
        self._runs: deque[PutKeys] = deque()
        self._gone = 0
        self._total = 0
        self.limit(window, count)

    def limit(self, window: float, count: int) -> None:
        self._window = round(window * 1000)
        self._count = count

    def recover(self, keys: Iterable[PutKeys]) -> None:
        """Take up what the store had, oldest first."""
        for run in keys:
            self._remember(self._seen.setdefault(run.destination.encode(), {}), run)

    def find(self, queue: bytes, key: bytes, now: int) -> bytes | None:
        """The message-id that came with `key` first, None if it is new."""
        self._expire(now)
        return self._seen.get(queue, {}).get(key)

    def add(self, queue: bytes, keys: dict[int, bytes], prefix: bytes, items: list[bytes], now: int) -> Added:
        """Remember the `keys` of those of `items` at their places, whose ids start with `prefix`. Returns those that
        are new, as the store is to remember them, and by its place what `find` gives of each that is not."""
        self._expire(now)
        seen = self._seen.setdefault(queue, {})
        repeats: dict[int, bytes] = {}
        new = keys
        if len(set(keys.values())) < len(keys) or not seen.keys().isdisjoint(keys.values()):
            new = {}
            firsts: dict[bytes, bytes] = {}
            for place, key in keys.items():
                first = seen.get(key) or firsts.get(key)
                if first is not None:
                    repeats[place] = first
                else:
                    firsts[key] = prefix + message_id(items[place])
                    new[place] = key
        if not new:
            return None, repeats
        ids = [prefix + message_id(items[place]) for place in new]
        run = PutKeys(queue.decode(), list(new.values()), ids, now)
        self._remember(seen, run)
        return run, repeats

    def _remember(self, seen: dict[bytes, bytes], run: PutKeys) -> None:
        before = len(seen)
        seen.update(zip(run.keys, run.message_ids, strict=True))
        self._total += len(seen) - before
        self._runs.append(run)

    def remove(self, keys: PutKeys) -> None:
        """They were not stored after all."""
        self._drop(keys, 0, len(keys.keys))

    def forget(self, now: int) -> int:
        """Let go of what is too old or too much; returns the time before which the store need keep none."""
        self._expire(now)
        while self._runs:
            run = self._runs[0]
            over = min(self._total - self._count, len(run.keys) - self._gone)
            if over > 0:
                self._drop(run, self._gone, self._gone + over)
                self._gone += over
            seen = self._seen.get(run.destination.encode(), {})
            while self._gone < len(run.keys) and seen.get(run.keys[self._gone]) is not run.message_ids[self._gone]:
                self._gone += 1
            if self._gone < len(run.keys):
                return run.at
            self._runs.popleft()
            self._gone = 0
        return now

    def _expire(self, now: int) -> None:
        since = now - self._window
        runs = self._runs
        while runs and runs[0].at <= since:
            run = runs.popleft()
            self._drop(run, self._gone, len(run.keys))
            self._gone = 0

    def _drop(self, run: PutKeys, start: int, stop: int) -> None:
        queue = run.destination.encode()
        seen = self._seen.get(queue, {})
        before = len(seen)
        for key, id in zip(run.keys[start:stop], run.message_ids[start:stop], strict=True):
            # One that was not stored may have come again.
            if seen.get(key) is id:
                del seen[key]
        self._total -= before - len(seen)
        if not seen:
            self._seen.pop(queue, None)
