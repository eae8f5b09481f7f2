"""Clients of a real broker under everything at once: a proxy that cuts, chops, delays and holds their traffic, and a
broker whose processes are killed. `STAMPEDE_CHAOS_ROUNDS` makes it more rounds, `STAMPEDE_CHAOS_SEED` others.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.client import (
    Backoff,
    BrokerError,
    Client,
    ClientClosed,
    ClientError,
    Message,
    OutcomeUnknown,
    Receipt,
    StaleDelivery,
    Subscription,
    TransactionLost,
)
from tests.chaos.mortal import Mortal
from tests.chaos.run import SEED, rounds
from tests.client.faults import Proxy, proxying, run
from tests.client.shared import queue

KEEN = Backoff(first=0.01, longest=0.2, give_up_after=60)
LONG = 60.0
"""Seconds, for the whole of a test; only a failing one ever takes so long, or one of many rounds."""


@pytest.fixture(scope="module")
def mortal() -> Iterator[Mortal]:
    with Mortal(2) as mortal:
        yield mortal


@dataclass
class Storm:
    """What befalls the proxy and the broker, `count` times, with `kinds` of it in turn."""

    mortal: Mortal
    proxy: Proxy
    seed: int
    kills: bool = True

    async def rage(self, count: int, enough: Callable[[], bool] = lambda: True) -> None:
        """At least `count` blows, and until it is `enough`."""
        pick = random.Random(self.seed)
        kinds: list[Callable[[random.Random], Awaitable[None]]] = [self._cut, self._chop, self._hold, self._refuse]
        if self.kills:
            kinds += [self._kill_worker, self._kill_all]
        pick.shuffle(kinds)
        done = 0
        while done < count or not enough():
            await asyncio.sleep(pick.uniform(0.01, 0.12))
            await kinds[done % len(kinds)](pick)
            done += 1
        self.calm()

    def calm(self) -> None:
        proxy = self.proxy
        proxy.refuse, proxy.chop, proxy.delay, proxy.cut_after = False, None, 0.0, None
        for direction in ("up", "down"):
            proxy.release(direction)
        # Some of them would be cut later.
        proxy.cut()

    async def _cut(self, pick: random.Random) -> None:
        for _ in range(pick.randrange(1, 4)):
            self.proxy.cut()
            await asyncio.sleep(pick.uniform(0, 0.05))
        # So early that it may happen within the login, or so late that something has gone through.
        self.proxy.cut_after = pick.choice([(300, 3_000), (5_000, 100_000)])
        self.proxy.cut()
        await asyncio.sleep(pick.uniform(0.1, 0.3))
        self.proxy.cut_after = None

    async def _chop(self, pick: random.Random) -> None:
        self.proxy.chop = pick.choice([1, 7, 100, 4096])
        self.proxy.delay = pick.choice([0, 0.002])
        await asyncio.sleep(0.1)
        self.proxy.chop, self.proxy.delay = None, 0

    async def _hold(self, pick: random.Random) -> None:
        direction = pick.choice(["up", "down"])
        self.proxy.hold(direction)
        await asyncio.sleep(0.08)
        if pick.random() < 0.5:
            # What is held is lost: with "down", RECEIPTs of what the broker has taken.
            self.proxy.cut()
        self.proxy.release(direction)

    async def _refuse(self, pick: random.Random) -> None:
        self.proxy.refuse = True
        self.proxy.cut()
        await asyncio.sleep(0.05)
        self.proxy.refuse = False

    async def _kill_worker(self, pick: random.Random) -> None:
        slot = pick.randrange(self.mortal.workers)
        incarnation = self.mortal.kill_worker(slot)
        await asyncio.to_thread(self.mortal.wait_worker, slot, incarnation)

    async def _kill_all(self, pick: random.Random) -> None:
        self.mortal.kill_all()
        await asyncio.to_thread(self.mortal.start_again)


@dataclass
class Book:
    """What consumers have seen: of each body the message-ids, and whether each delivery was marked redelivered."""

    deliveries: dict[bytes, list[tuple[str, bool, str]]] = field(default_factory=lambda: defaultdict(list))
    settled: set[str] = field(default_factory=set)
    came_back: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self, message: Message, consumer: str) -> None:
        if message.id in self.settled:
            self.came_back.append(message.id)
        self.deliveries[message.body].append((message.id, message.redelivered, consumer))
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    def has(self, bodies: set[bytes]) -> bool:
        return bodies <= self.deliveries.keys()

    # --- verdicts

    def check_stored_once(self) -> None:
        twice = {body: seen for body, seen in self.deliveries.items() if len({id for id, _, _ in seen}) > 1}
        assert not twice, f"stored more than once: {dict(list(twice.items())[:5])}"

    def check_deliveries(self) -> None:
        assert not self.came_back, "settled with a receipt, and delivered again"
        for body, seen in self.deliveries.items():
            for id in {id for id, _, _ in seen}:
                unmarked = [each for each in seen if each[0] == id and not each[1]]
                assert len(unmarked) <= 1, f"{body!r} was delivered again without a word: {seen}"

    def check_order(self) -> None:
        """Of each sender, as far as it was not delivered again."""
        last: dict[tuple[str, bytes], int] = {}
        for body, seen in self.deliveries.items():
            sender, _, number = body.partition(b".")
            _, redelivered, consumer = seen[0]
            if not redelivered:
                assert last.get((consumer, sender), -1) < int(number), f"{body!r} of {sender!r} came too late"
                last[consumer, sender] = int(number)


async def consume(subscription: Subscription, book: Book, name: str, pick: random.Random) -> None:
    async for message in subscription:
        await book.note(message, name)
        try:
            if pick.random() < 0.3:
                await message.ack(receipt=True)
                book.settled.add(message.id)
            else:
                await message.ack()
        except (StaleDelivery, OutcomeUnknown):
            # It comes again, or it does not.
            continue


async def consumers(stack: AsyncExitStack, proxy: Proxy, book: Book, queues: list[str], seed: int) -> None:
    """Two for each queue."""
    group = await stack.enter_async_context(asyncio.TaskGroup())
    for number in range(2):
        client = await stack.enter_async_context(client_of(proxy))
        for name in queues:
            subscription = client.subscribe(name, ack="client-individual", prefetch=50)
            await stack.enter_async_context(subscription)
            group.create_task(consume(subscription, book, f"{name} {number}", random.Random(f"{seed} {name} {number}")))


def client_of(proxy: Proxy, **options: Any) -> Client:
    return Client(
        proxy.url, **{"backoff": KEEN, "heart_beat": 0.5, "retry_first": True, "close_timeout": 30.0, **options}
    )


def stormy(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(main, "uvloop", within=LONG + 3 * rounds(0))


@pytest.mark.parametrize("idempotent", [True, False])
def test_every_confirmed_message_is_there_exactly_once_and_in_order(mortal: Mortal, idempotent: bool) -> None:
    """Without idempotency keys: at least once."""
    queues = [queue(), queue()]
    count = rounds(12 if idempotent else 6)

    async def main() -> None:
        book = Book()
        sent: dict[bytes, asyncio.Future[Receipt]] = {}
        over = asyncio.Event()

        async def post(client: Client, sender: int) -> None:
            pick = random.Random(f"{SEED} {sender}")
            number = 0
            while number < 1000 or not over.is_set():
                body = b"%d.%d" % (sender, number)
                sent[body] = await client.post(queues[sender % 2], body)
                number += 1
                if pick.random() < 0.01:
                    await asyncio.sleep(0.02)

        async with proxying(mortal.address, SEED) as proxy:
            storm = Storm(mortal, proxy, SEED)
            async with AsyncExitStack() as stack:
                await consumers(stack, proxy, book, queues, SEED)
                async with AsyncExitStack() as senders, asyncio.TaskGroup() as group:
                    for sender in range(4):
                        client = client_of(proxy, window=100, idempotent=idempotent)
                        group.create_task(post(await senders.enter_async_context(client), sender))
                    await storm.rage(count)
                    over.set()
                # Closing has waited for them.
                assert all(future.done() for future in sent.values())
                receipts = await asyncio.gather(*sent.values())
                await book.until(lambda: book.has(set(sent)))
            assert proxy.cuts >= count // 2
        assert book.deliveries.keys() == sent.keys()
        if idempotent:
            book.check_stored_once()
            book.check_order()
            ids = {body: receipt.message_id for body, receipt in zip(sent, receipts, strict=True)}
            assert all(book.deliveries[body][0][0] == id for body, id in ids.items())
        book.check_deliveries()

    stormy(main)


def test_each_transaction_is_what_it_said_it_is(mortal: Mortal) -> None:
    queues = [queue(), queue()]
    count = rounds(8)

    async def main() -> None:
        book = Book()
        fates: dict[bytes, str] = {}
        over = asyncio.Event()
        marks = {b"%d.0.0" % mark for mark in (8, 9)}

        def parts_of(book: Book) -> Counter[bytes]:
            return Counter(body.rpartition(b".")[0] for body in book.deliveries.keys() - marks)

        async def trade(client: Client, sender: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                name = b"%d.%d" % (sender, number)
                try:
                    async with client.transaction() as transaction:
                        for part in range(3):
                            await transaction.send(queues[part % 2], b"%b.%d" % (name, part))
                            await asyncio.sleep(0.001)
                    fates[name] = "there"
                except TransactionLost:
                    fates[name] = "not there"
                except OutcomeUnknown:
                    fates[name] = "unknown"

        async with proxying(mortal.address, SEED) as proxy:
            storm = Storm(mortal, proxy, SEED + 1)
            async with AsyncExitStack() as stack:
                await consumers(stack, proxy, book, queues, SEED)
                async with AsyncExitStack() as senders:
                    async with asyncio.TaskGroup() as group:
                        for sender in range(4):
                            group.create_task(trade(await senders.enter_async_context(client_of(proxy)), sender))
                        # Of both kinds, however slowly it goes.
                        await storm.rage(count, lambda: {"there", "not there"} <= set(fates.values()))
                        over.set()
                    client = await senders.enter_async_context(client_of(proxy))
                    for name, mark in zip(queues, sorted(marks), strict=True):
                        await client.send(name, mark)
                must = {b"%b.%d" % (name, part) for name, fate in fates.items() if fate == "there" for part in range(3)}
                await book.until(lambda: book.has(must | marks))
                # One that was cut off may be brought to its queues later, one after the other.
                await book.until(lambda: set(parts_of(book).values()) == {3})
        parts = parts_of(book)
        for name, fate in fates.items():
            assert parts.get(name, 0) in {"there": [3], "not there": [0], "unknown": [0, 3]}[fate], (name, fate)
        assert set(fates.values()) >= {"there", "not there"}
        book.check_stored_once()
        book.check_deliveries()

    stormy(main)


def test_requests_get_their_own_reply_or_are_told(mortal: Mortal) -> None:
    name = queue()
    count = rounds(6)

    async def main() -> None:
        over = asyncio.Event()
        fates: dict[str, int] = defaultdict(int)

        async def answer(message: Message) -> None:
            await message.reply(message.body[::-1])

        async def ask(client: Client, number: int) -> None:
            asked = 0
            while not over.is_set():
                asked += 1
                body = f"{number}.{asked}"
                try:
                    reply = await client.request(name, body, timeout=3)
                    assert reply.text == body[::-1]
                    fates["answered"] += 1
                except (OutcomeUnknown, TimeoutError) as error:
                    fates[type(error).__name__] += 1
                except BrokerError as error:
                    # The responder's, not this one's.
                    raise AssertionError(str(error)) from error

        async with proxying(mortal.address, SEED) as proxy, proxying(mortal.address, SEED + 1) as calm:
            storm = Storm(mortal, proxy, SEED + 2, kills=False)
            async with (
                client_of(calm) as responder,
                responder.subscribe(name, answer, ack="client-individual"),
                client_of(proxy) as client,
            ):
                async with asyncio.TaskGroup() as group:
                    for number in range(3):
                        group.create_task(ask(client, number))
                    await storm.rage(count, lambda: fates["OutcomeUnknown"] > 0 and fates["answered"] > 0)
                    over.set()
                # The storm's last cut may not have been noticed. What is confirmed since has gone another way.
                await client.send(f"{name}.calm", b"")
                reply = await client.request(name, "abc")
                assert reply.text == "cba"

    stormy(main)


def test_giving_up_in_the_storm_leaves_every_future_with_an_answer(mortal: Mortal) -> None:
    name = queue()

    async def main() -> None:
        async with proxying(mortal.address, SEED) as proxy:
            # More than a window: something goes through each time.
            proxy.cut_after = (60_000, 200_000)
            clients = [client_of(proxy, close_timeout=0.0, window=200) for _ in range(4)]
            futures: list[asyncio.Future[Receipt]] = []
            many = asyncio.Event()

            async def post(client: Client) -> None:
                while True:
                    futures.append(await client.post(name, b"x" * 100))
                    if len(futures) >= 4000:
                        many.set()

            for client in clients:
                await client.connect()
            posting = [asyncio.create_task(post(client)) for client in clients]
            await many.wait()
            assert proxy.cuts
            for client in clients:
                try:
                    await client.close()
                except ClientClosed:
                    continue
            async with asyncio.timeout(5):
                ends = await asyncio.gather(*posting, return_exceptions=True)
                results = await asyncio.gather(*futures, return_exceptions=True)
            assert all(isinstance(end, ClientClosed) for end in ends), ends
            assert {type(result) for result in results} <= {Receipt, ClientClosed}
            confirmed = sum(isinstance(result, Receipt) for result in results)
            assert confirmed >= len(results) - 4 * 200

        bodies = 0
        async with (
            Client(f"stomp://{mortal.address[0]}:{mortal.address[1]}") as client,
            client.subscribe(name, ack="client-individual", prefetch=500) as subscription,
        ):
            while bodies < confirmed:
                await (await anext(subscription)).ack()
                bodies += 1

    stormy(main)


def test_cancelling_in_the_storm_leaves_nothing(mortal: Mortal) -> None:
    pick = random.Random(SEED)
    name = queue()

    async def main() -> None:
        async with proxying(mortal.address, SEED) as proxy:
            proxy.cut_after = (500, 5_000)
            proxy.chop = 100

            async def consumed(client: Client) -> None:
                async with client.subscribe(name, ack="client-individual") as subscription:
                    async for message in subscription:
                        await message.ack(receipt=True)

            async def traded(client: Client) -> None:
                async with client.transaction() as transaction:
                    await transaction.send(name, b"1")

            async def connected(_: Client) -> None:
                async with client_of(proxy, close_timeout=0.1) as other:
                    await other.send(name, b"1")

            calls: list[Callable[[Client], Coroutine[Any, Any, Any]]] = [
                lambda client: client.send(name, b"1"),
                lambda client: client.send(name, b"1", receipt=False),
                lambda client: client.request(name, timeout=0.05),
                consumed,
                traded,
                connected,
            ]
            async with client_of(proxy, window=5) as client:
                for _ in range(rounds(20)):
                    tasks = [asyncio.create_task(pick.choice(calls)(client)) for _ in range(8)]
                    for task in tasks:
                        if pick.random() < 0.5:
                            await asyncio.sleep(pick.choice([0, 0.001, 0.005]))
                        task.cancel()
                    for result in await asyncio.gather(*tasks, return_exceptions=True):
                        if isinstance(result, BaseException) and not isinstance(
                            result, ClientError | asyncio.CancelledError | TimeoutError
                        ):
                            raise result
                proxy.cut_after = proxy.chop = None
                proxy.cut()
                async with asyncio.timeout(20):
                    await client.send(name, b"still there")

    stormy(main)
