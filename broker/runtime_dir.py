"""The runtime directory: where the processes of one broker meet.

    <runtime directory>/lock           held by the front as long as it lives
    <runtime directory>/b<boot>/       mode 0700, the endpoints of this start of the broker

Each start has a subdirectory of its own: workers that outlive a killed front for a moment remove their own
endpoints as they go, and must not find those of the next broker under the same names.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from broker.errors import CannotStartError
from broker.leftovers import make_temporary
from broker.lock import take_lock

__all__ = ["ENDPOINT_NAME_BYTES", "ENDPOINT_PATH_BYTES", "RuntimeDir"]

ENDPOINT_PATH_BYTES = 107
"""What fits in `sun_path` (unix(7)), without its NUL."""
ENDPOINT_NAME_BYTES = 16
"""What is kept free for the name of an endpoint in the directory."""

_BOOT = re.compile(r"b[0-9a-f]{8}")


class RuntimeDir:
    """Made, locked and cleaned of what a killed broker left behind; `path` is the one for endpoints.

    `boot` has 8 hexadecimal digits. `configured` None: a private temporary directory, removed by `close`, or by
    the next broker if this one is killed.
    Raises `CannotStartError`.
    """

    def __init__(self, configured: Path | None, boot: str) -> None:
        self._lock: int | None = None
        self._is_private = configured is None
        try:
            if configured is None:
                self._base = make_temporary("stampede-")
            else:
                self._base = configured.absolute()
                self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            what = "a private temporary directory" if configured is None else str(configured)
            raise CannotStartError(
                f"cannot use {what} as runtime directory: {error.strerror}; "
                "set broker.runtime_dir to a directory that can be written to"
            ) from error
        self.path = self._base / f"b{boot}"
        try:
            self._check_length()
            # Not inherited by workers, so it ends with the front.
            self._lock = take_lock(self._base, "runtime directory", "broker.runtime_dir")
            self._remove_stale()
            self.path.mkdir(mode=0o700)
        except CannotStartError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise CannotStartError(
                f"cannot use {self._base} as runtime directory: {error.strerror}; "
                "set broker.runtime_dir to a directory that can be written to"
            ) from error

    def _check_length(self) -> None:
        length = len(os.fsencode(self.path)) + 1 + ENDPOINT_NAME_BYTES
        if length > ENDPOINT_PATH_BYTES:
            longest = ENDPOINT_PATH_BYTES - (length - len(os.fsencode(self._base)))
            raise CannotStartError(
                f"the runtime directory {self._base} is too long for a Unix socket: "
                f"{len(os.fsencode(self._base))} bytes, at most {longest}; "
                "set broker.runtime_dir to a shorter one"
            )

    def _remove_stale(self) -> None:
        for entry in os.scandir(self._base):
            if _BOOT.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove_endpoints(Path(entry.path))

    def close(self) -> None:
        """Remove the endpoints, the temporary directory if there is one, and let go of the lock."""
        if self._is_private:
            shutil.rmtree(self._base, ignore_errors=True)
        elif self._lock is not None:
            _remove_endpoints(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_endpoints(directory: Path) -> None:
    """Remove `directory` and the sockets in it, nothing else: the name alone does not prove it to be ours."""
    with suppress(OSError):
        for entry in os.scandir(directory):
            if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                os.unlink(entry.path)
        directory.rmdir()
