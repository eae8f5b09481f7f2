"""What the siblings want, read off the XPUB's notifications in the order ZeroMQ reports them.

A subscription is reported when it is the first sibling's to that topic, an unsubscription when the last sibling has
dropped it (or died); so a set says exactly whether anybody is interested. XPUB_VERBOSE would add nothing but the
repetitions: a joining worker's subscriptions to what others subscribe to already.
"""

from __future__ import annotations

from worker.backplane.wire import destination_of

__all__ = ["Interest"]


class Interest:
    __slots__ = ("_exact", "_lengths", "_prefixes")

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._prefixes: set[bytes] = set()
        # Prefixes are found by their length: many patterns share few, and each costs one slice and one look.
        self._lengths: dict[int, int] = {}

    def add(self, topic: bytes) -> None:
        """Take in a subscription below `t`; without its closing NUL it is one to a prefix."""
        if topic.endswith(b"\0"):
            self._exact.add(destination_of(topic))
        elif topic[1:] not in self._prefixes:
            self._prefixes.add(topic[1:])
            self._lengths[len(topic) - 1] = self._lengths.get(len(topic) - 1, 0) + 1

    def discard(self, topic: bytes) -> None:
        """Take in an unsubscription."""
        if topic.endswith(b"\0"):
            self._exact.discard(destination_of(topic))
        elif topic[1:] in self._prefixes:
            self._prefixes.remove(topic[1:])
            left = self._lengths.pop(len(topic) - 1) - 1
            if left:
                self._lengths[len(topic) - 1] = left

    def wants(self, destination: bytes) -> bool:
        if destination in self._exact:
            return True
        prefixes = self._prefixes
        return any(destination[:length] in prefixes for length in self._lengths) if prefixes else False
