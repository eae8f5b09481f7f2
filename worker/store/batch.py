"""Many units as one: what is left to write when what cancels out is taken away. Pure, no database.

The order inside a batch is by kind, which equals the order of the units because keys are never used twice: inserts,
what is told of messages, deletes, depths, then the rest. Only the dropping of a queue, which may bring its number
back into use, ends a batch; hence `split`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker.store.interface import (
    Change,
    DropQueue,
    Forget,
    ForgetTransaction,
    Mark,
    Park,
    PutKeys,
    PutQueue,
    PutTransaction,
    Retain,
    SetCount,
    SetExpiry,
    Unit,
    Unpark,
)

__all__ = ["Batch", "ForgetKeys", "runs", "split"]


@dataclass(frozen=True, slots=True)
class ForgetKeys:
    """Idempotency keys from before `before` are not needed any more."""

    before: int


class Batch:
    """What the units added to it leave to be written."""

    def __init__(self) -> None:
        self.inserts: dict[int, bytes] = {}
        self.deletes: set[int] = set()
        self.depths: dict[int, tuple[int, int]] = {}
        self.counts: dict[int, int] = {}
        self.expiries: dict[int, int] = {}
        self.queues: dict[int, PutQueue] = {}
        self.marks: dict[str, int | None] = {}
        self.retained: dict[str, bytes | None] = {}
        self.parks: list[Park] = []
        self.unparks: list[int] = []
        self.keys: list[PutKeys] = []
        self.transactions: list[PutTransaction] = []
        self.finished: list[str] = []
        self.forget_keys = 0
        self.drop: int | None = None
        """The queue to be dropped after all else."""

    @property
    def is_usual(self) -> bool:
        """Whether it has nothing but messages, what is told of them, depths, queues, marks and keys."""
        return not (
            self.forget_keys
            or self.retained
            or self.parks
            or self.unparks
            or self.transactions
            or self.finished
            or self.drop is not None
        )

    def add(self, unit: Unit) -> None:
        """Take in the messages and depths of `unit`, not its changes."""
        if unit.inserts:
            self.inserts.update(unit.inserts)
        if unit.deletes:
            self.deletes.update(unit.deletes)
        for number, messages, size in unit.depths:
            before = self.depths.get(number, (0, 0))
            self.depths[number] = (before[0] + messages, before[1] + size)

    def change(self, change: Change | ForgetKeys) -> None:
        """Take in a change. Of those of one thing only the last remains."""
        match change:
            case Mark(origin, sequence):
                self.marks[origin] = sequence
            case SetCount(key, count):
                self.counts[key] = count
            case SetExpiry(key, at):
                self.expiries[key] = at
            case PutQueue(number):
                self.queues[number] = change
            case PutKeys():
                self.keys.append(change)
            case Park():
                # Not cancelled out by an Unpark: the database remembers the highest id by its insert.
                self.parks.append(change)
            case Unpark(number):
                self.unparks.append(number)
            case Retain(destination, frame):
                self.retained[destination] = frame
            case PutTransaction():
                self.transactions.append(change)
            case ForgetTransaction(name):
                self.finished.append(name)
            case Forget(origin):
                self.marks[origin] = None
            case ForgetKeys(before):
                self.forget_keys = max(self.forget_keys, before)
            case DropQueue(number):
                self.drop = number

    def elide(self) -> int:
        """Drop what came and went within this batch, and say how many messages that were."""
        if not self.inserts or not self.deletes:
            return 0
        gone = self.inserts.keys() & self.deletes
        for key in gone:
            del self.inserts[key]
        self.deletes -= gone
        return len(gone)


def split(units: Sequence[Unit]) -> Iterator[Batch]:
    """The batches that together are `units`, in order."""
    batch = Batch()
    for unit in units:
        batch.add(unit)
        for change in unit.changes:
            batch.change(change)
            if batch.drop is not None:
                yield batch
                batch = Batch()
    yield batch


def runs(keys: Sequence[int], most: int) -> list[tuple[int, int]] | None:
    """Sorted distinct `keys` as runs without a gap, as (start, stop) into `keys`; None if there are more than `most`.

    A queue's keys mostly are one run, which SQLite can be told in two numbers. Found by halving, so that a long run
    costs no look at each key.
    """
    found: list[tuple[int, int]] = []
    start, end = 0, len(keys)
    while start < end:
        if len(found) == most:
            return None
        shift = keys[start] - start
        low, high = start, end - 1
        while low < high:
            middle = (low + high + 1) >> 1
            if keys[middle] - middle == shift:
                low = middle
            else:
                high = middle - 1
        found.append((start, low + 1))
        start = low + 1
    return found
