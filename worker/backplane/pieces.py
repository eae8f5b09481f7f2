"""Puts large batches together again that siblings sent in pieces. Pure bookkeeping.

The pieces of one batch come one after the other from each sibling, with nothing of that sibling under that topic
between them. One who subscribes while they travel sees only the last ones; of a batch published before it subscribed
it was promised nothing, so they are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.backplane.wire import Peer, unpack

__all__ = ["Pieces"]


class Pieces:
    """What has come of batches that are not whole yet: of each sibling at most one per topic."""

    def __init__(self) -> None:
        self._begun: dict[tuple[bytes, Peer], list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def add(self, topic: bytes, piece: list[Any]) -> list[Any] | None:
        """Take in a piece; the element it completes, if it does. Raises `WireError` when that cannot be read."""
        slot, incarnation, number, count, data = piece
        key = topic, Peer(slot, incarnation)
        if number == 0:
            self._begun[key] = []
        begun = self._begun.get(key)
        if begun is None or number != len(begun):
            self._begun.pop(key, None)
            return None
        begun.append(data)
        if len(begun) < count:
            return None
        del self._begun[key]
        return unpack(topic, b"".join(begun))

    def leave(self, peer: Peer) -> None:
        """Nothing of `peer` comes any more."""
        for key in [key for key in self._begun if key[1] == peer]:
            del self._begun[key]

    def retain(self, wanted: Callable[[bytes], bool]) -> None:
        """Forget what came under topics that are not `wanted` any more: the rest of it will not come."""
        for key in [key for key in self._begun if not wanted(key[0])]:
            del self._begun[key]
