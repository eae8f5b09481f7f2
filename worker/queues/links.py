"""An origin's end: what this worker hands off to the owners of queues, kept until they confirm it.

A hand-off is numbered per owner. The owner's next life gets all that is unconfirmed again, in order, and drops by
the number what the last one had stored. It remembers as many numbers as may be under way, each for itself: one that
the disk had no room for may lie between two that are stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from worker.queues.letters import HAND_OFF, Confirmed, Operation, Outcome

__all__ = ["UNDER_WAY", "Link"]

UNDER_WAY = 1024
"""No hand-off is sent before the one so many places ahead of it is confirmed."""


class Link:
    """To one owner on another worker. `full(link, True)` is called when more than `max_bytes` are unconfirmed, with
    False when that is over. Nothing is sent before `open`, and after `lost` until the next."""

    __slots__ = (
        "_bytes",
        "_full",
        "_max_bytes",
        "_send",
        "_sent",
        "_sequence",
        "_told",
        "_unconfirmed",
        "_up",
        "_waiting",
        "name",
        "slot",
    )

    def __init__(
        self,
        slot: int,
        send: Callable[[int, Any], None],
        full: Callable[[Link, bool], None],
        max_bytes: int,
    ) -> None:
        self.slot = slot
        self.name = b"\0owner %d" % slot
        self._send = send
        self._full = full
        self._max_bytes = max_bytes
        self._sequence = 0
        self._sent = 0
        self._bytes = 0
        self._told = False
        self._up = False
        self._unconfirmed: dict[int, tuple[list[Operation], str | None, Confirmed | None, int]] = {}
        # The last hand-off that each waits for, in the order of those.
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def unconfirmed_bytes(self) -> int:
        return self._bytes

    def hand_off(
        self, operations: list[Operation], done: Confirmed | None, size: int, transaction: str | None = None
    ) -> None:
        """Give `operations` of `size` bytes to the owner; `done` is called with how that ended."""
        self._sequence += 1
        self._unconfirmed[self._sequence] = (operations, transaction, done, size)
        self._bytes += size
        if self._up:
            self._send_on()
        if self._bytes > self._max_bytes and not self._told:
            self._told = True
            self._full(self, True)

    def open(self) -> None:
        """The owner is there: it gets what it has not confirmed."""
        self._up = True
        self._sent = next(iter(self._unconfirmed), self._sequence + 1) - 1
        self._send_on()

    def _send_on(self) -> None:
        last = min(self._sequence, next(iter(self._unconfirmed), self._sequence) + UNDER_WAY - 1)
        while self._sent < last:
            self._sent += 1
            entry = self._unconfirmed.get(self._sent)
            if entry is not None:
                self._send(self.slot, [HAND_OFF, self._sent, entry[0], entry[1]])

    def lost(self) -> None:
        self._up = False

    def when_confirmed(self, done: Callable[[], None]) -> None:
        """Call `done` once the owner has confirmed all that it was given so far, in this life of it or in the next: in
        this call, if that is so already. Those who gave it were told how it ended before."""
        if self._unconfirmed:
            self._waiting.append((self._sequence, done))
        else:
            done()

    def confirmed(self, outcomes: list[tuple[int, list[Any] | None]]) -> None:
        """A CONFIRM came."""
        for sequence, packed in outcomes:
            entry = self._unconfirmed.pop(sequence, None)
            if entry is None:
                # The owner's last life had answered before it died, the next one answered the same again.
                continue
            self._bytes -= entry[3]
            if entry[2] is not None:
                entry[2](Outcome.unpack(packed))
        if self._up and self._sent < self._sequence:
            self._send_on()
        if self._told and self._bytes <= self._max_bytes // 2:
            self._told = False
            self._full(self, False)
        if self._waiting:
            oldest = next(iter(self._unconfirmed), self._sequence + 1)
            while self._waiting and self._waiting[0][0] < oldest:
                self._waiting.popleft()[1]()
