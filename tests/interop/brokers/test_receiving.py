"""`Client` and RabbitMQ or ActiveMQ: acknowledgement, prefetch, and the kinds of subscriptions."""

from __future__ import annotations

import secrets

import pytest

from common.client import AlreadySettled, BrokerError, ClientError, Message
from tests.interop.brokers.rivals import Rival
from tests.interop.brokers.shared import DISK, bodies, fill, queue, running, take, topic


def test_auto_takes_all(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client:
            await fill(client, name, 3)
            async with client.subscribe(name) as subscription:
                found = await take(subscription, 3)
                with pytest.raises(AlreadySettled):
                    await found[0].ack()
        async with rival.client() as client:
            await client.send(name, b"last")
            assert await bodies(client, name, 1) == [b"last"]

    running(run)


def test_client_settles_all_before(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client:
            await fill(client, name, 5)
            async with client.subscribe(name, ack="client") as subscription:
                found = await take(subscription, 5)
                assert not any(message.redelivered for message in found)
                await found[2].ack(receipt=True)
                assert [message.settled for message in found] == [True, True, True, False, False]
        async with rival.client() as client, client.subscribe(name, ack="client") as subscription:
            found = await take(subscription, 2)
            assert [message.body for message in found] == [b"3", b"4"]
            assert all(message.redelivered for message in found)
            await found[-1].ack(receipt=True)

    running(run)


def test_client_individual_settles_one(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client:
            await fill(client, name, 5)
            async with client.subscribe(name, ack="client-individual") as subscription:
                found = await take(subscription, 5)
                await found[3].ack(receipt=True)
                await found[1].ack(receipt=True)
        async with rival.client() as client:
            assert await bodies(client, name, 3) == [b"0", b"2", b"4"]
            await client.send(name, b"last")
            assert await bodies(client, name, 1) == [b"last"]

    running(run)


@pytest.mark.parametrize("ack", ["client", "client-individual"])
def test_prefetch_bounds_what_a_client_holds(ack: str, rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with (
            rival.client() as slow,
            rival.client() as quick,
            slow.subscribe(name, ack=ack, prefetch=2) as held,
            quick.subscribe(name, ack="client-individual", prefetch=100) as free,
        ):
            await fill(quick, name, 10)
            # All that the slow one is not given: without a bound it would be half of them.
            others = [int(message.body) for message in await take(free, 8)]
            mine = await take(held, 2)
            assert sorted(others + [int(message.body) for message in mine]) == list(range(10))
            await mine[-1].ack()
            if ack == "client-individual":
                await mine[0].ack()
            await quick.send(name, b"10")
            await quick.send(name, b"11")

    running(run)


def test_no_prefetch_is_as_many_as_there_are(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client, client.subscribe(name, ack="client", prefetch=0) as subscription:
            await fill(client, name, 300)
            found = await take(subscription, 300)
            await found[-1].ack(receipt=True)

    running(run)


def test_a_callback_settles_what_it_is_given(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        found: list[bytes] = []

        async def heard(message: Message) -> None:
            found.append(message.body)
            if len(found) == 3:
                await client.send(f"{name}.done")

        async with rival.client() as client:
            done = client.subscribe(f"{name}.done")
            async with done, client.subscribe(name, heard, ack="client-individual", prefetch=1):
                await fill(client, name, 3)
                await anext(done)
        assert found == [b"0", b"1", b"2"]

    running(run)


# --- NACK


@pytest.mark.parametrize("ack", ["client", "client-individual"])
def test_nack_gives_back_to_the_queue_of_rabbitmq(ack: str, rabbitmq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rabbitmq.client() as client, client.subscribe(name, ack=ack) as subscription:
            await client.send(name, b"again")
            first = await anext(subscription)
            await first.nack()
            second = await anext(subscription)
            assert (first.redelivered, second.redelivered) == (False, True)
            assert second.body == b"again"
            await second.ack(receipt=True)

    running(run)


def test_nack_without_requeue_drops_from_rabbitmq(rabbitmq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rabbitmq.client() as client, client.subscribe(name, ack="client-individual") as subscription:
            await client.send(name, b"dropped")
            await (await anext(subscription)).nack(requeue=False)
            await client.send(name, b"last")
            message = await anext(subscription)
            assert message.body == b"last"
            await message.ack(receipt=True)

    running(run)


@pytest.mark.parametrize("ack", ["client", "client-individual"])
def test_nack_makes_a_dead_letter_of_activemq(ack: str, activemq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with activemq.client() as client, client.subscribe("/queue/ActiveMQ.DLQ") as dead:
            async with client.subscribe(name, ack=ack) as subscription:
                await client.send(name, b"failed", headers=DISK)
                await (await anext(subscription)).nack()
                letter = await anext(dead)
            assert letter.body == b"failed"
            assert letter.get("original-destination") == name

    running(run)


# --- what ends before everything is settled


def test_what_is_not_settled_comes_again(rival: Rival) -> None:
    """From ActiveMQ when its subscription ends, from RabbitMQ when the connection does."""

    async def run() -> None:
        name = queue()
        async with rival.client() as client:
            await fill(client, name, 4)
            async with client.subscribe(name, ack="client-individual", prefetch=4) as subscription:
                # The other two wait to be taken.
                await take(subscription, 2)
            if rival.name == "ActiveMQ":
                assert sorted(await bodies(client, name, 4)) == [b"0", b"1", b"2", b"3"]
        if rival.name == "RabbitMQ":
            async with rival.client() as client:
                assert sorted(await bodies(client, name, 4)) == [b"0", b"1", b"2", b"3"]

    running(run)


# --- kinds of subscriptions


def test_selectors_of_activemq(activemq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with activemq.client() as client:
            for color in ("red", "green", "red"):
                await client.send(name, color, headers={"color": color})
            async with client.subscribe(name, selector="color = 'green'") as green:
                assert (await anext(green)).text == "green"
            assert await bodies(client, name, 2) == [b"red", b"red"]

    running(run)


def test_browsing_of_activemq(activemq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with activemq.client() as client:
            await fill(client, name, 3)
            async with client.subscribe(name, browse=True) as subscription:
                assert [message.body async for message in subscription] == [b"0", b"1", b"2"]
            assert await bodies(client, name, 3) == [b"0", b"1", b"2"]

    running(run)


def test_rabbitmq_is_not_asked_to_browse(rabbitmq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rabbitmq.client() as client:
            await fill(client, name, 1)
            with pytest.raises(ClientError, match="RabbitMQ cannot browse"):
                await client.subscribe(name, browse=True).start()
            assert await bodies(client, name, 1) == [b"0"]

    running(run)


# RabbitMQ has to be told that the queue of a durable subscription stays when its consumer leaves.
STAYS = {"auto-delete": "false"}


def test_durable_subscriptions_keep_what_comes_meanwhile(rival: Rival) -> None:
    async def run() -> None:
        name = topic()
        own = secrets.token_hex(4)

        async def subscribed(durable: str, expected: list[bytes]) -> None:
            async with (
                rival.client(client_id=f"{durable}-{own}") as client,
                client.subscribe(name, ack="client", durable=durable, headers=STAYS) as subscription,
            ):
                for message in await take(subscription, len(expected)):
                    assert message.body == expected.pop(0)
                    await message.ack(receipt=True)

        async with rival.client() as publisher:
            for durable in ("one", "two"):
                await subscribed(durable, [])
            await publisher.send(name, b"first", headers=DISK)
            await subscribed("one", [b"first"])
            await publisher.send(name, b"second", headers=DISK)
            await subscribed("one", [b"second"])
            await subscribed("two", [b"first", b"second"])

    running(run)


def test_the_end_of_a_durable_subscription_to_activemq(activemq: Rival) -> None:
    async def run() -> None:
        name = topic()
        async with activemq.client(client_id=secrets.token_hex(4)) as client:
            async with client.subscribe(name, durable="ending"):
                pass
            await client.send(name, b"held", headers=DISK)
            await client.end_durable("ending")
            async with client.subscribe(name, durable="ending") as subscription:
                await client.send(name, b"fresh", headers=DISK)
                assert (await anext(subscription)).body == b"fresh"
            await client.end_durable("ending")

    running(run)


def test_rabbitmq_ends_no_durable_subscription_that_is_not_there(rabbitmq: Rival) -> None:
    async def run() -> None:
        name = topic()
        async with rabbitmq.client() as client:
            async with client.subscribe(name, durable=name, headers=STAYS):
                pass
            with pytest.raises(BrokerError, match="No subscription found"):
                await client.end_durable(name)

    running(run)
