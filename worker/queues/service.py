"""All of a worker's part in queues: what its clients send to and take from them (`worker.queues.clients`), those that
it owns (`worker.queues.owner`), and what it and the others tell each other of all that (`worker.queues.siblings`).

A queue's owner may be any worker. What this one hands off to another goes over a `Link`, what concerns its own goes
straight to its `Owner`; nothing else knows the difference.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
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
from worker.queues.clients import Clients, settlement
from worker.queues.commits import Commits
from worker.queues.consumer import Consumer
from worker.queues.feeds import Feed, Feeds
from worker.queues.gauges import Gauges
from worker.queues.headers import Nack
from worker.queues.letters import ADD, DONE, ENDED, RETAIN, Confirmed, Operation, Outcome
from worker.queues.links import Link
from worker.queues.message import Message
from worker.queues.owner import Owner
from worker.queues.requeueing import Requeueing
from worker.queues.siblings import Siblings
from worker.queues.subscription import QueueSubscription
from worker.queues.work import Work
from worker.store.interface import Recovered, Store

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core
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
        self.feeds = Feeds()
        self.clients = Clients(self, core, self._hand_off)
        self.siblings = Siblings(self, origin, self._links, self._send)
        self.gauges = Gauges(self.owner, self._links.values(), store)
        self.requeueing = Requeueing(self.owner, self.feeds.__contains__)
        self._flushing = False
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
            self.clients.delivered(consumer.id, frames, keys, counts)
        else:
            self.siblings.deliver(consumer.slot, [consumer.id, frames, keys, counts])

    def ended(self, consumer: Consumer) -> None:
        if consumer.slot == self.slot:
            # In a turn of its own: its connection fails, and the owner is in the middle of things.
            self._core.soon(self.clients.ended, consumer.id)
        else:
            self._send(consumer.slot, [ENDED, consumer.id])

    def announce(self, feeds: list[Feed | bytes], done: Callable[[], None]) -> None:
        self.siblings.announce(feeds, done)

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

    def _hand_off(self, slot: int, operations: list[Operation], done: Confirmed | None, size: int) -> None:
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

    def when_stored(self, connection: Connection, done: Callable[[], None]) -> None:
        """Call `done` once all that `connection` sent and settled so far is where it belongs, on disk if it is to be
        there: in this call, if that is so already. What is refused until then fails the connection before."""
        self.clients.flush()
        self.flush_soon()
        owners = [slot for slot in range(self._slots) if connection.owners >> slot & 1]
        waiting = 1 + len(owners)

        def stored() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done()

        for slot in owners:
            if slot == self.slot:
                self.owner.when_stored(stored)
            else:
                self._links[slot].when_confirmed(stored)
        stored()

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

        self._hand_off(self._owner_for(connection, queue), [operation], done, _size(operation))

    def hand_off(self, connection: Connection, destination: bytes, operation: Operation, done: Confirmed) -> None:
        """For whatever else of a destination has an owner."""
        self._hand_off(self._owner_for(connection, destination), [operation], done, _size(operation))

    def _owner_for(self, connection: Connection, name: bytes) -> int:
        """The owner of `name`, which is handed something of that client's."""
        slot = self.owner_of(name)
        connection.owners |= 1 << slot
        return slot

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
            self._hand_off(self._owner_for(connection, queue), [operation], done, _size(operation))
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
                parts.setdefault(subscription.owner, []).append(settlement(subscription, ids, nack))
        return parts

    def commit(self, parts: dict[int, list[Operation]], done: Confirmed) -> None:
        """Apply the operations at each owner, all or none; `done` is called once that is on disk."""
        self.clients.flush()
        self._commits.commit(parts, done)

    def across(self, parts: dict[int, list[Operation]], own: Work, recorded: Callable[[], None]) -> None:
        self._commits.across(parts, own, recorded)

    # --- the end of a turn

    def end_of_read(self) -> None:
        """Everything that a client sent at once was handled."""
        if self.clients.settling:
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
        self.clients.flush()
        self.owner.flush()
        while self.clients.settling:
            self.clients.flush()
            self.owner.flush()
        self._core.retained.flush()
        self.siblings.flush()
        self._look_at_store()


def _add(queue: bytes, batch: Batch) -> Operation:
    traits = None
    if batch.traits is not None:
        traits = {place: each.pack() for place, each in batch.traits.items()}
    operation = [ADD, queue, batch.id_prefix, batch.items, traits]
    return operation if batch.keys is None else [*operation, batch.keys]


def _size(operation: Operation) -> int:
    if operation[0] == RETAIN:
        return len(operation[2] or b"")
    if operation[0] != ADD:
        return 9
    size = sum(map(len, operation[3]))
    return size if len(operation) < 6 else size + sum(map(len, operation[5].values()))


def _ignore(outcome: Outcome) -> None:
    """Nobody waits for it."""
