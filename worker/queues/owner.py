"""The queues this worker owns: what is handed off to them, what they deliver, and what of it the store is told.

Takes hand-offs of any worker, this one included, applies each as one unit of the store, and confirms it once that is
on disk. Delivers at once, within the consumers' credit; only RECEIPTs wait for the disk.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from common.errors import ErrorCode
from common.log import Event, EventLog
from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.deadletters import EXPIRED, QUEUE_FULL, REDELIVERY_LIMIT, REJECTED, dead_letter
from worker.queues.idempotency import Seen
from worker.queues.letters import ADD, ATTACH, DETACH, DONE, FORGET, NACK, SETTLE, TAKE, Confirmed, Operation, Outcome
from worker.queues.message import MAX_QUEUES, Message, queue_number
from worker.queues.owned import OwnedQueue
from worker.queues.paging import Page
from worker.queues.policy import Policies
from worker.queues.queue import Queue
from worker.queues.upkeep import Upkeep
from worker.queues.withdrawal import discard, discard_stored, discard_waiting
from worker.settings import QueueSettings
from worker.store.interface import (
    Change,
    Done,
    DropQueue,
    Forget,
    Mark,
    Park,
    Recovered,
    SetCount,
    Store,
    StoreError,
    Unit,
    Unpark,
)
from worker.traits import Traits, traits_of

__all__ = ["Owner", "Surroundings"]

_EPOCH = 1_767_225_600
"""2026-01-01 in seconds: the counters of a new queue start by the time since, so that none is used again when a queue
of the same number comes back."""


class Surroundings(Protocol):
    """What an owner needs of the rest of its worker."""

    slot: int

    def deliver(self, consumer: Consumer, messages: list[Message]) -> None:
        """Bring `messages` to the consumer's worker."""

    def across(self, parts: dict[int, list[Operation]], own: Unit) -> None:
        """Apply the operations at each owner, all or none, whatever dies meanwhile. `own` is this worker's part as it
        is to be stored, its operations were applied to what is in memory."""

    def wake_at(self, when: int) -> None:
        """Call `Owner.wake` then (ms since the epoch)."""

    def owner_of(self, queue: bytes) -> int: ...

    def hold_up(self, queue: bytes, held_up: bool) -> None:
        """The producers of `queue`, on all workers, are to pause, or may go on."""

    def now(self) -> int:
        """Milliseconds since the epoch."""


