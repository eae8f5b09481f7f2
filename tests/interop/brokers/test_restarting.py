"""`Client` and a RabbitMQ or ActiveMQ that is killed and comes back: at least once, since neither knows keys."""

from __future__ import annotations

import asyncio

import pytest

from common.client import (
    Backoff,
    Connected,
    ConnectFailing,
    Disconnected,
    Message,
    OutcomeUnknown,
    StaleDelivery,
    TransactionLost,
)
from tests.interop.brokers.rivals import Rival
from tests.interop.brokers.shared import DISK, Told, queue, running

SOON = Backoff(first=0.05, longest=0.2)


def test_killed_and_started_again(rival: Rival) -> None:
    async def run() -> None:
        told = Told()
        name, held, asked = queue(), queue(), queue()
        found: set[int] = set()
        every = asyncio.Event()

        async def consume(message: Message) -> None:
            found.add(int(message.body))
            if len(found) == 300:
                every.set()

        async with (
            rival.client(backoff=SOON, on_event=told) as client,
            client.subscribe(name, consume, ack="client-individual", prefetch=50),
            client.subscribe(held, ack="client-individual") as holding,
            client.subscribe(asked) as questions,
        ):
            await client.send(held, b"unsettled", headers=DISK)
            unsettled = await anext(holding)
            assert not unsettled.redelivered
            unanswered = asyncio.create_task(client.request(asked, b"there?"))
            await anext(questions)
            transaction = client.transaction()
            await transaction.begin()
            receipts = [await client.post(name, b"%d" % number, headers=DISK) for number in range(200)]
            await receipts[20]
            rival.kill()
            lost = await told.until(Disconnected)
            assert lost.unconfirmed >= sum(not receipt.done() for receipt in receipts)
            with pytest.raises(OutcomeUnknown):
                await unanswered
            with pytest.raises(TransactionLost):
                await transaction.commit()
            with pytest.raises(StaleDelivery):
                await unsettled.ack()
            # Posted while there is no broker.
            receipts += [await client.post(name, b"%d" % number, headers=DISK) for number in range(200, 300)]
            await rival.start_again()
            back = await told.until(Connected)
            # With the queue of replies.
            assert back.resumed == 4
            assert back.resent >= 100
            await asyncio.gather(*receipts)
            again = await anext(holding)
            assert again.body == b"unsettled"
            await again.ack(receipt=True)
            answered = asyncio.create_task(client.request(asked, b"and now?"))
            while (question := await anext(questions)).body != b"and now?":
                continue
            await question.reply(b"yes")
            assert (await answered).body == b"yes"
            await every.wait()
            assert found == set(range(300))

    running(run)


def test_while_it_is_away_each_attempt_is_told(activemq: Rival) -> None:
    async def run() -> None:
        told = Told()
        async with activemq.client(backoff=SOON, on_event=told) as client:
            activemq.kill()
            try:
                first, second = [(await told.until(ConnectFailing)).failures for _ in range(2)]
                assert second == first + 1
                assert not client.connected
            finally:
                await activemq.start_again()
            await client.send(queue())

    running(run)
