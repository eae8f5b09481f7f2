"""Whether a client has ended, and by what: asked by every call, and waited for by who does nothing else."""

from __future__ import annotations

import asyncio

from common.client.errors import ClientClosed, ClientError

__all__ = ["Ending"]


class Ending:
    """One client's. First, if somebody closes it, nothing new is taken; then it has ended."""

    def __init__(self) -> None:
        self._too_late: ClientError | None = None
        self._error: ClientError | None = None
        self._over = asyncio.Event()

    @property
    def failure(self) -> ClientError | None:
        """What it ended by, None if somebody closed it."""
        return None if isinstance(self._error, ClientClosed) else self._error

    def begin(self) -> None:
        """Somebody is closing it."""
        if self._too_late is None:
            # Or somebody who sends on and on would keep it open, and lose what comes after DISCONNECT.
            self._too_late = ClientClosed("the client is being closed")

    def end(self, error: ClientError) -> bool:
        """It has ended by `error`. Returns whether that is news."""
        if self._error is not None:
            return False
        self._error = self._too_late = error
        self._over.set()
        return True

    def check_new(self) -> None:
        """Raise if anything new is too late."""
        if self._too_late is not None:
            # Each raise would lengthen its traceback, which holds the frames of the callers.
            raise self._too_late.with_traceback(None)

    def check(self) -> None:
        """Raise if it has ended; until then what was begun goes on."""
        if self._error is not None:
            raise self._error.with_traceback(None)

    async def wait(self) -> None:
        """Return when it was closed. Raises what else ended it."""
        await self._over.wait()
        if self.failure is not None:
            raise self.failure.with_traceback(None)
