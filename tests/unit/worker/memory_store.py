"""A store that keeps everything in memory and forgets nothing but its process: what tests of the queues' owner need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.queues.message import queue_number
from worker.store.interface import Done, Park, PutQueue, Recovered, StoreError, Unit, Unpark

__all__ = ["MemoryStore"]

Row = tuple[int, bytes, int]


class MemoryStore:
    """Commits when `commit` is called, which is `soon` after each write if that is given."""

    def __init__(self, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._soon = soon
        self.rows: dict[int, bytes] = {}
        self.queues: dict[int, PutQueue] = {}
        self.park: dict[int, Park] = {}
        self.written: list[Unit] = []
        self._waiting: list[tuple[Unit, Done | None]] = []
        self.fault: StoreError | None = None

    def open(self) -> Recovered:
        return Recovered([], {}, [], [], {}, 1)

    def write(self, unit: Unit, done: Done | None = None) -> None:
        self._waiting.append((unit, done))
        if self._soon is not None:
            self._soon(self.commit)

    def commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        for unit, done in waiting:
            if self.fault is not None and not unit.must:
                if done is not None:
                    done(self.fault)
                continue
            self.written.append(unit)
            self.rows.update(unit.inserts)
            for key in unit.deletes:
                self.rows.pop(key, None)
            for change in unit.changes:
                if isinstance(change, PutQueue):
                    self.queues[change.number] = change
                elif isinstance(change, Park):
                    self.park[change.id] = change
                elif isinstance(change, Unpark):
                    self.park.pop(change.id, None)
            if done is not None:
                done(None)

    def page(self, after: int, before: int, count: int, size: int, done: Callable[[list[Row]], None]) -> None:
        found = [(key, frame, 0) for key, frame in sorted(self.rows.items()) if after < key < before][:count]
        self._answer(lambda: done(found))

    def fetch(self, keys: Sequence[int], done: Callable[[list[Row]], None]) -> None:
        found = [(key, self.rows[key], 0) for key in sorted(keys) if key in self.rows]
        self._answer(lambda: done(found))

    def expired(self, now: int, limit: int, done: Callable[[list[int]], None]) -> None:
        self._answer(lambda: done([]))

    def parked(self, limit: int, done: Callable[[list[Park]], None]) -> None:
        found = sorted(self.park.values(), key=lambda each: each.due)[:limit]
        self._answer(lambda: done(found))

    def _answer(self, answer: Callable[[], None]) -> None:
        if self._soon is None:
            answer()
        else:
            self._soon(answer)

    def forget_keys(self, before: int) -> None: ...

    @property
    def pending_bytes(self) -> int:
        return sum(len(frame) for unit, _ in self._waiting for _, frame in unit.inserts)

    @property
    def failing(self) -> StoreError | None:
        return self.fault

    def stats(self) -> dict[str, int]:
        return {}

    def close(self, done: Callable[[], None]) -> None:
        self.commit()
        self._answer(done)

    def depth(self, number: int) -> int:
        """Messages of that queue."""
        return sum(queue_number(key) == number for key in self.rows)
