"""One queue: what waits in it, who consumes it, who gets which message next.

Pure: no I/O and no clock, times are passed in (ms since the epoch). The owner writes to the store what `extend` was
given, deletes what left, and asks for pages; a queue only says what it wants.

Messages wait in the order of their keys: by priority, then by arrival. A bounded window of them is in memory, the
rest only on disk, see `worker.queues.paging`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from operator import attrgetter

from worker.queues.consumer import Consumer
from worker.queues.lane import Lane, key_of, merge, total_size
from worker.queues.message import Message
from worker.queues.paging import Page, Paging

__all__ = ["Deliveries", "Queue"]

Deliveries = list[tuple[Consumer, list[Message]]]

_expires_of = attrgetter("expires")
_group_of = attrgetter("group")
_MAX_DOUBLINGS = 40


class Queue:
    """Queue `number`, called `name`. `window_messages` and `window_bytes` bound what waits in memory; twice that where
    urgent messages come late, and what consumers hold comes on top. All settings are plain attributes and may change
    at any time.

    `redelivery_limit` is how often a message is delivered again before it is dead-lettered, 0 for no limit;
    `redelivery_delay` and `redelivery_delay_max` in ms. `spilled` messages of `spilled_bytes` are on disk from an
    earlier life. The owner empties `expired`, which left the queue because
    their time was up.
    """

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
        self.ready = 0
        """Messages that wait in memory; `ready_bytes` are theirs, `bytes` those of all messages."""
        self.ready_bytes = 0
        self.unsettled = 0
        self.consumers: dict[tuple[int, int], Consumer] = {}
        self.expired: list[Message] = []
        self._exclusive: Consumer | None = None
        self._ring: deque[Consumer] = deque()
        self._lane: Lane = deque()
        # No key that was ever in memory is higher.
        self._high = 0
        self._paging = Paging(number, spilled, spilled_bytes)
        self._resting: dict[int, Message] = {}
        self._due: list[tuple[int, int]] = []
        # Delivered and come back: how often, the disk may not know.
        self._returned: set[int] = set()

    # --- what is in it

    @property
    def messages(self) -> int:
        """All that it holds: waiting in memory, unsettled, resting, spilled."""
        return self.ready + self.unsettled + len(self._resting) + self._paging.messages

    @property
    def spilled(self) -> int:
        """How many are only on disk, or will be as soon as what the owner knows of is written."""
        return self._paging.messages

    @property
    def resting(self) -> int:
        """How many wait for the time of their redelivery."""
        return len(self._resting)

    def snapshot(self) -> tuple[list[Message], int | None]:
        """For a browser: all messages in memory in the order of their keys, the unsettled and resting ones included,
        and the lowest key from which on there may be more on disk, None if all are in memory. To browse is to go
        through these and, from that key on, the store's pages, by key, without what occurs in both."""
        found = [*self._lane, *self._resting.values()]
        for consumer in self.consumers.values():
            found.extend(consumer.unsettled.values())
        found.sort(key=key_of)
        return found, self._paging.edge if self._paging.messages else None

    # --- arrivals

    def extend(self, messages: list[Message]) -> list[Message]:
        """New messages, in the order of their counters, never seen before. Returns those that were not persistent and
        stay on disk only: they are now, and the owner writes them to the store."""
        if not messages:
            return []
        size = total_size(messages)
        self.bytes += size
        paging = self._paging
        keys = list(map(key_of, messages))
        lowest = min(keys)
        if not paging.messages:
            if self.ready + len(keys) <= self.window_messages and self.ready_bytes + size <= self.window_bytes:
                highest = max(keys)
                if highest - lowest >= len(keys):
                    messages = sorted(messages, key=key_of)
                self._keep(messages, size)
                if highest > self._high:
                    self._high = highest
                return []
        elif lowest >= paging.edge:
            return self._spill(messages, lowest, size)
        return self._extend_mixed(sorted(messages, key=key_of))

    def _extend_mixed(self, messages: list[Message]) -> list[Message]:
        """Some of `messages`, in the order of their keys, may belong before the edge, or have room beyond it."""
        border = self._paging.edge - 1 if self._paging.messages else self._high
        place = bisect_right(messages, border, key=key_of)
        size = total_size(messages[:place])
        if not self._paging.messages:
            for message in messages[place:]:
                ready, more = self.ready + place, size + len(message.frame)
                if ready and (ready >= self.window_messages or self.ready_bytes + more > self.window_bytes):
                    break
                place, size = place + 1, more
                self._high = message.key
        self._keep(messages[:place], size)
        beyond = messages[place:]
        left = self._spill(beyond, beyond[0].key, total_size(beyond)) if beyond else []
        if self.ready - len(self._returned) > 2 * self.window_messages or self.ready_bytes > 2 * self.window_bytes:
            left += self._evict()
        return left

    def _keep(self, messages: list[Message], size: int) -> None:
        """`messages`, in the order of their keys, wait in memory."""
        self.ready += len(messages)
        self.ready_bytes += size
        merge(self._lane, messages)

    def _spill(self, messages: list[Message], lowest: int, size: int) -> list[Message]:
        """`messages` are not, or not any more, in memory."""
        self._paging.spilled(lowest, len(messages), size)
        return _made_persistent(messages)

    def _evict(self) -> list[Message]:
        """Take the last out of memory, until the window is within its bounds."""
        out: list[Message] = []
        stay: list[Message] = []
        size = 0
        lane = self._lane
        while lane and (self.ready - len(out) > self.window_messages or self.ready_bytes - size > self.window_bytes):
            message = lane.pop()
            if message.key in self._returned:
                stay.append(message)
            else:
                out.append(message)
                size += len(message.frame)
        lane.extend(reversed(stay))
        if not out:
            return []
        self.ready -= len(out)
        self.ready_bytes -= size
        edge = out[-1].key
        left = self._spill(out, edge, size)
        self._paging.move_back(edge, self._in_memory(edge))
        return left

    def _in_memory(self, start: int) -> list[int]:
        """The keys from `start` on that are in memory."""
        return [message.key for message in self.snapshot()[0] if message.key >= start]

    # --- pages

    def page_wanted(self, unit: int, stored: int, *, anyway: bool = False) -> Page | None:
        """What to ask the store for now, if anything: (after, before, messages, bytes); it is under way then, until
        `paged`. To be asked after every turn that changed the queue and after every commit; costs nothing when
        nothing is wanted. Without consumers nothing is, but for `anyway`.

        `unit` is the number of the last of the store's units (counted from 1) that anything said to, or told by, this
        queue up to now is part of: the one still gathering, unless that is empty. `stored`: units up to this number
        are stored, or have failed.
        """
        if not self._paging.messages or not (self.consumers or anyway):
            return None
        if self.ready * 2 > self.window_messages or self.ready_bytes * 2 > self.window_bytes:
            return None
        return self._paging.wish(unit, stored, self.window_messages - self.ready, self.window_bytes - self.ready_bytes)

    def paged(self, messages: list[Message]) -> None:
        """What the store had. Only for the page that `page_wanted` asked for, also if it is empty."""
        found = self._paging.arrived(messages)
        if found:
            self._high = max(self._high, found[-1].key)
            self._keep(found, total_size(found))

    # --- consumers

    def attach(self, consumer: Consumer) -> None:
        """A new consumer, not attached before."""
        self.consumers[consumer.slot, consumer.id] = consumer
        if self._exclusive is None and consumer.exclusive:
            self._elect()
        else:
            consumer.eligible = self._exclusive is None
            self._list(consumer)

    def detach(self, consumer: Consumer, now: int) -> list[Message]:
        """It is gone. What it had not settled comes back to its place; returns what was delivered too often for that
        and is not in the queue any more."""
        if self.consumers.pop((consumer.slot, consumer.id), None) is None:
            return []
        messages = list(consumer.unsettled.values())
        consumer.unsettled.clear()
        self.unsettled -= len(messages)
        dead, back = self._sort_out(messages)
        self._put_back(back)
        self._unlist(consumer)
        if consumer is self._exclusive:
            self._elect()
        return dead

    def adjust(self, consumer: Consumer, *, prefetch: int | None = None, instant: bool | None = None) -> None:
        """Change how much a consumer may hold, or whether it is instant."""
        if prefetch is not None:
            consumer.credit += prefetch - consumer.prefetch
            consumer.prefetch = prefetch
        if instant is not None:
            consumer.instant = instant
        self._list(consumer)

    def claim(self, consumer: Consumer, messages: list[Message]) -> list[Message]:
        """After a restart of the owner: the consumer has these. Returns those that are now unsettled there, all but
        what another one holds. Those only on disk until now are taken for existing: ask the store first."""
        waiting = {message.key: message for message in self._lane}
        held = {key for other in self.consumers.values() for key in other.unsettled}
        taken: list[Message] = []
        out: set[int] = set()
        for message in messages:
            key = message.key
            if key in held:
                continue
            if key in waiting:
                own = waiting[key]
                own.count = max(own.count, message.count)
                out.add(key)
                taken.append(own)
            elif key >= self._paging.edge and key not in self._resting:
                self._paging.known.add(key)
                self._paging.taken(1, len(message.frame))
                taken.append(message)
        if out:
            self._drop_waiting(out)
        for message in taken:
            consumer.unsettled[message.key] = message
        consumer.credit -= len(taken)
        self.unsettled += len(taken)
        return taken

    def _drop_waiting(self, keys: set[int]) -> list[Message]:
        """Out of the lane."""
        out = [message for message in self._lane if message.key in keys]
        rest = [message for message in self._lane if message.key not in keys]
        self._lane.clear()
        self._lane.extend(rest)
        self.ready -= len(out)
        self.ready_bytes -= total_size(out)
        return out

    def _elect(self) -> None:
        """Who may be given anything: the first exclusive consumer alone, without one all."""
        self._exclusive = next((consumer for consumer in self.consumers.values() if consumer.exclusive), None)
        for consumer in self.consumers.values():
            self._unlist(consumer)
            consumer.eligible = self._exclusive is None or consumer is self._exclusive
            self._list(consumer)

    def _list(self, consumer: Consumer) -> None:
        """It may have credit now."""
        if consumer.credit > 0 and consumer.eligible and not consumer.listed:
            consumer.listed = True
            self._ring.append(consumer)

    def _unlist(self, consumer: Consumer) -> None:
        if consumer.listed:
            consumer.listed = False
            self._ring.remove(consumer)
        consumer.eligible = False

    # --- deliveries

    def dispatch(self, now: int) -> Deliveries:
        """Give what waits to consumers with credit, each message to the next of them. Each consumer stands in the
        result once at the most, its messages in order; those given to one that is instant have left the queue."""
        lane, ring = self._lane, self._ring
        given: dict[Consumer, list[Message]] = {}
        while lane and ring:
            consumers = self._next_in_turn(len(lane))
            if not consumers:
                break
            rounds = len(lane) // len(consumers)
            if rounds > 1:
                rounds = min([rounds if each.instant else min(each.credit, rounds) for each in consumers])
            run = self._take(rounds * len(consumers), now)
            for place, consumer in enumerate(consumers):
                share = run[place :: len(consumers)]
                if share:
                    given.setdefault(consumer, []).extend(share)
                    self._give(consumer, share)
            behind = len(run) % len(consumers)
            ring.extend(consumers[behind:])
            ring.extend(consumers[:behind])
        return list(given.items())

    def _next_in_turn(self, count: int) -> list[Consumer]:
        """Out of the ring, at most so many with credit."""
        ring = self._ring
        found: list[Consumer] = []
        while ring and len(found) < count:
            consumer = ring.popleft()
            if consumer.credit > 0:
                found.append(consumer)
            else:
                consumer.listed = False
        return found

    def _take(self, count: int, now: int) -> list[Message]:
        """Out of the lane, at most so many, without those whose time was up."""
        lane = self._lane
        if count >= len(lane):
            run = list(lane)
            lane.clear()
        else:
            pop = lane.popleft
            run = [pop() for _ in range(count)]
        self.ready -= len(run)
        self.ready_bytes -= total_size(run)
        if any(map(_expires_of, run)):
            late = [message for message in run if 0 < message.expires <= now]
            if late:
                self._lost(late)
                self.expired += late
                run = [message for message in run if not 0 < message.expires <= now]
        return run

    def _give(self, consumer: Consumer, messages: list[Message]) -> None:
        if consumer.instant:
            for message in messages:
                message.count += 1
            self._lost(messages)
            return
        unsettled = consumer.unsettled
        for message in messages:
            message.count += 1
            unsettled[message.key] = message
        consumer.credit -= len(messages)
        self.unsettled += len(messages)

    def _lost(self, messages: list[Message]) -> None:
        """These left the queue for good; they are in no list any more."""
        self.bytes -= total_size(messages)
        if self._returned:
            self._returned.difference_update(map(key_of, messages))
        if self._paging.known:
            self._paging.gone(map(key_of, messages))

    # --- settlements

    def settle(self, consumer: Consumer, keys: Iterable[int]) -> list[Message]:
        """The consumer is done with these, which gives it credit. Returns those that were unsettled there: they left
        the queue."""
        messages = self._withdraw(consumer, keys)
        if messages:
            self._lost(messages)
        return messages

    def remove(self, consumer: Consumer, keys: Iterable[int]) -> list[Message]:
        """The same for messages that the consumer refused for good: what is returned is to be dead-lettered."""
        return self.settle(consumer, keys)

    def give_back(
        self, consumer: Consumer, keys: Iterable[int], now: int, *, delay: int | None = None, others_first: bool = True
    ) -> list[Message]:
        """The consumer refused these: they are to be delivered again, in their place, after `delay` ms; by default at
        once the first time, then after a pause that doubles. Returns what was delivered too often for that and is not
        in the queue any more."""
        dead, back = self._sort_out(self._withdraw(consumer, keys))
        at_once = []
        for message in back:
            wait = self._pause(message.count) if delay is None else delay
            if wait > 0:
                self._resting[message.key] = message
                self._returned.add(message.key)
                heappush(self._due, (now + wait, message.key))
            else:
                at_once.append(message)
        self._put_back(at_once)
        return dead

    def wake(self, now: int) -> int | None:
        """Messages that rested long enough wait for delivery again. Returns when to call this next, None for not
        before the next `give_back`."""
        due = self._due
        back = []
        while due and (due[0][0] <= now or due[0][1] not in self._resting):
            message = self._resting.pop(heappop(due)[1], None)
            if message is not None:
                back.append(message)
        self._put_back(back)
        return due[0][0] if due else None

    def take_head(self, count: int) -> list[Message]:
        """Take out the first of what waits in memory, to make room."""
        taken: list[Message] = []
        while self._lane and len(taken) < count:
            taken.append(self._lane.popleft())
        self.ready -= len(taken)
        self.ready_bytes -= total_size(taken)
        self._lost(taken)
        return taken

    def purge(self) -> list[Message]:
        """Take out all that waits or rests in memory. What is spilled is not: page on with `anyway`, and purge."""
        taken = self.take_head(len(self._lane))
        resting = list(self._resting.values())
        self._resting.clear()
        self._due.clear()
        self._lost(resting)
        return taken + resting

    def _withdraw(self, consumer: Consumer, keys: Iterable[int]) -> list[Message]:
        """Out of what is unsettled there."""
        pop = consumer.unsettled.pop
        messages = [message for key in keys if (message := pop(key, None)) is not None]
        if messages:
            self.unsettled -= len(messages)
            consumer.credit += len(messages)
            self._list(consumer)
        return messages

    def _sort_out(self, messages: list[Message]) -> tuple[list[Message], list[Message]]:
        """Those delivered too often, which leave the queue, and the others, by key."""
        limit = self.redelivery_limit
        dead = [message for message in messages if message.count > limit] if limit else []
        if dead:
            self._lost(dead)
            messages = [message for message in messages if message.count <= limit]
        return dead, sorted(messages, key=key_of)

    def _put_back(self, messages: list[Message]) -> None:
        if messages:
            messages.sort(key=key_of)
            self._returned.update(map(key_of, messages))
            self._keep(messages, total_size(messages))

    def _pause(self, count: int) -> int:
        """How long a message delivered `count` times rests, in ms."""
        if count < 2:
            return 0
        return min(self.redelivery_delay << min(count - 2, _MAX_DOUBLINGS), self.redelivery_delay_max)


def _made_persistent(messages: list[Message]) -> list[Message]:
    """Those that were not persistent; they are now."""
    left = [message for message in messages if not message.persistent]
    for message in left:
        message.persistent = True
    return left
