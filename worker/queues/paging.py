"""What of a queue is only on disk, and the pages that bring it back. Knows keys and counts, no consumers.

The queue is in memory up to `edge` and on disk from there on. Before the edge, too, messages may be only on disk: those
that were passed over to reach others behind them; none is before `floor`. Of the messages from the floor on, those
that are in memory, because a consumer has them, or had them, or they came later, are `known` by their keys.

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
        "floor",
        "known",
        "messages",
        "passed",
        "passed_size",
        "size",
    )

    def __init__(self, number: int, messages: int = 0, size: int = 0) -> None:
        self.end = last_key(number) + 1
        self.edge = first_key(number) + 1 if messages else self.end
        self.floor = self.edge
        self.messages = messages
        """How many are only on disk from `edge` on, and their bytes; `passed` and `passed_size` are those before."""
        self.size = size
        self.passed = 0
        self.passed_size = 0
        self.known: set[int] = set()
        # The lowest key spilled since the fence was set, and before that.
        self._low = self._low_before = self.end
        self._fence = 0
        self._moved = False
        self._cleared = 0
        # After, before, what was stored then, and whether it is for what was passed over.
        self._asked: tuple[int, int, int, bool] | None = None
        self._stale = False
        self._left: set[int] = set()
        self._nothing_at = -1

    @property
    def absent(self) -> int:
        """All that is only on disk."""
        return self.messages + self.passed

    def spilled(self, lowest: int, count: int, size: int) -> None:
        """So many more, from the edge on, are only on disk, or soon will be."""
        if not self.messages or lowest < self.edge:
            self.edge = lowest
            if not self.passed:
                self.floor = lowest
        self._low = min(self._low, lowest)
        self.messages += count
        self.size += size

    def passed_over(self, keys: list[int], size: int) -> None:
        """These, in order, are only on disk now although they are before the edge. The floor is moved by the caller."""
        self._low = min(self._low, keys[0])
        self.known.difference_update(keys)
        self.passed += len(keys)
        self.passed_size += size

    def move_back(self, floor: int, known: Iterable[int]) -> None:
        """Nothing is only on disk before `floor`, lower than before, and `known` are the keys from there on that are in
        memory."""
        self.floor = floor
        self.known = set(known)
        self._moved = True
        self._stale = self._asked is not None
        self._nothing_at = -1

    def admit_passed(self) -> None:
        """The edge is at the floor: what was passed over is simply beyond it now."""
        self.edge = self.floor
        self.messages += self.passed
        self.size += self.passed_size
        self.passed = self.passed_size = 0

    def raise_floor(self, floor: int) -> None:
        """Nothing is only on disk before `floor`, nor was moved."""
        if floor > self.floor:
            self.floor = floor
            self.known = {key for key in self.known if key >= floor}

    def keep(self, keys: Iterable[int]) -> None:
        """These came into memory; to be called while any were passed over."""
        self.known.update(key for key in keys if key >= self.floor)

    def gone(self, keys: Iterable[int]) -> None:
        """These left the queue; to be called when there are `known` ones."""
        gone = self.known.intersection(keys)
        if gone:
            self.known -= gone
            # A page could still see them.
            self._moved = True
            if self._asked is not None:
                self._left |= gone

    def has(self, key: int) -> bool:
        """Whether `key`, if it exists and is not in memory otherwise, is counted as only on disk."""
        return key >= self.floor and key not in self.known and (key >= self.edge or self.passed > 0)

    def take(self, key: int, size: int) -> None:
        """`key` is in memory now, though no page brought it."""
        self.known.add(key)
        if key >= self.edge:
            self._taken(1, size)
        else:
            self.take_passed(1, size)

    def _taken(self, count: int, size: int) -> None:
        self.messages = max(self.messages - count, 0)
        self.size = max(self.size - size, 0) if self.messages else 0
        if not self.messages:
            self.edge = self.end
            self._none_absent()

    def take_passed(self, count: int, size: int) -> None:
        self.passed = max(self.passed - count, 0)
        self.passed_size = max(self.passed_size - size, 0) if self.passed else 0
        if not self.passed:
            self.raise_floor(self.edge)
            self._none_absent()

    def _none_absent(self) -> None:
        if not self.absent:
            self.floor = self.end
            self.known.clear()
            self._low = self._low_before = self.end
            self._stale = self._asked is not None

    def wish(self, unit: int, stored: int, count: int, size: int, passed_from: int | None = None) -> Page | None:
        """The next page, if it may be asked for now; it is under way then. See `Queue.page_wanted`. With `passed_from`
        one of what was passed over from that key on."""
        if self._asked is not None or (stored == self._nothing_at and passed_from is None):
            return None
        for _ in range(2):
            if stored >= self._fence:
                self._low_before, self._low, self._fence = self._low, self.end, unit
        if self._moved:
            self._moved = False
            self._cleared = unit
        first = self.edge if passed_from is None else passed_from
        before = min(self._low, self._low_before, self.end if passed_from is None else self.edge)
        if stored < self._cleared or before <= first:
            return None
        self._asked = (first - 1, before, stored, passed_from is not None)
        self._stale = False
        self._left.clear()
        return first - 1, before, max(count, 1), max(size, 1)

    @property
    def under_way(self) -> bool:
        return self._asked is not None

    def arrived(self, messages: list[Message]) -> tuple[list[Message], int, int, bool] | None:
        """The page is there: those of its messages that were only on disk; after which key and before which it is
        complete; and whether it is of what was passed over. None if it is of no use any more. The caller says
        `take_passed` for the latter."""
        asked, self._asked = self._asked, None
        if asked is None or self._stale:
            return None
        after, before, stored, passed = asked
        # What was spilled meanwhile, before some of these, is to come first.
        low = min(self._low, self._low_before)
        if not messages and not passed:
            # What is missing is not committed yet: asking again makes sense after the next commit only.
            self._nothing_at = stored
        if messages and messages[-1].key >= low:
            messages = [message for message in messages if message.key < low]
            before = low
        elif messages:
            before = messages[-1].key + 1
        else:
            before = min(before, low)
        known, left = self.known, self._left
        found = messages
        if known or left:
            found = [message for message in messages if message.key not in known and message.key not in left]
        if not passed:
            if not messages:
                return None
            self.edge = before
            if not self.passed:
                self.raise_floor(before)
            self._taken(len(found), sum(len(message.frame) for message in found))
            if self.passed:
                self.keep(message.key for message in found)
        return found, after, before, passed
