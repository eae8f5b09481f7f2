"""Messages leave the queues of an owner: settled, refused, expired, in the way; and what becomes of those."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.log import Event, EventLog
from worker.queues.consumer import Consumer
from worker.queues.deadletters import EXPIRED, QUEUE_FULL, REDELIVERY_LIMIT, REJECTED, dead_letter
from worker.queues.letters import ADD, TAKE, Operation
from worker.queues.message import Message, queue_number
from worker.queues.owned import OwnedQueue
from worker.queues.withdrawal import discard, discard_stored
from worker.queues.work import Work
from worker.store.interface import Store

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["Departures"]

Row = tuple[int, bytes, int]
Leave = Callable[[Work, list[Message]], None]
"""What becomes of messages that leave a queue, which the unit tells the store."""


class Departures:
    """A `unit` that is passed in tells the store of what left."""

    def __init__(self, owner: Owner, store: Store, log: EventLog) -> None:
        self._owner = owner
        self._store = store
        self._log = log
        self._registry = owner.registry
        self.dead_lettered = 0
        self._dropping: set[OwnedQueue] = set()

    def settle(self, unit: Work, name: bytes, consumer: Consumer | None, keys: list[int]) -> None:
        """Its consumer, if there still is one, is done with them."""
        owned = self._registry.get(name)
        if owned is None:
            return
        messages = [] if consumer is None else owned.queue.settle(consumer, keys)
        owned.remove(unit, messages)
        if len(messages) < len(keys):
            self._elsewhere(unit, owned, keys, messages, owned.remove)
        self._owner.eased(owned)

    def refused(self, unit: Work) -> None:
        """The store refused it: nothing of it happened, and what it settled waits in its place again."""
        back = Work(must=True)
        for owned, messages in unit.returns:
            # They stay where they were given back to: their consumer is about to lose its connection, and would give
            # them back then. But that it refused them did not happen.
            if self._registry.by_number(owned.number) is owned:
                owned.queue.forgive(messages)
                owned.count(back, messages)
        for owned, messages in unit.departures:
            # An ended subscription's queue may be gone by now.
            if self._registry.by_number(owned.number) is owned:
                owned.come_back(back, messages)
                if owned.policy.when_full == "block":
                    self._owner.block_when_full(owned)
                self._owner.touch(owned)
        if not back.is_idle:
            self._owner.write(back)

    def take(self, unit: Work, name: bytes, keys: list[int]) -> None:
        """They are somewhere else now; after a restart they are in the queue again."""
        self.settle(unit, name, None, keys)

    def _elsewhere(self, unit: Work, owned: OwnedQueue, keys: list[int], settled: list[Message], leave: Leave) -> None:
        """Have those of `keys` `leave` that are not among `settled`: what its consumer does not have any more, because
        it or the owner died in between. Of that, what is not in memory is awaited."""
        done = {message.key for message in settled}
        # Of an earlier life of the queue, when it had another number, nothing is left.
        missing = {key for key in keys if key not in done and queue_number(key) == owned.number}
        messages = discard(owned.queue, missing)
        leave(unit, messages)
        missing.difference_update([message.key for message in messages])
        if missing:
            unit.awaited.append(functools.partial(self._look_up, owned, sorted(missing), leave))

    def _look_up(self, owned: OwnedQueue, keys: list[int], leave: Leave, then: Callable[[], None]) -> None:
        def found(rows: list[Row]) -> None:
            work = Work(must=True)
            if self._registry.by_number(owned.number) is owned:
                # Some may have come from the disk meanwhile, and gone to a consumer.
                messages = discard(owned.queue, keys)
                here = {message.key for message in messages}
                rows = [row for row in rows if row[0] not in here]
                leave(work, messages + discard_stored(owned.queue, [owned.stored(*row) for row in rows]))
                self._owner.eased(owned)
            if work.is_idle:
                then()
            else:
                self._owner.write(work, lambda error: then())

        self._store.fetch(keys, found)

    def refuse(
        self,
        unit: Work,
        name: bytes,
        consumer: Consumer | None,
        keys: list[int],
        delay: int | None,
        requeue: bool,
        reason: str,
    ) -> None:
        """A NACK: deliver again, after `delay` ms or as the policy says, or never."""
        owned = self._registry.get(name)
        if owned is None:
            return
        if requeue:
            if consumer is None:
                # It has left, and has given back what it had.
                return
            messages = [consumer.unsettled[key] for key in keys if key in consumer.unsettled]
            dead = owned.queue.give_back(consumer, keys, self._owner.now(), delay=delay, others_first=True)
            back = self._count(unit, owned, messages, dead)
            if back and not unit.must:
                unit.returns.append((owned, back))
            self.bury(unit, owned, dead, REDELIVERY_LIMIT, reason)
            self._owner.rest(owned)
        else:
            messages = [] if consumer is None else owned.queue.settle(consumer, keys)
            self.bury(unit, owned, messages, REJECTED, reason)
            if len(messages) < len(keys):
                self._elsewhere(
                    unit, owned, keys, messages, lambda work, found: self.bury(work, owned, found, REJECTED, reason)
                )
        self._owner.eased(owned)

    def leave(self, unit: Work, owned: OwnedQueue, consumer: Consumer, *, orderly: bool) -> None:
        """The consumer is gone, and gives back what it had not settled; `orderly` if it said so."""
        messages = list(consumer.unsettled.values())
        dead = owned.queue.detach(consumer, self._owner.now(), orderly=orderly)
        self._count(unit, owned, messages, dead)
        self.bury(unit, owned, dead, REDELIVERY_LIMIT, "its consumers left without settling it")
        self._owner.eased(owned)

    def drop_head(self, owned: OwnedQueue) -> None:
        """Make room for what came last."""
        policy, queue = owned.policy, owned.queue
        unit = Work(must=True)
        while True:
            over = queue.messages - policy.max_messages if policy.max_messages else 0
            if over <= 0 and policy.max_bytes and queue.bytes > policy.max_bytes:
                over = 1
            dropped = queue.take_head(over) if over > 0 else []
            if not dropped:
                break
            self.bury(unit, owned, dropped, QUEUE_FULL)
        if not unit.is_idle:
            self._owner.write(unit)
        if over > 0 and not queue.ready and queue.spilled and owned not in self._dropping:
            # The oldest are only on disk.
            self._dropping.add(owned)
            self._owner.page_in(owned, lambda: self._drop_more(owned))

    def _drop_more(self, owned: OwnedQueue) -> None:
        self._dropping.discard(owned)
        if self._registry.by_number(owned.number) is owned and owned.policy.when_full == "drop-head":
            self.drop_head(owned)

    def expired(self, unit: Work, owned: OwnedQueue) -> None:
        """What the queue found to be over its time."""
        messages, owned.queue.expired = owned.queue.expired, []
        if owned.policy.expired_dead_letter:
            self.bury(unit, owned, messages, EXPIRED)
        else:
            owned.remove(unit, messages)
        self._owner.eased(owned)

    def bury(self, unit: Work, owned: OwnedQueue, messages: list[Message], reason: str, detail: str = "") -> None:
        """Dead-letter messages that were taken out of `owned`, or drop them where there is no dead letter queue."""
        if not messages:
            return
        self.dead_lettered += len(messages)
        owner = self._owner
        # What is temporary leaves nothing behind.
        target = None if owned.temporary else owned.policy.dead_letter_for(owned.title)
        name = owned.name.decode(errors="replace")
        self._log.info(
            Event.QUEUE_DEAD_LETTERED, queue=name, count=len(messages), reason=reason, to=target or "nowhere"
        )
        if target is None:
            owned.remove(unit, messages)
            return
        to = target.encode()
        frames = [dead_letter(message, owned.name, to, reason, detail, owner.now()) for message in messages]
        add = [ADD, to, b"", frames, None]
        slot = owner.surroundings.owner_of(to)
        if slot == owner.slot:
            owned.remove(unit, messages)
            owner.arrivals.add(unit, add, limited=False)
            return
        keys = [message.key for message in messages if message.persistent]
        away = Work(must=True)
        owned.remove(away, messages)
        parts: dict[int, list[Operation]] = {owner.slot: [[TAKE, owned.name, keys]], slot: [add]}
        unit.awaited.append(lambda then: owner.surroundings.across(parts, away, then))

    @staticmethod
    def _count(unit: Work, owned: OwnedQueue, messages: list[Message], dead: list[Message]) -> list[Message]:
        """These were given back, all but the `dead`: tell the store, and return them."""
        gone = {message.key for message in dead}
        back = [message for message in messages if message.key not in gone]
        owned.count(unit, back)
        return back
