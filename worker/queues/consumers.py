"""Who takes from the queues of an owner: consumers come and go, on whatever worker they are, and with them the queues
that are there for them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from common.errors import ErrorCode
from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.feeds import Feed
from worker.queues.letters import DONE, Confirmed, Outcome
from worker.queues.message import queue_number
from worker.queues.owned import OwnedQueue
from worker.queues.work import Work
from worker.store.interface import Store

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["Consumers"]


class Consumers:
    """Each consumer goes by the slot of its worker and its number there. A `unit` that is passed in tells the store of
    what changed."""

    def __init__(self, owner: Owner, store: Store) -> None:
        self._owner = owner
        self._store = store
        self._registry = owner.registry
        self._departures = owner.departures
        self._consumers: dict[tuple[int, int], tuple[OwnedQueue, Consumer]] = {}
        self._announced: list[Feed | bytes] = []

    def find(self, who: tuple[int, int]) -> Consumer | None:
        _, consumer = self._consumers.get(who, (None, None))
        return consumer

    def stop(self, unit: Work) -> None:
        """All leave; `unit` tells the store what they were delivered."""
        for owned, consumer in self._consumers.values():
            self._departures.leave(unit, owned, consumer, orderly=True)
        self._consumers.clear()

    # --- one of them

    def attach(self, unit: Work, name: bytes, who: tuple[int, int], options: dict[str, Any]) -> Outcome:
        """Have `who` take from the queue `name`, which is made if need be; `options` are those of its ATTACH."""
        if who in self._consumers:
            return DONE
        feed = None if options["feed"] is None else Feed(*options["feed"])
        owned = self._registry.get(name)
        if owned is None:
            volatile = feed is not None and not feed.durable
            owned = self._registry.find(name, self._owner.now(), feed=feed, volatile=volatile)
            if owned is None:
                return self._registry.refusal()
            if feed is not None:
                unit.changes.append(owned.row())
        elif feed is not None:
            refused = _unfit(owned, feed)
            if refused is not None:
                return refused
        if feed is not None:
            # Also one that was there before: some worker may not go by it yet.
            self._announced.append(feed)
        selector = options["selector"]
        consumer = Consumer(
            *who,
            options["prefetch"],
            selector=Selector.parse(selector) if selector else None,
            exclusive=options["exclusive"],
            instant=options["instant"],
            paced=options["auto"],
        )
        self._consumers[who] = owned, consumer
        owned.queue.attach(consumer)
        self._owner.touch(owned)
        if not owned.opened and not owned.temporary:
            owned.opened = True
            if owned.queue.messages or owned.pending:
                # What is there may be delivered from now on, and that must be known before it is.
                owned.marking = True
                self._owner.write(Work(changes=[owned.row()], must=True), lambda error: self._marked(owned))
        return DONE

    def _marked(self, owned: OwnedQueue) -> None:
        owned.marking = False
        self._owner.touch(owned)
        self._owner.flush()

    def reattach(
        self, name: bytes, who: tuple[int, int], options: dict[str, Any], keys: list[int], done: Callable[[], None]
    ) -> None:
        """A consumer of the owner's last life, which still has the deliveries `keys`; `done` once that is known."""
        unit = Work(must=True)
        self.attach(unit, name, who, options)
        if unit.changes:
            self._owner.write(unit)
        self._announce()
        owned, consumer = self._consumers.get(who, (None, None))
        if owned is None or consumer is None or not keys:
            done()
            return

        def fetched(rows: list[tuple[int, bytes, int]]) -> None:
            # Its worker may have died meanwhile, and with it the consumer.
            if self._consumers.get(who) == (owned, consumer):
                owned.queue.claim(consumer, [owned.stored(*row) for row in rows])
            done()

        self._store.fetch([key for key in keys if queue_number(key) == owned.number], fetched)

    def instant(self, who: tuple[int, int], instant: bool) -> None:
        """Whether what is delivered to this consumer of this worker is settled by that."""
        owned, consumer = self._consumers.get(who, (None, None))
        if owned is not None and consumer is not None:
            owned.queue.adjust(consumer, instant=instant)
            self._owner.touch(owned)

    def detach(self, unit: Work, who: tuple[int, int], *, orderly: bool) -> None:
        """It takes no more, and what it has not settled goes back; `orderly` unless it broke off."""
        owned, consumer = self._consumers.pop(who, (None, None))
        if owned is not None and consumer is not None:
            self._departures.leave(unit, owned, consumer, orderly=orderly)
            if owned.feed is not None and owned.volatile and not owned.queue.consumers:
                self.end(unit, owned.name)

    def lost(self, slot: int) -> None:
        """Worker `slot` is dead, and its consumers with it."""
        unit = Work(must=True)
        for who in [who for who in self._consumers if who[0] == slot]:
            self.detach(unit, who, orderly=False)
        self._announce()
        if not unit.is_idle:
            self._owner.write(unit)

    # --- queues that end with them

    def end(self, unit: Work, name: bytes) -> None:
        """A subscription to topics that outlives its consumers is to end, with what it holds."""
        owned = self._registry.get(name)
        if owned is None or owned.feed is None:
            return
        for consumer in list(owned.queue.consumers.values()):
            del self._consumers[consumer.slot, consumer.id]
            # What is still on its way for this queue must reach nobody: its number is free for another one.
            owned.queue.detach(consumer, self._owner.now())
            # The client that ended it has left it before; to any other it would seem that nothing is sent any more.
            self._owner.surroundings.ended(consumer)
        if owned.blocked:
            self._owner.surroundings.hold_up(name, held_up=False)
        self._owner.forget(unit, owned)
        self._announced.append(name)

    def drop(self, names: Iterable[bytes]) -> None:
        """These temporary queues, which have no consumers any more, are to be no more, with what they hold."""
        unit = Work(must=True)
        for name in names:
            owned = self._registry.get(name)
            if owned is not None:
                if owned.blocked:
                    self._owner.surroundings.hold_up(name, held_up=False)
                # Whoever still looks after it, until a message has rested, holds an empty one.
                owned.queue.purge()
                self._owner.forget(unit, owned)
        if unit.changes:
            self._owner.write(unit)

    # --- what all workers are to hear of that

    def announcing(self, done: Confirmed) -> Confirmed:
        """What to call instead of `done`, so that this happens once all workers go by the feeds that came and ended."""
        if not self._announced:
            return done
        announced, self._announced = self._announced, []

        def stored(outcome: Outcome) -> None:
            self._owner.surroundings.announce(announced, lambda: done(outcome))

        return stored

    def _announce(self) -> None:
        if self._announced:
            announced, self._announced = self._announced, []
            self._owner.surroundings.announce(announced, lambda: None)


def _unfit(owned: OwnedQueue, feed: Feed) -> Outcome | None:
    """Why a subscription as `feed` cannot join that of the same name, None if it can."""
    if owned.feed != feed:
        known = owned.feed
        was = (
            ""
            if known is None
            else f"to {known.pattern.decode()!r}, selector {known.selector!r}, "
            f"durable:{_flag(known.durable)}, shared:{_flag(known.shared)}"
        )
        ends = (
            "UNSUBSCRIBE with durable:true ends it" if known is None or known.durable else "its last consumer ends it"
        )
        detail = f"there is one {was}; {ends}, or use another name"
        code = ErrorCode.SUBSCRIPTION_MISMATCH
        return Outcome((code.value, "a subscription of that name is another", detail))
    if owned.queue.consumers and not feed.shared:
        code = ErrorCode.SUBSCRIPTION_IN_USE
        detail = "a durable subscription has one consumer at a time, unless each subscribes with shared:true"
        return Outcome((code.value, "the subscription has a consumer", detail))
    return None


def _flag(value: bool) -> str:
    return "true" if value else "false"
