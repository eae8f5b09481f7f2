"""Directories that only one broker may use at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from broker.errors import CannotStartError

__all__ = ["open_lock", "take_lock"]


def open_lock(path: Path) -> int:
    """A descriptor of the file, made if need be and not inherited by other processes. Raises `OSError`."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def take_lock(directory: Path, what: str, key: str) -> int:
    """Lock `directory`, which is the `what` and configured as `key`, until the returned descriptor is closed.

    Raises `CannotStartError` if another process has it, `OSError` if it is no place to work in. The file `lock` stays:
    removing it would let two brokers hold locks on two files of that name.
    """
    lock = open_lock(directory / "lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise CannotStartError(
            f"the {what} {directory} is used by another broker (process {owner or 'unknown'}); "
            f"stop it or set {key} to another directory"
        ) from error
    except OSError:
        os.close(lock)
        raise
    # Only for the message above, which can do without it where the disk is full.
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
