"""An owner of one queue with a disk of its own, on which what is written appears later: it does for `Queue` what the
documentation asks of an owner, and keeps a model of what must be true, to compare."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.message import Message, first_key
from worker.queues.queue import Queue

NUMBER = 7
COUNTERS = (1 << 40) - 1


@dataclass
class Sent:
    """What the model knows of a message that is in the queue."""

    message: Message
    colour: int
    group: bytes | None
    expires: int
    size: int
    count: int = 0
    forgiven: int = 0
    holder: Consumer | None = None
    due: int = 0
    avoids: Consumer | None = None

    @property
    def priority(self) -> int:
        return self.message.key >> 40

    @property
    def attempts(self) -> int:
        return self.count - self.forgiven


@dataclass
class Unit:
    inserts: list[Message] = field(default_factory=list)
    deletes: list[int] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inserts or self.deletes or self.counts)


class SimulatedOwner:
    def __init__(self, **settings: int) -> None:
        self.settings = settings
        self.now = 1_000_000
        self.counter = 0
        self.next_id = 0
        self.disk: dict[int, tuple[bytes, int]] = {}
        self.alive: dict[int, Sent] = {}
        self.start(Queue(NUMBER, "q", **settings))

    def start(self, queue: Queue) -> None:
        self.queue = queue
        self.consumers: list[Consumer] = []
        self.gathering = Unit()
        self.written: list[Unit] = []
        self.stored = 0
        self.page: tuple[int, int, int, int] | None = None
        self.rows: list[tuple[int, bytes, int]] | None = None
        self.bound: dict[bytes, Consumer] = {}
        self.last: dict[tuple[object, ...], int] = {}
        self.rebound: set[bytes | None] = set()
        self.spoilt: set[int] = set()

    # --- what an owner does

    def send(self, items: list[tuple[int, bool, int, bytes | None, int]]) -> None:
        """Priority, persistent, colour, group, ms to live."""
        messages = []
        for priority, persistent, colour, group, ttl in items:
            self.counter += 1
            frame = b"m-%d\ndestination:/queue/q\ncolour:%d\n\nbody\0" % (self.counter, colour)
            expires = self.now + ttl if ttl else 0
            key = first_key(NUMBER, priority) + self.counter
            message = Message(key, frame, persistent, expires=expires, group=group)
            messages.append(message)
            self.alive[key] = Sent(message, colour, group, expires, len(frame))
        self.gathering.inserts += [message for message in messages if message.persistent]
        self._write(self.queue.extend(messages))

    def _write(self, messages: list[Message]) -> None:
        self.gathering.inserts += messages
        for message in messages:
            assert message.persistent
            if message.count:
                self.gathering.counts[message.key] = message.count

    def left(self, messages: list[Message]) -> None:
        for message in messages:
            del self.alive[message.key]
            if message.persistent:
                self.gathering.deletes.append(message.key)

    def end_turn(self) -> bool:
        self._write(self.queue.take_evicted())
        if not self.gathering:
            return False
        self.written.append(self.gathering)
        self.gathering = Unit()
        return True

    def commit(self) -> bool:
        if self.stored == len(self.written):
            return False
        unit = self.written[self.stored]
        self.stored += 1
        for message in unit.inserts:
            assert message.key not in self.disk, "written twice"
            self.disk[message.key] = message.frame, 0
        for key in unit.deletes:
            self.disk.pop(key, None)
        for key, count in unit.counts.items():
            if key in self.disk:
                self.disk[key] = self.disk[key][0], count
        return True

    def want_page(self) -> bool:
        unit = len(self.written) + bool(self.gathering)
        wanted = self.queue.page_wanted(unit, self.stored)
        if wanted is None:
            return False
        assert self.page is None, "two pages at once"
        assert wanted[2] > 0
        assert wanted[3] > 0
        self.page = wanted
        return True

    def read_page(self) -> bool:
        if self.page is None or self.rows is not None:
            return False
        after, before, count, size = self.page
        self.rows = []
        for key in sorted(self.disk):
            if after < key < before and count > 0 and size > 0:
                frame, delivered = self.disk[key]
                self.rows.append((key, frame, delivered))
                count -= 1
                size -= len(frame)
        return True

    def page_arrives(self) -> bool:
        if self.rows is None:
            return False
        rows, self.rows, self.page = self.rows, None, None
        self.queue.paged([self._read(*row) for row in rows])
        return True

    def _read(self, key: int, frame: bytes, count: int) -> Message:
        sent = self.alive.get(key)
        if key in self.spoilt:
            count = max(count, 1)
        if sent is None:
            return Message(key, frame, True, count)
        return Message(key, frame, True, count, sent.expires, sent.group)

    # --- consumers

    def attach(self, prefetch: int, colour: int, exclusive: bool = False, instant: bool = False) -> Consumer:
        """`colour` 0 is all."""
        self.next_id += 1
        selector = Selector.parse(f"colour = {colour}") if colour else None
        consumer = Consumer(0, self.next_id, prefetch, selector, exclusive, instant)
        self.queue.attach(consumer)
        self.consumers.append(consumer)
        return consumer

    def eligible(self) -> list[Consumer]:
        exclusive = [each for each in self.consumers if each.exclusive]
        return exclusive[:1] or self.consumers

    @staticmethod
    def wants(consumer: Consumer, sent: Sent) -> bool:
        return consumer.selector is None or consumer.selector.text == f"colour = {sent.colour}"

    def takers(self, sent: Sent) -> list[Consumer]:
        """Who may be given this message, with credit or without."""
        takers = [each for each in self.eligible() if self.wants(each, sent)]
        bound = self.bound.get(sent.group) if sent.group else None
        return [bound] if bound in takers else takers

    def dispatch(self) -> None:
        before = {each.id: each.credit for each in self.consumers}
        deliveries = self.queue.dispatch(self.now)
        assert len({id(consumer) for consumer, _ in deliveries}) == len(deliveries)
        given = [(consumer, message) for consumer, messages in deliveries for message in messages]
        for consumer, message in sorted(given, key=lambda pair: pair[1].key):
            self._check(consumer, message)
        for consumer, messages in deliveries:
            assert messages
            taken = 0 if consumer.instant else len(messages)
            assert consumer.credit == before[consumer.id] - taken
            assert taken == 0 or consumer.credit >= 0
            if consumer.instant:
                self.left(messages)
        for message in self.queue.expired:
            sent = self.alive[message.key]
            assert 0 < sent.expires <= self.now
            assert sent.holder is None
        self.left(self.queue.expired)
        self.queue.expired = []

    def _check(self, consumer: Consumer, message: Message) -> None:
        sent = self.alive[message.key]
        assert sent.holder is None, "delivered to two"
        assert sent.due <= self.now, "delivered while it rests"
        assert not 0 < sent.expires <= self.now, "delivered after its time"
        assert consumer in self.takers(sent), "delivered to the wrong one"
        if consumer is sent.avoids and not self.queue.spilled:
            others = [each for each in self.takers(sent) if each is not consumer and each.credit > 0]
            assert not others, "delivered to who refused it"
        assert message.frame == sent.message.frame
        assert message.count == sent.count + 1
        sent.count += 1
        counter = message.key & COUNTERS
        if sent.group in self.bound and self.bound[sent.group] not in self.eligible():
            # What waited for the one it was bound to may be behind what the other one has got already.
            self.rebound.add(sent.group)
        if sent.count == 1:
            places: list[tuple[object, ...]] = [("group", sent.group, sent.colour, sent.priority)] if sent.group else []
            if sent.group not in self.rebound:
                places.append((consumer, sent.priority))
            for place in places:
                assert self.last.get(place, 0) < counter, "out of order"
                self.last[place] = counter
        if sent.group:
            bound = self.bound.get(sent.group)
            if bound is None or bound not in self.eligible():
                self.bound[sent.group] = consumer
        sent.avoids = None
        if not consumer.instant:
            sent.holder = consumer

    def returned(self, consumer: Consumer, keys: list[int], dead: list[Message], due: int = 0) -> None:
        limit = self.queue.redelivery_limit
        assert {each.key for each in dead} == {key for key in keys if self.alive[key].attempts > limit > 0}
        self.left(dead)
        for key in keys:
            if key in self.alive:
                sent = self.alive[key]
                sent.holder, sent.due = None, due
                if sent.message.persistent or key in self.disk:
                    self.gathering.counts[key] = max(sent.attempts, 1)

    def detach(self, consumer: Consumer, *, orderly: bool = False) -> None:
        keys = list(consumer.unsettled)
        for key in keys if orderly else keys[1:]:
            self.alive[key].forgiven += 1
        dead = self.queue.detach(consumer, self.now, orderly=orderly)
        self.consumers.remove(consumer)
        self.returned(consumer, keys, dead)
        assert not consumer.unsettled

    def settle(self, consumer: Consumer, keys: list[int]) -> None:
        messages = self.queue.settle(consumer, [*keys, 1, 2])
        assert [message.key for message in messages] == keys
        self.left(messages)

    def refuse(self, consumer: Consumer, keys: list[int], delay: int | None, others_first: bool) -> None:
        dead = self.queue.give_back(consumer, keys, self.now, delay=delay, others_first=others_first)
        self.returned(consumer, keys, dead)
        for key in keys:
            if key in self.alive:
                sent = self.alive[key]
                wait = delay
                if wait is None:
                    wait = 0 if sent.attempts == 1 else min(100 * 2 ** (sent.attempts - 2), 30_000)
                sent.due = self.now + wait
                sent.avoids = consumer if others_first else None

    def wait(self, ms: int) -> None:
        self.now += ms
        due = self.queue.wake(self.now)
        expected = [sent.due for sent in self.alive.values() if sent.holder is None and sent.due > self.now]
        assert due == min(expected, default=None)

    def crash(self, survivors: list[Consumer]) -> None:
        """The owner dies; of the consumers only these live on, elsewhere, with what they have."""
        held = {consumer: list(consumer.unsettled) for consumer in survivors}
        old = {consumer.id: consumer for consumer in survivors}
        self.alive = {key: self.alive[key] if key in self.alive else self._risen(key) for key in self.disk}
        for key, sent in self.alive.items():
            # Not known any more how often it was delivered before, but maybe it was.
            sent.count, sent.forgiven = max(self.disk[key][1], 1), 0
            sent.holder, sent.due, sent.avoids = None, 0, None
        size = sum(len(frame) for frame, _ in self.disk.values())
        self.start(Queue(NUMBER, "q", spilled=len(self.disk), spilled_bytes=size, **self.settings))
        self.spoilt = set(self.disk)
        for consumer in old.values():
            again = Consumer(
                consumer.slot, consumer.id, consumer.prefetch, consumer.selector, consumer.exclusive, consumer.instant
            )
            self.queue.attach(again)
            self.consumers.append(again)
            keys = [key for key in held[consumer] if key in self.disk]
            taken = self.queue.claim(again, [self._read(key, *self.disk[key]) for key in keys])
            assert {message.key for message in taken} == set(keys)
            for key in keys:
                self.alive[key].holder = again

    def _risen(self, key: int) -> Sent:
        """It was settled, but that was not stored."""
        frame = self.disk[key][0]
        colour = int(frame[frame.index(b"colour:") + 7 :].split(b"\n")[0])
        return Sent(Message(key, frame), colour, None, 0, len(frame))

    # --- what must be true

    def check_counters(self) -> None:
        queue = self.queue
        held = [sent for sent in self.alive.values() if sent.holder is not None]
        assert queue.messages == len(self.alive)
        assert queue.bytes == sum(sent.size for sent in self.alive.values())
        assert queue.unsettled == len(held) == sum(len(each.unsettled) for each in self.consumers)
        assert queue.held_bytes == sum(sent.size for sent in held)
        for consumer in self.consumers:
            assert self.queue.weigh(consumer) == sum(self.alive[key].size for key in consumer.unsettled)
            assert consumer.credit == consumer.prefetch - len(consumer.unsettled)
            assert all(self.alive[key].holder is consumer for key in consumer.unsettled)
        in_memory, start = queue.snapshot()
        keys = [message.key for message in in_memory]
        assert keys == sorted(set(keys)), "twice in memory"
        assert queue.ready == len(keys) - queue.unsettled - queue.resting + queue.away
        assert queue.spilled + queue.away == len(self.alive) - len(keys)
        for key in self.alive.keys() - set(keys):
            assert start is not None
            assert start <= key
        waiting = [self.alive[key] for key in keys if self.alive[key].holder is None and self.alive[key].count == 0]
        window = queue.window_messages
        assert len(waiting) <= 2 * window + max(window // 8, 1), "memory"

    def read_rested(self) -> bool:
        if not self.queue.has_woken or self.gathering or self.stored < len(self.written):
            # An owner delivers only what is on disk.
            return False
        keys = self.queue.rested_wanted()
        self.queue.rested([self._read(key, *self.disk[key]) for key in keys])
        return bool(keys)

    def settle_down(self) -> None:
        """Until nothing happens any more: nobody with credit misses what is there."""
        for _ in range(10_000):
            self.dispatch()
            self.end_turn()
            busy = self.commit()
            busy |= self.want_page()
            busy |= self.end_turn()
            busy |= self.read_page()
            busy |= self.page_arrives()
            busy |= self.read_rested()
            self.check_counters()
            if not busy and self.stored == len(self.written):
                break
        else:
            raise AssertionError("never comes to rest")
        for sent in self.alive.values():
            if sent.holder is None and sent.due <= self.now and not 0 < sent.expires <= self.now:
                assert not [each for each in self.takers(sent) if each.credit > 0], "starved"

    def drain(self) -> None:
        """Everything comes out in the end."""
        for consumer in list(self.consumers):
            self.detach(consumer)
        self.now += 10_000_000
        self.queue.wake(self.now)
        consumer = self.attach(3, 0)
        for _ in range(10_000):
            self.settle_down()
            if not consumer.unsettled:
                break
            self.settle(consumer, list(consumer.unsettled))
        assert not self.alive
        assert self.queue.messages == self.queue.bytes == self.queue.ready_bytes == self.queue.spilled == 0
        assert not self.disk
