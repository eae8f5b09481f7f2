"""One database of the new number of workers, made from those of the old.

It is written without a log and without waiting for the disk, since nobody counts on it before it is complete. Rows are
copied within SQLite, in the order of their keys: a queue keeps the order, counts, expiries and marks it had, only its
number is another one.
"""

from __future__ import annotations

import functools
import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final

import apsw

from common.ownership import owner_of
from worker.queues.message import first_key, last_key
from worker.store.interface import StoreError
from worker.store.keys import unpack
from worker.store.schema import failure, first, prepare
from worker.store.tool.snapshot import Queue, Snapshot, read_only

__all__ = ["Move", "make"]

_CHUNK: Final = 20_000
"""Messages copied in one statement: a look at the progress now and then."""
_COPY: Final = (
    "INSERT INTO message SELECT key + ?, frame FROM source.message WHERE key > ? AND key <= ? ORDER BY key LIMIT ?"
)
_TOLD: Final = "INSERT INTO {table} SELECT key + ?, {value} FROM source.{table} WHERE key BETWEEN ? AND ? ORDER BY key"


@dataclass(frozen=True, slots=True)
class Move:
    """`queue` of the database of `slot` gets `number` here."""

    slot: int
    queue: Queue
    number: int

    @property
    def shift(self) -> int:
        """What is added to keys."""
        return first_key(self.number) - first_key(self.queue.number)


def make(
    path: Path,
    slot: int,
    workers: int,
    sources: Sequence[Snapshot],
    moves: Sequence[Move],
    records: Iterable[tuple[str, bytes]],
    marks: Iterable[tuple[str, int]],
    progress: Callable[[int], None],
) -> None:
    """Make the database of `slot` of `workers`, at `path`, where nothing is. `moves` are in the order of their numbers,
    which is that of their sources; `progress` hears of each number of messages that were copied.

    Raises `StoreError`; what is at `path` is to be removed then.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        prepare(connection, str(path))
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -32768"):
            list(connection.execute(f"PRAGMA {pragma}"))
        # Names repeat: once for each row, of each source, for each new database.
        owner = functools.lru_cache(65536)(lambda name: owner_of(name.encode(), workers))
        connection.create_scalar_function("owner", owner, 1, deterministic=True)
        for source in sources:
            if not source.is_empty:
                mine = [move for move in moves if move.slot == source.slot]
                _copy(connection, source, slot, mine, progress)
        with connection:
            connection.executemany("INSERT INTO seen (at, run) VALUES (?, ?)", _keys(sources, slot, workers))
            connection.executemany("INSERT INTO committed (id, record) VALUES (?, ?)", records)
            connection.executemany("INSERT INTO mark VALUES (?, ?)", marks)
        if first(connection, "PRAGMA journal_mode = WAL")[0] != "wal":
            raise StoreError(f"{path} cannot have a write-ahead log here: is the file system a network's?")
    except apsw.Error as error:
        raise failure(connection, error) from error
    finally:
        connection.close(True)


def _copy(
    connection: apsw.Connection, source: Snapshot, slot: int, moves: Sequence[Move], progress: Callable[[int], None]
) -> None:
    connection.execute("ATTACH ? AS source", (read_only(source.path),))
    with connection:
        for move in moves:
            _copy_queue(connection, move, progress)
        connection.execute(
            "INSERT INTO parked (due, queue, frame) SELECT due, queue, frame FROM source.parked WHERE owner(queue) = ?"
            " ORDER BY due, id",
            (slot,),
        )
        connection.execute(
            "INSERT OR REPLACE INTO retained SELECT destination, frame FROM source.retained"
            " WHERE owner(destination) = ?",
            (slot,),
        )
    connection.execute("DETACH source")


def _copy_queue(connection: apsw.Connection, move: Move, progress: Callable[[int], None]) -> None:
    queue = move.queue
    low, high = first_key(queue.number), last_key(queue.number)
    # The lowest key is not used itself.
    after, copied = low, 0
    while True:
        connection.execute(_COPY, (move.shift, after, high, _CHUNK))
        count = connection.changes()
        copied += count
        progress(count)
        if count < _CHUNK:
            break
        after = connection.last_insert_rowid() - move.shift
    for table, value in (("delivery", "count"), ("expiry", "at")):
        connection.execute(_TOLD.format(table=table, value=value), (move.shift, low, high))
    size = queue.bytes
    if copied != queue.messages:
        # Counted wrong before: now that everything was looked at anyway, it is right again.
        size = first(
            connection,
            "SELECT coalesce(sum(length(frame)), 0) FROM message WHERE key BETWEEN ? AND ?",
            (first_key(move.number), last_key(move.number)),
        )[0]
    connection.execute("INSERT INTO depth VALUES (?, ?, ?)", (move.number, copied, size))
    connection.execute(
        "INSERT INTO queue VALUES (?, ?, ?, ?, ?)",
        (move.number, queue.name, queue.reserved, queue.delivered, queue.options),
    )


def _keys(sources: Sequence[Snapshot], slot: int, workers: int) -> Iterator[tuple[int, bytes]]:
    """The idempotency keys of this slot, the oldest first: they are forgotten in this order."""
    rows = [source.rows("SELECT run, at FROM seen ORDER BY at, place") for source in sources]
    for run, at in heapq.merge(*rows, key=itemgetter(1)):
        if owner_of(unpack(run, at).destination.encode(), workers) == slot:
            yield at, run
