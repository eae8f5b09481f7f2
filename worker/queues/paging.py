"""What of a queue is only on disk, and the pages that bring it back. Knows keys and counts, no consumers.

The queue is in memory up to `edge` and on disk from there on. Some messages beyond the edge are in memory all the
same, because the edge moved back over them while they were with a consumer: these are `known`.

A page shows only what was committed when it was read. So that it neither misses a message nor brings one back that is
gone, a page ends before the first message whose commit is not certain; after the edge moved back, or a known message
left, no page is asked for until what was written by then is stored; and what leaves while a page is under way is
remembered until it is there.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker.queues.message import Message, first_key, last_key

__all__ = ["Page", "Paging"]

Page = tuple[int, int, int, int]
"""What to ask the store for: after this key, before this key, at most so many messages, about so many bytes."""


class Paging:
    __slots__ = (
        "_asked",
        "_cleared",
        "_fence",
        "_left",
        "_low",
        "_low_before",
        "_moved",
        "_nothing_at",
        "_stale",
        "edge",
        "end",
        "known",
        "messages",
        "size",
        "start",
    )

    def __init__(self, number: int, messages: int = 0, size: int = 0) -> None:
        self.start = first_key(number)
        self.end = last_key(number) + 1
        self.edge = self.start + 1 if messages else self.end
        self.messages = messages
        """How many are only on disk, from `edge` on, and their bytes."""
        self.size = size
        self.known: set[int] = set()
        # The lowest key spilled since the fence was set, and before that.
        self._low = self._low_before = self.end
        self._fence = 0
        self._moved = False
        self._cleared = 0
        self._asked: tuple[int, int, int] | None = None
        self._stale = False
        self._left: set[int] = set()
        self._nothing_at = -1

    def spilled(self, lowest: int, count: int, size: int) -> None:
        """So many more are only on disk, or soon will be."""
        if not self.messages or lowest < self.edge:
            self.edge = lowest
        if lowest < self._low:
            self._low = lowest
        self.messages += count
        self.size += size

    def move_back(self, edge: int, known: Iterable[int]) -> None:
        """The edge is `edge` now; `known` are the keys from there on that are in memory. Whoever calls this counts."""
        self.edge = edge
        self.known = set(known)
        self._moved = True
        self._stale = self._asked is not None
        self._nothing_at = -1

    def gone(self, keys: Iterable[int]) -> None:
        """These left the queue; to be called when there are `known` ones or a page is under way."""
        if not self.known:
            return
        gone = self.known.intersection(keys)
        if gone:
            self.known -= gone
            # A page could still see them.
            self._moved = True
            if self._asked is not None:
                self._left |= gone

    def taken(self, count: int, size: int) -> None:
        """So many are not only on disk any more, or not in the queue."""
        self.messages = max(self.messages - count, 0)
        self.size = max(self.size - size, 0) if self.messages else 0
        if not self.messages:
            self.edge = self.end
            self.known.clear()
            self._low = self._low_before = self.end
            self._stale = self._asked is not None

    def wish(self, unit: int, stored: int, count: int, size: int) -> Page | None:
        """The next page, if it may be asked for now; it is under way then. See `Queue.page_wanted`."""
        if self._asked is not None or not self.messages or stored == self._nothing_at:
            return None
        for _ in range(2):
            if stored >= self._fence:
                self._low_before, self._low, self._fence = self._low, self.end, unit
        if self._moved:
            self._moved = False
            self._cleared = unit
        before = min(self._low, self._low_before)
        if stored < self._cleared or before <= self.edge:
            return None
        self._asked = (self.edge - 1, before, stored)
        self._stale = False
        self._left.clear()
        return self.edge - 1, before, max(count, 1), max(size, 1)

    def arrived(self, messages: list[Message]) -> list[Message]:
        """The page is there: those of it that were only on disk, and are in memory from now on."""
        asked, self._asked = self._asked, None
        if asked is None or self._stale:
            return []
        if not messages:
            # What is missing is not committed yet: asking again makes sense after the next commit only.
            self._nothing_at = asked[2]
            return []
        known, left = self.known, self._left
        if known or left:
            found = [message for message in messages if message.key not in known and message.key not in left]
        else:
            found = messages
        self.edge = messages[-1].key + 1
        if known:
            self.known = {key for key in known if key >= self.edge}
        self.taken(len(found), sum(len(message.frame) for message in found))
        return found
