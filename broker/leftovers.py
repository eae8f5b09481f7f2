"""Temporary directories, and those of brokers whose program was killed: the next broker removes them.

    <temporary directory>/temporary     says that it was made here, and that nobody wants to keep it
    <temporary directory>/lock, workers.lock     held as long as anybody works in it

The name alone proves nothing: somebody may keep data in a directory that is called the same.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

__all__ = ["make_temporary"]

_MARK = "temporary"
_LOCKS = ("lock", "workers.lock")
_AGE = 60.0
"""Seconds for which nothing has changed in what is removed: whoever has made one locks it within much less."""


def make_temporary(prefix: str) -> Path:
    """A new private directory whose name begins with `prefix`; those that were left behind are removed. Raises
    `OSError`."""
    # Looking for them is a courtesy: nothing that goes wrong with it keeps a broker from starting.
    with suppress(OSError):
        _remove_leftovers(Path(tempfile.gettempdir()), prefix)
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    with suppress(OSError):
        (directory / _MARK).touch(0o600)
    return directory


def _remove_leftovers(place: Path, prefix: str) -> None:
    # As tempfile makes names.
    name = re.compile(re.escape(prefix) + "[a-z0-9_]{8}")
    with os.scandir(place) as entries:
        found = [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
    for directory in found:
        with suppress(OSError), ExitStack() as held:
            if _is_old_and_ours(directory) and _take_locks(directory, held):
                shutil.rmtree(directory, ignore_errors=True)


def _is_old_and_ours(directory: Path) -> bool:
    """Raises `OSError` if there is no lock or no mark in it."""
    facts = [os.lstat(path) for path in (directory, directory / _LOCKS[0], directory / _MARK)]
    youngest = max(each.st_mtime for each in facts)
    is_ours = stat.S_ISDIR(facts[0].st_mode) and all(each.st_uid == os.geteuid() for each in facts)
    return is_ours and youngest < time.time() - _AGE


def _take_locks(directory: Path, held: ExitStack) -> bool:
    """Whether nobody works in it, nor begins to until `held` lets go. Raises `OSError` for one that is held."""
    for name in _LOCKS:
        try:
            lock = os.open(directory / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            # A runtime directory has one only.
            continue
        held.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Or another broker has removed it meanwhile, and this is a lock on nothing.
        if not os.path.samestat(os.fstat(lock), os.lstat(directory / name)):
            return False
    return True
