"""Messages leave the queues of an owner: settled, refused, expired, in the way; and what becomes of those."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from common.log import Event, EventLog
from worker.queues.consumer import Consumer
from worker.queues.deadletters import EXPIRED, QUEUE_FULL, REDELIVERY_LIMIT, REJECTED, dead_letter
from worker.queues.letters import ADD, TAKE
from worker.queues.message import Message, queue_number
from worker.queues.owned import OwnedQueue
from worker.queues.withdrawal import discard, discard_stored, discard_waiting
from worker.store.interface import SetCount, Store, Unit

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["Departures"]

Row = tuple[int, bytes, int]


class Departures:
    """A `unit` that is passed in tells the store of what left."""

    def __init__(self, owner: Owner, store: Store, log: EventLog) -> None:
        self._owner = owner
        self._store = store
        self._log = log
        self._registry = owner.registry
        self.dead_lettered = 0

    def settle(self, unit: Unit, name: bytes, consumer: Consumer | None, keys: list[int]) -> None:
        """Its consumer, if there still is one, is done with them."""
        owned = self._registry.get(name)
        if owned is None:
            return
        messages = [] if consumer is None else owned.queue.settle(consumer, keys)
        if len(messages) < len(keys):
            found = {message.key for message in messages}
            messages += self._settle_elsewhere(owned, [key for key in keys if key not in found])
        owned.remove(unit, messages)
        self._owner.eased(owned)

    def take(self, unit: Unit, name: bytes, keys: list[int]) -> None:
        """They are somewhere else now; after a restart they are in the queue again."""
        self.settle(unit, name, None, keys)

    def _settle_elsewhere(self, owned: OwnedQueue, keys: list[int]) -> list[Message]:
        """Settle what its consumer does not have any more, because it or the owner died in between; returns what was
        still in memory."""
        messages = discard(owned.queue, keys)
        found = {message.key for message in messages}
        missing = [key for key in keys if key not in found]
        if missing:
            self._store.fetch(missing, functools.partial(self._settle_stored, owned))
        return messages

    def _settle_stored(self, owned: OwnedQueue, rows: list[Row]) -> None:
        unit = Unit(must=True)
        owned.remove(unit, discard_stored(owned.queue, [owned.stored(*row) for row in rows]))
        self._owner.write(unit)
        self._owner.eased(owned)
        self._owner.flush()

    def refuse(
        self,
        unit: Unit,
        owned: OwnedQueue,
        consumer: Consumer,
        keys: list[int],
        delay: int | None,
        requeue: bool,
        reason: str,
    ) -> None:
        """A NACK: deliver again, after `delay` ms or as the policy says, or never."""
        if requeue:
            messages = [consumer.unsettled[key] for key in keys if key in consumer.unsettled]
            dead = owned.queue.give_back(consumer, keys, self._owner.now(), delay=delay, others_first=True)
            self._count(unit, messages, dead)
            self.bury(unit, owned, dead, REDELIVERY_LIMIT, reason)
            self._owner.rest(owned)
        else:
            self.bury(unit, owned, owned.queue.remove(consumer, keys), REJECTED, reason)
        self._owner.eased(owned)

    def leave(self, unit: Unit, owned: OwnedQueue, consumer: Consumer) -> None:
        """The consumer is gone, and gives back what it had not settled."""
        messages = list(consumer.unsettled.values())
        dead = owned.queue.detach(consumer, self._owner.now())
        self._count(unit, messages, dead)
        self.bury(unit, owned, dead, REDELIVERY_LIMIT, "its consumers left without settling it")
        self._owner.eased(owned)

    def drop_head(self, unit: Unit, owned: OwnedQueue) -> None:
        """Make room for what came last."""
        policy, queue = owned.policy, owned.queue
        while True:
            over = queue.messages - policy.max_messages if policy.max_messages else 0
            if over <= 0 and policy.max_bytes and queue.bytes > policy.max_bytes:
                over = 1
            dropped = queue.take_head(over) if over > 0 else []
            if not dropped:
                return
            self.bury(unit, owned, dropped, QUEUE_FULL)

    def expired(self, unit: Unit, owned: OwnedQueue) -> None:
        """What the queue found to be over its time."""
        messages, owned.queue.expired = owned.queue.expired, []
        if owned.policy.expired_dead_letter:
            self.bury(unit, owned, messages, EXPIRED)
        else:
            owned.remove(unit, messages)
        self._owner.eased(owned)

    def expire(self, unit: Unit, keys: list[int]) -> int:
        """The time of these is up, wherever they wait; returns how many were in memory."""
        by_queue: dict[OwnedQueue, list[int]] = {}
        for key in keys:
            owned = self._registry.by_number(queue_number(key))
            if owned is not None:
                by_queue.setdefault(owned, []).append(key)
        count = 0
        for owned, each in by_queue.items():
            found = discard_waiting(owned.queue, each)
            count += len(found)
            owned.queue.expired += found
            self.expired(unit, owned)
            if len(found) < len(each) and owned.queue.spilled:
                self._store.fetch(each, functools.partial(self._expire_stored, owned))
        return count

    def _expire_stored(self, owned: OwnedQueue, rows: list[Row]) -> None:
        unit = Unit(must=True)
        owned.queue.expired += discard_stored(owned.queue, [owned.stored(*row) for row in rows])
        self.expired(unit, owned)
        self._owner.write(unit)

    def unstored(self, unit: Unit) -> None:
        """The store refused the messages of `unit`: they are no more, but for those that a consumer has already."""
        for key, frame in unit.inserts:
            owned = self._registry.by_number(queue_number(key))
            if owned is None:
                continue
            holder = next((each for each in owned.queue.consumers.values() if key in each.unsettled), None)
            if holder is not None:
                holder.unsettled[key].persistent = False
            elif not discard_stored(owned.queue, [Message(key, frame)]):
                # Settled in the meantime: that they left is, or will be, taken off what the store never counted.
                self._owner.write(Unit(depths=[(owned.number, 1, len(frame))], must=True))

    def bury(self, unit: Unit, owned: OwnedQueue, messages: list[Message], reason: str, detail: str = "") -> None:
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
        away = Unit(must=True)
        owned.remove(away, messages)
        owner.surroundings.across({owner.slot: [[TAKE, owned.name, keys]], slot: [add]}, away)

    def _count(self, unit: Unit, messages: Iterable[Message], dead: list[Message]) -> None:
        gone = {message.key for message in dead}
        unit.changes += [
            SetCount(message.key, message.count)
            for message in messages
            if message.persistent and message.key not in gone
        ]
