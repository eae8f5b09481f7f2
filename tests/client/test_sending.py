"""Sending by `Client`: receipts, the window, bodies and headers, transactions, and what the broker refuses."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest

from common.client import (
    AlreadySettled,
    BrokerError,
    Client,
    ClientError,
    Connected,
    Disconnected,
    Refused,
    TransactionLost,
)
from tests.client.shared import on, queue, received
from tests.harness.broker import Broker


def test_a_send_returns_the_receipt(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            receipt = await client.send(name, b"one")
            assert receipt is not None
            [message] = await received(client, name, 1)
            assert (receipt.message_id, receipt.routed, receipt.duplicate) == (message.id, 1, False)
            assert (await client.send(f"/topic{name}", b"")).routed == 0

    asyncio.run(run())


def test_the_same_key_is_stored_once(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            first = await client.send(name, b"one", idempotency_key="k")
            again = await client.send(name, b"one", idempotency_key="k")
            assert (again.duplicate, again.message_id) == (True, first.message_id)
            await client.send(name, b"two")
            assert [message.body for message in await received(client, name, 2)] == [b"one", b"two"]

    asyncio.run(run())


def test_every_send_with_a_receipt_has_a_key_of_its_own_unless_told_otherwise(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client, on(broker, idempotent=False) as other:
            await client.send(name)
            await client.send(name)
            await other.send(name)
            await client.send(name, receipt=False)
            keys = [message.get("idempotency-key") for message in await received(client, name, 4)]
            assert keys[0] and keys[1] and keys[0] != keys[1]
            assert keys[2:] == [None, None]

    asyncio.run(run())


def test_posts_go_out_in_order_with_a_window_of_them_unconfirmed(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker, window=10) as client:
            futures = []
            for number in range(500):
                futures.append(await client.post(name, b"%d" % number))
                assert sum(not future.done() for future in futures) <= 10
            receipts = await asyncio.gather(*futures)
            messages = await received(client, name, 500)
            assert [message.body for message in messages] == [b"%d" % number for number in range(500)]
            assert [message.id for message in messages] == [receipt.message_id for receipt in receipts]

    asyncio.run(run())


def test_the_window_counts_bytes_too_and_always_takes_one(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker, window_bytes=10_000) as client:
            futures = []
            for _ in range(20):
                futures.append(await client.post(name, bytes(8_000)))
                assert sum(not future.done() for future in futures) <= 2
            await client.send(name, bytes(50_000))
            assert all(future.done() for future in futures)
            assert len((await received(client, name, 21))[-1].body) == 50_000

    asyncio.run(run())


def test_leaving_waits_for_what_was_posted(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            futures = [await client.post(name, b"%d" % number) for number in range(300)]
        assert all(future.done() and future.result().message_id for future in futures)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "content_type", "wire", "told"),
    [
        (b"\0\xff\n", None, b"\0\xff\n", None),
        (bytearray(b"ab"), "x/y", b"ab", "x/y"),
        ("käse", None, "käse".encode(), "text/plain;charset=utf-8"),
        ("käse", "text/plain; charset=latin-1", b"k\xe4se", "text/plain; charset=latin-1"),
        ({"a": ["ä", 1]}, None, '{"a":["ä",1]}'.encode(), "application/json"),
        ([1, None], "application/x+json", b"[1,null]", "application/x+json"),
        ("", None, b"", "text/plain;charset=utf-8"),
    ],
)
def test_bodies_arrive_as_they_are_meant(
    broker: Broker, body: Any, content_type: str | None, wire: bytes, told: str | None
) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            await client.send(name, body, content_type=content_type)
            [message] = await received(client, name, 1)
            assert (message.body, message.content_type) == (wire, told)
            if isinstance(body, str):
                assert message.text == body
            if isinstance(body, dict | list):
                assert message.json() == body

    asyncio.run(run())


def test_headers_arrive_as_they_were(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        pairs = [("with:colon", "a:b\\c"), ("line", "one\ntwo\rthree"), ("twice", "first"), ("twice", "second")]
        async with on(broker) as client:
            await client.send(name, headers=pairs)
            [message] = await received(client, name, 1)
            assert [pair for pair in message.frame.headers if pair[0] in dict(pairs)] == pairs
            assert (message.get("twice"), message.headers["twice"]) == ("first", "first")
            assert message.get("none") is None

    asyncio.run(run())


def test_mistakes_of_the_caller_are_told_at_once_and_cost_no_connection(broker: Broker) -> None:
    async def run() -> None:
        async with on(broker) as client:
            session = client.session
            with pytest.raises(TypeError, match="int"):
                await client.send("/queue/x", 3)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="'persistent' was False"):
                await client.send("/queue/x", headers={"persistent": False})  # type: ignore[dict-item]
            with pytest.raises(ValueError, match="'receipt'"):
                await client.send("/queue/x", headers={"receipt": "1"})
            with pytest.raises(ValueError, match="ack was 'none'"):
                client.subscribe("/queue/x", ack="none")
            for options in ({}, {"ack": "auto"}, {"browse": True}):
                with pytest.raises(ValueError, match=r"prefetch was 0 with ack='auto'.*use ack='client-individual'"):
                    client.subscribe("/queue/x", prefetch=0, **options)
            with pytest.raises(ValueError, match="charset"):
                await client.send("/queue/x", "text", content_type="text/plain;charset=klingon")
            assert client.session == session

    asyncio.run(run())


def test_a_send_that_is_refused_raises_and_the_others_go_through(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        events: list[object] = []
        async with on(broker, on_event=events.append) as client:
            before = [await client.post(name, b"%d" % number) for number in range(20)]
            bad = await client.post(name, b"bad", headers={"priority": "99"})
            after = [await client.post(name, b"%d" % number) for number in range(20, 40)]
            with pytest.raises(BrokerError, match="priority was '99'") as refused:
                await bad
            assert refused.value.code == "bad-value"
            await asyncio.gather(*before, *after)
            bodies = [message.body for message in await received(client, name, 40)]
            assert bodies == [b"%d" % number for number in range(40)]
            kinds = [type(event) for event in events]
            assert kinds == [Connected, Refused, Disconnected, Connected]

    asyncio.run(run())


def test_a_transaction_happens_as_a_whole_or_not_at_all(broker: Broker) -> None:
    async def run() -> None:
        name, other = queue(), queue()
        async with on(broker) as client:
            await client.send(name, b"order")
            async with client.subscribe(name, ack="client-individual") as subscription:
                message = await anext(subscription)
                with pytest.raises(RuntimeError, match="my own"):
                    async with client.transaction() as transaction:
                        await transaction.send(other, b"no")
                        await transaction.ack(message)
                        assert message.settled
                        raise RuntimeError("my own")
                # What was acknowledged in it is not.
                assert not message.settled
                async with client.transaction() as transaction:
                    await transaction.send(other, b"yes")
                    await message.ack(transaction=transaction)
                assert transaction.receipt is not None
                with pytest.raises(AlreadySettled):
                    await message.ack()
            assert [message.body for message in await received(client, other, 1)] == [b"yes"]
            await client.send(name, b"next")
            assert [message.body for message in await received(client, name, 1)] == [b"next"]

    asyncio.run(run())


def test_a_transaction_that_is_refused_or_over_says_so(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client:
            transaction = client.transaction()
            with pytest.raises(ClientError, match="not open"):
                await transaction.send(name, b"")
            await transaction.begin()
            await transaction.commit()
            with pytest.raises(ClientError, match="not open"):
                await transaction.send(name, b"")
            lost = client.transaction()
            await lost.begin()
            await lost.send(name, b"1")
            with pytest.raises(BrokerError):
                await client.send(name, headers={"priority": "99"})
            with pytest.raises(TransactionLost, match=r"undone: .*priority"):
                await lost.send(name, b"2")
            with pytest.raises(TransactionLost):
                await lost.commit()
            await client.send(name, b"only")
            assert [message.body for message in await received(client, name, 1)] == [b"only"]

    asyncio.run(run())


def test_a_client_is_for_one_life(broker: Broker) -> None:
    async def run() -> None:
        client = on(broker)
        with pytest.raises(ClientError, match="not connected"):
            await client.send("/queue/x")
        assert (client.connected, client.session, client.server, client.version) == (False, None, None, None)
        async with client:
            assert client.connected
            assert client.session
            assert (client.server or "").startswith("stampede/")
            assert client.version == "1.2"
            with pytest.raises(ClientError, match="connected before"):
                await client.connect()
        for call in (client.send("/queue/x"), client.post("/queue/x"), client.send("/queue/x", receipt=False)):
            with pytest.raises(ClientError, match="closed"):
                await call
        with pytest.raises(ClientError, match="closed"):
            client.subscribe("/queue/x")
        await client.close()

    asyncio.run(run())


def test_the_client_names_itself_as_told(broker: Broker) -> None:
    async def run() -> None:
        topic, name = f"/topic/{secrets.token_hex(4)}", secrets.token_hex(4)
        # A durable subscription without a name of its own goes by client-id and id.
        async with on(broker, client_id=name) as client, on(broker) as other:
            async with client.subscribe(topic, id="s", headers={"durable": "true"}):
                pass
            await other.send(topic, b"kept")
            async with client.subscribe(topic, id="s", headers={"durable": "true"}) as subscription:
                assert (await anext(subscription)).body == b"kept"

    asyncio.run(run())


def test_a_connection_is_made_with_tls_names_and_heart_beats_only_as_they_can_be(broker: Broker) -> None:
    with pytest.raises(ValueError, match="heart_beat"):
        Client("stomp://localhost", heart_beat=-1)
    with pytest.raises(ValueError, match="line end"):
        Client("stomp://localhost", login="a\nb")
    with pytest.raises(ValueError, match="window"):
        Client("stomp://localhost", window=0)


def test_those_who_wait_for_room_come_in_their_order_and_may_leave(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker, window=3) as client:
            tasks = [asyncio.create_task(client.send(name, b"%d" % number)) for number in range(60)]
            await asyncio.sleep(0)
            for task in tasks[10:60:5]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            kept = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
            assert kept == [number for number in range(60) if number < 10 or number % 5]
            messages = await received(client, name, len(kept))
            assert [message.body for message in messages] == [b"%d" % number for number in kept]

    asyncio.run(run())


def test_two_subscriptions_with_one_id_are_a_mistake_that_harms_neither(broker: Broker) -> None:
    async def run() -> None:
        name = queue()
        async with on(broker) as client, client.subscribe(name, id="a") as first:
            with pytest.raises(ClientError, match="'a'"):
                async with client.subscribe(queue(), id="a"):
                    raise AssertionError("it was entered")
            await client.send(name, b"still")
            assert (await anext(first)).body == b"still"

    asyncio.run(run())
