"""Questions to workers over the control channel, and their answers, in time or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common.messages import Message, Query

__all__ = ["Ask", "NoAnswer", "Questions"]

TIMEOUT = 2.0
"""Seconds a worker has to answer; it does within milliseconds unless it is stuck."""
MAX_OPEN = 32
"""Unanswered questions per worker: what is asked of a stuck one must not pile up before it."""

Result = dict[str, Any] | None
Ask = Callable[[int, str, dict[str, Any]], "asyncio.Future[Result]"]


class NoAnswer(Exception):
    """The worker is not there, is stuck, or has died over the question."""


class Questions:
    """`send` passes a message on to a slot; it returns False where there is no worker."""

    def __init__(self, send: Callable[[int, Message], bool], *, timeout: float = TIMEOUT) -> None:
        self._send = send
        self._timeout = timeout
        self._number = 0
        self._open: dict[int, dict[int, asyncio.Future[Result]]] = {}

    async def ask(self, slot: int, what: str, arguments: dict[str, Any]) -> Result:
        """The worker's answer (`worker.inspection`); raises `NoAnswer`."""
        waiting = self._open.setdefault(slot, {})
        if len(waiting) >= MAX_OPEN:
            raise NoAnswer(f"worker {slot} has {MAX_OPEN} questions to answer already")
        self._number += 1
        number = self._number
        waiting[number] = asyncio.get_running_loop().create_future()
        try:
            if not self._send(slot, Query(number, what, arguments)):
                raise NoAnswer(f"worker {slot} is not there")
            return await asyncio.wait_for(waiting[number], self._timeout)
        except TimeoutError:
            raise NoAnswer(f"worker {slot} did not answer within {self._timeout:g} s") from None
        finally:
            waiting.pop(number, None)

    def answered(self, slot: int, number: int, result: Result) -> None:
        """What a worker said; ignored when nobody waits for it any more."""
        future = self._open.get(slot, {}).get(number)
        if future is not None and not future.done():
            future.set_result(result)

    def lost(self, slot: int) -> None:
        """The worker is gone, and with it its answers."""
        for future in self._open.pop(slot, {}).values():
            if not future.done():
                future.set_exception(NoAnswer(f"worker {slot} is gone"))
