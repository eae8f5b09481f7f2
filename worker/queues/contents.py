"""What a queue holds and where: in memory, within bounds, or only on disk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter

from worker.queues.consumer import Consumer
from worker.queues.lane import key_of, made_persistent, total_size
from worker.queues.message import Message
from worker.queues.paging import Page, Paging
from worker.queues.resting import Resting
from worker.queues.turns import Turns
from worker.queues.waiting import Waiting

__all__ = ["Contents"]

_group_of = attrgetter("group")


class Contents:
    """The part of `worker.queues.queue.Queue` that knows of messages; the rest is about consumers."""

    def __init__(
        self,
        number: int,
        name: str,
        *,
        window_messages: int = 4096,
        window_bytes: int = 4 << 20,
        redelivery_limit: int = 20,
        redelivery_delay: int = 100,
        redelivery_delay_max: int = 30_000,
        max_groups: int = 10_000,
        spilled: int = 0,
        spilled_bytes: int = 0,
    ) -> None:
        self.number = number
        self.name = name
        self.window_messages = window_messages
        self.window_bytes = window_bytes
        self.redelivery_limit = redelivery_limit
        self.redelivery_delay = redelivery_delay
        self.redelivery_delay_max = redelivery_delay_max
        self.bytes = spilled_bytes
        """Those of all messages."""
        self.unsettled = 0
        self.consumers: dict[tuple[int, int], Consumer] = {}
        self.expired: list[Message] = []
        self._turns = Turns()
        self._paging = Paging(number, spilled, spilled_bytes)
        self._waiting = Waiting(self._turns, self._paging, max_groups)
        self._resting = Resting()
        # No key that was ever in memory is higher.
        self._high = 0
        self._passed_next = False

    # --- what is in it

    @property
    def messages(self) -> int:
        """All that it holds: ready, unsettled, resting, spilled."""
        return self._waiting.count + self.unsettled + len(self._resting) + self._paging.absent

    @property
    def ready(self) -> int:
        """Those that wait in memory; `ready_bytes` are theirs."""
        return self._waiting.count

    @property
    def ready_bytes(self) -> int:
        return self._waiting.size

    @property
    def spilled(self) -> int:
        """Those that are only on disk, or will be as soon as what the owner knows of is written."""
        return self._paging.absent

    @property
    def resting(self) -> int:
        """Those that wait for the time of their redelivery."""
        return len(self._resting)

    @property
    def away(self) -> int:
        """Those among them that are only on disk."""
        return len(self._resting.away)

    @property
    def held_bytes(self) -> int:
        """Those of what consumers hold."""
        resting, paging = self._resting, self._paging
        return self.bytes - self._waiting.size - resting.size - resting.away_size - paging.size - paging.passed_size

    @property
    def max_groups(self) -> int:
        return self._waiting.groups.most

    @max_groups.setter
    def max_groups(self, value: int) -> None:
        self._waiting.groups.most = value

    def in_memory(self) -> Iterator[Message]:
        """All messages in memory, the unsettled and resting ones included, in no order."""
        yield from self._waiting
        yield from self._resting.messages.values()
        for consumer in self.consumers.values():
            yield from consumer.unsettled.values()

    def snapshot(self) -> tuple[list[Message], int | None]:
        """For a browser: all messages in memory in the order of their keys, the unsettled and resting ones included,
        and the lowest key from which on there may be more on disk, None if all are in memory. To browse is to go
        through these and, from that key on, the store's pages, by key, without what occurs in both."""
        found = sorted(self.in_memory(), key=key_of)
        start = self._paging.floor if self._paging.absent else None
        if self._resting.away:
            start = self._resting.lowest if start is None else min(start, self._resting.lowest)
        return found, start

    # --- arrivals

    def extend(self, messages: list[Message]) -> list[Message]:
        """New messages, in the order of their counters, never seen before. Returns those that were not persistent and
        stay on disk only: they are now, and the owner writes them to the store."""
        if not messages:
            return []
        size = total_size(messages)
        self.bytes += size
        paging, waiting = self._paging, self._waiting
        keys = list(map(key_of, messages))
        lowest = min(keys)
        if not paging.messages:
            if waiting.count + len(keys) <= self.window_messages and waiting.size + size <= self.window_bytes:
                highest = max(keys)
                if highest - lowest >= len(keys):
                    messages = sorted(messages, key=key_of)
                self._keep(messages, size)
                if highest > self._high:
                    self._high = highest
                return []
        elif lowest >= paging.edge:
            paging.spilled(lowest, len(messages), size)
            return made_persistent(messages)
        return self._extend_mixed(sorted(messages, key=key_of))

    def _extend_mixed(self, messages: list[Message]) -> list[Message]:
        """Some of `messages`, in the order of their keys, may belong before the edge, or have room beyond it."""
        waiting, paging = self._waiting, self._paging
        border = paging.edge - 1 if paging.messages else self._high
        place = bisect_right(messages, border, key=key_of)
        size = total_size(messages[:place])
        if not paging.messages:
            for message in messages[place:]:
                ready, more = waiting.count + place, size + len(message.frame)
                if ready and (ready >= self.window_messages or waiting.size + more > self.window_bytes):
                    break
                place, size = place + 1, more
                self._high = message.key
        self._keep(messages[:place], size)
        out = messages[place:]
        if out:
            paging.spilled(out[0].key, len(out), total_size(out))
        return made_persistent(out + self._evict())

    def _keep(self, messages: list[Message], size: int) -> None:
        """`messages`, in the order of their keys, wait in memory."""
        waiting = self._waiting
        waiting.add(messages, size)
        if not waiting.grouped and any(map(_group_of, messages)):
            waiting.grouped = True
        if self._paging.passed:
            self._paging.keep(map(key_of, messages))

    def _evict(self) -> list[Message]:
        """If the window is too full by far, take the last out of memory."""
        waiting = self._waiting
        load, size = waiting.load
        if load <= 2 * self.window_messages and size <= 2 * self.window_bytes:
            return []
        self._rewind()
        out = waiting.drop_last(self.window_messages, self.window_bytes)
        if out:
            self._paging.spilled(out[0].key, len(out), total_size(out))
            self._paging.move_back(self._paging.edge, self._in_memory(self._paging.edge))
        return out

    def _in_memory(self, start: int) -> list[int]:
        """The keys from `start` on that are in memory, or that no page is to bring there."""
        found = [message.key for message in self.snapshot()[0] if message.key >= start]
        return found + [key for key in self._resting.away if key >= start]

    # --- pages

    def page_wanted(self, unit: int, stored: int, *, anyway: bool = False) -> Page | None:
        """What to ask the store for now, if anything: (after, before, messages, bytes); it is under way then, until
        `paged`. To be asked after every turn that changed the queue and after every commit. Without consumers nothing
        is wanted, but for `anyway`.

        `unit` is the number of the last of the store's units (counted from 1) that anything said to, or told by, this
        queue up to now is part of: the one still gathering, unless that is empty. `stored`: units up to this number
        are stored, or have failed.
        """
        paging, waiting = self._paging, self._waiting
        if not paging.absent or paging.under_way or waiting.evicted or not (self.consumers or anyway):
            return None
        load, size = waiting.load
        full = load * 2 > self.window_messages or size * 2 > self.window_bytes
        passed_from = None
        if paging.passed or (full and not waiting.plain):
            if paging.passed and not waiting.cut:
                self._rewind()
            beyond, passed_from = waiting.thirst()
            if full:
                if not beyond and passed_from is None:
                    return None
                self._make_room()
                if waiting.evicted:
                    return None
            if passed_from is not None and beyond and paging.messages:
                # Who waits for what was passed over, and who waits for what is beyond, take turns.
                self._passed_next = not self._passed_next
                if not self._passed_next:
                    passed_from = None
        elif full:
            return None
        if passed_from is None and not paging.messages:
            return None
        load, size = waiting.load
        count = max(self.window_messages - load, self.window_messages // 8)
        return paging.wish(unit, stored, count, max(self.window_bytes - size, self.window_bytes // 8), passed_from)

    def paged(self, messages: list[Message]) -> None:
        """What the store had. Only for the page that `page_wanted` asked for, also if it is empty."""
        page = self._paging.arrived(messages[: self._room(messages)])
        if page is None:
            return
        found, after, before, passed = page
        if passed:
            self._waiting.refill(found, after, before)
        elif found:
            self._high = max(self._high, found[-1].key)
            self._keep(found, total_size(found))

    def _room(self, messages: list[Message]) -> int:
        """How many of these may come into memory: urgent ones may have come since they were asked for. At least one."""
        load, size = self._waiting.load
        for place, message in enumerate(messages):
            load, size = load + 1, size + len(message.frame)
            if place and (load > 2 * self.window_messages or size > 2 * self.window_bytes):
                return place
        return len(messages)

    def take_evicted(self) -> list[Message]:
        """To be called at the end of each turn: messages that are on disk only from now on and were not persistent;
        they are now, and the owner writes them to the store. No page is wanted before that."""
        evicted, self._waiting.evicted = self._waiting.evicted, []
        return evicted

    def _make_room(self) -> None:
        lowest = self._waiting.make_room(self.window_messages // 2, self.window_bytes // 2)
        if lowest is not None:
            floor = min(self._paging.floor, lowest)
            self._paging.move_back(floor, self._in_memory(floor))

    def _rewind(self) -> None:
        """All that waits is looked at anew, also what was passed over: that is simply beyond the edge then."""
        self._waiting.gather()
        if not self._paging.passed:
            return
        floor = self._paging.floor
        # What is in memory after it must not overtake it.
        out = self._waiting.drop_from(floor)
        self._paging.admit_passed()
        if out:
            self._paging.spilled(out[0].key, len(out), total_size(out))
            self._waiting.evicted += made_persistent(out)
        self._paging.move_back(floor, self._in_memory(floor))
