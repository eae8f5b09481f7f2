"""The last messages of topics, for whoever subscribes later: each worker has those of all in memory.

The worker that a message is sent to hands it off to the owner of its destination, which orders and stores
(`worker.queues.retention`) and tells all workers. A new subscriber is answered from memory, at once; what its worker
hears of late, because it was sent before all routed to the subscriber, follows as long as that may be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common.negotiation import Version
from common.temporary import TEMPORARY
from worker.acceptance import Acceptance, refuse
from worker.backplane.interface import Batch
from worker.destinationtree import DestinationTree
from worker.items import translate
from worker.queues.letters import DONE, RETAIN, Operation, Outcome
from worker.queues.retention import expiry, slices
from worker.router import Entry, Fresh, Subscription

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core

__all__ = ["RETAINED", "RetainedMessages"]

RETAINED = "retained"
"""A letter, from an owner to all workers: which part of what it tells this is, and its news."""
_NEWS, _ALL, _END = range(3)
"""Just news; the begin of all that it has; the end of that."""

_FRESH = 2.0
"""Seconds after SUBSCRIBE in which what was sent before it may still be heard of: many times what a link and a commit
take."""
_SLICE = 500
_SLICE_BYTES = 256 << 10
"""What a subscriber to a pattern gets in one turn of the loop."""
_PAUSE = 0.05
"""Seconds until a subscriber that did not take its slice is looked at again."""


class _Playback:
    """What one subscriber to a pattern is to get, as it can take it. `served` are those that it got out of turn."""

    __slots__ = ("entry", "left", "served", "subscription")

    def __init__(self, subscription: Subscription, entry: Entry, left: Iterator[bytes]) -> None:
        self.subscription = subscription
        self.entry = entry
        self.left = left
        self.served: set[bytes] = set()


class RetainedMessages:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._queues = core.queues
        self._slot = core.queues.slot
        self._messages: dict[bytes, bytes] = {}
        self._tree = DestinationTree()
        self._of: dict[int, set[bytes]] = {}
        self._news: dict[bytes, bytes | None] = {}
        self._playing: dict[Subscription, _Playback] = {}
        self._fresh: deque[tuple[float, Subscription, Entry]] = deque()
        self._retention = core.queues.owner.retention
        self._retention.changed = self._changed
        self._outdated: dict[int, set[bytes]] = {}
        self.by_policy = False
        self.configure()

    def configure(self) -> None:
        self.by_policy = self._core.settings.queue_policies.retains

    def __len__(self) -> int:
        return len(self._messages)

    # --- what clients send

    def operation(self, destination: bytes, batch: Batch) -> Operation | None:
        """What the owner of `destination` is to keep of `batch`, None for nothing."""
        traits = batch.traits
        if (traits is None and not self.by_policy) or destination.startswith(TEMPORARY):
            return None
        policy = self._core.settings.queue_policies.find(destination)
        place = -1
        if policy.retain:
            place = len(batch.items) - 1
        elif traits is not None:
            place = max((place for place, each in traits.items() if each.retain), default=-1)
        if place < 0:
            return None
        each = None if traits is None else traits.get(place)
        frame = batch.id_prefix + batch.items[place]
        if each is None:
            return [RETAIN, destination, frame, policy.persistent]
        if each.retain and frame.index(b"\n\n") + 3 == len(frame):
            # Nothing but its NUL comes after the headers.
            return [RETAIN, destination, None, False]
        if each.ttl:
            end = frame.index(b"\n")
            frame = b"%b\nexpires:%d%b" % (frame[:end], self._queues.now() + each.ttl, frame[end:])
        return [RETAIN, destination, frame, policy.persistent and each.persistent]

    def publish(
        self, connection: Connection, destination: bytes, batch: Batch, acceptance: Acceptance | None
    ) -> list[bytes]:
        """Hand off what is to be kept of `batch`; returns what else holds up its publishers."""
        operation = self.operation(destination, batch)
        if operation is None:
            return []
        if acceptance is not None:
            acceptance.expect()

        def done(outcome: Outcome) -> None:
            if acceptance is not None:
                acceptance.confirmed(destination, outcome if outcome.refused is not None else DONE)
            else:
                refuse(connection, outcome)

        self._queues.hand_off(connection, destination, operation, done)
        return [self._queues.holding_up(destination)]

    def add_to(self, parts: dict[int, list[Operation]], batches: dict[bytes, Batch]) -> None:
        """What a transaction asks of each owner, for what it sends to topics."""
        for destination, batch in batches.items():
            operation = self.operation(destination, batch)
            if operation is not None:
                parts.setdefault(self._queues.owner_of(destination), []).append(operation)

    # --- what owners tell

    def _changed(self, destination: bytes, frame: bytes | None) -> None:
        """This worker owns it."""
        self._learn(self._slot, destination, frame)
        self._news[destination] = frame
        self._queues.flush_soon()

    def flush(self) -> None:
        """Tell the siblings, before anybody is told that something is stored."""
        if self._news:
            news, self._news = self._news, {}
            for piece in slices(list(news.items())):
                self._core.backplane.broadcast([RETAINED, _NEWS, piece])

    def greet(self, slot: int) -> None:
        """A sibling is new: it has all of it before it hears anything else."""
        send = self._core.backplane.send
        send(slot, [RETAINED, _ALL, []])
        for piece in slices(self._retention.snapshot()):
            send(slot, [RETAINED, _NEWS, piece])
        send(slot, [RETAINED, _END, []])

    def on_letter(self, slot: int, part: int, news: list[Any]) -> None:
        if part == _ALL:
            # What its last life had, and this one has not, is forgotten in the end: it may come any moment.
            self._outdated[slot] = set(self._of.get(slot, ()))
        elif part == _END:
            for destination in self._outdated.pop(slot, ()):
                self._learn(slot, destination, None)
        outdated = self._outdated.get(slot)
        for destination, frame in news:
            if outdated is not None:
                outdated.discard(destination)
            self._learn(slot, destination, frame)

    def _learn(self, slot: int, destination: bytes, frame: bytes | None) -> None:
        known = self._of.setdefault(slot, set())
        if frame is None:
            if self._messages.pop(destination, None) is not None:
                self._tree.remove(destination)
            known.discard(destination)
            return
        before = self._messages.get(destination)
        if before == frame:
            return
        if before is None:
            self._tree.add(destination)
            known.add(destination)
        self._messages[destination] = frame
        if self._fresh or self._playing:
            self._follow(destination)

    # --- who gets them

    def subscribed(self, subscription: Subscription) -> None:
        """`subscription` is new, and routed to from now on."""
        entry = subscription.entry
        if entry is None or not (self._messages or self.by_policy):
            return
        if entry.fresh is None:
            entry.fresh = Fresh()
        entry.fresh.join(subscription)
        self._fresh.append((self._core.now() + _FRESH, subscription, entry))
        if len(self._fresh) == 1:
            self._core.later(_FRESH, self._age)
        if entry.pattern:
            playback = _Playback(subscription, entry, self._tree.match(entry.name))
            self._playing[subscription] = playback
            self._play(playback)
        elif entry.name in self._messages:
            self._deliver(subscription, [entry.name])

    def _play(self, playback: _Playback) -> None:
        """The next slice, if the subscriber has room for it."""
        subscription, entry = playback.subscription, playback.entry
        if subscription.entry is not entry or subscription.connection.closing:
            self._played(playback)
            return
        room = min(_SLICE, self._core.router.room_for(subscription))
        if subscription.connection.outbox is not None or room <= 0:
            self._core.later(_PAUSE, lambda: self._play(playback))
            return
        fresh, names, size = entry.fresh, [], 0
        for name in playback.left:
            frame = self._messages.get(name)
            if frame is None or name in playback.served or (fresh is not None and fresh.saw(subscription, name)):
                continue
            names.append(name)
            size += len(frame)
            if len(names) >= room or size >= _SLICE_BYTES:
                self._core.soon(lambda: self._play(playback))
                break
        else:
            self._played(playback)
        self._deliver(subscription, names)

    def _played(self, playback: _Playback) -> None:
        self._playing.pop(playback.subscription, None)

    def _follow(self, destination: bytes) -> None:
        """There is a newer message: some may have subscribed after it was sent, and before it was known here."""
        for entry in self._core.router.entries(destination):
            fresh = entry.fresh
            if fresh is not None:
                for subscription in fresh.without(destination):
                    playback = self._playing.get(subscription)
                    if playback is not None:
                        playback.served.add(destination)
                    self._deliver(subscription, [destination])

    def _age(self) -> None:
        """Nothing from before they subscribed is to come for these, unless they have not had all that there was."""
        now = self._core.now()
        for _ in range(len(self._fresh)):
            due, subscription, entry = self._fresh[0]
            if due > now and subscription.entry is not None:
                break
            self._fresh.popleft()
            if subscription in self._playing:
                self._fresh.append((now + _FRESH, subscription, entry))
            elif entry.fresh is not None and not entry.fresh.leave(subscription):
                entry.fresh = None
        if self._fresh:
            self._core.later(max(self._fresh[0][0] - now, _PAUSE), self._age)

    def _deliver(self, subscription: Subscription, names: list[bytes]) -> None:
        now = self._queues.now()
        items = []
        for name in names:
            frame = self._messages[name]
            if b"\nexpires:" in frame and 0 < expiry(frame) <= now:
                continue
            end = frame.index(b"\n")
            items.append(b"%b\nretained:true%b" % (frame[:end], frame[end:]))
        if not items:
            return
        versions = None
        if any(b"\\" in item for item in items):
            old, middle = ([translate(item, version) for item in items] for version in (Version.V1_0, Version.V1_1))
            versions = old, middle, items
        self._core.router.deliver_to(subscription, names[0], Batch(b"", items, versions))
