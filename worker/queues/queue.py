"""One queue: what waits in it, who consumes it, who gets which message next.

Pure: no I/O and no clock, times are passed in (ms since the epoch). The owner writes to the store what `extend` was
given, deletes what left, writes how often returned messages were delivered, and asks for pages; a queue only says what
it wants. Messages wait in the order of their keys: by priority, then by arrival. A bounded window of them is in memory
(`worker.queues.waiting`), the rest only on disk (`worker.queues.paging`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter

from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.lane import key_of, total_size
from worker.queues.message import Message
from worker.queues.paging import Page, Paging
from worker.queues.resting import Resting, pause
from worker.queues.turns import Turns
from worker.queues.waiting import Waiting, made_persistent

__all__ = ["Consumer", "Deliveries", "Page", "Queue"]

Deliveries = list[tuple[Consumer, list[Message]]]

_expires_of = attrgetter("expires")
_group_of = attrgetter("group")


class Queue:
    """Queue `number`, called `name`; `spilled` messages of `spilled_bytes` are on disk from an earlier life.

    `window_messages` and `window_bytes` bound what waits in memory; twice that where urgent messages come late, and
    what consumers hold or gave back comes on top. `redelivery_limit` is how often a message is delivered again before
    it is dead-lettered, 0 for no limit; `redelivery_delay` and `redelivery_delay_max` in ms; `max_groups` is how many
    message groups are remembered. All these may change at any time.

    The owner empties `expired`: these left the queue because their time was up.
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
        return self._waiting.count + self.unsettled + len(self._resting.messages) + self._paging.absent

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
        return len(self._resting.messages)

    @property
    def max_groups(self) -> int:
        return self._waiting.max_groups

    @max_groups.setter
    def max_groups(self, value: int) -> None:
        self._waiting.max_groups = value

    def snapshot(self) -> tuple[list[Message], int | None]:
        """For a browser: all messages in memory in the order of their keys, the unsettled and resting ones included,
        and the lowest key from which on there may be more on disk, None if all are in memory. To browse is to go
        through these and, from that key on, the store's pages, by key, without what occurs in both."""
        found = [*self._waiting, *self._resting.messages.values()]
        for consumer in self.consumers.values():
            found.extend(consumer.unsettled.values())
        found.sort(key=key_of)
        return found, self._paging.floor if self._paging.absent else None

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
        """The keys from `start` on that are in memory."""
        return [message.key for message in self.snapshot()[0] if message.key >= start]

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
        page = self._paging.arrived(messages)
        if page is None:
            return
        found, after, before, passed = page
        if passed:
            self._waiting.refill(found, after, before)
        elif found:
            self._high = max(self._high, found[-1].key)
            self._keep(found, total_size(found))
        self._waiting.evicted += made_persistent(self._evict())

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

    # --- consumers

    def attach(self, consumer: Consumer) -> None:
        """A new consumer, not attached before."""
        self.consumers[consumer.slot, consumer.id] = consumer
        if self._turns.exclusive is None:
            selectors = list(self._turns.rings)
            if consumer.exclusive:
                self._elect()
            else:
                self._turns.enter(consumer)
                self._regroup(selectors, None)

    def detach(self, consumer: Consumer, now: int) -> list[Message]:
        """It is gone. What it had not settled comes back to its place; returns what was delivered too often for that
        and is not in the queue any more."""
        if self.consumers.pop((consumer.slot, consumer.id), None) is None:
            return []
        selectors = list(self._turns.rings)
        messages = list(consumer.unsettled.values())
        consumer.unsettled.clear()
        self.unsettled -= len(messages)
        dead, back = self._sort_out(messages)
        self._put_back(back)
        self._turns.leave(consumer)
        if consumer is self._turns.exclusive:
            self._elect()
        else:
            self._regroup(selectors, consumer)
        return dead

    def adjust(self, consumer: Consumer, *, prefetch: int | None = None, instant: bool | None = None) -> None:
        """Change how much a consumer may hold, or whether it is instant."""
        if prefetch is not None:
            consumer.credit += prefetch - consumer.prefetch
            consumer.prefetch = prefetch
        if instant is not None:
            consumer.instant = instant
        self._turns.enlist(consumer)

    def claim(self, consumer: Consumer, messages: list[Message]) -> list[Message]:
        """After a restart of the owner: the consumer has these. Returns those that are now unsettled there, all but
        what another one holds. Those only on disk until now are taken for existing: ask the store first."""
        held = {key for other in self.consumers.values() for key in other.unsettled}
        wanted = {message.key: message for message in messages if message.key not in held}
        taken = self._waiting.drop(set(wanted)) + self._resting.take(wanted)
        for message in taken:
            message.count = max(message.count, wanted.pop(message.key).count)
        for message in wanted.values():
            if self._paging.has(message.key):
                self._paging.take(message.key, len(message.frame))
                self._high = max(self._high, message.key)
                taken.append(message)
        self._waiting.close_cuts()
        self._waiting.left(message.key for message in taken)
        for message in taken:
            consumer.unsettled[message.key] = message
        consumer.credit -= len(taken)
        self.unsettled += len(taken)
        return taken

    def _elect(self) -> None:
        self._turns.elect(self.consumers.values())
        self._rewind()

    def _regroup(self, selectors: list[Selector | None], gone: Consumer | None) -> None:
        """One consumer more is there, or one is `gone`; `selectors` were there before."""
        if selectors != list(self._turns.rings) or not self._waiting.regroup(gone):
            self._rewind()

    # --- deliveries

    def dispatch(self, now: int) -> Deliveries:
        """Give what waits to consumers with credit, each message to the next of them. Each consumer stands in the
        result once at the most, its messages in order; those given to one that is instant have left the queue."""
        waiting, turns = self._waiting, self._turns
        given: dict[Consumer, list[Message]] = {}
        if not waiting.plain:
            given, late = waiting.choose(now)
            self._expire(late)
            for consumer, messages in given.items():
                self._hand_over(consumer, messages)
            return list(given.items())
        while waiting.main:
            consumers = turns.take(waiting.count)
            if not consumers:
                break
            rounds = waiting.count // len(consumers)
            if rounds > 1:
                rounds = min([rounds if each.instant else min(each.credit, rounds) for each in consumers])
            run = waiting.take(rounds * len(consumers))
            if any(map(_expires_of, run)):
                self._expire([message for message in run if 0 < message.expires <= now])
                run = [message for message in run if not 0 < message.expires <= now]
            for place, consumer in enumerate(consumers):
                share = run[place :: len(consumers)]
                if share:
                    given.setdefault(consumer, []).extend(share)
                    if not consumer.instant:
                        consumer.credit -= len(share)
                    self._hand_over(consumer, share)
            behind = len(run) % len(consumers)
            turns.put_back(consumers[behind:] + consumers[:behind])
        return list(given.items())

    def _hand_over(self, consumer: Consumer, messages: list[Message]) -> None:
        if consumer.instant:
            for message in messages:
                message.count += 1
            self._lost(messages)
            return
        if self._waiting.returned:
            self._waiting.left(map(key_of, messages))
        unsettled = consumer.unsettled
        for message in messages:
            message.count += 1
            unsettled[message.key] = message
        self.unsettled += len(messages)

    def expire(self, now: int) -> None:
        """Put all that waits in memory and whose time was up into `expired`, not only what is next."""
        late = {message.key for message in self._waiting if 0 < message.expires <= now}
        if late:
            self._expire(self._waiting.drop(late))

    def _expire(self, late: list[Message]) -> None:
        if late:
            self._lost(late)
            self.expired += late

    def _lost(self, messages: list[Message]) -> None:
        """These left the queue for good; they are in no list any more."""
        self.bytes -= total_size(messages)
        if self._waiting.returned or self._waiting.avoided:
            self._waiting.left(map(key_of, messages))
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
        once the first time, then after a pause that doubles. With `others_first` this consumer gets them again only
        while nobody else may. Returns what was delivered too often and is not in the queue any more."""
        dead, back = self._sort_out(self._withdraw(consumer, keys))
        at_once = []
        for message in back:
            wait = delay
            if wait is None:
                wait = pause(message.count, self.redelivery_delay, self.redelivery_delay_max)
            if wait > 0:
                self._resting.add(message, now + wait, consumer if others_first else None)
            else:
                at_once.append(message)
                if others_first:
                    self._waiting.avoided[message.key] = consumer
        self._put_back(at_once)
        return dead

    def wake(self, now: int) -> int | None:
        """Messages that rested long enough wait for delivery again. Returns when to call this next, None for not
        before the next `give_back`."""
        woken, avoided, due = self._resting.wake(now)
        self._waiting.avoided.update(avoided)
        self._put_back(woken)
        return due

    def take_head(self, count: int) -> list[Message]:
        """Take out the first of what waits in memory, to make room."""
        taken = self._waiting.first(count)
        self._lost(taken)
        return taken

    def purge(self) -> list[Message]:
        """Take out all that waits or rests in memory. What is spilled is not: page on with `anyway`, and purge."""
        taken = self._waiting.first(self._waiting.count) + self._resting.take(list(self._resting.messages))
        self._lost(taken)
        return taken

    def discard(self, keys: Iterable[int]) -> list[Message]:
        """Take those of `keys` out that are in memory, whoever has them; a consumer gets its credit back."""
        wanted = set(keys)
        taken = self._waiting.drop(wanted) + self._resting.take(wanted)
        for consumer in self.consumers.values():
            if not wanted.isdisjoint(consumer.unsettled):
                taken += self._withdraw(consumer, wanted)
        self._lost(taken)
        return taken

    def _withdraw(self, consumer: Consumer, keys: Iterable[int]) -> list[Message]:
        """Out of what is unsettled there."""
        pop = consumer.unsettled.pop
        messages = [message for key in keys if (message := pop(key, None)) is not None]
        if messages:
            self.unsettled -= len(messages)
            consumer.credit += len(messages)
            self._turns.enlist(consumer)
        return messages

    def _sort_out(self, messages: list[Message]) -> tuple[list[Message], list[Message]]:
        """Those delivered too often, which leave the queue, and the others."""
        limit = self.redelivery_limit
        dead = [message for message in messages if message.count > limit] if limit else []
        if dead:
            self._lost(dead)
            messages = [message for message in messages if message.count <= limit]
        return dead, messages

    def _put_back(self, messages: list[Message]) -> None:
        if messages:
            messages.sort(key=key_of)
            self._waiting.come_back(messages)
            self._keep(messages, total_size(messages))
