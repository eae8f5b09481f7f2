"""Clients that never give up: they produce, consume and commit, reconnect when the broker is gone, and write down all
they do. What was not receipted when a connection was lost, they do not repeat.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.chaos.history import (
    Acknowledged,
    AcknowledgementReceipted,
    CommitReceipted,
    Committed,
    Returned,
)
from tests.chaos.session import Frame, Lost, Session, frame
from tests.chaos.world import QUEUE, World

__all__ = ["Actor", "Consumer", "Held", "Producer", "Subscription", "Transactor"]


class Actor:
    """Works on one connection after the other until the world is over."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.actor = name
        self.pick = world.random(name)

    async def run(self) -> None:
        while not self.world.is_over:
            try:
                session = await self.world.connect(self.on_message)
            except Lost:
                return
            try:
                await self.work(session, self.world.name(self.actor))
                await session.room(1)
            except Lost:
                pass
            finally:
                self.lost()
                session.close()

    async def work(self, session: Session, name: str) -> None:
        """Until the world is over, or this connection has had its time."""
        raise NotImplementedError

    def on_message(self, message: Frame) -> None:
        raise AssertionError(f"{self.actor} consumes nothing: {message}")

    def lost(self) -> None:
        """The connection is, or is about to be, closed."""


class Producer(Actor):
    """Sends bursts to its queues, with a receipt each and a window of them."""

    def __init__(self, world: World, name: str, queues: list[str], *, window: int = 64, most: int = 40) -> None:
        super().__init__(world, name)
        self._queues = queues
        self._window = window
        self._most = most

    async def work(self, session: Session, name: str) -> None:
        number = 0
        while not self.world.is_over:
            if self.world.sent - self.world.settled > self.world.backlog:
                await asyncio.sleep(0.005)
                continue
            burst = []
            for _ in range(self.pick.randint(1, self._most)):
                size = self.pick.choice((0, 10, 100, 1000)) if self.pick.random() < 0.99 else 20_000
                burst.append(self.world.send(session, name, number, self.pick.choice(self._queues), size))
                number += 1
            session.write(b"".join(burst))
            await session.room(self._window)
            await asyncio.sleep(self.pick.choice((0, 0, 0.001, 0.003)))


@dataclass(slots=True)
class Held:
    """A message that was delivered and is not settled: its id, and the value for `id` of ACK."""

    id: str
    ack: str


@dataclass(slots=True)
class Subscription:
    """`consumer` names it in the history, `id` on its connection."""

    consumer: str
    id: str
    queue: str
    mode: str
    held: list[Held] = field(default_factory=list)
    is_ended: bool = False
    """What still comes was on its way when UNSUBSCRIBE was sent, and belongs to nobody."""


class Consumer(Actor):
    """Receives from its queues in one of the client modes, acknowledges with receipts, and now and then sends back,
    unsubscribes, or leaves."""

    def __init__(
        self, world: World, name: str, queues: list[str], mode: str = "client-individual", *, steady: bool = False
    ) -> None:
        super().__init__(world, name)
        self._queues = queues
        self._mode = mode
        self._steady = steady
        self._subscriptions: dict[str, Subscription] = {}

    def on_message(self, message: Frame) -> None:
        headers = message[1]
        subscription = self._subscriptions[headers["subscription"]]
        id = self.world.delivered(subscription.consumer, message)
        if not subscription.is_ended:
            subscription.held.append(Held(id, headers["ack"]))

    def lost(self) -> None:
        for subscription in self._subscriptions.values():
            self.world.closed(subscription.consumer)
        self._subscriptions.clear()

    def subscribe(self, session: Session, name: str, queue: str) -> None:
        id = str(len(self._subscriptions))
        self._subscriptions[id] = Subscription(f"{name}/{id}", id, queue, self._mode)
        headers = [("destination", QUEUE + queue), ("id", id), ("ack", self._mode)]
        if prefetch := self.pick.choice((0, 1, 10, 1000)):
            headers.append(("prefetch-count", str(prefetch)))
        session.write(frame("SUBSCRIBE", headers))

    async def work(self, session: Session, name: str) -> None:
        for queue in self._queues:
            self.subscribe(session, name, queue)
        while not self.world.is_over:
            for subscription in list(self._subscriptions.values()):
                self.settle_some(session, subscription)
            await session.room(256)
            if self.pick.random() < 0.5:
                await asyncio.sleep(self.pick.choice((0, 0.001, 0.003)))
            if not any(each.held for each in self._subscriptions.values()):
                await self._wait(session)
            if not self._steady and self.is_tired(session, name):
                return

    async def _wait(self, session: Session) -> None:
        """For messages, or the end of the world, which nobody announces."""
        try:
            async with asyncio.timeout(0.05):
                await session.progress()
        except TimeoutError:
            return

    def settle_some(self, session: Session, subscription: Subscription) -> None:
        held = subscription.held
        if not held:
            return
        if subscription.mode == "client":
            count = self.pick.randint(1, len(held))
            taken, subscription.held = held[:count], held[count:]
            self.acknowledge(session, taken, taken[-1].ack)
            return
        kept: list[Held] = []
        for each in held:
            chance = self.pick.random()
            if chance < 0.1 and len(held) > 1:
                kept.append(each)
            elif chance < 0.11 and not self._steady:
                self.world.note(Returned((each.id,)))
                session.write(frame("NACK", [("id", each.ack)]))
            else:
                self.acknowledge(session, [each], each.ack)
        subscription.held = kept

    def acknowledge(self, session: Session, taken: list[Held], ack: str) -> None:
        """One ACK that settles all of `taken`; one in ten without a receipt."""
        ids = tuple(each.id for each in taken)
        self.world.note(Acknowledged(ids))
        self.world.settled += len(ids)
        headers = [("id", ack)]
        if self._steady or self.pick.random() < 0.9:
            headers.append(session.expect(lambda: self.world.note(AcknowledgementReceipted(ids))))
        session.write(frame("ACK", headers))

    def is_tired(self, session: Session, name: str) -> bool:
        """Now and then ends a subscription and makes another; True when the connection is to end."""
        chance = self.pick.random()
        if chance < 0.01:
            subscription = self.pick.choice([each for each in self._subscriptions.values() if not each.is_ended])
            self.world.closed(subscription.consumer)
            subscription.is_ended = True
            subscription.held.clear()
            session.write(frame("UNSUBSCRIBE", [("id", subscription.id)]))
            self.subscribe(session, name, subscription.queue)
        return chance > 0.995


