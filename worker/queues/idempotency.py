"""Which idempotency keys were seen, within a window of time and number: oldest out first."""

from __future__ import annotations

from collections.abc import Iterable

from worker.store.interface import PutKey, PutKeys

__all__ = ["Seen"]

Added = tuple[PutKeys | None, dict[int, bytes]]
"""What the store is to remember of those that are new, and the message-ids that came first with the others."""


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

    def add(self, queue: bytes, keys: dict[int, str], prefix: bytes, items: list[bytes], now: int) -> Added:
        """Remember the `keys` of those of `items` at their places, whose ids start with `prefix`. Returns those that
        are new, as the store is to remember them, and by its place what `find` gives of each that is not."""
        seen = self._seen
        since = now - self._window
        names: list[str] = []
        ids: list[bytes] = []
        repeats: dict[int, bytes] = {}
        for place, key in keys.items():
            pair = queue, key
            found = seen.get(pair)
            if found is not None:
                if found[1] > since:
                    repeats[place] = found[0]
                    continue
                # It comes back as the youngest.
                del seen[pair]
            item = items[place]
            id = prefix + item[: item.index(b"\n")]
            seen[pair] = id, now
            names.append(key)
            ids.append(id)
        return PutKeys(queue.decode(), names, ids, now) if names else None, repeats

    def remove(self, keys: PutKeys) -> None:
        """They were not stored after all."""
        queue = keys.destination.encode()
        for key in keys.keys:
            self._seen.pop((queue, key), None)

    def forget(self, now: int) -> int:
        """Let go of what is too old or too much; returns the time before which the store need keep none."""
        seen = self._seen
        left = len(seen)
        gone: list[tuple[bytes, str]] = []
        before = now
        for pair, (_, at) in seen.items():
            if at + self._window > now and left <= self._count:
                before = at
                break
            gone.append(pair)
            left -= 1
        # One after the other from the front, a dict would look at all that has gone before for each.
        for pair in gone:
            del seen[pair]
        return before