class Owner:
    """`flush` is to be called at the end of each turn that called any of the others."""

    def __init__(
        self, surroundings: Surroundings, store: Store, settings: QueueSettings, policies: Policies, log: EventLog
    ) -> None:
        self._surroundings = surroundings
        self._slot = surroundings.slot
        self._store = store
        self._log = log
        self._queues: dict[bytes, OwnedQueue] = {}
        self._numbers: dict[int, OwnedQueue] = {}
        self._free: list[int] = []
        self._next_number = 1
        self._dirty: dict[OwnedQueue, None] = {}
        self._marks: dict[str, int] = {}
        self._consumers: dict[tuple[int, int], tuple[OwnedQueue, Consumer]] = {}
        self._idle: dict[OwnedQueue, int] = {}
        self._paging: dict[OwnedQueue, None] = {}
        self._units = 0
        # By number, oldest first, as a dict keeps them: the first is the oldest that is not stored.
        self._unstored: dict[int, None] = {}
        self._leaving = Unit(must=True)
        self.seen = Seen(settings.idempotency_window, settings.idempotency_keys)
        self.open = False
        self.upkeep = Upkeep(self, store, surroundings.wake_at)
        self._next_parked = 1
        self.configure(settings, policies)

    def configure(self, settings: QueueSettings, policies: Policies) -> None:
        self._settings = settings
        self._policies = policies
        self.seen.limit(settings.idempotency_window, settings.idempotency_keys)
        for owned in self._queues.values():
            owned.configure(policies.find(owned.name))

    # --- life

    def recover(self, recovered: Recovered) -> None:
        """Own what the store of this slot holds."""
        self._next_parked = recovered.next_parked
        self._marks = dict(recovered.marks)
        self.seen.recover(recovered.keys)
        unit = Unit()
        for row in recovered.queues:
            self._next_number = max(self._next_number, row.number + 1)
            if row.options == b"volatile":
                unit.changes.append(DropQueue(row.number))
                self._free.append(row.number)
                continue
            name = row.name.encode()
            queue = self._new_queue(row.number, name, row.messages, row.bytes)
            counter = max(row.reserved, self._first_counter())
            owned = OwnedQueue(name, queue, self._policies.find(name), counter, recovered=row.delivered)
            self._put(owned)
            self._maybe_idle(owned)
        taken = {owned.number for owned in self._queues.values()} | set(self._free)
        self._free += [number for number in range(1, self._next_number) if number not in taken]
        heapq.heapify(self._free)
        if unit.changes:
            self._write(unit)

    def start(self) -> None:
        """Every sibling has said which deliveries it still has: deliver from now on."""
        self.open = True
        self.upkeep.start()
        self._dirty = dict.fromkeys(self._queues.values())
        self.flush()

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self._surroundings.now()

    def _put(self, owned: OwnedQueue) -> None:
        self._queues[owned.name] = owned
        self._numbers[owned.number] = owned
        self.upkeep.sweep()

    def _first_counter(self) -> int:
        return (self._surroundings.now() // 1000 - _EPOCH) << 8

    def find(self, name: bytes, *, volatile: bool = False) -> OwnedQueue | None:
        """The queue of that name, made if need be; None if there are too many."""
        owned = self._queues.get(name)
        if owned is None:
            if len(self._queues) >= min(self._settings.max_queues, MAX_QUEUES - 1):
                return None
            if self._free:
                number = heapq.heappop(self._free)
            else:
                number = self._next_number
                self._next_number += 1
            queue = self._new_queue(number, name)
            owned = OwnedQueue(name, queue, self._policies.find(name), self._first_counter(), volatile=volatile)
            self._put(owned)
            self._maybe_idle(owned)
        return owned

    def _new_queue(self, number: int, name: bytes, spilled: int = 0, spilled_bytes: int = 0) -> Queue:
        settings = self._settings
        return Queue(
            number,
            name.decode(),
            window_messages=settings.window_messages,
            window_bytes=settings.window_bytes,
            spilled=spilled,
            spilled_bytes=spilled_bytes,
        )

    # --- hand-offs

    def apply(
        self,
        origin: str,
        slot: int,
        sequence: int,
        operations: list[Operation],
        transaction: str | None,
        done: Confirmed,
    ) -> None:
        """Apply a hand-off of worker `slot`; `sequence` is 0 from this worker itself, whose hand-offs die with it."""
        source = origin if transaction is None else f"transaction {transaction}"
        number = sequence if transaction is None else 1
        known = number > 0 and self._marks.get(source, 0) >= number
        unit = Unit(must=transaction is not None)
        alone = transaction is None and len(operations) == 1
        outcome = DONE if alone or transaction is not None else self._without_room(operations)
        if outcome is DONE:
            for operation in operations:
                kind = operation[0]
                if kind == ADD:
                    if not known:
                        outcome = self._add(unit, operation, limited=alone)
                    continue
                unit.must = True
                if kind == SETTLE:
                    self._settle(unit, operation[1], (slot, operation[2]), operation[3])
                elif kind == NACK:
                    self._nack(unit, operation[1], (slot, operation[2]), *operation[3:])
                elif kind == TAKE:
                    self._take(unit, operation[1], operation[2])
                elif kind == ATTACH:
                    outcome = self._attach(unit, operation[1], (slot, operation[2]), operation[3])
                elif kind == DETACH:
                    self._detach(unit, (slot, operation[2]))
                elif kind == FORGET:
                    self._forget(unit, operation[1])
        if number and not known and (unit.inserts or transaction is not None):
            self._marks[source] = number
            unit.changes.append(Mark(source, number))
        if unit.inserts or unit.deletes or unit.changes or outcome.duplicates or known:
            # Also what was stored before: it may still be on its way to the disk.
            keys = [] if unit.must else [key for key, _ in unit.inserts]
            self._write(unit, lambda error: self._written(done, outcome, error, keys))
        else:
            done(outcome)

    def _write(self, unit: Unit, done: Done | None = None) -> None:
        number = self._units = self._units + 1
        self._unstored[number] = None

        def written(error: StoreError | None) -> None:
            del self._unstored[number]
            if done is not None:
                done(error)
            if self._paging:
                self._page_again()

        self._store.write(unit, written)

    def _forget(self, unit: Unit, transaction: str) -> None:
        source = f"transaction {transaction}"
        if self._marks.pop(source, 0):
            unit.changes.append(Forget(source))

    def _written(self, done: Confirmed, outcome: Outcome, error: StoreError | None, keys: list[int]) -> None:
        if error is not None:
            code = ErrorCode.STORE_FULL if error.full else ErrorCode.STORE_FAILED
            outcome = Outcome((code.value, "message not stored", str(error)))
            for key in keys:
                owned = self._numbers.get(queue_number(key))
                if owned is not None:
                    # Those under way to a consumer stay with it; nothing of them is in the store.
                    discard(owned.queue, [key])
        done(outcome)

    def _without_room(self, operations: list[Operation]) -> Outcome:
        """DONE, or the refusal of a whole transaction, for which a queue has no room."""
        wanted: dict[bytes, int] = {}
        for operation in operations:
            if operation[0] == ADD:
                wanted[operation[1]] = wanted.get(operation[1], 0) + len(operation[3])
        for name, count in wanted.items():
            owned = self.find(name)
            if owned is None:
                return self._too_many()
            if owned.policy.when_full == "reject" and owned.room < count:
                return self._full(owned, 0)
        return DONE

    def _too_many(self) -> Outcome:
        limit = min(self._settings.max_queues, MAX_QUEUES - 1)
        detail = f"this worker has {len(self._queues)}, the limit is {limit} (queue.max_queues)"
        return Outcome((ErrorCode.TOO_MANY_QUEUES.value, "too many queues", detail))

    def _full(self, owned: OwnedQueue, place: int) -> Outcome:
        policy, queue = owned.policy, owned.queue
        detail = (
            f"{owned.name.decode()!r} holds {queue.messages} messages of {queue.bytes} bytes; the limits are "
            f"{policy.max_messages or 'no'} messages (destination.max_messages) and {policy.max_bytes or 'no'} bytes "
            "(destination.max_bytes); send again when consumers have made room"
        )
        return Outcome((ErrorCode.QUEUE_FULL.value, "queue is full", detail), place)

    # --- messages come

    def _add(self, unit: Unit, operation: Operation, *, limited: bool) -> Outcome:
        _, name, prefix, items, packed = operation
        owned = self._queues.get(name) or self.find(name)
        if owned is None:
            return self._too_many()
        now = self._surroundings.now()
        traits = None if packed is None else {place: Traits(*each) for place, each in packed.items()}
        outcome = DONE
        if traits is not None:
            items, traits, duplicates = self._without_repeats(unit, name, prefix, items, traits, now)
            outcome = Outcome(duplicates=duplicates) if duplicates else DONE
            items, traits = self._without_delayed(unit, owned, prefix, items, traits, now)
        policy = owned.policy
        if policy.max_messages or policy.max_bytes:
            room = owned.room
            if room < len(items) and policy.when_full == "reject" and limited:
                items = items[:room]
                outcome = self._full(owned, room)
            owned.add(unit, prefix, items, traits, now)
            if policy.when_full == "drop-head":
                self._drop_head(unit, owned)
            elif policy.when_full == "block" and not owned.blocked and not owned.room:
                owned.blocked = True
                self._surroundings.hold_up(name, held_up=True)
        else:
            owned.add(unit, prefix, items, traits, now)
        self._dirty[owned] = None
        return outcome

    def _without_repeats(
        self, unit: Unit, name: bytes, prefix: bytes, items: list[bytes], traits: dict[int, Traits], now: int
    ) -> tuple[list[bytes], dict[int, Traits], dict[int, bytes]]:
        kept: list[bytes] = []
        kept_traits: dict[int, Traits] = {}
        duplicates: dict[int, bytes] = {}
        for place, item in enumerate(items):
            each = traits.get(place)
            if each is not None and each.idempotency_key is not None:
                first = self.seen.find(name, each.idempotency_key, now)
                if first is not None:
                    duplicates[place] = first
                    continue
                id = prefix + item[: item.index(b"\n")]
                unit.changes.append(self.seen.add(name, each.idempotency_key, id, now))
            if each is not None:
                kept_traits[len(kept)] = each
            kept.append(item)
        return kept, kept_traits, duplicates

    def _without_delayed(
        self,
        unit: Unit,
        owned: OwnedQueue,
        prefix: bytes,
        items: list[bytes],
        traits: dict[int, Traits],
        now: int,
    ) -> tuple[list[bytes], dict[int, Traits]]:
        if not any(each.delay or each.deliver_at for each in traits.values()):
            return items, traits
        kept: list[bytes] = []
        kept_traits: dict[int, Traits] = {}
        for place, item in enumerate(items):
            each = traits.get(place)
            due = 0 if each is None else each.deliver_at or (now + each.delay if each.delay else 0)
            if due > now:
                unit.changes.append(Park(self._next_parked, due, owned.name.decode(), prefix + item))
                self._next_parked += 1
                self.upkeep.parked(due)
                continue
            if each is not None:
                kept_traits[len(kept)] = each
            kept.append(item)
        return kept, kept_traits

    def _drop_head(self, unit: Unit, owned: OwnedQueue) -> None:
        policy, queue = owned.policy, owned.queue
        while True:
            over = queue.messages - policy.max_messages if policy.max_messages else 0
            if over <= 0 and policy.max_bytes and queue.bytes > policy.max_bytes:
                over = 1
            dropped = queue.take_head(over) if over > 0 else []
            if not dropped:
                return
            self._bury(unit, owned, dropped, QUEUE_FULL)

    # --- messages go

    def _settle(self, unit: Unit, name: bytes, who: tuple[int, int], keys: list[int]) -> None:
        owned = self._queues.get(name)
        if owned is None:
            return
        _, consumer = self._consumers.get(who, (None, None))
        messages = [] if consumer is None else owned.queue.settle(consumer, keys)
        if len(messages) < len(keys):
            found = {message.key for message in messages}
            messages += self._settle_elsewhere(owned, [key for key in keys if key not in found])
        owned.remove(unit, messages)
        self._eased(owned)

    def _settle_elsewhere(self, owned: OwnedQueue, keys: list[int]) -> list[Message]:
        """Settle what its consumer does not have any more, because it or the owner died in between; returns what was
        still in memory."""
        messages = discard(owned.queue, keys)
        found = {message.key for message in messages}
        missing = [key for key in keys if key not in found]
        if missing:
            self._store.fetch(missing, lambda rows: self._settle_stored(owned, rows))
        return messages

    def _settle_stored(self, owned: OwnedQueue, rows: list[tuple[int, bytes, int]]) -> None:
        unit = Unit(must=True)
        owned.remove(unit, discard_stored(owned.queue, [owned.stored(*row) for row in rows]))
        self._write(unit)
        self._eased(owned)
        self.flush()

    def _eased(self, owned: OwnedQueue) -> None:
        """Messages left `owned`, or a consumer can take more."""
        self._dirty[owned] = None
        if owned.blocked and owned.room > owned.policy.max_messages // 4:
            owned.blocked = False
            self._surroundings.hold_up(owned.name, held_up=False)
        self._maybe_idle(owned)

    def _nack(
        self,
        unit: Unit,
        name: bytes,
        who: tuple[int, int],
        keys: list[int],
        delay: int | None,
        requeue: bool,
        reason: str,
    ) -> None:
        owned, consumer = self._consumers.get(who, (None, None))
        if owned is None or consumer is None:
            # It has left, and with that given back what it had.
            return
        if requeue:
            messages = [consumer.unsettled[key] for key in keys if key in consumer.unsettled]
            dead = owned.queue.give_back(consumer, keys, self._surroundings.now(), delay=delay, others_first=True)
            self._count(unit, messages, dead)
            self._bury(unit, owned, dead, REDELIVERY_LIMIT, reason)
            self.rested(owned, self.now())
        else:
            self._bury(unit, owned, owned.queue.remove(consumer, keys), REJECTED, reason)
        self._eased(owned)

    def _take(self, unit: Unit, name: bytes, keys: list[int]) -> None:
        owned = self._queues.get(name)
        if owned is not None:
            # After a restart they are in the queue again.
            owned.remove(unit, self._settle_elsewhere(owned, keys))
            self._eased(owned)

    def _count(self, unit: Unit, messages: Iterable[Message], dead: list[Message]) -> None:
        gone = {message.key for message in dead}
        unit.changes += [
            SetCount(message.key, message.count)
            for message in messages
            if message.persistent and message.key not in gone
        ]

    def _bury(self, unit: Unit, owned: OwnedQueue, messages: list[Message], reason: str, detail: str = "") -> None:
        """Dead-letter messages that were taken out of `owned`, or drop them where there is no dead letter queue."""
        if not messages:
            return
        target = owned.policy.dead_letter_for(owned.name.decode())
        name = owned.name.decode(errors="replace")
        self._log.info(
            Event.QUEUE_DEAD_LETTERED, queue=name, count=len(messages), reason=reason, to=target or "nowhere"
        )
        if target is None:
            owned.remove(unit, messages)
            return
        to = target.encode()
        now = self._surroundings.now()
        frames = [dead_letter(message, owned.name, to, reason, detail, now) for message in messages]
        add = [ADD, to, b"", frames, None]
        slot = self._surroundings.owner_of(to)
        if slot == self._slot:
            owned.remove(unit, messages)
            self._add(unit, add, limited=False)
            return
        keys = [message.key for message in messages if message.persistent]
        away = Unit(must=True)
        owned.remove(away, messages)
        self._surroundings.across({self._slot: [[TAKE, owned.name, keys]], slot: [add]}, away)

    # --- siblings

    def forget_origins(self, slot: int, origin: str) -> None:
        """Worker `slot` is `origin` now; nothing comes from its earlier lives any more."""
        old = [each for each in self._marks if each.startswith(f"{slot}-") and each != origin]
        if old:
            for each in old:
                del self._marks[each]
            self._write(Unit(changes=[Forget(each) for each in old], must=True))

    def reattach(
        self, name: bytes, who: tuple[int, int], options: dict[str, Any], keys: list[int], done: Callable[[], None]
    ) -> None:
        """A consumer of the owner's last life, which still has the deliveries `keys`; `done` once that is known."""
        unit = Unit()
        self._attach(unit, name, who, options)
        owned, consumer = self._consumers.get(who, (None, None))
        if owned is None or consumer is None or not keys:
            done()
            return

        def fetched(rows: list[tuple[int, bytes, int]]) -> None:
            owned.queue.claim(consumer, [owned.stored(*row) for row in rows])
            done()

        self._store.fetch(keys, fetched)

    # --- consumers

    def _attach(self, unit: Unit, name: bytes, who: tuple[int, int], options: dict[str, Any]) -> Outcome:
        if who in self._consumers:
            return DONE
        owned = self.find(name)
        if owned is None:
            return self._too_many()
        selector = options.get("selector")
        consumer = Consumer(
            *who,
            options["prefetch"],
            selector=Selector.parse(selector) if selector else None,
            exclusive=options.get("exclusive", False),
            instant=options.get("instant", False),
        )
        self._consumers[who] = owned, consumer
        owned.queue.attach(consumer)
        self._dirty[owned] = None
        if not owned.opened:
            owned.opened = True
            if owned.queue.messages or owned.counter >= owned.reserved:
                # What is there may be delivered from now on, and that must be known before it is.
                owned.reserved = max(owned.reserved, owned.counter + 1)
                owned.marking = True
                mark = Unit(changes=[owned.row()], must=True)
                self._write(mark, lambda error: self._marked(owned))
        return DONE

    def _marked(self, owned: OwnedQueue) -> None:
        owned.marking = False
        self._dirty[owned] = None
        self.flush()

    def _detach(self, unit: Unit, who: tuple[int, int]) -> None:
        owned, consumer = self._consumers.pop(who, (None, None))
        if owned is None or consumer is None:
            return
        messages = list(consumer.unsettled.values())
        dead = owned.queue.detach(consumer, self._surroundings.now())
        self._count(unit, messages, dead)
        self._bury(unit, owned, dead, REDELIVERY_LIMIT, "its consumers left without settling it")
        self._eased(owned)

    def lost(self, slot: int) -> None:
        """Worker `slot` is dead, and its consumers with it."""
        unit = Unit(must=True)
        for who in [who for who in self._consumers if who[0] == slot]:
            self._detach(unit, who)
        if unit.changes or unit.deletes:
            self._write(unit)

    def instant(self, who: tuple[int, int], instant: bool) -> None:
        """Whether what is delivered to this consumer of this worker is settled by that."""
        owned, consumer = self._consumers.get(who, (None, None))
        if owned is not None and consumer is not None:
            owned.queue.adjust(consumer, instant=instant)
            self._dirty[owned] = None

    # --- delivery

    def flush(self) -> None:
        """Deliver what can be."""
        if not self.open:
            return
        deliver = self._surroundings.deliver
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            now = self._surroundings.now()
            for owned in dirty:
                if owned.marking:
                    continue
                queue = owned.queue
                for consumer, messages in queue.dispatch(now):
                    instant = consumer.instant
                    deliver(consumer, messages)
                    if instant:
                        owned.remove(self._leaving, messages)
                        self._eased(owned)
                if queue.expired:
                    self._expire(owned)
                if queue.spilled:
                    self._paging[owned] = None
        if self._leaving.deletes or self._leaving.inserts or self._leaving.changes:
            leaving, self._leaving = self._leaving, Unit(must=True)
            self._write(leaving)
        if self._paging:
            self._page_again()

    def _page_again(self) -> None:
        """Ask for the pages that queues want; what they miss may be there with the next commit."""
        stored = next(iter(self._unstored), self._units + 1) - 1
        for owned in list(self._paging):
            wanted = owned.queue.page_wanted(self._units, stored)
            if wanted is not None:
                self._page(owned, wanted)
            elif not owned.queue.spilled:
                del self._paging[owned]

    def _page(self, owned: OwnedQueue, wanted: Page) -> None:
        def arrived(rows: list[tuple[int, bytes, int]]) -> None:
            owned.queue.paged([owned.stored(*row) for row in rows])
            self._dirty[owned] = None
            self.flush()

        self._store.page(*wanted, arrived)

    def _expire(self, owned: OwnedQueue) -> None:
        expired, owned.queue.expired = owned.queue.expired, []
        if owned.policy.expired_dead_letter:
            self._bury(self._leaving, owned, expired, EXPIRED)
        else:
            owned.remove(self._leaving, expired)
        self._eased(owned)

    # --- what comes with time

    def unpark(self, parked: list[Park]) -> None:
        """These are due."""
        for each in parked:
            unit = Unit(changes=[Unpark(each.id)], must=True)
            name = each.queue.encode()
            traits = traits_of(each.frame)
            self._add(
                unit, [ADD, name, b"", [each.frame], None if traits is None else {0: traits.pack()}], limited=False
            )
            self._write(unit, lambda error: self.upkeep.unparked())
        self.flush()

    def expire(self, keys: list[int]) -> int:
        """The time of these is up, wherever they wait; returns how many were in memory."""
        by_queue: dict[OwnedQueue, list[int]] = {}
        for key in keys:
            owned = self._numbers.get(queue_number(key))
            if owned is not None:
                by_queue.setdefault(owned, []).append(key)
        count = 0
        for owned, each in by_queue.items():
            expired = discard_waiting(owned.queue, each)
            count += len(expired)
            owned.queue.expired += expired
            self._expire(owned)
            if len(expired) < len(each) and owned.queue.spilled:
                self._store.fetch(each, functools.partial(self._expire_stored, owned))
        self.flush()
        return count

    def _expire_stored(self, owned: OwnedQueue, rows: list[tuple[int, bytes, int]]) -> None:
        owned.queue.expired += discard_stored(owned.queue, [owned.stored(*row) for row in rows])
        self._expire(owned)
        self.flush()

    def rested(self, owned: OwnedQueue, now: int) -> None:
        """Messages of `owned` rested long enough."""
        until = owned.queue.wake(now)
        if until is not None:
            self.upkeep.rest(owned, until)
        self._dirty[owned] = None
        self.flush()

    def sweep(self, now: int) -> bool:
        """Forget what nobody needs any more; whether there is still something to look after."""
        self._store.forget_keys(self.seen.forget(now))
        timeout = round(self._settings.idle_timeout * 1000)
        changes: list[Change] = []
        for owned, since in list(self._idle.items()):
            if owned.queue.messages or owned.queue.consumers:
                del self._idle[owned]
            elif since + timeout <= now:
                del self._idle[owned], self._queues[owned.name], self._numbers[owned.number]
                self._dirty.pop(owned, None)
                self._paging.pop(owned, None)
                heapq.heappush(self._free, owned.number)
                changes.append(DropQueue(owned.number))
        if changes:
            self._write(Unit(changes=changes, must=True))
        return bool(self._queues)

    def _maybe_idle(self, owned: OwnedQueue) -> None:
        if not owned.queue.messages and not owned.queue.consumers:
            self._idle.setdefault(owned, self.now())
