"""The databases of a data directory as they were at one moment, while the broker may go on writing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import apsw

from common.layout import Layout, LayoutError, database, database_slots, read_layout
from worker.queues.message import first_key, last_key, queue_number
from worker.queues.owned import VOLATILE
from worker.store.interface import StoreError
from worker.store.schema import APPLICATION_ID, BUSY_MS, MIGRATIONS, Bindings, failure

__all__ = ["Queue", "Snapshot", "Snapshots", "read_only", "workers_of"]


def read_only(path: Path) -> str:
    """The name by which SQLite opens `path` for reading."""
    return f"file:{quote(str(path.absolute()))}?mode=ro"


@contextmanager
def clear_errors(path: Path, connection: apsw.Connection | None = None) -> Iterator[None]:
    """What SQLite raises within becomes a `StoreError` that names the file."""
    try:
        yield
    except apsw.NotADBError as error:
        raise StoreError(f"{path} is not a Stampede store: {error}") from error
    except apsw.CantOpenError as error:
        raise StoreError(f"cannot open {path}: {error}") from error
    except apsw.Error as error:
        said = failure(connection, error)
        raise StoreError(f"{path}: {said}", full=said.full) from error


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as it is stored; `messages` and `bytes` as they are counted beside it. See `PutQueue`."""

    number: int
    name: str
    reserved: int
    delivered: int
    options: bytes
    messages: int
    bytes: int


class Snapshot:
    """One database in one read transaction. A context manager; every method raises `StoreError`.

    `is_empty` if it was made, but never opened by a worker to the end: then there is nothing to read.
    """

    def __init__(self, path: Path, slot: int) -> None:
        self.path = path
        self.slot = slot
        self.is_empty = False
        with clear_errors(path):
            self.connection = apsw.Connection(read_only(path), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        try:
            with clear_errors(path, self.connection):
                self._begin()
        except StoreError:
            self.connection.close(True)
            raise

    def _begin(self) -> None:
        self.connection.set_busy_timeout(BUSY_MS)
        list(self.connection.execute("PRAGMA cache_size = -8192"))
        self.connection.execute("BEGIN")
        # Only the first read decides what the transaction sees.
        self.is_empty = not self._one("SELECT count(*) FROM sqlite_schema")
        if self.is_empty:
            return
        version = int(self._one("PRAGMA user_version"))
        if self._one("PRAGMA application_id") != APPLICATION_ID:
            raise StoreError(f"{self.path} is a database, but not a Stampede store")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path} was written by a newer Stampede: its format is {version}, this one knows "
                f"{len(MIGRATIONS)}"
            )
        if version < len(MIGRATIONS):
            raise StoreError(
                f"{self.path} was written by an older Stampede: its format is {version}, this one has "
                f"{len(MIGRATIONS)}; start the broker once, which brings it up to date"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close(True)

    def rows(self, statement: str, bindings: Bindings = ()) -> Iterator[tuple[Any, ...]]:
        """The rows one by one."""
        if self.is_empty:
            return
        with clear_errors(self.path, self.connection):
            yield from self.connection.execute(statement, bindings)

    def one(self, statement: str, bindings: Bindings = ()) -> Any:
        """The first value of the first row, None without one."""
        for row in self.rows(statement, bindings):
            return row[0]
        return None

    def _one(self, statement: str) -> Any:
        return next(iter(self.connection.execute(statement)))[0]

    def queues(self) -> list[Queue]:
        """All queues by their numbers, without those that end with their owner."""
        return [
            Queue(*row)
            for row in self.rows(
                "SELECT q.number, q.name, q.reserved, q.delivered, q.options, coalesce(d.messages, 0),"
                " coalesce(d.bytes, 0) FROM queue q LEFT JOIN depth d ON d.number = q.number"
                " WHERE q.options != ? ORDER BY q.number",
                (VOLATILE,),
            )
        ]

    def numbers_in_use(self) -> Iterator[int]:
        """The numbers of queues that messages have keys of, in order; looks at a few pages for each."""
        after = -(1 << 63)
        while True:
            key = self.one("SELECT min(key) FROM message WHERE key > ?", (after,))
            if key is None:
                return
            yield queue_number(key)
            after = last_key(queue_number(key))

    def counted(self, number: int) -> tuple[int, int]:
        """The messages of a queue and their bytes, counted one by one."""
        for count, size in self.rows(
            "SELECT count(*), coalesce(sum(length(frame)), 0) FROM message WHERE key BETWEEN ? AND ?",
            (first_key(number), last_key(number)),
        ):
            return count, size
        return 0, 0


class Snapshots:
    """Those of all databases of a directory, begun as near to each other as can be. A context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.workers = workers_of(directory)
        self.all: list[Snapshot] = []
        self._stack = ExitStack()
        try:
            for slot in _slots(directory):
                self.all.append(self._stack.enter_context(Snapshot(database(directory, slot), slot)))
        except StoreError:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def workers_of(directory: Path) -> int:
    """For how many workers `directory` is laid out, 0 if nothing is in it yet. Raises `StoreError`."""
    try:
        layout = read_layout(directory)
        if layout is None:
            # From before directories said so.
            slots = database_slots(directory)
            layout = Layout(slots[-1] + 1) if slots else Layout(0)
    except LayoutError as error:
        raise StoreError(str(error)) from error
    if layout.becomes is not None:
        raise StoreError(
            f"{directory} is between the layouts for {layout.workers} and {layout.becomes} workers, because the broker "
            "was ended meanwhile; start it, which completes that"
        )
    return layout.workers


def _slots(directory: Path) -> list[int]:
    try:
        return database_slots(directory)
    except LayoutError as error:
        raise StoreError(str(error)) from error
