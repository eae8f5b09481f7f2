"""Whether the databases of a data directory are whole, and agree with themselves and with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack

from common.layout import LayoutError, database, database_slots
from common.ownership import owner_of
from worker.queues.message import MAX_QUEUES, first_key, last_key
from worker.queues.owned import VOLATILE
from worker.store.interface import StoreError
from worker.store.keys import unpack
from worker.store.tool.snapshot import Queue, Snapshot, workers_of
from worker.store.tool.text import count, size

__all__ = ["check"]

_MOST: Final = 20
"""Faults of one database that are told; more are only counted."""
_COUNTER: Final = (1 << 40) - 1

_STRAY: Final = "SELECT count(*) FROM {table} t WHERE NOT EXISTS (SELECT 1 FROM message m WHERE m.key = t.key)"
_RANGE: Final = (
    "SELECT count(*), coalesce(sum(length(frame)), 0), coalesce(sum(instr(frame, x'0a0a') = 0), 0),"
    " coalesce(max(key), 0) FROM message WHERE key BETWEEN ? AND ?"
)


def check(directory: Path, write: Callable[[str], None]) -> bool:
    """`write` a line for each database and each fault, then one for all; whether there is no fault. Reads every page.

    Raises `StoreError` if there is nothing to check.
    """
    workers = workers_of(directory)
    try:
        slots = database_slots(directory)
    except LayoutError as error:
        raise StoreError(str(error)) from error
    faulty = 0
    for slot in slots:
        path = database(directory, slot)
        told = 0
        try:
            with Snapshot(path, slot) as snapshot:
                for fault in _faults(snapshot, workers):
                    told += 1
                    if told <= _MOST:
                        write(f"{path.name}: {fault}")
                if not told:
                    write(f"{path.name}: OK, {_contents(snapshot)}")
        except StoreError as error:
            told += 1
            write(f"{path.name}: {error}")
        if told > _MOST:
            write(f"{path.name}: and {count(told - _MOST, 'more fault')}")
        faulty += bool(told)
    databases = count(len(slots), "database")
    if faulty:
        write(f"{directory}: {faulty} of {databases} {'is' if faulty == 1 else 'are'} not as they should be")
    else:
        write(f"{directory}: OK, {databases}, laid out for {count(workers, 'worker')}")
    return not faulty


def _contents(snapshot: Snapshot) -> str:
    if snapshot.is_empty:
        return "never used"
    queues = snapshot.queues()
    return (
        f"{count(len(queues), 'queue')}, {count(sum(queue.messages for queue in queues), 'message')},"
        f" {size(sum(queue.bytes for queue in queues))}"
    )


def _faults(snapshot: Snapshot, workers: int) -> Iterator[str]:
    if snapshot.is_empty:
        return
    damaged = [row[0] for row in snapshot.rows("PRAGMA quick_check") if row[0] != "ok"]
    if damaged:
        # What SQLite cannot read, no question below is answered from.
        yield from (f"damaged: {' '.join(line.split())}" for line in damaged)
        return
    if snapshot.slot >= workers:
        yield f"the directory is laid out for {count(workers, 'worker')}, none of which opens this one"
    yield from _faults_of_queues(snapshot, workers)
    yield from _faults_beside(snapshot, workers)


def _faults_of_queues(snapshot: Snapshot, workers: int) -> Iterator[str]:
    queues = {queue.number: queue for queue in snapshot.queues()}
    # Theirs are dropped when the worker starts.
    ending = {number for (number,) in snapshot.rows("SELECT number FROM queue WHERE options = ?", (VOLATILE,))}
    names: dict[str, int] = {}
    for queue in queues.values():
        if not 0 < queue.number < MAX_QUEUES:
            yield f"{queue.name!r} has the number {queue.number}, which no key can hold"
        if names.setdefault(queue.name, queue.number) != queue.number:
            yield f"{queue.name!r} is there twice, as {names[queue.name]} and {queue.number}"
        yield from _misplaced(snapshot, workers, repr(queue.name), queue.name)
    for number in snapshot.numbers_in_use():
        found = queues.pop(number, None)
        if found is not None:
            yield from _faults_of_messages(snapshot, found)
        elif number not in ending:
            messages, _ = snapshot.counted(number)
            yield f"{count(messages, 'message')} of a queue {number}, which is not known"
    for queue in queues.values():
        if (queue.messages, queue.bytes) != (0, 0):
            yield _wrong_depth(queue, 0, 0)


def _faults_of_messages(snapshot: Snapshot, queue: Queue) -> Iterator[str]:
    messages = total = malformed = highest = 0
    for priority in range(9, -1, -1):
        low = first_key(queue.number, priority)
        for number, bytes_, odd, key in snapshot.rows(_RANGE, (low, low | _COUNTER)):
            messages, total, malformed = messages + number, total + bytes_, malformed + odd
            highest = max(highest, key & _COUNTER)
    low = first_key(queue.number, 0) + _COUNTER + 1
    for beyond, bytes_, odd, _ in snapshot.rows(_RANGE, (low, last_key(queue.number))):
        if not beyond:
            continue
        messages, total, malformed = messages + beyond, total + bytes_, malformed + odd
        yield f"{count(beyond, 'message')} of {queue.name!r} with a priority that there is not"
    if malformed:
        yield f"{count(malformed, 'message')} of {queue.name!r} with no end of the headers"
    if highest >= queue.reserved:
        yield (
            f"{queue.name!r} has a message at place {highest}, but only those below {queue.reserved} are reserved: new "
            "messages would take its place"
        )
    if (queue.messages, queue.bytes) != (messages, total):
        yield _wrong_depth(queue, messages, total)


def _wrong_depth(queue: Queue, messages: int, total: int) -> str:
    return (
        f"{queue.name!r} is counted to hold {count(queue.messages, 'message')} of {count(queue.bytes, 'byte')}, "
        f"but {messages} of {count(total, 'byte')} are there"
    )


def _faults_beside(snapshot: Snapshot, workers: int) -> Iterator[str]:
    for table, what in (("delivery", "count of deliveries"), ("expiry", "expiry")):
        if stray := snapshot.one(_STRAY.format(table=table)):
            yield f"{count(stray, what)} of messages that are not there"
    if stray := snapshot.one(
        "SELECT count(*) FROM depth d WHERE (messages != 0 OR bytes != 0)"
        " AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.number = d.number)"
    ):
        yield f"{count(stray, 'depth')} of queues that are not known"
    if malformed := snapshot.one("SELECT count(*) FROM parked WHERE instr(frame, x'0a0a') = 0"):
        yield f"{count(malformed, 'parked message')} with no end of the headers"
    for table, column, what in (
        ("parked", "queue", "parked messages of"),
        ("retained", "destination", "the retained message of"),
    ):
        for (name,) in snapshot.rows(f"SELECT DISTINCT {column} FROM {table}"):
            yield from _misplaced(snapshot, workers, f"{what} {name!r}", name)
    for name in {unpack(*row).destination for row in snapshot.rows("SELECT run, at FROM seen")}:
        yield from _misplaced(snapshot, workers, f"idempotency keys of {name!r}", name)
    for name, record in snapshot.rows("SELECT id, record FROM committed"):
        if (fault := _fault_of_record(record, workers)) is not None:
            yield f"transaction {name}: {fault}"


def _misplaced(snapshot: Snapshot, workers: int, what: str, name: str) -> Iterator[str]:
    owner = owner_of(name.encode(), workers)
    if owner != snapshot.slot:
        yield f"{what} should be in slot-{owner}.db"


def _fault_of_record(record: bytes, workers: int) -> str | None:
    try:
        parts: Any = msgpack.unpackb(record, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        return f"its record cannot be read ({error})"
    if not isinstance(parts, dict) or not all(isinstance(each, list) for each in parts.values()):
        return "its record is not one"
    beyond = [slot for slot in parts if not (isinstance(slot, int) and 0 <= slot < workers)]
    return f"it is for worker {beyond[0]!r}, of {workers}" if beyond else None
