"""One queue: what waits in it, who consumes it, who gets which message next.

Pure: no I/O and no clock, times are passed in (ms since the epoch). The owner writes to the store what `extend` was
given, deletes what left, writes how often returned messages were delivered, and asks for pages; a queue only says what
it wants. Messages wait in the order of their keys: by priority, then by arrival. A bounded window of them is in memory
(`worker.queues.waiting`), the rest only on disk (`worker.queues.paging`).
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.contents import Contents
from worker.queues.lane import key_of, total_size
from worker.queues.message import Message
from worker.queues.paging import Page
from worker.queues.resting import pause

__all__ = ["Consumer", "Deliveries", "Page", "Queue"]

Deliveries = list[tuple[Consumer, list[Message]]]

_expires_of = attrgetter("expires")


class Queue(Contents):
    """Queue `number`, called `name`; `spilled` messages of `spilled_bytes` are on disk from an earlier life.

    `window_messages` and `window_bytes` bound what waits in memory; twice that where urgent messages come late, and
    what consumers hold or gave back comes on top. `redelivery_limit` is how often a message is delivered again before
    it is dead-lettered, 0 for no limit; `redelivery_delay` and `redelivery_delay_max` in ms; `max_groups` is how many
    message groups are remembered. All these may change at any time.

    The owner empties `expired`: these left the queue because their time was up.
    """

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

    def detach(self, consumer: Consumer, now: int, *, orderly: bool = False) -> list[Message]:
        """It is gone. What it had not settled comes back to its place; returns what was delivered too often for that
        and is not in the queue any more.

        An `orderly` consumer said that it goes, and nothing it had is to blame. Of one that broke off, the oldest may
        be what broke it; it had the others in advance."""
        if self.consumers.pop((consumer.slot, consumer.id), None) is None:
            return []
        selectors = list(self._turns.rings)
        messages = list(consumer.unsettled.values())
        consumer.unsettled.clear()
        consumer.weight = None
        self.unsettled -= len(messages)
        for message in messages if orderly else messages[1:]:
            message.forgiven += 1
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

    @staticmethod
    def weigh(consumer: Consumer) -> int:
        """The bytes of what a consumer has. Most are never asked for theirs, and cost nothing."""
        if consumer.weight is None:
            consumer.weight = total_size(consumer.unsettled.values())
        return consumer.weight

    def claim(self, consumer: Consumer, messages: list[Message]) -> list[Message]:
        """After a restart of the owner: the consumer has these. Returns those that are now unsettled there, all but
        what another one holds. Those only on disk until now are taken for existing: ask the store first."""
        held = {key for other in self.consumers.values() for key in other.unsettled}
        wanted = {message.key: message for message in messages if message.key not in held}
        taken = self._waiting.drop(set(wanted)) + self._resting.take(wanted)
        for message in taken:
            message.count = max(message.count, wanted.pop(message.key).count)
        for message in wanted.values():
            if self._resting.fetch(message.key, message):
                taken.append(message)
            elif self._paging.has(message.key):
                self._paging.take(message.key, len(message.frame))
                self._high = max(self._high, message.key)
                taken.append(message)
        self._waiting.close_cuts()
        self._waiting.left(message.key for message in taken)
        for message in taken:
            consumer.unsettled[message.key] = message
        if consumer.weight is not None:
            consumer.weight += total_size(taken)
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
            waiting.forget_groups()
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
        if consumer.weight is not None:
            consumer.weight += total_size(messages)
        self.unsettled += len(messages)

    def expire(self, now: int) -> None:
        """Put all that waits or rests in memory alone and whose time was up into `expired`, not only what is next. The
        store knows of the others."""
        late = {message.key for message in self._waiting if 0 < message.expires <= now and not message.persistent}
        if late:
            self._expire(self._waiting.drop(late))
        resting = self._resting.messages.values()
        self._expire(
            self._resting.take([each.key for each in resting if 0 < each.expires <= now and not each.persistent])
        )

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

    def give_back(
        self, consumer: Consumer, keys: Iterable[int], now: int, *, delay: int | None = None, others_first: bool = True
    ) -> list[Message]:
        """The consumer refused these: they are to be delivered again, in their place, after `delay` ms; by default at
        once the first time, then after a pause that doubles. With `others_first` this consumer gets them again only
        while nobody else has credit. Returns what was delivered too often and is not in the queue any more."""
        dead, back = self._sort_out(self._withdraw(consumer, keys))
        at_once = []
        for message in back:
            wait = delay
            if wait is None:
                wait = pause(message.attempts, self.redelivery_delay, self.redelivery_delay_max)
            if wait > 0:
                away = message.persistent and self._resting_full(len(message.frame))
                self._resting.add(message, now + wait, consumer if others_first else None, away=away)
            else:
                at_once.append(message)
                if others_first:
                    self._waiting.avoided[message.key] = consumer
        self._put_back(at_once)
        return dead

    def forgive(self, messages: list[Message]) -> None:
        """That these were given back was not their fault after all."""
        for message in messages:
            message.forgive()
            self._resting.forgive(message.key)

    def wake(self, now: int) -> int | None:
        """Messages that rested long enough wait for delivery again. Returns when to call this next, None for not
        before the next `give_back`."""
        woken, avoided, due = self._resting.wake(now)
        self._waiting.avoided.update(avoided)
        self._put_back(woken)
        return due

    def _resting_full(self, more: int) -> bool:
        resting = self._resting
        return (len(resting.messages) + 1) * 2 > self.window_messages or (resting.size + more) * 2 > self.window_bytes

    @property
    def has_woken(self) -> bool:
        """Whether messages have rested long enough that are only on disk, see `rested_wanted`."""
        return bool(self._resting.woken)

    def rested_wanted(self, *, anyway: bool = False) -> list[int]:
        """Which of those that rest on disk to ask the store for now, and give to `rested` before the next call: those
        that have rested long enough, as far as there is room or somebody has credit; with `anyway` the others, too, if
        there is room."""
        if anyway:
            room = not self._resting_full(0)
        else:
            count, size = self._waiting.returned_load
            room = count * 2 <= self.window_messages and size * 2 <= self.window_bytes
            room = room or self._turns.next(self._turns.rings, ()) is not None
        if not room:
            return []
        return self._resting.ask(max(self.window_messages // 4, 1), self.window_bytes // 4, anyway=anyway)

    def rested(self, messages: list[Message]) -> None:
        """What the store had of those that `rested_wanted` asked for."""
        woken, avoided, lost = self._resting.read(messages)
        self.bytes -= lost
        self._waiting.avoided.update(avoided)
        self._put_back(woken)

    def take_head(self, count: int) -> list[Message]:
        """Take out some of what waits in memory, to make room: the lowest priority first, of that the oldest."""
        taken = self._waiting.least(count)
        self._lost(taken)
        return taken

    def purge(self) -> list[Message]:
        """Take out all that waits or rests in memory. What is spilled is not: page on with `anyway`, and purge."""
        taken = self._waiting.first(self._waiting.count) + self._resting.take(list(self._resting.messages))
        self._lost(taken)
        return taken

    def _withdraw(self, consumer: Consumer, keys: Iterable[int]) -> list[Message]:
        """Out of what is unsettled there."""
        pop = consumer.unsettled.pop
        messages = [message for key in keys if (message := pop(key, None)) is not None]
        if messages:
            self.unsettled -= len(messages)
            if consumer.weight is not None:
                consumer.weight -= total_size(messages)
            consumer.credit += len(messages)
            self._turns.enlist(consumer)
        return messages

    def _sort_out(self, messages: list[Message]) -> tuple[list[Message], list[Message]]:
        """Those delivered too often, which leave the queue, and the others."""
        limit = self.redelivery_limit
        dead = [message for message in messages if message.attempts > limit] if limit else []
        if dead:
            self._lost(dead)
            messages = [message for message in messages if message.attempts <= limit]
        return dead, messages

    def _put_back(self, messages: list[Message]) -> None:
        if messages:
            messages.sort(key=key_of)
            self._waiting.come_back(messages)
            self._keep(messages, total_size(messages))