class Transactor(Consumer):
    """Receives, and in each transaction acknowledges some of that and sends to several queues."""

    def __init__(self, world: World, name: str, queues: list[str], targets: list[str], mode: str) -> None:
        super().__init__(world, name, queues, mode)
        self._targets = targets
        self._number = 0
        self._transactions = 0

    async def work(self, session: Session, name: str) -> None:
        self._number = self._transactions = 0
        for queue in self._queues:
            self.subscribe(session, name, queue)
        while not self.world.is_over:
            if self.world.sent - self.world.settled > self.world.backlog:
                # Only settle, without adding to it.
                for subscription in self._subscriptions.values():
                    self.settle_some(session, subscription)
            elif not self._transact(session, name):
                return
            await session.room(8)
            await asyncio.sleep(self.pick.choice((0, 0.001, 0.003)))
            if self.pick.random() < 0.2:
                # Between transactions, and in order with them.
                session.write(self._send(session, name, self.pick.choice(self._targets), None))

    def _send(self, session: Session, name: str, queue: str, transaction: str | None) -> bytes:
        self._number += 1
        return self.world.send(session, name, self._number, queue, self.pick.choice((0, 100, 2000)), transaction)

    def _transact(self, session: Session, name: str) -> bool:
        """One transaction; False if it is left open and the connection is to end."""
        self._transactions += 1
        transaction = f"{name}.t{self._transactions}"
        frames = [frame("BEGIN", [("transaction", transaction)])]
        for queue in self.pick.sample(self._targets, min(len(self._targets), self.pick.randint(1, 3))):
            frames += [self._send(session, name, queue, transaction) for _ in range(self.pick.randint(1, 3))]
        taken: list[tuple[Subscription, list[Held]]] = []
        for subscription in self._subscriptions.values():
            count = self.pick.randint(0, min(5, len(subscription.held)))
            if count:
                some, subscription.held = subscription.held[:count], subscription.held[count:]
                taken.append((subscription, some))
                frames += self._acknowledgements(subscription, some, transaction)
        chance = self.pick.random()
        if chance < 0.9:
            self.world.note(Committed(transaction))
            self.world.settled += sum(len(some) for _, some in taken)
            receipt = session.expect(lambda: self.world.note(CommitReceipted(transaction)))
            frames.append(frame("COMMIT", [("transaction", transaction), receipt]))
        elif chance < 0.98:
            frames.append(frame("ABORT", [("transaction", transaction)]))
            for subscription, some in taken:
                subscription.held[:0] = some
        # In two writes now and then, so that a kill comes in the middle of one.
        cut = self.pick.randrange(len(frames))
        session.write(b"".join(frames[:cut]))
        session.write(b"".join(frames[cut:]))
        return chance < 0.98

    def _acknowledgements(self, subscription: Subscription, some: list[Held], transaction: str) -> list[bytes]:
        self.world.note(Acknowledged(tuple(each.id for each in some), transaction))
        named = some[-1:] if subscription.mode == "client" else some
        return [frame("ACK", [("id", each.ack), ("transaction", transaction)]) for each in named]
