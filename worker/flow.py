"""Back-pressure: which destinations are held up, by whom, and which publishers stand still for them.

A destination is blocked by connections of this worker (their outbox is full), by sibling workers (theirs have such a
connection) or by the backplane (a link is full). Publishers are paused after the read that publishes to a blocked
destination, and read on when none of theirs is blocked any more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

__all__ = ["EVERYTHING", "FlowControl", "Publisher"]

EVERYTHING = b""
"""In the place of a destination: all of them are held up."""


class Publisher(Protocol):
    def pause(self, destination: bytes) -> None: ...
    def resume(self, destination: bytes) -> None: ...


class FlowControl:
    """`tell` is called with (destination, blocked) when the last or first of this worker's *connections* changes
    the state of a destination, for the siblings to hear."""

    def __init__(self, tell: Callable[[bytes, bool], None]) -> None:
        self._tell = tell
        self.blocked: dict[bytes, set[Hashable]] = {}
        self._local: dict[bytes, int] = {}
        self._paused: dict[bytes, set[Publisher]] = {}

    def block(self, destination: bytes, by: Hashable, *, local: bool) -> None:
        """Hold up `destination`; `local` if `by` is a connection of this worker."""
        blockers = self.blocked.setdefault(destination, set())
        if by in blockers:
            return
        blockers.add(by)
        if local:
            count = self._local[destination] = self._local.get(destination, 0) + 1
            if count == 1:
                self._tell(destination, True)

    def unblock(self, destination: bytes, by: Hashable, *, local: bool) -> None:
        """Undo `block` with the same arguments; without effect if it was not blocked by `by`."""
        blockers = self.blocked.get(destination)
        if blockers is None or by not in blockers:
            return
        blockers.remove(by)
        if local:
            self._local[destination] -= 1
            if not self._local[destination]:
                del self._local[destination]
                self._tell(destination, False)
        if not blockers:
            del self.blocked[destination]
            for publisher in self._paused.pop(destination, ()):
                publisher.resume(destination)

    def unblock_all(self, by: Hashable) -> None:
        """A sibling is gone, and with it whatever it held up."""
        for destination in [name for name, blockers in self.blocked.items() if by in blockers]:
            self.unblock(destination, by, local=False)

    def blocked_here(self) -> list[bytes]:
        """The destinations that connections of this worker block."""
        return list(self._local)

    @property
    def paused(self) -> int:
        """Publishers that stand still."""
        return len({each for publishers in self._paused.values() for each in publishers})

    def pause_for(self, publisher: Publisher, destinations: Iterable[bytes]) -> None:
        """Pause `publisher` if any of `destinations` is blocked."""
        for destination in (EVERYTHING, *destinations):
            if destination in self.blocked:
                paused = self._paused.setdefault(destination, set())
                if publisher not in paused:
                    paused.add(publisher)
                    publisher.pause(destination)

    def forget(self, publisher: Publisher, destinations: Iterable[bytes]) -> None:
        """`publisher` is gone."""
        for destination in destinations:
            paused = self._paused.get(destination)
            if paused is not None:
                paused.discard(publisher)
                if not paused:
                    del self._paused[destination]
