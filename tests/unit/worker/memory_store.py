"""A store that keeps everything in memory and forgets nothing but its process: what tests of the queues' owner need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.queues.message import queue_number
from worker.store.interface import (
    Done,
    DropQueue,
    Expired,
    Forget,
    Mark,
    Park,
    PutKeys,
    PutQueue,
    QueueRow,
    Recovered,
    SetCount,
    SetExpiry,
    StoreError,
    Unit,
    Unpark,
)

__all__ = ["MemoryStore"]

Row = tuple[int, bytes, int]


class MemoryStore:
    """Commits when `commit` is called, which is `soon` after each write if that is given. With `answers_wait`, what is
    read is told when `answer` is called. `room` is how many bytes still fit, None for any number. `fetched`
    are the bytes of each answer to `fetch` and `parked`."""

    def __init__(self, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._soon = soon
        self.rows: dict[int, bytes] = {}
        self.queues: dict[int, PutQueue] = {}
        self.park: dict[int, Park] = {}
        self.written: list[Unit] = []
        self._waiting: list[tuple[Unit, Done | None]] = []
        self._answers: list[Callable[[], None]] = []
        self.counts: dict[int, int] = {}
        self.expiry: dict[int, int] = {}
        self.fetched: list[int] = []
        self.marks: dict[str, int] = {}
        self.keys: list[PutKeys] = []
        self.fault: StoreError | None = None
        self.room: int | None = None
        self.answers_wait = False

    def open(self) -> Recovered:
        return Recovered([], {}, [], [], {}, 1)

    def recovered(self) -> Recovered:
        """What the next life of its process finds, which has nothing to do with what this one still asks for."""
        self._waiting.clear()
        self._answers.clear()
        rows = []
        for each in self.queues.values():
            sizes = [len(frame) for key, frame in self.rows.items() if queue_number(key) == each.number]
            rows.append(
                QueueRow(each.number, each.name, each.reserved, each.delivered, each.options, len(sizes), sum(sizes))
            )
        return Recovered(rows, dict(self.marks), [], list(self.keys), {}, max(self.park, default=0) + 1)

    def write(self, unit: Unit, done: Done | None = None) -> None:
        self._waiting.append((unit, done))
        if self._soon is not None:
            self._soon(self.commit)

    @property
    def waits(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._waiting)

    def commit(self, units: int | None = None) -> None:
        """Commit so many, all that there are by default, and tell of them afterwards."""
        waiting, self._waiting = self._waiting[:units], [] if units is None else self._waiting[units:]
        for done, error in [(done, self._store(unit)) for unit, done in waiting]:
            if done is not None:
                done(error)

    def _store(self, unit: Unit) -> StoreError | None:
        if not unit.must:
            size = sum(len(frame) for _, frame in unit.inserts)
            if self.fault is not None:
                return self.fault
            if self.room is not None and size > self.room:
                return StoreError("no room", full=True)
            if self.room is not None:
                self.room -= size
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
            elif isinstance(change, SetCount):
                self.counts[change.key] = change.count
            elif isinstance(change, SetExpiry):
                self.expiry[change.key] = change.at
            elif isinstance(change, Mark):
                self.marks[change.origin] = change.sequence
            elif isinstance(change, Forget):
                self.marks.pop(change.origin, None)
            elif isinstance(change, PutKeys):
                self.keys.append(change)
            elif isinstance(change, DropQueue):
                self.queues.pop(change.number, None)
                for key in [key for key in self.rows if queue_number(key) == change.number]:
                    del self.rows[key]
        return None

    def page(self, after: int, before: int, count: int, size: int, done: Callable[[list[Row]], None]) -> None:
        found = [
            (key, frame, self.counts.get(key, 0)) for key, frame in sorted(self.rows.items()) if after < key < before
        ][:count]
        self._answer(lambda: done(found))

    def fetch(self, keys: Sequence[int], done: Callable[[list[Row]], None], size: int | None = None) -> None:
        found: list[Row] = []
        for key in sorted(keys):
            if key in self.rows and (not found or size is None or sum(len(row[1]) for row in found) < size):
                found.append((key, self.rows[key], self.counts.get(key, 0)))
        self.fetched.append(sum(len(row[1]) for row in found))
        self._answer(lambda: done(found))

    def expired(self, now: int, limit: int, done: Callable[[list[Expired]], None], after: Expired = (0, 0)) -> None:
        found = sorted((at, key) for key, at in self.expiry.items() if key in self.rows and at <= now)
        chosen = [each for each in found if each > after][:limit]
        self._answer(lambda: done(chosen))

    def parked(self, now: int, limit: int, size: int, done: Callable[[tuple[list[Park], int]], None]) -> None:
        parked = sorted(self.park.values(), key=lambda each: (each.due, each.id))
        found: list[Park] = []
        for each in parked[:limit]:
            if each.due <= now and (not found or sum(len(other.frame) for other in found) < size):
                found.append(each)
        self.fetched.append(sum(len(each.frame) for each in found))
        others = [each.due for each in parked if each not in found]
        self._answer(lambda: done((found, min(others, default=0))))

    def _answer(self, answer: Callable[[], None]) -> None:
        if self.answers_wait:
            self._answers.append(answer)
        elif self._soon is None:
            answer()
        else:
            self._soon(answer)

    def answer(self) -> None:
        """Tell what was asked for up to now."""
        answers, self._answers = self._answers, []
        for answer in answers:
            answer()

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
