"""One queue with what its owner knows besides: its number and counter, its policy, what the store was told of it."""

from __future__ import annotations

from collections.abc import Iterable

import msgpack

from worker.queues.feeds import Feed
from worker.queues.lane import key_of, total_size
from worker.queues.message import COUNTER_BITS, Message, first_key
from worker.queues.policy import QueuePolicy
from worker.queues.queue import Queue
from worker.queues.work import Work
from worker.store.interface import PutQueue, SetCount, SetExpiry
from worker.traits import Traits

__all__ = ["VOLATILE", "OwnedQueue", "recall"]

VOLATILE = b"volatile"
"""The options of a queue that does not outlive its owner's process."""

_RESERVE = 1 << 20
"""Counters that are used before the store is told again; a restart leaves out what was not."""
_COUNTER = (1 << COUNTER_BITS) - 1
_UNLIMITED = 1 << 62


def recall(options: bytes) -> Feed | None:
    """The feed that the store kept as `options`."""
    return Feed(*msgpack.unpackb(options)) if options else None


class OwnedQueue:
    """`counter` is the last one used. `told` once the store was told of it. `opened` once a consumer came: from then on
    the store knows of every message that it may have been delivered, and of those before as soon as `marking` is over.
    `recovered` is the last counter that may have been delivered in an earlier life. `fleeting` is when the first of
    what is in memory alone expires (ms since the epoch), 0 if nothing of that does.

    What is to be stored comes into the queue when it is, with everything that came after it: nobody is delivered what a
    restart would not know of."""

    __slots__ = (
        "blocked",
        "counter",
        "feed",
        "fleeting",
        "marking",
        "name",
        "number",
        "opened",
        "pending",
        "policy",
        "queue",
        "recovered",
        "reserved",
        "told",
        "volatile",
    )

    def __init__(
        self,
        name: bytes,
        queue: Queue,
        policy: QueuePolicy,
        counter: int,
        *,
        recovered: int = 0,
        volatile: bool = False,
        feed: Feed | None = None,
    ) -> None:
        self.name = name
        self.queue = queue
        self.number = queue.number
        self.policy = policy
        self.counter = counter
        self.reserved = 0
        self.told = False
        self.recovered = recovered
        self.volatile = volatile
        self.feed = feed
        self.opened = False
        self.marking = False
        self.fleeting = 0
        # Of each unit that is not stored yet, by its first counter: how many messages and bytes it brings.
        self.pending: dict[int, tuple[int, int]] = {}
        self.blocked = False
        self.configure(policy)

    def configure(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.queue.redelivery_limit = policy.redelivery_limit
        self.queue.redelivery_delay = policy.redelivery_delay_ms
        self.queue.redelivery_delay_max = policy.redelivery_delay_max_ms

    @property
    def temporary(self) -> bool:
        """Whether it is one client's own, and gone with its connection."""
        return self.volatile and self.feed is None

    @property
    def title(self) -> str:
        """Its name as that of a destination, which the queue of a subscription to topics has not."""
        name = self.name.decode()
        return name if self.feed is None else f"/queue/{name.split('/', 2)[2]}"

    @property
    def load(self) -> tuple[int, int]:
        """Messages, and their bytes, that it holds or will as soon as they are stored."""
        pending = self.pending.values()
        return (
            self.queue.messages + sum([count for count, _ in pending]),
            self.queue.bytes + sum([size for _, size in pending]),
        )

    @property
    def room(self) -> tuple[int, int]:
        """Messages, and their bytes, that fit by the policy's limits; very many without any."""
        policy = self.policy
        messages, size = self.load
        return (
            max(policy.max_messages - messages, 0) if policy.max_messages else _UNLIMITED,
            max(policy.max_bytes - size, 0) if policy.max_bytes else _UNLIMITED,
        )

    @property
    def full(self) -> bool:
        """Whether it has reached one of its limits."""
        return not all(self.room)

    def reserve(self, count: int) -> PutQueue | None:
        """What the store must know before it gets any of `count` more messages, None if it does."""
        if self.volatile or not self.policy.persistent or self.counter + count < self.reserved:
            return None
        self.reserved = self.counter + count + _RESERVE
        return self.row()

    def add(self, unit: Work, prefix: bytes, items: list[bytes], traits: dict[int, Traits] | None, now: int) -> None:
        """Take in messages whose ids start with `prefix`, at `now` (ms since the epoch); `unit` tells the store."""
        base = first_key(self.number, 4) + self.counter + 1
        persistent = self.policy.persistent and not self.volatile
        if traits is None:
            messages = [Message(key, prefix + item, persistent) for key, item in enumerate(items, base)]
        else:
            messages = [
                self._special(unit, place, prefix + item, persistent, traits.get(place), now)
                for place, item in enumerate(items)
            ]
        if not messages:
            return
        stored = messages if persistent and traits is None else [each for each in messages if each.persistent]
        size = len(items) * len(prefix) + sum(map(len, items)) if traits is None else total_size(messages)
        if stored or self.pending:
            self.pending[self.counter + 1] = len(messages), size
            unit.arrivals.append((self, messages))
        else:
            # What stays on disk only is not to be delivered before it is there, and is paged in then.
            stored = self.queue.extend(messages)
        self.counter += len(items)
        self._insert(unit, stored)
        if stored and (self.opened or self.counter >= self.reserved):
            unit.changes.append(self.row())

    def arrive(self, unit: Work, messages: list[Message]) -> None:
        """The unit that brought these is stored; `unit` tells the store of those among them that it did not have, and
        that stay on disk only."""
        self.leave_out(messages)
        self._insert_late(unit, self.queue.extend(messages))

    def come_back(self, unit: Work, messages: list[Message]) -> None:
        """These left, and the store refused to know of that, which is not their fault; `unit` tells it what it must
        know of them."""
        messages = sorted(messages, key=key_of)
        for message in messages:
            message.forgive()
        self.count(unit, messages)
        self._insert_late(unit, self.queue.extend(messages))

    @staticmethod
    def count(unit: Work, messages: Iterable[Message]) -> None:
        """Tell the store how often these were delivered. One number is kept: the next life must know that they
        were, and not blame them for what this one forgave."""
        unit.changes += [SetCount(message.key, max(message.attempts, 1)) for message in messages if message.persistent]

    def leave_out(self, messages: list[Message]) -> None:
        """These, of one unit, are not pending any more. Units fail before others that were written before them."""
        del self.pending[messages[0].key & _COUNTER]

    def evict(self, unit: Work) -> None:
        """Tell the store of messages that it did not have, and that stay on disk only from now on."""
        self._insert_late(unit, self.queue.take_evicted())

    def _insert_late(self, unit: Work, messages: list[Message]) -> None:
        if messages:
            self._insert(unit, messages)
            unit.changes += [SetExpiry(message.key, message.expires) for message in messages if message.expires]
            if self.counter >= self.reserved:
                unit.changes.append(self.row())

    def _insert(self, unit: Work, messages: list[Message]) -> None:
        if messages:
            unit.inserts += [(message.key, message.frame) for message in messages]
            unit.depths.append((self.number, len(messages), total_size(messages)))

    def is_pending(self, key: int) -> bool:
        """Whether this is one of those that the queue does not have yet, although the store may."""
        return bool(self.pending) and key & _COUNTER >= next(iter(self.pending))

    @property
    def in_use(self) -> bool:
        """Whether there is anything in it, or anybody at it."""
        return bool(self.queue.messages or self.queue.consumers or self.pending)

    def _special(
        self, unit: Work, place: int, frame: bytes, persistent: bool, traits: Traits | None, now: int
    ) -> Message:
        if traits is None:
            return Message(first_key(self.number, 4) + self.counter + 1 + place, frame, persistent)
        key = first_key(self.number, traits.priority) + self.counter + 1 + place
        message = Message(key, frame, persistent and traits.persistent, group=traits.group)
        if traits.ttl:
            message.expires = now + traits.ttl
            end = frame.index(b"\n")
            message.frame = b"%b\nexpires:%d%b" % (frame[:end], message.expires, frame[end:])
        elif traits.expires:
            message.expires = traits.expires
        if message.expires and message.persistent:
            unit.changes.append(SetExpiry(key, message.expires))
        elif message.expires:
            self.fleeting = min(self.fleeting or message.expires, message.expires)
        return message

    @property
    def options(self) -> bytes:
        """What the store is to keep for the next life, see `recall`."""
        if self.volatile:
            return VOLATILE
        return b"" if self.feed is None else msgpack.packb(self.feed)

    def row(self) -> PutQueue:
        """What the store is to know now."""
        self.told = True
        if self.counter >= self.reserved:
            self.reserved = self.counter + _RESERVE
        delivered = self.counter if self.opened else self.recovered
        return PutQueue(self.number, self.name.decode(), self.reserved, delivered, self.options)

    def stored_all(self, rows: list[tuple[int, bytes, int]]) -> list[Message]:
        """Messages that the store had: a page, all at once."""
        recovered = self.recovered
        together = b"".join([frame for _, frame, _ in rows])
        if b"\nexpires:" in together or b"\ngroup-id:" in together:
            # Or their bodies have it; `stored` looks.
            return [self.stored(*row) for row in rows]
        return [
            Message(key, frame, True, 1 if not count and key & _COUNTER <= recovered else count)
            for key, frame, count in rows
        ]

    def stored(self, key: int, frame: bytes, count: int) -> Message:
        """A message that the store had."""
        if not count and key & _COUNTER <= self.recovered:
            # The worker that knew is dead: it may have been delivered.
            count = 1
        return Message.stored(key, frame, count)

    def remove(self, unit: Work, messages: list[Message]) -> None:
        """Tell the store that `messages` are gone."""
        if messages and not unit.must:
            unit.departures.append((self, messages))
        stored = [message for message in messages if message.persistent]
        if stored:
            unit.deletes += map(key_of, stored)
            unit.depths.append((self.number, -len(stored), -total_size(stored)))
