"""Receiving by `Client`: modes of acknowledgement, callbacks, kinds of subscriptions, request and reply."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from itertools import chain, product
from typing import Any

import pytest

from common.client import AlreadySettled, BrokerError, ClientError, Message
from tests.client.shared import on, queue, received
from tests.harness.broker import Broker
from tests.harness.wire import TIMEOUT


async def fill(client: Any, name: str, count: int) -> None:
    for future in [await client.post(name, b"%d" % number) for number in range(count)]:
        await future


def test_a_subscription_is_made_when_entered_and_gone_when_left(broker: Broker) -> None:
    async def run() -> None:
        topic = f"/topic/{secrets.token_hex(4)}"
        async with on(broker) as client, on(broker) as other:
            subscription = client.subscribe(topic)
            with pytest.raises(ClientError, match="not started"):
                await anext(subscription)
            async with subscription:
                assert (await other.send(topic, b"heard")).routed == 1
                assert (await anext(subscription)).body == b"heard"
            assert (await other.send(topic, b"missed")).routed == 0
            with pytest.raises(StopAsyncIteration):
                await anext(subscription)
            with pytest.raises(ClientError, match="started before"):
                await subscription.start()

    asyncio.run(run())


def test_auto_settles_by_itself(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            await fill(client, name, 3)
            async with client.subscribe(name) as subscription:
                messages = [await anext(subscription) for _ in range(3)]
                assert [message.body for message in messages] == [b"0", b"1", b"2"]
                assert all(message.settled for message in messages)
                with pytest.raises(AlreadySettled, match="ack:auto"):
                    await messages[0].ack()

    asyncio.run(run())


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_client_mode_settles_all_before(broker: Broker, version: str) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker, accept_version=version) as client:
            assert client.version == version
            await fill(client, name, 5)
            async with client.subscribe(name, ack="client") as subscription:
                messages = [await anext(subscription) for _ in range(5)]
                await messages[2].ack(receipt=True)
                assert [message.settled for message in messages] == [True, True, True, False, False]
                with pytest.raises(AlreadySettled, match="had an ACK"):
                    await messages[1].ack()
            left = await received(client, name, 2) if version != "1.0" else []
            if left:
                assert [(message.body, message.redelivered, message.delivery_count) for message in left] == [
                    (b"3", True, 2),
                    (b"4", True, 2),
                ]

    asyncio.run(run())


def test_what_a_later_ack_took_along_stays_settled_when_a_transaction_is_undone(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            await fill(client, name, 3)
            async with client.subscribe(name, ack="client") as subscription:
                first, second, third = [await anext(subscription) for _ in range(3)]
                transaction = client.transaction()
                await transaction.begin()
                await second.ack(transaction=transaction)
                await third.ack(receipt=True)
                await transaction.abort()
                assert [message.settled for message in (first, second, third)] == [True] * 3
                with pytest.raises(AlreadySettled):
                    await third.ack()

    asyncio.run(run())


def test_a_nack_brings_it_again_or_buries_it(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            await client.send(name, b"sad")
            async with client.subscribe(name, ack="client-individual") as subscription:
                first = await anext(subscription)
                assert (first.redelivered, first.delivery_count) == (False, 1)
                await first.nack(delay=0.01)
                again = await anext(subscription)
                assert (again.id, again.redelivered, again.delivery_count) == (first.id, True, 2)
                await again.nack(requeue=False, reason="beyond help", receipt=True)
            dead = f"/queue/dlq.{name.removeprefix('/queue/')}"
            [buried] = await received(client, dead, 1)
            assert (buried.body, buried.get("dlq-detail")) == (b"sad", "beyond help")

    asyncio.run(run())


def test_a_transaction_takes_what_a_nack_asks_for(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            await client.send(name, b"sad")
            async with (
                client.subscribe(name, ack="client-individual") as subscription,
                client.transaction() as transaction,
            ):
                await transaction.nack(await anext(subscription), requeue=False, reason="beyond help")
            [buried] = await received(client, f"/queue/dlq.{name.removeprefix('/queue/')}", 1)
            assert (buried.body, buried.get("dlq-detail")) == (b"sad", "beyond help")

    asyncio.run(run())


def test_prefetch_bounds_what_is_unsettled(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            await fill(client, name, 4)
            async with client.subscribe(name, ack="client-individual", prefetch=2) as subscription:
                first = await anext(subscription)
                await anext(subscription)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await anext(subscription)
                await first.ack()
                assert (await anext(subscription)).body == b"2"

    asyncio.run(run())


def test_a_callback_settles_by_how_it_ends(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        seen: list[tuple[bytes, int]] = []
        done = asyncio.Event()
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

        async def handle(message: Message) -> None:
            seen.append((message.body, message.delivery_count))
            if message.body == b"1" and message.delivery_count == 1:
                raise ValueError("not yet")
            if message.body == b"2":
                await message.ack()
            if len(seen) == 5:
                done.set()

        async with on(broker) as client:
            await fill(client, name, 4)
            async with client.subscribe(name, handle, ack="client-individual", prefetch=1), asyncio.timeout(TIMEOUT):
                await done.wait()
                # The last is settled after it has returned: a NACK would bring it again.
                await asyncio.sleep(0)
            assert sorted(seen) == [(b"0", 1), (b"1", 1), (b"1", 2), (b"2", 1), (b"3", 1)]
            await client.send(name, b"end")
            assert [message.body for message in await received(client, name, 1)] == [b"end"]
        [report] = reports
        assert isinstance(report["exception"], ValueError)

    asyncio.run(run())


def test_each_message_goes_to_its_own_subscription(broker: Broker) -> None:
    async def run() -> None:
        async with on(broker) as client, AsyncExitStack() as stack:
            made: list[Any] = []
            for id in ("1", "11", "1:1", "1\nb:1", "1\\n1"):
                made.append(await stack.enter_async_context(client.subscribe(queue(), id=id)))
            for _ in range(2):
                for first, second in product(made, made):
                    # In one read, perhaps.
                    await asyncio.gather(client.send(first.destination, b"a"), client.send(second.destination, b"b"))
                    for subscription, body in ((first, b"a"), (second, b"b")):
                        message = await anext(subscription)
                        assert message.destination == subscription.destination
                        assert first is second or message.body == body

    asyncio.run(run())


def test_an_id_that_is_used_again_is_the_new_subscriptions(broker: Broker) -> None:
    async def run() -> None:
        async with on(broker) as client:
            for _ in range(3):
                async with client.subscribe(queue(), id="same") as subscription:
                    await client.send(subscription.destination, b"here")
                    assert (await anext(subscription)).destination == subscription.destination

    asyncio.run(run())


def test_several_tasks_share_a_subscription(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        shares: list[list[bytes]] = [[], [], []]

        async def work(subscription: Any, share: list[bytes]) -> None:
            async for message in subscription:
                share.append(message.body)
                await message.ack(receipt=True)
                if message.body == b"last":
                    await subscription.stop()

        async with (
            on(broker) as client,
            client.subscribe(name, ack="client-individual", prefetch=3) as subscription,
            asyncio.timeout(TIMEOUT),
        ):
            tasks = [asyncio.create_task(work(subscription, share)) for share in shares]
            await fill(client, name, 30)
            await client.send(name, b"last")
            await asyncio.gather(*tasks)
        assert sorted(chain(*shares)) == sorted([*(b"%d" % number for number in range(30)), b"last"])
        assert all(shares)

    asyncio.run(run())


def test_browsing_ends_by_itself_and_takes_nothing(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            await fill(client, name, 250)
            async with client.subscribe(name, browse=True) as subscription, asyncio.timeout(TIMEOUT):
                assert [message.body async for message in subscription] == [b"%d" % number for number in range(250)]
            assert len(await received(client, name, 250)) == 250

    asyncio.run(run())


def test_a_durable_subscription_goes_on_until_it_is_ended(broker: Broker) -> None:
    async def run() -> None:
        topic, name = f"/topic/{secrets.token_hex(4)}", secrets.token_hex(4)
        async with on(broker) as client:
            async with client.subscribe(topic, durable=name):
                pass
            assert (await client.send(topic, b"kept")).routed == 1
            async with client.subscribe(topic, durable=name, ack="client-individual") as subscription:
                assert (await anext(subscription)).body == b"kept"
            await client.end_durable(name)
            assert (await client.send(topic, b"missed")).routed == 0

    asyncio.run(run())


def test_shared_and_selected(broker: Broker) -> None:
    async def run() -> None:
        topic = f"/topic/{secrets.token_hex(4)}"
        async with (
            on(broker) as client,
            client.subscribe(topic, shared=True, ack="client-individual") as one,
            client.subscribe(topic, shared=True, ack="client-individual") as two,
            client.subscribe(topic, selector="color = 'blue'") as blue,
            asyncio.timeout(TIMEOUT),
        ):
            for number in range(10):
                await client.send(topic, b"%d" % number, headers={"color": "blue" if number == 7 else "red"})
            assert (await anext(blue)).body == b"7"
            bodies = [(await anext(each)).body for each in (one, two) for _ in range(5)]
            assert sorted(bodies) == [b"%d" % number for number in range(10)]

    asyncio.run(run())


def test_a_subscription_that_is_refused_says_why_and_harms_no_other(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client, client.subscribe(name, ack="client-individual") as good:
            with pytest.raises(BrokerError, match="selector"):
                async with client.subscribe(name, selector="this is none"):
                    raise AssertionError("it was entered")
            await client.send(name, b"still here")
            async with asyncio.timeout(TIMEOUT):
                assert (await anext(good)).body == b"still here"

    asyncio.run(run())


def test_requests_get_their_own_replies(broker: Broker) -> None:
    async def run() -> None:
        name = queue()

        async def answer(message: Message) -> None:
            if message.body != b"no answer":
                # Later ones first.
                await asyncio.sleep((5 - int(message.text)) * 0.01)
                await message.reply(f"re {message.text}", receipt=False)

        async with on(broker) as server, on(broker) as client:
            async with server.subscribe(name) as asked:

                async def serve() -> None:
                    async with asyncio.TaskGroup() as group:
                        async for message in asked:
                            group.create_task(answer(message))

                serving = asyncio.create_task(serve())
                replies = await asyncio.gather(*(client.request(name, str(number)) for number in range(5)))
                assert [reply.text for reply in replies] == [f"re {number}" for number in range(5)]
                with pytest.raises(TimeoutError):
                    await client.request(name, b"no answer", timeout=0.1)
                with pytest.raises(BrokerError):
                    await client.request(name, b"", headers={"priority": "99"})
                assert (await client.request(name, "4")).text == "re 4"
            await serving
            assert not client._requests._waiting

    asyncio.run(run())


def test_one_message_at_a_time_and_what_did_not_come(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            async with client.subscribe(name, ack="client-individual", prefetch=1) as subscription:
                await client.send(name, b"1")
                message = await subscription.get(timeout=TIMEOUT)
                assert message.body == b"1"
                with pytest.raises(TimeoutError, match=f"no message from {name} within 0.05 s"):
                    await subscription.get(timeout=0.05)
                await message.ack()
                await client.send(name, b"2")
                await (await subscription.get()).ack(receipt=True)
            with pytest.raises(IndexError, match="no more messages"):
                await subscription.get(timeout=TIMEOUT)
            async with client.subscribe(name, browse=True) as nothing:
                with pytest.raises(IndexError, match="no more messages"):
                    await nothing.get(timeout=TIMEOUT)
            with pytest.raises(TimeoutError, match=f"no reply within 0.05 s for a request to {name}"):
                await client.request(name, timeout=0.05)

    asyncio.run(run())


def test_a_slow_reader_of_much_waits_for_its_receipt_all_the_same(broker: Broker) -> None:
    async def run() -> None:
        topic = f"/topic/{secrets.token_hex(4)}"
        async with (
            on(broker, buffer_bytes=50_000) as client,
            on(broker) as publisher,
            client.subscribe(topic) as subscription,
        ):
            futures = [await publisher.post(topic, b"%6d" % number + bytes(1000)) for number in range(500)]
            for number in range(500):
                async with asyncio.timeout(TIMEOUT):
                    assert (await anext(subscription)).body.startswith(b"%6d" % number)
                    if number % 50 == 0:
                        await client.send(f"{topic}.done", b"")
            await asyncio.gather(*futures)

    asyncio.run(run())


def test_a_callback_may_be_a_plain_function(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        seen: list[tuple[bytes, int]] = []
        done = asyncio.Event()

        def handle(message: Message) -> None:
            seen.append((message.body, message.delivery_count))
            if len(seen) == 3:
                done.set()
            if message.body == b"1" and message.delivery_count == 1:
                raise ValueError("not yet")

        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with on(broker) as client:
            await fill(client, name, 2)
            async with client.subscribe(name, handle, ack="client-individual", prefetch=1), asyncio.timeout(TIMEOUT):
                await done.wait()
                await asyncio.sleep(0)
            await client.send(name, b"end")
            assert [message.body for message in await received(client, name, 1)] == [b"end"]
        assert sorted(seen) == [(b"0", 1), (b"1", 1), (b"1", 2)]

    asyncio.run(run())
