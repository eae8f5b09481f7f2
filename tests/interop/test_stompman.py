"""stompman, an asyncio client of STOMP 1.2, against several workers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import stompman

from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import TIMEOUT
from tests.interop.conftest import BEAT_MS, BEATING
from tests.interop.stompman_client import stompman_on

Topic = Callable[[], str]


def test_every_worker_reaches_every_worker_in_order(cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        name = topic()
        async with AsyncExitStack() as stack:
            men = [
                await stack.enter_async_context(stompman_on(cluster.address, slot)) for slot in range(cluster.workers)
            ]
            subscriptions = [await man.subscribe(name) for man in men]
            for number in range(50):
                for slot, man in enumerate(men):
                    await man.client.send(b"%d %d" % (slot, number), name)
            for man in men:
                bodies = await man.received(50 * len(men))
                for slot in range(len(men)):
                    mine = [body for body in bodies if body.startswith(b"%d " % slot)]
                    assert mine == [b"%d %d" % (slot, number) for number in range(50)]
            for subscription in subscriptions:
                await subscription.unsubscribe()

    asyncio.run(run())


def test_unsubscribe_ends_the_subscription(cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        name = topic()
        async with stompman_on(cluster.address, 0) as subscriber, stompman_on(cluster.address, 1) as publisher:
            first = await subscriber.subscribe(name)
            await publisher.send(b"one", name)
            await subscriber.received(1)
            await first.unsubscribe()
            # This RECEIPT says that the UNSUBSCRIBE before it was processed.
            other = await subscriber.subscribe(f"{name}.other")
            await publisher.send(b"two", name)
            await publisher.send(b"three", f"{name}.other")
            assert await subscriber.received(2) == [b"one", b"three"]
            await other.unsubscribe()

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["client", "client-individual"])
def test_acknowledgements_by_hand(mode: stompman.AckMode, cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        name = topic()
        async with stompman_on(cluster.address, 0) as subscriber, stompman_on(cluster.address, 1) as publisher:
            subscription = await subscriber.client.subscribe_with_manual_ack(
                name, subscriber.take, ack=mode, receipt_timeout=TIMEOUT
            )
            for number in range(6):
                await publisher.client.send(b"%d" % number, name)
            await subscriber.received(6)
            messages = subscriber.messages
            # Cumulative in mode `client`: the third settles the first two as well.
            for position, message in enumerate([messages[2], messages[5]] if mode == "client" else messages):
                await (message.nack() if position % 2 else message.ack())
            # This RECEIPT says that all of them were taken.
            await subscriber.send(b"", f"{name}.nobody")
            assert not subscriber.errors
            # Naming any of them once more is an error, and the end of that connection.
            await messages[0].ack()
            await subscriber.until(lambda: bool(subscriber.errors))
            assert subscriber.errors[0].headers["error-code"] == "unknown-message"
            await subscription.unsubscribe()

    asyncio.run(run())


def test_acknowledgements_by_the_client_itself(cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        name = topic()
        async with stompman_on(cluster.address, 0) as subscriber, stompman_on(cluster.address, 1) as publisher:

            async def handle(message: stompman.MessageFrame) -> None:
                await subscriber.take(message)
                if message.body == b"1":
                    raise ValueError("stompman answers this with NACK")

            subscription = await subscriber.subscribe(name, "client-individual", handle)
            for number in range(4):
                await publisher.client.send(b"%d" % number, name)
            await subscriber.received(4)
            await subscriber.send(b"", f"{name}.nobody")
            assert not subscriber.errors
            await subscription.unsubscribe()

    asyncio.run(run())


def test_transactions(cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        name = topic()
        async with stompman_on(cluster.address, 0) as subscriber, stompman_on(cluster.address, 1) as publisher:
            subscription = await subscriber.subscribe(name)
            async with publisher.client.begin() as kept:
                for number in range(3):
                    await kept.send(b"kept %d" % number, name)
                await publisher.send(b"outside", name)
                assert await subscriber.received(1) == [b"outside"]
            with pytest.raises(ZeroDivisionError):
                async with publisher.client.begin() as dropped:
                    await dropped.send(b"dropped", name)
                    raise ZeroDivisionError
            await publisher.send(b"last", name)
            assert await subscriber.received(5) == [b"outside", b"kept 0", b"kept 1", b"kept 2", b"last"]
            await subscription.unsubscribe()

    asyncio.run(run())


def test_heart_beats_keep_an_idle_connection(cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        beats = stompman.Heartbeat(BEAT_MS, BEAT_MS)
        async with stompman_on(cluster.addresses[BEATING], 0, heartbeat=beats) as man:
            name = topic()
            subscription = await man.subscribe(name)
            # Five beats in a row: far longer than either side tolerates silence (two and three intervals).
            await man.until(lambda: len(man.read(stompman.HeartbeatFrame)) >= 5)
            await man.send(b"still here", name)
            assert await man.received(1) == [b"still here"]
            assert len(man.read(stompman.ConnectedFrame)) == 1 and not man.errors
            await subscription.unsubscribe()

    asyncio.run(run())


def test_errors_reach_the_client(cluster: Broker) -> None:
    async def run() -> None:
        async with stompman_on(cluster.address, 1) as man:
            with pytest.raises(stompman.SendReceiptError) as caught:
                await man.send(b"to nowhere", "")
            assert caught.value.reason == "rejected"
            assert caught.value.frame is not None
            assert caught.value.frame.headers["error-code"] == "missing-header"
        # A client of its own: the one above may still be finding out that it was disconnected.
        async with stompman_on(cluster.address, 1) as man:
            with pytest.raises(stompman.SubscriptionError) as refused:
                await man.subscribe("")
            assert refused.value.reason == "rejected"

    asyncio.run(run())


# stompman leaves out carriage returns by itself.
AWKWARD = {
    "colons": "http://a:b@c:1/::",
    "backslashes": "C:\\new\\c\\\\d",
    "breaks": "one\ntwo\n\nthree",
    "emoji": "🐂🐎 stampede 💨",
    "blanks": "  around  ",
    "na:me\\": "escaped as well",
    "😀": "in a name",
}


def test_awkward_headers_survive(cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        name = topic()
        async with stompman_on(cluster.address, 1) as subscriber, stompman_on(cluster.address, 0) as publisher:
            subscription = await subscriber.subscribe(name)
            await publisher.send("🐂".encode(), name, headers=AWKWARD)
            await subscriber.received(1)
            headers = subscriber.messages[0].headers
            assert {key: headers.get(key) for key in AWKWARD} == AWKWARD
            await subscription.unsubscribe()

    asyncio.run(run())


def test_binary_and_large_bodies(cluster: Broker, topic: Topic) -> None:
    async def run() -> None:
        name = topic()
        async with stompman_on(cluster.address, 0) as subscriber, stompman_on(cluster.address, 1) as publisher:
            subscription = await subscriber.subscribe(name)
            bodies = [bytes(range(256)), b"\0", b"\0\0\n\n\0", b"\n\nMESSAGE\n\n\0", b"\xff\xfe\xfd"]
            bodies += [random.Random(size).randbytes(size) for size in (1 << 16, 2 << 20)]
            for body in bodies:
                await publisher.send(body, name)
            assert await subscriber.received(len(bodies)) == bodies
            await subscription.unsubscribe()

    asyncio.run(run())


def test_reconnects_and_subscribes_again_after_the_worker_was_killed(start_broker: StartBroker, topic: Topic) -> None:
    broker = start_broker(workers=2)

    async def run() -> None:
        name = topic()
        # No pause before it connects again: the killed worker's clients find the survivor, or wait for the successor.
        async with (
            stompman_on(broker.address, 1, connect_retry_interval=0, connect_timeout=10) as subscriber,
            stompman_on(broker.address, 0) as publisher,
        ):
            subscription = await subscriber.subscribe(name)
            await publisher.send(b"before", name)
            await subscriber.received(1)
            receipts = len(subscriber.read(stompman.ReceiptFrame))
            os.kill(broker.worker_pids()[1], signal.SIGKILL)
            await subscriber.until(lambda: len(subscriber.read(stompman.ReceiptFrame)) > receipts)
            assert len(subscriber.read(stompman.ConnectedFrame)) == 2
            await publisher.send(b"after", name)
            assert await subscriber.received(2) == [b"before", b"after"]
            await subscription.unsubscribe()

    asyncio.run(run())
