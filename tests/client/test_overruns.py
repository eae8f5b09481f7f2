"""What is received and not taken while somebody waits for a receipt, which comes behind all of it."""

from __future__ import annotations

import asyncio

import pytest

from common.client import BufferOverrun, Client, Message, Subscription, connect_sync
from common.frame import Frame
from tests.client.faults import Talk, run, serving
from tests.client.shared import on, queue, url_of
from tests.client.test_endings import send_message
from tests.client.test_servers import client_of
from tests.harness.broker import Broker

BUFFER = 10_000
LIMIT = 16 * BUFFER
COST = 2_400
"""Of a message of 2,000 bytes."""


async def fill(client: Client, name: str, count: int) -> None:
    await asyncio.gather(*[await client.post(name, b"%04d" % number + bytes(1_996)) for number in range(count)])


async def rest(subscription: Subscription) -> list[Message]:
    """What can still be taken before the overrun is told."""
    messages = []
    with pytest.raises(BufferOverrun) as caught:
        while True:
            messages.append(await anext(subscription))
    text = str(caught.value)
    assert f"the limit is {LIMIT} (16 times buffer_bytes)" in text
    assert subscription.destination in text
    assert "ack='client-individual'" in text
    with pytest.raises(BufferOverrun):
        await anext(subscription)
    return messages


def test_who_forwards_without_acknowledging_is_told_and_nothing_is_lost(broker: Broker) -> None:
    async def main() -> None:
        name, other = queue(), queue()
        async with on(broker, buffer_bytes=BUFFER) as client:
            await fill(client, name, 4_000)
            async with client.subscribe(name) as subscription:
                taken = 0
                most = 0
                with pytest.raises(BufferOverrun):
                    async for message in subscription:
                        assert int(message.body[:4]) == taken
                        taken += 1
                        await client.send(other, message.body)
                        most = max(most, client._open.incoming.held)  # type: ignore[union-attr]
            # What the two sides' sockets hold, and the broker's buffer for one client, comes on top.
            assert LIMIT < most < LIMIT + (8 << 20)
        async with on(broker) as client, client.subscribe(name, browse=True) as left:
            numbers = [int(message.body[:4]) async for message in left]
            assert numbers == [*range(taken, 4_000)]

    run(main)


def test_who_acknowledges_is_left_alone_whatever_is_held(broker: Broker) -> None:
    async def main() -> None:
        name, topic = queue(), queue().replace("/queue/", "/topic/")
        async with on(broker, buffer_bytes=BUFFER) as client, on(broker) as publisher:
            await fill(publisher, name, 100)
            async with (
                client.subscribe(name, ack="client-individual", prefetch=100) as held,
                client.subscribe(topic) as forwarded,
            ):
                while client._open.incoming.held < 100 * COST:  # type: ignore[union-attr]
                    await client.send(queue())
                await client.send(queue())
                for _ in range(100):
                    await (await anext(held)).ack()
                await publisher.send(topic, b"still")
                assert (await anext(forwarded)).body == b"still"

    run(main)


async def greedy(talk: Talk) -> None:
    """Send, between a SEND and its RECEIPT, what brings the client over its limit, also after UNSUBSCRIBE."""
    await talk.log_in()
    subscribes: dict[str, Frame] = {}
    while True:
        frame = await talk.frame()
        destination = frame.get("destination") or ""
        if frame.command == "SUBSCRIBE":
            subscribes[destination] = frame
        elif frame.command == "SEND":
            for number in range(int(frame.body)):
                send_message(talk, subscribes[destination], number, bytes(2_000))
                await talk.drain()
        elif frame.command == "UNSUBSCRIBE" and talk.number == 0 and frame.get("id") == "1":
            for number in range(5):
                send_message(talk, subscribes["/1"], 1_000 + number)
            if frame.get("id") in lost:
                return
        talk.receipt(frame)


lost: set[str] = set()
"""Ids of subscriptions whose UNSUBSCRIBE costs the connection."""


def test_the_one_that_holds_the_most_goes_and_then_the_next() -> None:
    over = LIMIT // COST + 1

    async def main() -> None:
        async with serving(greedy) as fake, client_of(fake, buffer_bytes=BUFFER) as client:
            first, second, third = (client.subscribe(f"/{number}") for number in (1, 2, 3))
            for each in (first, second, third):
                await each.start()
            await client.send("/2", b"10")
            await client.send("/1", b"%d" % over)
            await client.send("/3", b"5")
            # It is the first that holds it all: the others go on.
            assert [message.id for message in await rest(first)][over:] == [f"{1_000 + number}" for number in range(5)]
            await client.send("/2", b"%d" % over)
            assert len(await rest(second)) == 10 + over
            assert len([await anext(third) for _ in range(5)]) == 5
            await first.stop()
            assert [frame.get("id") for frame in fake.talks[0].received if frame.command == "UNSUBSCRIBE"] == ["1", "2"]
            await client.send("/3", b"1")
            assert client._open.incoming.held == COST  # type: ignore[union-attr]

    lost.clear()
    run(main)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_connection_that_is_lost_meanwhile_changes_nothing(stopped: bool) -> None:
    over = LIMIT // COST + 1

    async def main() -> None:
        async with serving(greedy) as fake, client_of(fake, buffer_bytes=BUFFER) as client:
            first = client.subscribe("/1")
            await first.start()
            await client.send("/1", b"%d" % over)
            if stopped:
                await first.stop()
            else:
                assert len(await rest(first)) == over + 5
            async with client.subscribe("/4"):
                assert len(fake.talks) == 2
            made = [frame.get("destination") for frame in fake.talks[1].received if frame.command == "SUBSCRIBE"]
            assert made == ["/4"]

    lost.clear()
    lost.add("1")
    run(main)


def test_a_script_is_told_too(broker: Broker) -> None:
    name, other = queue(), queue()
    with connect_sync(url_of(broker), buffer_bytes=BUFFER) as client:
        for posted in [client.post(name, bytes(2_000)) for _ in range(2_000)]:
            posted.result()
        with client.subscribe(name) as subscription, pytest.raises(BufferOverrun):
            for message in subscription:
                client.send(other, message.body)
