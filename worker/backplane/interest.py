"""What the siblings want, read off the XPUB's notifications in the order ZeroMQ reports them.

A subscription is reported when it is the first sibling's to that topic, an unsubscription when the last sibling has
dropped it (or died); so a set says exactly whether anybody is interested. XPUB_VERBOSE would add nothing but the
repetitions: a joining worker's subscriptions to what others subscribe to already.
"""

from __future__ import annotations

from worker.backplane.wire import destination_of

__all__ = ["Interest"]


class Interest:
    __slots__ = ("_exact", "_prefixes")

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        # A tuple, for bytes.startswith takes one: a single call however many prefixes there are.
        self._prefixes: tuple[bytes, ...] = ()

    def add(self, topic: bytes) -> None:
        """Take in a subscription below `t`; without its closing NUL it is one to a prefix."""
        if topic.endswith(b"\0"):
            self._exact.add(destination_of(topic))
        elif topic[1:] not in self._prefixes:
            self._prefixes += (topic[1:],)

    def discard(self, topic: bytes) -> None:
        """Take in an unsubscription."""
        if topic.endswith(b"\0"):
            self._exact.discard(destination_of(topic))
        else:
            self._prefixes = tuple(prefix for prefix in self._prefixes if prefix != topic[1:])

    def wants(self, destination: bytes) -> bool:
        return destination in self._exact or destination.startswith(self._prefixes)
