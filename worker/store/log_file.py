"""The write-ahead log: when its pages go to their places in the database file. Used by the writer's thread only."""

from __future__ import annotations

from typing import Final

import apsw

__all__ = ["WriteAheadLog"]

_LOOK_AFTER: Final = 16
"""Commits between two looks at its size: a look is a chance to lose the interpreter lock."""
_VACUUM_PAGES: Final = 256
"""Pages given back to the disk at a time, so that a write that comes meanwhile waits for a few milliseconds."""


class WriteAheadLog:
    """Keeps the log of `connection` near `limit` bytes. Every method raises what apsw raises."""

    def __init__(self, connection: apsw.Connection, limit: int) -> None:
        self.checkpoints = 0
        self._connection = connection
        self._limit = limit
        self._page_size = int(connection.pragma("page_size"))
        self._unlooked = 0
        self.used = True
        """Whether there is something for `empty` to do."""

    def committed(self) -> None:
        """Note a commit; write back when the log has reached its limit."""
        self.used = True
        self._unlooked += 1
        if self._unlooked < _LOOK_AFTER:
            return
        self._unlooked = 0
        frames, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        if frames * self._page_size > self._limit:
            # PASSIVE waits for nobody. The next commit starts the log anew if all of it was written back.
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self.checkpoints += 1

    def empty(self) -> None:
        """Write everything back and cut the log's file, unless somebody is reading; give free pages back."""
        self._connection.set_busy_timeout(0)
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.checkpoints += 1
            self.used = False
        except apsw.BusyError:
            self.used = True
        finally:
            self._connection.set_busy_timeout(10_000)
