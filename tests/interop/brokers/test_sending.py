"""`Client` and RabbitMQ or ActiveMQ: bodies, receipts, pipelining, transactions, request and reply."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from common.client import BrokerError, Client, Disconnected, OutcomeUnknown
from tests.interop.brokers.rivals import OUTSIDER, Rival
from tests.interop.brokers.shared import DISK, Told, bodies, fill, queue, running, take, topic


@pytest.mark.parametrize(
    ("body", "content_type", "received"),
    [
        (b"", None, b""),
        (bytes(range(256)) * 300, "application/octet-stream", bytes(range(256)) * 300),
        ("Grüße \0\n", "text/plain;charset=utf-8", "Grüße \0\n".encode()),
        ({"id": 1, "name": "ü"}, "application/json", b'{"id":1,"name":"\xc3\xbc"}'),
    ],
    ids=["empty", "bytes", "text", "json"],
)
def test_bodies(body: Any, content_type: str | None, received: bytes, rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client, client.subscribe(name) as subscription:
            given = content_type if isinstance(body, bytes) else None
            await client.send(name, body, content_type=given, headers=DISK)
            message = await anext(subscription)
            assert message.body == received
            assert message.content_type == content_type
            if isinstance(body, str):
                assert message.text == body
            if isinstance(body, dict):
                assert message.json() == body == json.loads(received)

    running(run)


def test_a_thousand_pipelined(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client(window=200) as client, client.subscribe(name) as subscription:
            most = 0
            receipts = []
            for number in range(1000):
                receipts.append(await client.post(name, b"%d" % number))
                most = max(most, sum(not receipt.done() for receipt in receipts[-200:]))
            await asyncio.gather(*receipts)
            assert most > 1
            assert [message.body for message in await take(subscription, 1000)] == [b"%d" % n for n in range(1000)]

    running(run)


def test_sends_without_a_receipt(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client:
            for number in range(100):
                assert await client.send(name, b"%d" % number, receipt=False) is None
            assert await bodies(client, name, 100) == [b"%d" % number for number in range(100)]

    running(run)


def test_a_topic_reaches_all_that_subscribed(rival: Rival) -> None:
    async def run() -> None:
        name = topic()
        async with (
            rival.client() as client,
            rival.client() as other,
            client.subscribe(name) as one,
            client.subscribe(name) as two,
            other.subscribe(name) as three,
        ):
            await other.send(name, b"heard")
            for subscription in (one, two, three):
                assert (await anext(subscription)).body == b"heard"

    running(run)


# --- transactions


def test_a_transaction_is_all_at_its_commit(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client, rival.client() as other, other.subscribe(name) as subscription:
            async with client.transaction() as transaction:
                for number in range(3):
                    await transaction.send(name, b"in it %d" % number)
                # Had the others been sent at once they would come before this.
                await client.send(name, b"outside")
            assert [message.body for message in await take(subscription, 4)] == [
                b"outside",
                *(b"in it %d" % number for number in range(3)),
            ]
            assert transaction.receipt is not None

    running(run)


def test_a_transaction_that_raises_is_nothing(rival: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rival.client() as client, client.subscribe(name) as subscription:
            with pytest.raises(ZeroDivisionError):
                async with client.transaction() as transaction:
                    await transaction.send(name, b"in it")
                    raise ZeroDivisionError
            await client.send(name, b"after it")
            assert (await anext(subscription)).body == b"after it"

    running(run)


def test_a_transaction_that_activemq_refuses(activemq: Rival) -> None:
    """Its ERROR is of the COMMIT, or comes before and is of the SEND: then what becomes of the COMMIT is not said."""

    async def run() -> None:
        async with activemq.client(login=OUTSIDER) as client:
            with pytest.raises((BrokerError, OutcomeUnknown), match="authorized"):
                async with client.transaction() as transaction:
                    await transaction.send("/queue/forbidden", b"x")

    running(run)


def test_a_transaction_that_rabbitmq_refuses_after_its_receipt(rabbitmq: Rival) -> None:
    """Its RECEIPT of a COMMIT comes before it looks at what is in it, so the refusal ends the connection alone."""

    async def run() -> None:
        told = Told()
        async with rabbitmq.client(login=OUTSIDER, on_event=told) as client:
            async with client.transaction() as transaction:
                await transaction.send("/queue/forbidden", b"x")
            lost = await told.until(Disconnected)
            assert isinstance(lost.error, BrokerError)
            assert "refused" in str(lost.error)

    running(run)


def test_messages_are_taken_and_sent_in_one_transaction(rival: Rival) -> None:
    async def run() -> None:
        source, sink = queue(), queue()
        async with rival.client() as client:
            await fill(client, source, 2)
        async with rival.client() as client, client.subscribe(source, ack="client-individual") as subscription:
            undone, done = await take(subscription, 2)
            with pytest.raises(ZeroDivisionError):
                async with client.transaction() as transaction:
                    await transaction.send(sink, undone.body)
                    await transaction.ack(undone)
                    raise ZeroDivisionError
            assert not undone.settled
            async with client.transaction() as transaction:
                await transaction.send(sink, done.body)
                await transaction.ack(done)
            assert done.settled
        async with rival.client() as client:
            await client.send(source, b"last")
            assert await bodies(client, source, 2) == [b"0", b"last"]
            await client.send(sink, b"last")
            assert await bodies(client, sink, 2) == [b"1", b"last"]

    running(run)


# --- request and reply


def test_requests_get_their_replies(rival: Rival) -> None:
    async def run() -> None:
        name = queue()

        async def serve(server: Client) -> None:
            async with server.subscribe(name) as subscription:
                # The other way round, so that they cannot be told by their order.
                for message in reversed(await take(subscription, 10)):
                    await message.reply(b"re: " + message.body)

        async with rival.client() as server, rival.client() as client:
            serving = asyncio.create_task(serve(server))
            replies = await asyncio.gather(*(client.request(name, b"%d" % number) for number in range(10)))
            assert [reply.body for reply in replies] == [b"re: %d" % number for number in range(10)]
            await serving

    running(run)


def test_a_request_nobody_answers(rival: Rival) -> None:
    async def run() -> None:
        async with rival.client() as client:
            with pytest.raises(TimeoutError):
                await client.request(queue(), b"anybody?", timeout=0.2)

    running(run)


def test_a_request_the_broker_refuses(rival: Rival) -> None:
    async def run() -> None:
        async with rival.client(login=OUTSIDER) as client:
            with pytest.raises(BrokerError, match=r"(?i)authorized|refused"):
                await client.request("/queue/forbidden", b"x")

    running(run)
