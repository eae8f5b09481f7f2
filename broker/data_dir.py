"""The data directory: what survives the broker, and who may use it.

    <data directory>/lock           held by the front as long as it lives
    <data directory>/workers.lock   held by the front and, inherited from it, by every worker

Workers outlive a killed front for a moment, and two workers must never have one store open: so the next broker waits
for the second lock, too.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from broker.errors import CannotStartError
from broker.lock import open_lock, take_lock

__all__ = ["DataDir"]

_LOOK_AGAIN = 0.05
"""Seconds between looks whether the workers of a killed broker are gone."""


class DataDir:
    """Made and locked; `path` is absolute. Raises `CannotStartError`."""

    def __init__(self, configured: Path) -> None:
        self.path = configured.absolute()
        self._lock: int | None = None
        self._workers_lock: int | None = None
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._lock = take_lock(self.path, "data directory", "broker.data_dir")
            self._workers_lock = open_lock(self.path / "workers.lock")
        except OSError as error:
            self.close()
            raise CannotStartError(
                f"cannot use {self.path} as data directory: {error.strerror}; "
                "set broker.data_dir to a directory that can be written to"
            ) from error

    @property
    def workers_lock(self) -> int:
        """The descriptor that every worker is to inherit."""
        if self._workers_lock is None:
            raise ValueError("the data directory was closed")
        return self._workers_lock

    def try_take(self) -> bool:
        """Whether the workers of the broker before have gone, too; from then on it is ours. Raises
        `CannotStartError`."""
        try:
            fcntl.flock(self.workers_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise CannotStartError(f"cannot lock the data directory {self.path}: {error.strerror}") from error
        return True

    async def take(self, patience: float, *, unless: Callable[[], bool]) -> None:
        """`try_take` until it is ours or `unless` something came up. Raises `CannotStartError` after `patience`
        seconds."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        while not unless() and not self.try_take():
            if loop.time() >= give_up:
                raise CannotStartError(
                    f"the data directory {self.path} is still used by workers of a broker that was killed, "
                    f"{patience:g} s after this one was started; end them (fuser {self.path / 'workers.lock'})"
                )
            await asyncio.sleep(_LOOK_AGAIN)

    def close(self) -> None:
        """Let go of it; workers that are left still hold theirs."""
        for lock in (self._workers_lock, self._lock):
            if lock is not None:
                os.close(lock)
        self._lock = self._workers_lock = None
