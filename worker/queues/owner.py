"""The queues this worker owns: what is handed off to them, what they deliver, and what of it the store is told.

Takes hand-offs of any worker, this one included, applies each as one unit of the store, and confirms it once that is
on disk. What is to be stored is delivered once it is, so that no message is ever seen that a restart does not know.
"""

from __future__ import annotations

from collections.abc import Callable

from common.errors import ErrorCode
from common.log import EventLog
from worker.queues.arrivals import Arrivals
from worker.queues.consumers import Consumers
from worker.queues.departures import Departures
from worker.queues.expiry import Expiry
from worker.queues.idempotency import Seen
from worker.queues.letters import (
    ADD,
    ATTACH,
    DETACH,
    DONE,
    END,
    FORGET,
    NACK,
    RETAIN,
    ROOM,
    SETTLE,
    TAKE,
    Confirmed,
    Operation,
    Outcome,
)
from worker.queues.marks import Marks, source_of
from worker.queues.owned import OwnedQueue
from worker.queues.pacing import bound, pace
from worker.queues.paging import Page
from worker.queues.policy import Policies
from worker.queues.registry import Registry
from worker.queues.retention import Retention
from worker.queues.surroundings import Surroundings
from worker.queues.upkeep import Upkeep
from worker.queues.work import Work
from worker.settings import QueueSettings
from worker.store.interface import Done, Park, Recovered, Store, StoreError

__all__ = ["Owner"]


