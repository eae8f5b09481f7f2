"""The store in one SQLite database file: what `Store` promises, on the event loop's side.

Owns the file, the lock that keeps other processes out and the two threads; carries units to the writer and requests to
the reader, and calls back on the loop. What the threads do is theirs: `writer`, `reader`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import apsw

from common.log import Event, EventLog
from worker.store import reader as reading
from worker.store.interface import Done, Expired, Park, PutKeys, PutTransaction, Recovered, Retain, StoreError, Unit
from worker.store.reader import Reader, Request, Row
from worker.store.reserve import Reserve
from worker.store.schema import configure, failure, prepare
from worker.store.writer import Item, Writer

__all__ = ["SqliteStore"]

_PER_MESSAGE = 64
"""Bytes of memory of a key, a change or a unit that waits, besides its frame; about."""
_RESERVE_BYTES = 8 << 20
"""Room on the disk that only deletes and other `must` units may use up."""


class SqliteStore:
    """See `worker.store.interface.Store`.

    `quota_bytes` is what the messages may take on disk, 0 for no limit: units that are not `must` and bring bytes fail
    above it. The write-ahead log takes about `wal_bytes` besides. After a failed commit, `must` units are tried again
    every `retry_interval` seconds, and with the next write. Beside the file at `path` stand
    `-wal`, `-shm`, `.lock`, and `.reserve`: room that is given up when the disk is full, so that messages can leave.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        loop: asyncio.AbstractEventLoop,
        log: EventLog,
        *,
        quota_bytes: int = 0,
        wal_bytes: int = 64 << 20,
        retry_interval: float = 1.0,
        on_broken: Callable[[], None] | None = None,
    ) -> None:
        self._on_broken = on_broken
        self._path = os.fspath(path)
        self._loop = loop
        self._log = log
        self._quota_bytes = quota_bytes
        self._wal_bytes = wal_bytes
        self._retry_interval = retry_interval
        self._lock: int | None = None
        self._connections: list[apsw.Connection] = []
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._waiting: dict[Item, None] = {}
        self._outcomes: deque[Item] = deque()
        self._answers: deque[Request] = deque()
        self._pending_bytes = 0
        self._broken: StoreError | None = None
        self._writing = False
        self._closed: Callable[[], None] | None = None
        self._over = False

    # --- opening and closing

    def open(self) -> Recovered:
        try:
            self._lock = _lock(self._path)
            writing = self._connect()
            prepare(writing, self._path)
            recovered = self._recover(writing)
            other, helper = self._connect(), self._connect()
            configure(other)
            configure(helper)
            self._writer = Writer(
                writing,
                helper,
                Reserve(f"{self._path}.reserve", _RESERVE_BYTES),
                self._log,
                self._finished,
                self._writer_ended,
                quota_bytes=self._quota_bytes,
                wal_bytes=self._wal_bytes,
                retry_interval=self._retry_interval,
            )
            self._reader = Reader(other, self._log, self._answered, self._reader_ended, self._retry_interval)
        except StoreError:
            self._release()
            raise
        except apsw.Error as error:
            self._release()
            raise StoreError(f"Cannot open {self._path}: {failure(None, error)}") from error
        self._writing = True
        self._writer.start()
        self._reader.start()
        self._log.info(
            Event.STORE_OPENED,
            path=self._path,
            queues=len(recovered.queues),
            messages=sum(row.messages for row in recovered.queues),
            bytes=self._bytes_on_disk(),
        )
        return recovered

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(self._path)
        self._connections.append(connection)
        return connection

    def _recover(self, connection: apsw.Connection) -> Recovered:
        try:
            return reading.recover(connection)
        except apsw.CorruptError as error:
            raise StoreError(
                f"{self._path} is damaged ({error}): move it away to start empty, or restore a copy"
            ) from error

    def close(self, done: Callable[[], None]) -> None:
        if self._closed is not None or self._over:
            return
        self._closed = done
        if self._writing and self._writer is not None:
            self._writer.close()
        else:
            self._stop()
            self._loop.call_soon(self._finish)

    def _stop(self) -> None:
        """Give back threads, files and lock. For the thread that is the last to write."""
        if self._reader is not None:
            self._reader.stop()
        self._release()

    def _release(self) -> None:
        # The last to close empties the write-ahead log, which an interrupted reader would leave.
        for connection in reversed(self._connections):
            connection.close(True)
        self._connections.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _finish(self) -> None:
        self._deliver()
        closed, self._closed = self._closed, None
        self._over = True
        self._answers.clear()
        if closed is not None:
            closed()

    # --- writing

    def write(self, unit: Unit, done: Done | None = None) -> None:
        growth = sum([len(frame) for _, frame in unit.inserts]) if unit.inserts else 0
        overhead = 1 + len(unit.inserts) + len(unit.deletes) + len(unit.changes) + len(unit.depths)
        for change in unit.changes:
            match change:
                case Park(frame=frame) | Retain(frame=bytes(frame)) | PutTransaction(record=frame):
                    growth += len(frame)
                case PutKeys(destination, keys, ids):
                    growth += len(destination) + sum(map(len, keys)) + sum(map(len, ids)) + 2 * len(keys)
                    overhead += len(keys)
        self._put(Item(unit, done, growth, growth + overhead * _PER_MESSAGE))

    def forget_keys(self, before: int) -> None:
        self._put(Item(Unit(), None, forget_keys=before))

    def _put(self, item: Item) -> None:
        if self._closed is not None or self._over:
            return
        self._pending_bytes += item.size
        self._waiting[item] = None
        if self._broken is None and self._writer is not None:
            self._writer.put(item)
        else:
            item.error = self._broken or StoreError("The store is not open")
            self._outcomes.append(item)
            self._loop.call_soon(self._deliver)

    def _finished(self, items: list[Item]) -> None:
        """In the writer's thread."""
        self._outcomes.extend(items)
        self._wake(self._deliver)

    def _deliver(self) -> None:
        outcomes = self._outcomes
        try:
            while outcomes:
                item = outcomes.popleft()
                if self._waiting.pop(item, item) is None:
                    self._pending_bytes -= item.size
                    if item.done is not None:
                        item.done(item.error)
        finally:
            # A callback that raises is the loop's to report; it takes nothing from the others.
            if outcomes:
                self._loop.call_soon(self._deliver)

    def _writer_ended(self, error: BaseException | None) -> None:
        """In the writer's thread, its last act."""
        self._writing = False
        if error is not None:
            self._log.error(Event.INTERNAL_ERROR, error=f"the store's writer ended: {error!r}")
            self._wake(partial(self._break, f"The store's writer ended: {error!r}"))
            return
        self._stop()
        self._wake(self._finish)

    def _reader_ended(self, error: BaseException | None) -> None:
        """In the reader's thread, its last act."""
        if error is not None:
            self._log.error(Event.INTERNAL_ERROR, error=f"the store's reader ended: {error!r}")
            self._wake(partial(self._break, f"The store's reader ended: {error!r}"))

    def _break(self, reason: str) -> None:
        """A bug has ended a thread: nothing is accepted any more, and nobody waits in vain."""
        self._broken = StoreError(reason)
        if self._on_broken is not None:
            self._on_broken()
        if self._writing and self._writer is not None:
            return
        for item in self._waiting:
            item.error = item.error or self._broken
        self._outcomes.extend(self._waiting)
        self._deliver()
        if self._closed is not None:
            self._stop()
            self._finish()

    def _wake(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop was closed before the store: there is nobody left to tell.
            self._log.debug(Event.INTERNAL_ERROR, error="the event loop ended before the store")

    # --- reading

    def page(self, after: int, before: int, count: int, size: int, done: Callable[[list[Row]], None]) -> None:
        self._ask(partial(reading.page, after=after, before=before, count=count, size=size), done)

    def fetch(self, keys: Sequence[int], done: Callable[[list[Row]], None], size: int | None = None) -> None:
        self._ask(partial(reading.fetch, keys=keys, size=size), done)

    def expired(self, now: int, limit: int, done: Callable[[list[Expired]], None], after: Expired = (0, 0)) -> None:
        self._ask(partial(reading.expired, now=now, limit=limit, after=after), done)

    def parked(self, now: int, limit: int, size: int, done: Callable[[tuple[list[Park], int]], None]) -> None:
        self._ask(partial(reading.parked, now=now, limit=limit, size=size), done)

    def _ask(self, read: Callable[[apsw.Connection], object], done: Callable[..., None]) -> None:
        if self._reader is not None and not self._over:
            self._reader.ask(Request(read, done))

    def _answered(self, request: Request) -> None:
        """In the reader's thread."""
        self._answers.append(request)
        self._wake(self._answer)

    def _answer(self) -> None:
        answers = self._answers
        try:
            while answers:
                request = answers.popleft()
                request.done(request.result)
        finally:
            if answers:
                self._loop.call_soon(self._answer)

    # --- state

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    @property
    def failing(self) -> StoreError | None:
        return self._broken or (self._writer.failing if self._writer is not None else None)

    def stats(self) -> dict[str, int]:
        if self._writer is None:
            return {}
        counters = self._writer.counters
        return {
            "commits": counters.commits,
            "commit_microseconds": counters.microseconds,
            "failures": counters.failures,
            "inserted": counters.inserted,
            "deleted": counters.deleted,
            "elided": counters.elided,
            "bytes": self._bytes_on_disk(),
        }

    def _bytes_on_disk(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            try:
                total += os.stat(self._path + suffix).st_size
            except FileNotFoundError:
                continue
        return total


def _lock(path: str) -> int:
    """Keep other processes out for as long as the returned descriptor is open. Raises StoreError."""
    # SQLite's own locks would let two processes write in turns.
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"Cannot open {path}.lock: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # SQLite would make it readable to all. Its other files take after it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreError(f"{path} is in use by another process") from error
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"Cannot open {path}: {error.strerror}") from error
    return descriptor
