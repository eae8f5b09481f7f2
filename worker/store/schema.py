"""The tables of a store's database, their versions, and what opening the file checks.

Only the opening reads this; nothing here knows of units, threads or queues. Checks read a fixed number of pages:
a store of a hundred gigabytes opens as fast as an empty one, so damage deep in a table shows when it is read.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import apsw

from worker.store.interface import StoreError

__all__ = ["APPLICATION_ID", "BUSY_MS", "MIGRATIONS", "Bindings", "configure", "failure", "first", "prepare"]

Bindings = tuple[Any, ...]

APPLICATION_ID = 0x53544D50
"""`STMP`: tells our database from any other SQLite file."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # The key says queue, priority and place, so one range is one queue in order and needs no index. What few
        # messages have stands in tables of its own, which cost the others nothing.
        "CREATE TABLE message (key INTEGER PRIMARY KEY, frame BLOB NOT NULL)",
        "CREATE TABLE delivery (key INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
        "CREATE TABLE expiry (key INTEGER PRIMARY KEY, at INTEGER NOT NULL)",
        "CREATE INDEX expiry_at ON expiry (at)",
        "CREATE TABLE queue (number INTEGER PRIMARY KEY, name TEXT NOT NULL, reserved INTEGER NOT NULL,"
        " delivered INTEGER NOT NULL, options BLOB NOT NULL)",
        # Apart from `queue`: a depth may change before its queue is described.
        "CREATE TABLE depth (number INTEGER PRIMARY KEY, messages INTEGER NOT NULL, bytes INTEGER NOT NULL)",
        "CREATE TABLE mark (origin TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID",
        # AUTOINCREMENT remembers the highest id ever used, which the rows alone do not.
        "CREATE TABLE parked (id INTEGER PRIMARY KEY AUTOINCREMENT, due INTEGER NOT NULL, queue TEXT NOT NULL,"
        " frame BLOB NOT NULL)",
        "CREATE INDEX parked_due ON parked (due)",
        # Appended to and cut off at its old end; an index by key would be written at random places.
        "CREATE TABLE seen (place INTEGER PRIMARY KEY, destination TEXT NOT NULL, key TEXT NOT NULL,"
        " message_id TEXT NOT NULL, at INTEGER NOT NULL)",
        "CREATE INDEX seen_at ON seen (at)",
        "CREATE TABLE committed (place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, record BLOB NOT NULL)",
        "CREATE TABLE retained (destination TEXT PRIMARY KEY, frame BLOB NOT NULL) WITHOUT ROWID",
    ),
    (
        # A row holds all keys of a unit, see `worker.store.keys`: one row for each cost a SEND with a key more than its
        # message did.
        "ALTER TABLE seen RENAME TO seen_one",
        "CREATE TABLE seen (place INTEGER PRIMARY KEY, at INTEGER NOT NULL, run BLOB NOT NULL)",
        "INSERT INTO seen SELECT place, at, CAST(destination || char(10) || message_id || char(10) || replace(replace("
        "replace(replace(key, char(92), char(92, 92)), ':', char(92, 99)), char(10), char(92, 110)),"
        " char(13), char(92, 114)) AS BLOB) FROM seen_one",
        "DROP TABLE seen_one",
        "CREATE INDEX seen_at ON seen (at)",
    ),
)
"""What leads from version n to n + 1. A released entry is never edited: a change is a new entry."""

BUSY_MS = 10_000
"""For the moments in which one connection holds what another one needs, all within this process."""

_TABLES = frozenset(
    ("message", "delivery", "expiry", "queue", "depth", "mark", "parked", "seen", "committed", "retained")
)
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def failure(connection: apsw.Connection | None, error: apsw.Error) -> StoreError:
    """What SQLite said, as a line for clients and operators. Look at it before the connection is used again."""
    number = connection.system_errno if connection is not None and isinstance(error, apsw.IOError) else 0
    if isinstance(error, apsw.FullError) or number in _NO_ROOM:
        return StoreError("The disk is full", full=True)
    detail = str(error)
    if number:
        detail = f"{detail}, {os.strerror(number)}"
    if isinstance(error, apsw.ReadOnlyError):
        return StoreError(f"The store cannot be written: {detail}")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StoreError(f"The store is damaged: {detail}")
    return StoreError(f"The store failed: {detail}")


def configure(connection: apsw.Connection) -> None:
    """What holds for one connection and is not in the file."""
    # FULL makes every commit wait for its WAL frames to be on disk: NORMAL would lose commits with the power.
    # Checkpoints are the writer's, at times of its choosing.
    for line in ("synchronous = FULL", "wal_autocheckpoint = 0", "temp_store = MEMORY", "cache_size = -8192"):
        list(connection.execute(f"PRAGMA {line}"))
    connection.set_busy_timeout(BUSY_MS)


def prepare(connection: apsw.Connection, path: str, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Check that this is a store, and bring it to the newest version. Raises StoreError."""
    try:
        tables = _tables(connection)
        application, version = _number(connection, "application_id"), _number(connection, "user_version")
        if tables and application != APPLICATION_ID:
            raise StoreError(f"{path} is a database, but not a Stampede store")
        if version > len(migrations):
            raise StoreError(
                f"{path} was written by a newer Stampede: its format is {version}, this one knows {len(migrations)}"
            )
        if not tables:
            # Only before the first table: so that pages can be given back to the disk without copying the file.
            list(connection.execute("PRAGMA auto_vacuum = INCREMENTAL"))
        if first(connection, "PRAGMA journal_mode = WAL")[0] != "wal":
            raise StoreError(f"{path} cannot have a write-ahead log here: is the file system a network's?")
        configure(connection)
        if version < len(migrations):
            with connection:
                for statement in (line for step in migrations[version:] for line in step):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {len(migrations)}")
        frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        if frames <= 0 and os.stat(path).st_size % _number(connection, "page_size"):
            # SQLite takes half a page for a whole one; only the log could still have the other half.
            raise StoreError(f"{path} is damaged: its end is missing")
        if missing := _TABLES - _tables(connection):
            raise StoreError(f"{path} is damaged: it has no table {', '.join(sorted(missing))}")
        for table in _TABLES:
            # The root page of each, and of the way down to its newest row.
            list(connection.execute(f"SELECT 1 FROM {table} LIMIT 1"))
    except apsw.NotADBError as error:
        raise StoreError(f"{path} is not a Stampede store: {error}") from error
    except apsw.CorruptError as error:
        raise StoreError(f"{path} is damaged ({error}): move it away to start empty, or restore a copy") from error
    except apsw.Error as error:
        raise StoreError(f"Cannot open {path}: {failure(connection, error)}") from error


def _tables(connection: apsw.Connection) -> set[str]:
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {str(name) for (name,) in names}


def _number(connection: apsw.Connection, pragma: str) -> int:
    return int(first(connection, f"PRAGMA {pragma}")[0])


def first(connection: apsw.Connection, statement: str, bindings: Bindings = ()) -> tuple[Any, ...]:
    """The first row of `statement`, which has one. Nothing stays open: a statement that is not at its end keeps the
    write-ahead log from being written back."""
    cursor = connection.execute(statement, bindings)
    row: tuple[Any, ...] | None = cursor.fetchone()
    cursor.close(True)
    if row is None:
        raise StoreError(f"The store is damaged: nothing for {statement}")
    return row