class Owner:
    """`flush` is to be called at the end of each turn that called any of the others."""

    def __init__(
        self, surroundings: Surroundings, store: Store, settings: QueueSettings, policies: Policies, log: EventLog
    ) -> None:
        self.surroundings = surroundings
        self.slot = surroundings.slot
        self._store = store
        self.registry = Registry(settings, policies)
        self.upkeep = Upkeep(self, store, surroundings.wake_at)
        self.arrivals = Arrivals(self, Seen(settings.idempotency_window, settings.idempotency_keys))
        self.departures = Departures(self, store, log)
        self.expiry = Expiry(self, store)
        self.consumers = Consumers(self, store)
        self.retention = Retention(self, settings, log)
        self._dirty: dict[OwnedQueue, None] = {}
        self._marks = Marks()
        self._paging: dict[OwnedQueue, None] = {}
        self._awaited: dict[OwnedQueue, list[Callable[[], None]]] = {}
        self._units = 0
        # By number, oldest first, as a dict keeps them: the first is the oldest that is not stored.
        self._unstored: dict[int, None] = {}
        # What is to be called when a unit that awaits something has all of it, by its number.
        self._awaiting: dict[int, list[Callable[[], None]]] = {}
        self._leaving = Work(must=True)
        self.open = False

    def configure(self, settings: QueueSettings, policies: Policies) -> None:
        self.registry.configure(settings, policies)
        self.retention.configure(settings)
        self.arrivals.seen.limit(settings.idempotency_window, settings.idempotency_keys)
        for owned in self.registry:
            if owned.blocked:
                self.eased(owned)

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self.surroundings.now()

    # --- life

    def recover(self, recovered: Recovered) -> None:
        """Own what the store of this slot holds."""
        self.arrivals.next_parked = recovered.next_parked
        self.arrivals.seen.recover(recovered.keys)
        self._marks.recover(recovered.marks)
        self.retention.recover(recovered.retained, self.now())
        changes = self.registry.recover(recovered.queues, self.now())
        if changes:
            self.write(Work(changes=changes, must=True))

    def start(self) -> None:
        """Every sibling has said which deliveries it still has: deliver from now on."""
        self.open = True
        self.upkeep.start()
        for owned in self.registry:
            self.touch(owned)
        self.flush()

    def stop(self) -> None:
        """Write down what the next life could only guess: which messages were delivered, and that no others were."""
        self.open = False
        unit = Work(must=True)
        self.consumers.stop(unit)
        for owned in self.registry:
            if owned.opened:
                owned.opened = False
                unit.changes.append(owned.row())
        self.write(unit)

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
        source, number = source_of(origin, sequence, transaction)
        known = self._marks.known(source, number)
        unit = Work(must=known or transaction is not None)
        retained: list[Operation] = []
        whole = operations[0][0] == ROOM
        alone = transaction is None and not whole
        outcome = DONE
        if whole:
            if not known:
                # What is in has taken its room already.
                outcome = self.arrivals.check_room(operations[0][1], operations[1:])
            operations = operations[1:]
        if outcome is DONE:
            for operation in operations:
                if operation[0] == RETAIN:
                    if not known:
                        self.retention.take(unit, operation)
                        retained.append(operation)
                elif operation[0] != ADD:
                    # What is settled cannot be refused, but by a COMMIT whose SENDs are: then it is undone.
                    unit.must |= not whole
                    outcome = self._apply(unit, slot, operation)
                elif not known:
                    added = self.arrivals.add(unit, operation, limited=alone)
                    outcome = outcome if outcome.refused else added
                elif alone:
                    outcome = self.arrivals.again(operation, self._marks.refused_at(source))
        # What is only on disk is looked up, and leaves, by itself.
        unit.must |= bool(unit.awaited)
        if number and not known and (unit.inserts or unit.changes or transaction is not None):
            refused_at = outcome.place if alone and outcome.refused else None
            unit.changes.append(self._marks.put(source, number, refused_at))
        done = self.consumers.announcing(done)
        if not unit.is_idle or outcome.duplicates or known or retained:
            # Also what was stored before: it may still be on its way to the disk.
            def written(error: StoreError | None) -> None:
                for each in retained:
                    self.retention.taken(each, stored=error is None)
                stored = self.arrivals.checked(outcome) if alone else outcome
                done(stored if error is None else _not_stored(error))

            self.write(unit, written)
        else:
            done(outcome)

    def _apply(self, unit: Work, slot: int, operation: Operation) -> Outcome:
        kind = operation[0]
        if kind == SETTLE:
            consumer = self.consumers.find((slot, operation[2]))
            self.departures.settle(unit, operation[1], consumer, operation[3])
        elif kind == NACK:
            consumer = self.consumers.find((slot, operation[2]))
            self.departures.refuse(unit, operation[1], consumer, *operation[3:])
        elif kind == TAKE:
            self.departures.take(unit, operation[1], operation[2])
        elif kind == ATTACH:
            return self.consumers.attach(unit, operation[1], (slot, operation[2]), operation[3])
        elif kind == END:
            self.consumers.end(unit, operation[1])
        elif kind == DETACH:
            self.consumers.detach(unit, (slot, operation[2]), orderly=operation[3])
        elif kind == FORGET:
            unit.changes += self._marks.forget(source_of("", 0, operation[1])[0])
        return DONE

    def write(self, work: Work, done: Done | None = None) -> None:
        """Have `work` stored; `done` once that is so, and all that it awaits, or it has failed."""
        number = self._units = self._units + 1
        self._unstored[number] = None
        waiting = 1 + len(work.awaited)
        if work.awaited:
            self._awaiting[number] = []
        failure: StoreError | None = None

        def finish() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting:
                return
            if done is not None:
                done(failure)
            for then in self._awaiting.pop(number, ()):
                then()

        def written(error: StoreError | None) -> None:
            nonlocal failure
            failure = error
            del self._unstored[number]
            if error is None:
                self.arrivals.stored(work)
            else:
                self.arrivals.refused(work)
                self.departures.refused(work)
            finish()
            if work.changes:
                self.upkeep.written(work)
            self.surroundings.flush_soon()

        self._store.write(work, written)
        for start in work.awaited:
            start(finish)

    def when_stored(self, done: Callable[[], None]) -> None:
        """Call `done` once all that was written is stored, with all that it awaits, or has failed: in this call, if
        that is so already. Never, if the store is closed before."""
        if not self._unstored and not self._awaiting:
            done()
            return

        def written(error: StoreError | None) -> None:
            if error is None:
                done()

        self.write(Work(must=True, awaited=[each.append for each in self._awaiting.values()]), written)

    def forget_origins(self, slot: int, origin: str) -> None:
        """Worker `slot` is `origin` now; nothing comes from its earlier lives any more."""
        changes = self._marks.forget_origins(slot, origin)
        if changes:
            self.write(Work(changes=changes, must=True))

    # --- delivery

    def touch(self, owned: OwnedQueue) -> None:
        """Something may be delivered from `owned` that could not before."""
        self._dirty[owned] = None
        if owned.fleeting:
            self.expiry.watch(owned)
        self.upkeep.look_after()

    def eased(self, owned: OwnedQueue) -> None:
        """Messages left `owned`, or a consumer can take more."""
        self._dirty[owned] = None
        if owned.blocked and (
            owned.policy.when_full != "block" or (not owned.full and owned.room[0] > owned.policy.max_messages // 4)
        ):
            owned.blocked = False
            self.surroundings.hold_up(owned.name, held_up=False)
        self.registry.look_at(owned, self.now())

    def block_when_full(self, owned: OwnedQueue) -> None:
        """Pause the producers of `owned` if it has no room."""
        if not owned.blocked and owned.full:
            owned.blocked = True
            self.surroundings.hold_up(owned.name, held_up=True)

    def forget(self, unit: Work, owned: OwnedQueue) -> None:
        """`owned` is no more; `unit` tells the store."""
        drop = self.registry.remove(owned)
        if owned.told or not owned.temporary:
            unit.changes.append(drop)
        self._dirty.pop(owned, None)
        self._paging.pop(owned, None)

    def flush(self) -> None:
        """Deliver what can be."""
        if not self.open:
            return
        deliver = self.surroundings.deliver
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            now = self.now()
            for owned in dirty:
                if owned.marking:
                    continue
                queue = owned.queue
                # A client that cannot take it all changes what its other consumers are, but not what they were.
                given = [(consumer, messages, consumer.instant) for consumer, messages in queue.dispatch(now)]
                for consumer, messages, instant in given:
                    deliver(consumer, messages)
                    if consumer.paced:
                        pace(queue, consumer, messages)
                    elif consumer.asked > owned.policy.prefetch:
                        bound(queue, consumer, owned.policy.prefetch)
                    if instant:
                        owned.remove(self._leaving, messages)
                        self.eased(owned)
                if queue.expired:
                    self.departures.expired(self._leaving, owned)
                owned.evict(self._leaving)
                if queue.has_woken:
                    self.upkeep.bring_back(owned)
                if queue.spilled and queue.consumers:
                    self._paging[owned] = None
        if not self._leaving.is_idle:
            leaving, self._leaving = self._leaving, Work(must=True)
            self.write(leaving)
        if self._paging:
            self._page_again()

    def _page_again(self) -> None:
        """Ask for the pages that queues want; what they miss may be there with the next commit."""
        stored = next(iter(self._unstored), self._units + 1) - 1
        for owned in list(self._paging):
            wanted = owned.queue.page_wanted(self._units, stored, anyway=owned in self._awaited)
            evicted = Work(must=True)
            owned.evict(evicted)
            if not evicted.is_idle:
                self.write(evicted)
            if wanted is not None:
                self._page(owned, wanted)
            elif not owned.queue.spilled or not (owned.queue.consumers or owned in self._awaited):
                del self._paging[owned]

    def _page(self, owned: OwnedQueue, wanted: Page) -> None:
        def arrived(rows: list[tuple[int, bytes, int]]) -> None:
            if owned.pending:
                rows = [row for row in rows if not owned.is_pending(row[0])]
            owned.queue.paged(owned.stored_all(rows))
            self.touch(owned)
            self.flush()
            for then in self._awaited.pop(owned, ()):
                then()

        self._store.page(*wanted, arrived)

    def page_in(self, owned: OwnedQueue, then: Callable[[], None]) -> None:
        """Bring what comes next from disk into memory, whether or not there are consumers, and call `then`."""
        self._awaited.setdefault(owned, []).append(then)
        self._paging[owned] = None
        self._page_again()

    @property
    def failing(self) -> StoreError | None:
        """Why nothing can be stored at the moment, None if it can."""
        return self._store.failing

    # --- what comes with time

    def unpark(self, parked: list[Park]) -> None:
        """These are due."""
        self.arrivals.unpark(parked)
        self.flush()

    def rest(self, owned: OwnedQueue) -> None:
        """Messages of `owned` may rest, or have rested long enough."""
        until = owned.queue.wake(self.now())
        if until is not None:
            self.upkeep.rest(owned, until)
        self._dirty[owned] = None

    def sweep(self, now: int) -> bool:
        """Forget what nobody needs any more; whether there is still something to look after."""
        self._store.forget_keys(self.arrivals.seen.forget(now))
        unit = Work(must=True)
        for owned in self.registry.idle(now):
            self.forget(unit, owned)
        if unit.changes:
            self.write(unit)
        return len(self.registry) > 0


def _not_stored(error: StoreError) -> Outcome:
    code = ErrorCode.STORE_FULL if error.full else ErrorCode.STORE_FAILED
    return Outcome((code.value, "message not stored", str(error)))
