"""The thread that writes: group commit, what to do when the disk refuses, and the write-ahead log.

Units arrive in a queue; all that are there when a commit ends are the next one. Owns the connection it writes through.
It tells its outcomes in the order of the units, once per commit, and knows nothing of the event loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

import apsw

from common.log import Event, EventLog
from worker.store.batch import split
from worker.store.interface import Done, StoreError, Unit
from worker.store.log_file import WriteAheadLog
from worker.store.reserve import Reserve
from worker.store.schema import failure, first
from worker.store.statements import Statements

__all__ = ["Counters", "Item", "Writer"]

_ATTEMPTS: Final = 32
"""Commits that are tried to find which units of a failed group are at fault."""
_IDLE: Final = 5.0
"""Seconds without a write after which the write-ahead log is emptied."""

_HOPELESS = (apsw.ConstraintError, apsw.MismatchError, apsw.RangeError, apsw.SQLError, apsw.TooBigError)
"""Failures of what is written, not of where: trying again cannot help."""


class _Hopeless(StoreError):
    """The unit is wrong, not the disk."""


_PAGES_IN_USE: Final = "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count"


class Item:
    """A unit on its way. `growth` are the bytes it brings, `size` those it holds in memory, `error` why it is not
    stored."""

    __slots__ = ("done", "error", "forget_keys", "growth", "size", "unit")

    def __init__(self, unit: Unit, done: Done | None, growth: int = 0, size: int = 0, forget_keys: int = 0) -> None:
        self.unit = unit
        self.done = done
        self.growth = growth
        self.size = size
        self.forget_keys = forget_keys
        self.error: StoreError | None = None


class Counters:
    """Since the start. Written by the writer's thread, read by any."""

    def __init__(self) -> None:
        self.commits = 0
        self.inserted = 0
        self.deleted = 0
        self.elided = 0
        self.microseconds = 0
        self.failures = 0


