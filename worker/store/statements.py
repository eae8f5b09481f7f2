"""One batch as SQL statements: as few as can be, whatever its size.

Between two steps of a statement the thread gives the interpreter lock away and waits to get it back, up to
`sys.getswitchinterval` each time while the event loop is busy; a statement per row would be that slow per row. So a
statement gets whole columns: `carray` reads one, and since it can read several only by searching, the others are
fixed-width decimals in one blob, found by the row's number. Measured at 512 rows of 150 bytes, per row: 479 ns by
executemany, 7820 ns by joining two carrays, 346 ns so, 168 ns where keys have no gap and are counted.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

import apsw

from worker.queues.message import first_key, last_key
from worker.store.batch import Batch, runs
from worker.store.interface import PutKeys
from worker.store.schema import first

__all__ = ["Statements"]

_FEW_RUNS: Final = 8
_DIGITS: Final = 19
_BIAS: Final = 10**_DIGITS
_MIDDLE: Final = 5 * 10 ** (_DIGITS - 1)
"""Added to what may be negative."""

_COLUMN = "CAST(substr({blob}, a.rowid * 22 - 19, 19) AS INTEGER)"
"""Of `_column`, in the row of carray `a`. The leading 1 that makes the width fixed is skipped."""

_INSERT_RUN = "INSERT INTO message SELECT ?2 + a.rowid, a.value FROM carray(?1) a"
_INSERT = f"INSERT INTO message SELECT {_COLUMN.format(blob='?2')}, a.value FROM carray(?1) a"
_DEPTHS = (
    f"INSERT INTO depth SELECT a.value, {_COLUMN.format(blob='?2')} - {_MIDDLE},"
    f" {_COLUMN.format(blob='?3')} - {_MIDDLE} FROM carray(?1) a WHERE true"
    " ON CONFLICT DO UPDATE SET messages = messages + excluded.messages, bytes = bytes + excluded.bytes"
)
# What is told of a message that has gone meanwhile would stay for ever.
_TELL = (
    f"INSERT OR REPLACE INTO {{table}} SELECT a.value, {_COLUMN.format(blob='?2')} FROM carray(?1) a"
    " WHERE EXISTS (SELECT 1 FROM message WHERE key = a.value)"
)
# Its id ends at the first LF, which no id has.
_KEYS = (
    "INSERT INTO seen (destination, key, message_id, at)"
    " SELECT ?2, CAST(substr(a.value, instr(a.value, x'0a') + 1) AS TEXT),"
    " CAST(substr(a.value, 1, instr(a.value, x'0a') - 1) AS TEXT),"
    f" {_COLUMN.format(blob='?3')} FROM carray(?1) a"
)
_COUNTS, _EXPIRIES = _TELL.format(table="delivery"), _TELL.format(table="expiry")


_destination_of: Callable[[PutKeys], str] = attrgetter("destination")


def _column(values: Iterable[int], bias: int = _BIAS) -> bytes:
    """Numbers from 0 as digits at fixed places: `[1` + 19 digits, then `, 1` + 19 digits for each."""
    return repr([bias + value for value in values]).encode()


def _integers(values: Iterable[int]) -> apsw.CArrayBinding:
    return apsw.carray(array("q", values))


class Statements:
    """Executes batches in the connection's open transaction. Raises what apsw raises."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._many = connection.executemany
        # Deletes need not look where there is nothing.
        self._told = {table: self._any(table) for table in ("delivery", "expiry")}

    def rolled_back(self) -> None:
        """What was found since the last commit may not hold."""
        for table in self._told:
            self._told[table] = True

    def run(self, batch: Batch) -> None:
        if batch.inserts:
            self._insert(batch.inserts)
        for table, statement, told in (("delivery", _COUNTS, batch.counts), ("expiry", _EXPIRIES, batch.expiries)):
            if told:
                self._told[table] = True
                self._execute(statement, (_integers(told), _column(told.values())))
        if batch.deletes:
            self._delete(sorted(batch.deletes))
        if depths := {number: depth for number, depth in batch.depths.items() if depth != (0, 0)}:
            messages, sizes = zip(*depths.values(), strict=True)
            self._execute(
                _DEPTHS,
                (_integers(depths), _column(messages, _BIAS + _MIDDLE), _column(sizes, _BIAS + _MIDDLE)),
            )
        self._rest(batch)
        if batch.drop is not None:
            self._drop(batch.drop)

    def _insert(self, inserts: Mapping[int, bytes]) -> None:
        keys = sorted(inserts)
        frames = tuple(map(inserts.__getitem__, keys))
        found = runs(keys, _FEW_RUNS)
        if found is None:
            self._execute(_INSERT, (apsw.carray(frames), _column(keys)))
            return
        for start, stop in found:
            self._execute(_INSERT_RUN, (apsw.carray(frames, start=start, stop=stop), keys[start] - 1))

    def _keys(self, destination: str, changes: Iterable[PutKeys]) -> None:
        rows: list[bytes] = []
        times: list[int] = []
        for change in changes:
            rows += map(b"\n".join, zip(change.message_ids, map(str.encode, change.keys), strict=True))
            times += [change.at] * len(change.keys)
        self._execute(_KEYS, (apsw.carray(tuple(rows)), destination, _column(times)))

    def _delete(self, keys: Sequence[int]) -> None:
        found = runs(keys, _FEW_RUNS)
        tables = ["message", *(table for table, told in self._told.items() if told)]
        for table in tables:
            if found is None:
                self._execute(f"DELETE FROM {table} WHERE key IN carray(?)", (_integers(keys),))
                continue
            for start, stop in found:
                self._execute(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", (keys[start], keys[stop - 1]))
        self._look_again(tables)

    def _drop(self, number: int) -> None:
        tables = ["message", "delivery", "expiry"]
        for table in tables:
            self._execute(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", (first_key(number), last_key(number)))
        self._look_again(tables)
        for table in ("depth", "queue"):
            self._execute(f"DELETE FROM {table} WHERE number = ?", (number,))

    def _look_again(self, tables: Iterable[str]) -> None:
        for table in tables:
            if table in self._told:
                self._told[table] = self._any(table)

    def _any(self, table: str) -> bool:
        return bool(first(self._connection, f"SELECT EXISTS (SELECT 1 FROM {table})")[0])

    def _rest(self, batch: Batch) -> None:
        if batch.queues:
            self._many(
                "INSERT OR REPLACE INTO queue VALUES (?, ?, ?, ?, ?)",
                [(q.number, q.name, q.reserved, q.delivered, q.options) for q in batch.queues.values()],
            )
        for origin, sequence in batch.marks.items():
            if sequence is None:
                self._execute("DELETE FROM mark WHERE origin = ?", (origin,))
            else:
                self._execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (origin, sequence))
        for destination, frame in batch.retained.items():
            if frame is None:
                self._execute("DELETE FROM retained WHERE destination = ?", (destination,))
            else:
                self._execute("INSERT OR REPLACE INTO retained VALUES (?, ?)", (destination, frame))
        if batch.parks:
            self._many("INSERT INTO parked VALUES (?, ?, ?, ?)", [(p.id, p.due, p.queue, p.frame) for p in batch.parks])
        if batch.unparks:
            self._execute("DELETE FROM parked WHERE id IN carray(?)", (_integers(batch.unparks),))
        if batch.keys:
            # Of one destination together, but in their order: it is that in which they are forgotten.
            for destination, changes in groupby(batch.keys, _destination_of):
                self._keys(destination, changes)
        if batch.forget_keys:
            self._execute("DELETE FROM seen WHERE at < ?", (batch.forget_keys,))
        if batch.transactions:
            self._many(
                "INSERT OR REPLACE INTO committed (id, record) VALUES (?, ?)",
                [(t.id, t.record) for t in batch.transactions],
            )
        if batch.finished:
            self._many("DELETE FROM committed WHERE id = ?", [(name,) for name in batch.finished])
