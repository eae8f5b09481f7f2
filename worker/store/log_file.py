"""The write-ahead log: when its pages go to their places in the database file. Used by the writer's thread only."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import apsw

from worker.store.schema import BUSY_MS, first

__all__ = ["WriteAheadLog"]

_LOOK_AFTER: Final = 16
"""Commits between two looks at its size: a look is a chance to lose the interpreter lock."""
_RUNAWAY: Final = 4
"""So many times its limit, commits have to wait until it is written back."""
_LITTLE: Final = 1 << 20
"""Bytes that the writer writes back itself."""
_AHEAD: Final = 1 << 20
"""Bytes that are written before they are needed. With each fsync it costs more to have a file grow than to write over
what is there: measured for two pages 147 us against 94."""
_SPARE: Final = 64 << 20
"""Bytes of a disk that is not to be filled for that."""
_KEPT: Final = 16 << 20
"""Bytes of the file that stay when there is nothing to write, for the same reason."""
_FRAME_HEADER: Final = 24
_VACUUM_PAGES: Final = 256
"""Pages given back to the disk at a time, so that a write that comes meanwhile waits for milliseconds only."""
_MANY_FREE: Final = 16384
_FEW_FREE: Final = 4096
"""Pages that are free and of use to nobody, and those that are left for what comes next."""


class WriteAheadLog:
    """Keeps the log of `connection` near `limit` bytes. Every method raises what apsw raises.

    Writing back 64 MiB stops commits for 100 ms and more. So `helper`, another connection, does it beside them, again
    and again, until what came meanwhile is little; the writer does that, whereupon its next commit starts the log anew.
    """

    def __init__(self, connection: apsw.Connection, helper: apsw.Connection, limit: int) -> None:
        self.checkpoints = 0
        self.used = True
        """Whether there is something for `tidy` to do."""
        self.shrinking = False
        self._connection = connection
        self._helper = helper
        self._limit = limit
        self._page_size = int(connection.pragma("page_size"))
        self._path = f"{connection.filename}-wal"
        self._is_ahead = True
        self._unlooked = 0
        self._executor = ThreadPoolExecutor(1, "store-checkpoint")
        self._pass: Future[tuple[int, int]] | None = None

    def committed(self) -> None:
        """Note a commit; see to it that the log is written back when it has reached its limit."""
        self.used = True
        self._unlooked += 1
        if self._unlooked >= _LOOK_AFTER or (self._pass is not None and self._pass.done()):
            self._unlooked = 0
            self._look()

    def _look(self) -> None:
        frames, written = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        self._write_ahead(frames)
        size, missing = frames * self._page_size, (frames - written) * self._page_size
        if size < self._limit or not missing:
            return
        if self._pass is not None:
            if not self._pass.done() and size < self._limit * _RUNAWAY:
                return
            helped, self._pass = self._pass, None
            helped.result()
            if missing <= _LITTLE or size >= self._limit * _RUNAWAY:
                self.write_back()
                return
        # PASSIVE waits for nobody, and nobody for it.
        self._pass = self._executor.submit(self._helper.wal_checkpoint, mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _write_ahead(self, frames: int) -> None:
        """Have the file be longer than what comes next. Behind the last frame SQLite heeds nothing, as it leaves there
        what it wrote before it began anew."""
        end = frames * (self._page_size + _FRAME_HEADER)
        if end > self._limit or not self._is_ahead:
            return
        try:
            size = os.stat(self._path).st_size
            if end + _AHEAD // 2 >= size:
                self._lengthen(size)
        except OSError:
            # SQLite meets it as well, and it is reported then.
            self._is_ahead = False

    def _lengthen(self, size: int) -> None:
        disk = os.statvfs(self._path)
        if disk.f_bavail * disk.f_frsize < _SPARE:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, bytes(_AHEAD), size)
        finally:
            os.close(descriptor)

    def write_back(self) -> None:
        """Write back what can be, at once."""
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.checkpoints += 1

    def tidy(self) -> None:
        """Write everything back and cut the log's file if it is long, unless somebody is reading; give free pages back
        to the disk, a few each time (`shrinking`: call again). For when nothing is to be written."""
        if self._pass is not None:
            helped, self._pass = self._pass, None
            helped.result()
        free = first(self._connection, "PRAGMA freelist_count")[0]
        if not self.shrinking:
            self.shrinking = free > max(_MANY_FREE, first(self._connection, "PRAGMA page_count")[0] // 2)
        elif free <= _FEW_FREE:
            self.shrinking = False
        if self.shrinking:
            list(self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})"))
            self.committed()
            return
        self._connection.set_busy_timeout(0)
        try:
            is_long = os.stat(self._path).st_size > _KEPT
            self._connection.wal_checkpoint(
                mode=apsw.SQLITE_CHECKPOINT_TRUNCATE if is_long else apsw.SQLITE_CHECKPOINT_RESTART
            )
            self.checkpoints += 1
            self.used = False
        except apsw.BusyError:
            self.used = True
        finally:
            self._connection.set_busy_timeout(BUSY_MS)

    def close(self) -> None:
        """Before the connections are closed."""
        self._executor.shutdown()
