"""The end of publishing, agreed with every sibling. Pure bookkeeping.

A worker that has sent its last batch tells each sibling so in that sibling's inbox, after the batches, and
each sibling confirms when it read that mark. The confirmation is what makes leaving safe: batches handed to
ZeroMQ may still sit in this process, where closing drops them, but a sibling that saw the mark has read
everything before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from worker.backplane.wire import Peer

__all__ = ["Ending"]


class Ending:
    """Marks seen from siblings, and the confirmations of this worker's own."""

    def __init__(self) -> None:
        self._ended: set[Peer] = set()
        self._confirmed: set[Peer] = set()
        self._marked: set[Peer] = set()
        self._waiting: list[Callable[[], None]] = []

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for the end."""
        return bool(self._waiting)

    def request(self, done: Callable[[], None]) -> None:
        self._waiting.append(done)

    def ended(self, peer: Peer) -> None:
        """`peer` will publish nothing more."""
        self._ended.add(peer)

    def confirmed(self, peer: Peer) -> None:
        """`peer` has read all this worker published."""
        self._confirmed.add(peer)

    def leave(self, peer: Peer) -> None:
        for peers in (self._ended, self._confirmed, self._marked):
            peers.discard(peer)

    def to_mark(self, siblings: Iterable[Peer]) -> list[Peer]:
        """The siblings that have not been told yet; they count as told from now on."""
        fresh = [peer for peer in siblings if peer not in self._marked]
        self._marked.update(fresh)
        return fresh

    def take_done(self, siblings: Iterable[Peer]) -> list[Callable[[], None]]:
        """Those to call if all `siblings` ended and confirmed, else none."""
        if not all(peer in self._ended and peer in self._confirmed for peer in siblings):
            return []
        waiting, self._waiting = self._waiting, []
        return waiting