class Writer:
    """Writes what is `put` until `close`.

    `finished` is called in the writer's thread with items that are stored or have failed (`Item.error`), in order;
    `ended` as the last thing, with what ended the thread if that was not `close`. `quota_bytes` is what the pages in
    use may take, 0 for no limit; what the write-ahead log takes besides is about `wal_bytes`.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        helper: apsw.Connection,
        reserve: Reserve,
        log: EventLog,
        finished: Callable[[list[Item]], None],
        ended: Callable[[BaseException | None], None],
        *,
        quota_bytes: int,
        wal_bytes: int,
        retry_interval: float,
    ) -> None:
        self.counters = Counters()
        self._connection = connection
        self._reserve = reserve
        self._statements = Statements(connection)
        self._log = log
        self._finished = finished
        self._ended = ended
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._kept: list[Item] = []
        self._closing = False
        self._retry_interval = retry_interval
        self._failed_at: float | None = None
        self._disk_error: StoreError | None = None
        self._quota_error: StoreError | None = None
        self._told = False
        self._page_size = int(connection.pragma("page_size"))
        self._quota_bytes = quota_bytes
        self._room = 0
        self._wal = WriteAheadLog(connection, helper, wal_bytes)
        self._thread = Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> None:
        self._queue.put(item)

    def close(self) -> None:
        """Store what was put, then end. What cannot be stored fails, `must` or not."""
        self._queue.put(None)

    # --- the thread

    def _run(self) -> None:
        completed = False
        try:
            while not self._closing:
                self._turn(self._take())
            completed = True
        finally:
            self._wal.close()
            # Whatever ends this thread, a SystemExit that threading ignores included, must be seen.
            self._ended(None if completed else sys.exception())

    def _take(self) -> list[Item]:
        """What there is to write, after the wait for it; nothing if it is time to look after other things."""
        items: list[Item] = []
        try:
            item = self._queue.get(timeout=self._patience())
            while item is not None:
                items.append(item)
                item = self._queue.get_nowait()
            self._closing = True
        except Empty:
            pass
        return items

    def _patience(self) -> float | None:
        if self._kept or self._failed_at is not None:
            return self._retry_interval
        if self._wal.shrinking:
            return 0
        return _IDLE if self._wal.used else None

    def _turn(self, items: list[Item]) -> None:
        if self._kept:
            items = self._kept + items
            self._kept = []
        if items:
            self._store(items)
        elif not self._closing:
            self._idle()
        if self._closing and self._kept:
            for item in self._kept:
                item.error = self.failing
            self._finished(self._kept)

    # --- storing

    def _store(self, items: list[Item]) -> None:
        """Store in order. When a group fails, it is halved until the units at fault are found, so that one that is
        too big does not take the others with it. What follows a `must` unit that cannot be stored is not tried: it
        would overtake."""
        self._refuse_growth(items)
        outcome: list[Item] = []
        parts = [items]
        attempts = 0
        stuck: StoreError | None = None
        while parts:
            part = parts.pop()
            error = stuck or self._attempt(part)
            attempts += 1
            if error is not None and error.full and attempts == 1:
                # Written back, the log starts anew in the room that it has.
                self._maintain(self._wal.write_back)
                error = self._attempt(part)
            if error is None:
                outcome += part
                continue
            if stuck is None and len(part) > 1 and attempts < _ATTEMPTS:
                half = len(part) // 2
                parts += (part[half:], part[:half])
                continue
            must = [item for item in part if item.unit.must]
            if len(part) == 1 and isinstance(error, _Hopeless):
                self._log.error(Event.INTERNAL_ERROR, error=f"a unit that never can be stored: {error}")
                must = []
                part[0].error = error
            elif must and stuck is None and not self._insist(must, alone=len(must) == len(part), error=error):
                stuck = error
            if stuck is not None:
                self._kept += must
            for item in part:
                if not item.unit.must:
                    item.error = item.error or error
                    outcome.append(item)
                elif stuck is None:
                    outcome.append(item)
        self._tell_health()
        if outcome:
            self._finished(outcome)

    def _insist(self, must: list[Item], *, alone: bool, error: StoreError) -> bool:
        """Whether `must` can be stored without the others (if these were not `alone` when they failed by `error`), or
        with the room kept for that."""
        latest = error if alone else self._attempt(must)
        if latest is not None and latest.full and self._reserve.spend():
            self._maintain(self._wal.write_back)
            latest = self._attempt(must)
        return latest is None

    def _attempt(self, items: list[Item]) -> StoreError | None:
        """One commit of those of `items` that may be stored. Returns why it failed."""
        wanted = [item for item in items if item.error is None]
        if not wanted:
            return None
        batches = list(split([item.unit for item in wanted]))
        batches[-1].forget_keys = max([item.forget_keys for item in wanted])
        began = time.perf_counter_ns()
        elided = sum([batch.elide() for batch in batches])
        try:
            self._statements.commit(batches)
        except apsw.Error as error:
            hopeless = isinstance(error, _HOPELESS)
            return self._failed(_Hopeless(str(error)) if hopeless else failure(self._connection, error))
        counters = self.counters
        counters.microseconds += (time.perf_counter_ns() - began) // 1000
        counters.commits += 1
        counters.elided += elided
        counters.inserted += sum([len(batch.inserts) for batch in batches])
        counters.deleted += sum([len(batch.deletes) for batch in batches])
        self._disk_error = None
        self._maintain(self._wal.committed)
        return None

    def _failed(self, error: StoreError) -> StoreError:
        self.counters.failures += 1
        self._disk_error = error
        self._failed_at = time.monotonic()
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except apsw.Error as failed:
                # It is over all the same; were it not, the next BEGIN would say so.
                self._log.debug(Event.STORE_FAILING, reason=str(failed))
        return error

    # --- room and health

    @property
    def failing(self) -> StoreError | None:
        if self._reserve.spent:
            return StoreError("The disk is full", full=True)
        return self._disk_error or self._quota_error

    def _refuse_growth(self, items: list[Item]) -> None:
        """Refuse what brings bytes when there is no room for them. `must` units and deletes go on."""
        if self._reserve.spent:
            self._reserve.restore()
        elif not self._quota_bytes:
            return
        needed, looked = 0, False
        for item in items:
            if item.unit.must or not item.growth:
                continue
            if self._reserve.spent:
                item.error = StoreError("The disk is full", full=True)
            elif self._quota_bytes:
                if needed + item.growth > self._room and not looked:
                    looked = True
                    self._look_for_room()
                if needed + item.growth > self._room:
                    item.error = self._quota_error = StoreError(
                        f"The store's quota of {self._quota_bytes} bytes is used up", full=True
                    )
                    self._failed_at = time.monotonic()
                else:
                    needed += item.growth
        # An estimate on the safe side: it only makes the next look come sooner.
        self._room -= 2 * needed

    def _look_for_room(self) -> None:
        used = first(self._connection, _PAGES_IN_USE)[0] * self._page_size
        self._room = self._quota_bytes - used
        if self._room >= self._quota_bytes // 16:
            # Not earlier, lest it goes back and forth with every message that leaves.
            self._quota_error = None

    def _tell_health(self) -> None:
        failing = self.failing
        if failing is not None and not self._told:
            self._told = True
            self._log.error(Event.STORE_FAILING, reason=str(failing), kept=len(self._kept))
            return
        # A disk that is all but full fails with every other commit: that is one line, not thousands.
        quiet = self._failed_at is not None and time.monotonic() - self._failed_at >= self._retry_interval
        if failing is None and quiet:
            self._failed_at = None
            if self._told:
                self._told = False
                self._log.info(Event.STORE_RECOVERED)

    def _idle(self) -> None:
        """Nothing came for a while: see whether a disk that failed is well again, and tidy up."""
        if self._reserve.spent:
            self._reserve.restore()
        elif self._disk_error is not None:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute("REPLACE INTO depth VALUES (-1, 0, 0)")
                self._connection.execute("COMMIT")
                self._disk_error = None
            except apsw.Error as error:
                self._failed(failure(self._connection, error))
        elif self._quota_error is not None:
            self._look_for_room()
        elif self._wal.used:
            self._maintain(self._wal.tidy)
        self._tell_health()

    def _maintain(self, action: Callable[[], None]) -> None:
        try:
            action()
        except apsw.Error as error:
            self._failed(failure(self._connection, error))
