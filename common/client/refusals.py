"""SENDs that the broker has refused: told by an event, or at the end of the client if nobody has asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.client.errors import BrokerError
from common.client.events import ClientEvent, Refused
from common.client.receipt import Receipt

__all__ = ["Refusals"]

_MOST = 100
"""Futures that are kept. What comes on top asyncio reports, when nobody has it any more."""


class Refusals:
    """One client's. `tell` takes events, if anybody does."""

    def __init__(self, tell: Callable[[ClientEvent], None] | None) -> None:
        self._tell = tell
        self._kept: list[asyncio.Future[Receipt]] = []

    def note(self, destination: str, error: BrokerError, future: asyncio.Future[Receipt]) -> None:
        """A SEND to `destination` was refused, and `future` has the `error`."""
        if self._tell is not None:
            self._tell(Refused(destination, error))
            # It is told: asyncio need not, should nobody wait for it.
            future.exception()
        else:
            self._kept = [each for each in self._kept if _is_unheard(each)]
            if len(self._kept) < _MOST:
                self._kept.append(future)

    def first_unheard(self) -> BaseException | None:
        """The error of the first that nobody has asked for, once."""
        for future in self._kept:
            if _is_unheard(future):
                return future.exception()
        return None


def _is_unheard(future: asyncio.Future[Receipt]) -> bool:
    """Whether nobody has asked for the exception yet. asyncio itself goes by that, but has no other name for it."""
    return future._log_traceback
