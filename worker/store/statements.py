"""One commit as SQL: for what comes with every message one statement, whatever its size, and one step of it.

Around each step of a statement the thread gives the interpreter lock away and waits to get it back, up to
`sys.getswitchinterval` each time while the event loop is busy. A statement per row would be that slow per row, and six
or seven statements per commit were: a commit of a busy worker took 7 ms, for which SQLite alone needed about one. So
what a batch needs often is the body of a trigger, set off by one INSERT, which is a transaction of its own. Its
bindings are whole columns: `carray` reads one, and since it can read several only by searching, the other one is
fixed-width decimals in one blob, found by the row's number. What is a handful of rows comes as JSON.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import apsw

from worker.queues.message import first_key, last_key
from worker.store.batch import Batch, runs
from worker.store.keys import pack

__all__ = ["Statements"]

_RUNS: Final = 4
"""So many ranges of keys without a gap are told by their ends; where there are more, each key is told."""
_DIGITS: Final = 19
_BIAS: Final = 10**_DIGITS

_COLUMN = "CAST(substr({blob}, a.rowid * 22 - 19, 19) AS INTEGER)"
"""Of `_column`, in the row of carray `a`. The leading 1 that makes the width fixed is skipped."""

_GONE: Final = ("gone", *(f"{part}{run}" for run in range(_RUNS) for part in ("first", "last")))
"""Messages that go."""
_TOLD: Final = ("tells", "counted", "counts", "expiring", "expiries")
"""Whether something is told of messages: of which, and what."""
_INPUTS: Final = (
    # Messages that come, and their keys: the n-th run is that of frames up to `stop`, whose keys are their rows plus
    # `base`. Measured at 512 rows of 230 bytes, per row: 847 ns where one run is one statement, 896 ns so, 1194 ns by
    # `keys`, 1562 ns by executemany.
    "frames",
    "keys",
    *(f"{part}{run}" for run in range(_RUNS) for part in ("base", "stop")),
    *_GONE,
    *_TOLD,
    # Runs of idempotency keys, and their times.
    "seen",
    "seen_at",
    # JSON.
    "depths",
    "queues",
    "marks",
)
_KEY = (
    f"CASE WHEN NEW.keys NOT NULL THEN {_COLUMN.format(blob='NEW.keys')} ELSE a.rowid + CASE "
    + " ".join(f"WHEN a.rowid <= NEW.stop{run} THEN NEW.base{run}" for run in range(_RUNS))
    + " END END"
)


def _told(table: str, keys: str, values: str) -> str:
    # What is told of a message that has gone meanwhile would stay for ever.
    return (
        f"INSERT OR REPLACE INTO {table} SELECT a.value, {_COLUMN.format(blob=f'NEW.{values}')}"
        f" FROM carray(NEW.{keys}) a WHERE EXISTS (SELECT 1 FROM message WHERE key = a.value)"
    )


def _deletes(table: str) -> Iterator[str]:
    for run in range(_RUNS):
        yield f"DELETE FROM {table} WHERE key BETWEEN NEW.first{run} AND NEW.last{run}"
    yield f"DELETE FROM {table} WHERE key IN carray(NEW.gone)"


def _new(names: Iterable[str]) -> str:
    return ", ".join(f"NEW.{name}" for name in names)


_TRIGGERS: Final[tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...]] = (
    # Name, columns, condition, statements. What is seldom needed is a trigger of its own: each statement costs a
    # microsecond even if it finds nothing to do.
    (
        "told",
        _TOLD,
        "NEW.tells",
        (_told("delivery", "counted", "counts"), _told("expiry", "expiring", "expiries")),
    ),
    (
        "told_gone",
        _GONE,
        "EXISTS (SELECT 1 FROM delivery) OR EXISTS (SELECT 1 FROM expiry)",
        (*_deletes("delivery"), *_deletes("expiry")),
    ),
    (
        "marked",
        ("marks",),
        "NEW.marks NOT NULL",
        (
            "INSERT OR REPLACE INTO mark SELECT value ->> 0, value ->> 1 FROM json_each(NEW.marks)"
            " WHERE value ->> 1 NOT NULL",
            "DELETE FROM mark WHERE origin IN (SELECT value ->> 0 FROM json_each(NEW.marks) WHERE value ->> 1 IS NULL)",
        ),
    ),
    (
        "batch",
        _INPUTS,
        "true",
        (
            f"INSERT INTO message SELECT {_KEY}, a.value FROM carray(NEW.frames) a",
            f"INSERT INTO told VALUES ({_new(_TOLD)})",
            *_deletes("message"),
            f"INSERT INTO told_gone VALUES ({_new(_GONE)})",
            "INSERT INTO depth SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(NEW.depths) WHERE true"
            " ON CONFLICT DO UPDATE SET messages = messages + excluded.messages, bytes = bytes + excluded.bytes",
            "INSERT OR REPLACE INTO queue SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3,"
            " unhex(value ->> 4) FROM json_each(NEW.queues)",
            "INSERT INTO marked VALUES (NEW.marks)",
            f"INSERT INTO seen (at, run) SELECT {_COLUMN.format(blob='NEW.seen_at')}, a.value FROM carray(NEW.seen) a",
        ),
    ),
)
_ABSENT: Final[dict[str, Any]] = dict.fromkeys(_INPUTS)
_STORE: Final = f"INSERT INTO batch VALUES ({', '.join('?' * len(_INPUTS))})"


def _column(values: Iterable[int]) -> bytes:
    """Numbers from 0 as digits at fixed places: `[1` + 19 digits, then `, 1` + 19 digits for each."""
    return repr([_BIAS + value for value in values]).encode()


def _integers(values: Iterable[int]) -> apsw.CArrayBinding:
    return apsw.carray(array("q", values))


class Statements:
    """Writes batches through `connection`. Raises what apsw raises."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._execute = connection.execute
        self._many = connection.executemany
        for name, columns, condition, steps in _TRIGGERS:
            nothing = ", ".join(["NULL"] * len(columns))
            connection.execute(f"CREATE TEMP VIEW {name} ({', '.join(columns)}) AS SELECT {nothing}")
            connection.execute(
                f"CREATE TEMP TRIGGER store_{name} INSTEAD OF INSERT ON {name} WHEN {condition}"
                f" BEGIN {'; '.join(steps)}; END"
            )

    def commit(self, batches: Sequence[Batch]) -> None:
        """Store them, in their order and all or none. After an exception the connection may be in a transaction."""
        if len(batches) == 1 and batches[0].is_usual:
            self._store(batches[0])
            return
        self._execute("BEGIN IMMEDIATE")
        for batch in batches:
            self._store(batch)
            if not batch.is_usual:
                self._rest(batch)
        self._execute("COMMIT")

    def _store(self, batch: Batch) -> None:
        """What is usual in a batch."""
        values = _ABSENT.copy()
        if batch.inserts:
            _take_inserts(values, batch.inserts)
        if batch.deletes:
            _take_deletes(values, sorted(batch.deletes))
        if batch.counts:
            values["tells"] = True
            values["counted"], values["counts"] = _integers(batch.counts), _column(batch.counts.values())
        if batch.expiries:
            values["tells"] = True
            values["expiring"], values["expiries"] = _integers(batch.expiries), _column(batch.expiries.values())
        if batch.depths:
            depths = [(number, *depth) for number, depth in batch.depths.items() if depth != (0, 0)]
            values["depths"] = json.dumps(depths)
        if batch.queues:
            queues = [(q.number, q.name, q.reserved, q.delivered, q.options.hex()) for q in batch.queues.values()]
            values["queues"] = json.dumps(queues)
        if batch.marks:
            values["marks"] = json.dumps(list(batch.marks.items()))
        if batch.keys:
            # In their order: it is that in which they are forgotten.
            values["seen"] = apsw.carray(tuple(map(pack, batch.keys)))
            values["seen_at"] = _column([keys.at for keys in batch.keys])
        self._execute(_STORE, tuple(values.values()))

    def _rest(self, batch: Batch) -> None:
        for destination, frame in batch.retained.items():
            if frame is None:
                self._execute("DELETE FROM retained WHERE destination = ?", (destination,))
            else:
                self._execute("INSERT OR REPLACE INTO retained VALUES (?, ?)", (destination, frame))
        if batch.parks:
            self._many("INSERT INTO parked VALUES (?, ?, ?, ?)", [(p.id, p.due, p.queue, p.frame) for p in batch.parks])
        if batch.unparks:
            self._execute("DELETE FROM parked WHERE id IN carray(?)", (_integers(batch.unparks),))
        if batch.forget_keys:
            self._execute("DELETE FROM seen WHERE at < ?", (batch.forget_keys,))
        if batch.transactions:
            self._many(
                "INSERT OR REPLACE INTO committed (id, record) VALUES (?, ?)",
                [(t.id, t.record) for t in batch.transactions],
            )
        if batch.finished:
            self._many("DELETE FROM committed WHERE id = ?", [(name,) for name in batch.finished])
        if batch.drop is not None:
            self._drop(batch.drop)

    def _drop(self, number: int) -> None:
        for table in ("message", "delivery", "expiry"):
            self._execute(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", (first_key(number), last_key(number)))
        for table in ("depth", "queue"):
            self._execute(f"DELETE FROM {table} WHERE number = ?", (number,))


def _take_inserts(values: dict[str, Any], inserts: Mapping[int, bytes]) -> None:
    keys = sorted(inserts)
    values["frames"] = apsw.carray(tuple(map(inserts.__getitem__, keys)))
    found = runs(keys, _RUNS)
    if found is None:
        values["keys"] = _column(keys)
        return
    for run, (start, stop) in enumerate(found):
        # Rows count from 1.
        values[f"base{run}"], values[f"stop{run}"] = keys[start] - start - 1, stop


def _take_deletes(values: dict[str, Any], keys: Sequence[int]) -> None:
    found = runs(keys, _RUNS)
    if found is None:
        values["gone"] = _integers(keys)
        return
    for run, (start, stop) in enumerate(found):
        values[f"first{run}"], values[f"last{run}"] = keys[start], keys[stop - 1]
