"""Room on the disk that is given up when it is full, so that messages can still leave a store that has none.

A delete needs room, too: the write-ahead log grows before anything shrinks.
"""

from __future__ import annotations

import os

__all__ = ["Reserve"]


class Reserve:
    """A file of `size` bytes at `path`. If there is no room for it from the start, there is nothing to give up."""

    def __init__(self, path: str, size: int) -> None:
        self.spent = False
        """Whether it was given up and is not back."""
        self._path = path
        self._size = size
        self._held = self._allocate()

    def spend(self) -> bool:
        """Give it up. False if there is nothing to give."""
        if not self._held:
            return False
        os.unlink(self._path)
        self._held, self.spent = False, True
        return True

    def restore(self) -> bool:
        """Try to have it again; whether it is there."""
        if self.spent:
            self._held = self._allocate()
            self.spent = not self._held
        return not self.spent

    def _allocate(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            # A hole would be no room at all.
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError:
            os.unlink(self._path)
            return False
        finally:
            os.close(descriptor)
        return True
