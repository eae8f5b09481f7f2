"""All of a worker's part in queues: what its clients send to and take from them, and those that it owns.

A queue's owner may be any worker. What this one hands off to another goes over a `Link`, what concerns its own goes
straight to its `Owner`; nothing else knows the difference.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from common.acknowledgement import Settled
from common.destination import QUEUES
from common.log import EventLog
from common.ownership import owner_of
from common.temporary import TEMP_QUEUE, slot_of
from worker.acceptance import Acceptance, refuse
from worker.backplane.interface import Batch
from worker.items import choose, read_headers
from worker.queues.browsing import Browsing, Pages
from worker.queues.commits import Commits
from worker.queues.consumer import Consumer
from worker.queues.feeds import Feed, Feeds
from worker.queues.gauges import Gauges
from worker.queues.headers import Nack
from worker.queues.letters import (
    ADD,
    ANNOUNCE,
    ATTACH,
    BROWSE,
    CONFIRM,
    DELIVER,
    DETACH,
    DONE,
    END,
    GREET,
    HAND_OFF,
    HEARD,
    NACK,
    PAGE,
    RETAIN,
    SETTLE,
    Confirmed,
    Operation,
    Outcome,
)
from worker.queues.links import Link
from worker.queues.message import Message
from worker.queues.owner import PACE_MOST, Owner
from worker.queues.requeueing import Requeueing
from worker.queues.subscription import QueueSubscription
from worker.queues.work import Work
from worker.store.interface import (
    Recovered,
    Store,
)

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core
    from worker.receipts import Ticket
    from worker.router import Subscription

__all__ = ["Queues"]

_MAX_OWNERS = 65536
"""Queues whose owner is remembered; beyond, all are forgotten and worked out again as they come."""
_NEVER = 1 << 62
_STORE = b"\0store"


class Queues:
    def __init__(self, core: Core, slot: int, slots: int, origin: str, store: Store, log: EventLog) -> None:
        self.slot = slot
        self._core = core
        self._slots = slots
        self._origin = origin
        self._store = store
        self._owners: dict[bytes, int] = {}
        self._wakes_at = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        settings = core.settings
        self.owner = Owner(self, store, settings.queue, settings.queue_policies, log)
        self._links = {
            other: Link(other, self._send, self._link_full, settings.queue.handoff_bytes)
            for other in range(slots)
            if other != slot
        }
        self.browsing = Browsing(core, slot, Pages(self.owner, store), self._send)
        self._subscriptions: dict[int, QueueSubscription] = {}
        self._settling: dict[QueueSubscription, tuple[list[int], list[Ticket]]] = {}
        self._deliveries: dict[int, list[Any]] = {}
        self._confirms: dict[int, list[Any]] = {}
        self._flushing = False
        self._origins: dict[int, str] = {}
        self._greeted_slots: set[int] = set()
        self._held: dict[int, list[Any]] = {}
        self._expected: set[int] | None = None
        self.feeds = Feeds()
        self.gauges = Gauges(self.owner, self._links.values(), store)
        self.requeueing = Requeueing(self.owner, self.feeds.__contains__)
        self._announcements: dict[int, tuple[set[int], Callable[[], None]]] = {}
        self._announced = 0
        self._when_ready: Callable[[], None] | None = None
        self._commits = Commits(origin, self.owner, self._hand_off_part)
        self._store_full = False

    def configure(self) -> None:
        self.owner.configure(self._core.settings.queue, self._core.settings.queue_policies)

    def recover(self, recovered: Recovered) -> None:
        """Take up what an earlier life of this slot left behind."""
        self.owner.recover(recovered)
        self.feeds.replace(self.slot, [owned.feed for owned in self.owner.registry if owned.feed is not None])
        for transaction in recovered.transactions:
            self._commits.again(transaction)

    def stop(self) -> None:
        """Nothing comes and nothing goes any more."""
        self.flush()
        self.owner.stop()

    # --- Surroundings of the owner

    def owner_of(self, queue: bytes) -> int:
        if queue.startswith(TEMP_QUEUE):
            slot = slot_of(queue)
            # Of a worker that never was, any other knows no such queue.
            return slot if slot in self._links else self.slot
        slot = self._owners.get(queue)
        if slot is None:
            if len(self._owners) >= _MAX_OWNERS:
                self._owners.clear()
            slot = self._owners[queue] = owner_of(queue, self._slots)
        return slot

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def deliver(self, consumer: Consumer, messages: list[Message]) -> None:
        frames = [message.frame for message in messages]
        keys = [message.key for message in messages]
        counts: list[int] | None = [message.count for message in messages]
        if max(counts or ()) == 1:
            counts = None
        if consumer.slot == self.slot:
            self._delivered(consumer.id, frames, keys, counts)
        else:
            if not self._deliveries:
                # The owner also delivers when the store has answered, and then nobody else flushes.
                self.flush_soon()
            self._deliveries.setdefault(consumer.slot, []).append([consumer.id, frames, keys, counts])

    def announce(self, feeds: list[Feed | bytes], done: Callable[[], None]) -> None:
        for feed in feeds:
            self._follow(self.slot, feed)
        # Also those that have not said who they are yet: what they were greeted with is old already.
        waiting = set(self._greeted_slots)
        if not waiting:
            done()
            return
        self._announced += 1
        self._announcements[self._announced] = waiting, done
        for slot in waiting:
            self._send(slot, [ANNOUNCE, self._announced, feeds])

    def _follow(self, slot: int, feed: Feed | bytes) -> None:
        if isinstance(feed, bytes):
            self.feeds.remove(feed)
        else:
            self.feeds.add(slot, feed)

    def _heard(self, slot: int, number: int | None = None) -> None:
        """Worker `slot` goes by that announcement, or, being dead, by none."""
        for each in list(self._announcements) if number is None else (number,):
            waiting, done = self._announcements.get(each, (None, None))
            if waiting is not None and done is not None:
                waiting.discard(slot)
                if not waiting:
                    del self._announcements[each]
                    done()

    def wake_at(self, when: int) -> None:
        if when >= self._wakes_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = when
        self._timer = self._core.later(max(0, when - self.now()) / 1000, self._wake)

    def _wake(self) -> None:
        self._wakes_at = _NEVER
        self._timer = None
        self.owner.upkeep.wake(self.now())
        self.flush_soon()

    def hold_up(self, queue: bytes, held_up: bool) -> None:
        if held_up:
            self._core.flow.block(queue, "queue", local=True)
        else:
            self._core.flow.unblock(queue, "queue", local=True)

    # --- hand-offs

    def _send(self, slot: int, letter: Any) -> None:
        self._core.backplane.send(slot, letter)

    def _hand_off(self, slot: int, operations: list[Operation], done: Confirmed | None, size: int = 0) -> None:
        if slot == self.slot:
            self.owner.apply(self._origin, slot, 0, operations, None, done or _ignore)
            self._look_at_store()
        else:
            self._links[slot].hand_off(operations, done, size)

    def _hand_off_part(
        self, slot: int, operations: list[Operation], done: Confirmed | None, transaction: str | None
    ) -> None:
        if slot == self.slot:
            self.owner.apply(self._origin, slot, 0, operations, transaction, done or _ignore)
        else:
            self._links[slot].hand_off(operations, done, sum(map(_size, operations)), transaction)
        self.flush_soon()

    def _link_full(self, link: Link, full: bool) -> None:
        if full:
            self._core.flow.block(link.name, "owner", local=False)
        else:
            self._core.flow.unblock(link.name, "owner", local=False)

    def _look_at_store(self) -> None:
        pending = self._store.pending_bytes
        limit = self._core.settings.queue.pending_bytes
        if not self._store_full and pending > limit:
            self._store_full = True
            self._core.flow.block(_STORE, "store", local=False)
        elif self._store_full and pending <= limit // 2:
            self._store_full = False
            self._core.flow.unblock(_STORE, "store", local=False)

    def holding_up(self, queue: bytes) -> bytes:
        """What else, besides its own name, holds up the producers of `queue`, in the terms of `worker.flow`."""
        slot = self.owner_of(queue)
        return _STORE if slot == self.slot else self._links[slot].name

    # --- what clients send

    def send(
        self,
        connection: Connection,
        queue: bytes,
        batch: Batch,
        acceptance: Acceptance | None,
        destination: bytes | None = None,
    ) -> None:
        """Hand `batch` off to the owner of `queue`; `acceptance` hears how that ended, or the client does if it was
        refused. `destination` is what the client calls the queue, if that is something else."""
        name = queue if destination is None else destination
        operation = _add(queue, batch)
        done: Confirmed
        if acceptance is None:

            def done(outcome: Outcome) -> None:
                if outcome.refused is not None:
                    refuse(connection, outcome)
        else:
            waiting = acceptance
            waiting.expect()
            waiting.routed(name, 1)

            def done(outcome: Outcome) -> None:
                if outcome.gone:
                    waiting.routed(name, -1)
                waiting.confirmed(name, outcome)

        self._hand_off(self.owner_of(queue), [operation], done, _size(operation))

    def hand_off(self, destination: bytes, operation: Operation, done: Confirmed) -> None:
        """For whatever else of a destination has an owner."""
        self._hand_off(self.owner_of(destination), [operation], done, _size(operation))

    def feed(
        self, connection: Connection, destination: bytes, batch: Batch, acceptance: Acceptance | None
    ) -> list[bytes]:
        """Hand what was sent to a topic off to the queues that take copies of it; returns what holds up its
        publishers besides their own destination."""
        held_up = []
        for queue, share in self._shares(destination, batch):
            if acceptance is not None:
                acceptance.expect()
                acceptance.routed(destination, 1)

            def done(outcome: Outcome) -> None:
                # A key that was seen before is the concern of that subscription alone.
                outcome = DONE if outcome.refused is None else Outcome(outcome.refused)
                if acceptance is not None:
                    acceptance.confirmed(destination, outcome)
                else:
                    refuse(connection, outcome)

            operation = _add(queue, share)
            self._hand_off(self.owner_of(queue), [operation], done, _size(operation))
            held_up += [queue, self.holding_up(queue)]
        return held_up

    def _shares(self, destination: bytes, batch: Batch) -> Iterator[tuple[bytes, Batch]]:
        for queue, selector in self.feeds.find(destination):
            if selector is None:
                yield queue, batch
                continue
            places = [place for place, headers in enumerate(read_headers(batch)) if selector.matches(headers)]
            if places:
                yield queue, choose(batch, places)

    # --- what clients take

    def subscription(self, number: int) -> QueueSubscription | None:
        """The consumer of that number on this worker."""
        return self._subscriptions.get(number)

    def subscribe(self, subscription: QueueSubscription, receipt: str | None) -> None:
        connection = subscription.connection
        self._subscriptions[subscription.number] = subscription
        if connection.queues is None:
            connection.queues = {}
        connection.queues[subscription.number] = subscription
        ticket = connection.hold_receipt(receipt)

        def done(outcome: Outcome) -> None:
            if outcome.refused is not None:
                refuse(connection, outcome, command=b"SUBSCRIBE")
            ticket.release()

        operation = [ATTACH, subscription.name, subscription.number, self._options(subscription)]
        self._hand_off(subscription.owner, [operation], done)
        self.flush_soon()

    def _options(self, subscription: QueueSubscription) -> dict[str, Any]:
        local = subscription.owner == self.slot
        return {
            "prefetch": PACE_MOST if subscription.auto else subscription.prefetch,
            "auto": subscription.auto,
            "selector": subscription.owners_selector,
            "exclusive": subscription.exclusive,
            "feed": subscription.feed,
            "instant": local and subscription.auto and subscription.connection.outbox is None,
        }

    def unsubscribe(self, subscription: QueueSubscription, ticket: Ticket | None) -> None:
        """The client takes no more; what it has not settled goes back."""
        self._flush_settled()
        self._subscriptions.pop(subscription.number, None)
        if subscription.connection.queues is not None:
            subscription.connection.queues.pop(subscription.number, None)
        done = None if ticket is None else _releasing([ticket])
        self._hand_off(subscription.owner, [[DETACH, subscription.name, subscription.number]], done)
        self.flush_soon()

    def end(self, queue: bytes, ticket: Ticket) -> None:
        """The subscription that has this queue is to be no more."""
        self._hand_off(self.owner_of(queue), [[END, queue]], _releasing([ticket]))
        self.flush_soon()

    def left(self, connection: Connection) -> None:
        """The connection is gone, and with it its subscriptions."""
        for subscription in list((connection.queues or {}).values()):
            self.unsubscribe(subscription, None)
        self.browsing.left(connection)

    def settle(self, subscription: QueueSubscription, ids: list[bytes], ticket: Ticket | None) -> None:
        """The client acknowledged these; `ticket` is released when it is on disk."""
        keys, tickets = self._settling.setdefault(subscription, ([], []))
        pop = subscription.keys.pop
        keys += [pop(id) for id in ids]
        if ticket is not None:
            tickets.append(ticket)

    def nack(
        self,
        subscription: QueueSubscription,
        ids: list[bytes],
        nack: Nack,
        ticket: Ticket | None,
    ) -> None:
        """The client refused these; `ticket` is released when it is on disk."""
        self._flush_settled()
        done = None if ticket is None else _releasing([ticket])
        self._hand_off(subscription.owner, [_settlement(subscription, ids, nack)], done)
        self.flush_soon()

    def congested(self, connection: Connection) -> None:
        """The client does not keep up: what goes to it counts as delivered only when it reads."""
        for subscription in (connection.queues or {}).values():
            if subscription.auto and subscription.owner == self.slot:
                self.owner.instant((self.slot, subscription.number), False)

    def drained(self, connection: Connection) -> None:
        """It has read everything."""
        for subscription in (connection.queues or {}).values():
            if subscription.auto:
                if subscription.unwritten:
                    keys, subscription.unwritten = subscription.unwritten, []
                    self._settling.setdefault(subscription, ([], []))[0].extend(keys)
                if subscription.owner == self.slot:
                    self.owner.instant((self.slot, subscription.number), True)
        self.browsing.drained(connection)
        self.flush_soon()

    def _delivered(self, number: int, frames: list[bytes], keys: list[int], counts: list[int] | None) -> None:
        subscription = self._subscriptions.get(number)
        if subscription is None:
            # It has left, and the owner takes back what was on its way when it hears of it.
            return
        connection = subscription.connection
        blob = subscription.frames(frames, keys, counts)
        router = self._core.router
        router.delivered += len(frames)
        router.bytes_out += len(blob)
        if connection.outbox is None:
            if subscription.auto and subscription.owner != self.slot:
                self._settling.setdefault(subscription, ([], []))[0].extend(keys)
            connection.transport.write(blob)
        else:
            if subscription.auto:
                subscription.unwritten += keys
            connection.outbox.keep(blob)

    # --- transactions

    def parts(
        self, batches: dict[bytes, Batch], settled: list[tuple[Subscription, Settled, Nack | None]]
    ) -> dict[int, list[Operation]]:
        """What a transaction asks of each owner."""
        parts: dict[int, list[Operation]] = {}
        for name, batch in batches.items():
            shares = [(name, batch)] if name.startswith(QUEUES) else self._shares(name, batch)
            for queue, share in shares:
                parts.setdefault(self.owner_of(queue), []).append(_add(queue, share))
        for subscription, each, nack in settled:
            if isinstance(subscription, QueueSubscription):
                ids = [id for _, id in each]
                parts.setdefault(subscription.owner, []).append(_settlement(subscription, ids, nack))
        return parts

    def commit(self, parts: dict[int, list[Operation]], done: Confirmed) -> None:
        """Apply the operations at each owner, all or none; `done` is called once that is on disk."""
        self._flush_settled()
        self._commits.commit(parts, done)

    def across(self, parts: dict[int, list[Operation]], own: Work, recorded: Callable[[], None]) -> None:
        self._commits.across(parts, own, recorded)

    # --- siblings

    def expect(self, slots: Sequence[int]) -> None:
        """The siblings of the first roster: what they still have out is theirs, and nothing is delivered before they
        have said what."""
        if self._expected is None:
            self._expected = set(slots)
            self._start_when_all_said()

    def greet(self, slot: int) -> None:
        """A sibling is new, or in a new life."""
        consumers = [
            [each.name, each.number, self._options(each), list(each.keys.values()) + each.unwritten]
            for each in self._subscriptions.values()
            if each.owner == slot
        ]
        self._send(slot, [GREET, self._origin, consumers, self.feeds.of(self.slot)])
        self._greeted_slots.add(slot)
        self._links[slot].open()
        self.browsing.greet(slot)

    def lost(self, slot: int) -> None:
        """A sibling is dead."""
        self._links[slot].lost()
        self._deliveries.pop(slot, None)
        self._confirms.pop(slot, None)
        self._held.pop(slot, None)
        self._origins.pop(slot, None)
        self._greeted_slots.discard(slot)
        self.owner.lost(slot)
        self._heard(slot)
        if self._expected is not None:
            self._expected.discard(slot)
            self._start_when_all_said()
        self.flush_soon()

    def _start_when_all_said(self) -> None:
        if not self._expected and not self.owner.open:
            self.owner.start()
            self.flush_soon()
            if self._when_ready is not None:
                self._when_ready()

    def when_ready(self, done: Callable[[], None]) -> None:
        """Call `done` once what clients do here reaches every queue: in this call, if that is so already."""
        if self.owner.open:
            done()
        else:
            self._when_ready = done

    def on_letter(self, slot: int, letter: list[Any]) -> bool:
        """Take a letter of a sibling; False if it is not about queues."""
        kind = letter[0]
        if kind == DELIVER:
            for delivery in letter[1]:
                self._delivered(*delivery)
        elif kind == HAND_OFF:
            held = self._held.get(slot)
            if held is not None:
                held.append(letter)
            else:
                self._apply(slot, letter)
        elif kind in (BROWSE, PAGE):
            self.browsing.on_letter(slot, letter)
        elif kind == CONFIRM:
            self._links[slot].confirmed(letter[1])
        elif kind == GREET:
            self.feeds.replace(slot, [Feed(*each) for each in letter[3]])
            self._greeted(slot, letter[1], letter[2])
        elif kind == ANNOUNCE:
            for feed in letter[2]:
                self._follow(slot, feed if isinstance(feed, bytes) else Feed(*feed))
            self._send(slot, [HEARD, letter[1]])
        elif kind == HEARD:
            self._heard(slot, letter[1])
        else:
            return False
        self.flush_soon()
        return True

    def _apply(self, slot: int, letter: list[Any]) -> None:
        _, sequence, operations, transaction = letter

        def done(outcome: Outcome) -> None:
            if self._origins.get(slot) == origin:
                self._confirms.setdefault(slot, []).append([sequence, outcome.pack()])
                self.flush_soon()

        origin = self._origins[slot]
        self.owner.apply(origin, slot, sequence, operations, transaction, done)

    def _greeted(self, slot: int, origin: str, consumers: list[Any]) -> None:
        self._origins[slot] = origin
        self.owner.forget_origins(slot, origin)
        waiting = 0
        held = self._held[slot] = []

        def claimed() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting or self._held.get(slot) is not held:
                return
            del self._held[slot]
            for letter in held:
                self._apply(slot, letter)
            if self._expected is not None:
                self._expected.discard(slot)
                self._start_when_all_said()
            self.flush_soon()

        waiting = 1
        for queue, number, options, keys in consumers:
            waiting += 1
            self.owner.reattach(queue, (slot, number), options, keys, claimed)
        claimed()

    # --- the end of a turn

    def end_of_read(self) -> None:
        """Everything that a client sent at once was handled."""
        if self._settling:
            self.flush()

    def flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._core.soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Settle, deliver and confirm what this turn brought."""
        self._flush_settled()
        self.owner.flush()
        while self._settling:
            self._flush_settled()
            self.owner.flush()
        self._core.retained.flush()
        if self._confirms:
            confirms, self._confirms = self._confirms, {}
            for slot, each in confirms.items():
                self._send(slot, [CONFIRM, each])
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, {}
            for slot, each in deliveries.items():
                self._send(slot, [DELIVER, each])
        self._look_at_store()

    def _flush_settled(self) -> None:
        if self._settling:
            settling, self._settling = self._settling, {}
            for subscription, (keys, tickets) in settling.items():
                done = None if not tickets else _releasing(tickets)
                operation = [SETTLE, subscription.name, subscription.number, keys]
                self._hand_off(subscription.owner, [operation], done, 9 * len(keys))


def _add(queue: bytes, batch: Batch) -> Operation:
    traits = None
    if batch.traits is not None:
        traits = {place: each.pack() for place, each in batch.traits.items()}
    return [ADD, queue, batch.id_prefix, batch.items, traits]


def _settlement(subscription: QueueSubscription, ids: list[bytes], nack: Nack | None) -> Operation:
    keys = [subscription.keys.pop(id) for id in ids]
    if nack is None:
        return [SETTLE, subscription.name, subscription.number, keys]
    return [NACK, subscription.name, subscription.number, keys, nack.delay, nack.requeue, nack.reason]


def _size(operation: Operation) -> int:
    if operation[0] == RETAIN:
        return len(operation[2] or b"")
    return sum(map(len, operation[3])) if operation[0] == ADD else 9


def _releasing(tickets: list[Ticket]) -> Confirmed:
    def release(outcome: Outcome) -> None:
        # What can be refused is refused by other means; else the store is broken, and this worker about to end.
        if outcome.refused is None:
            for ticket in tickets:
                ticket.release()

    return release


def _ignore(outcome: Outcome) -> None:
    """Nobody waits for it."""
