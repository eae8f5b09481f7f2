"""Whose fault an ERROR is: the frame that was refused is told, and no other."""

from __future__ import annotations

import asyncio

import pytest

from common.client import BrokerError, ClientError, Connected, Receipt
from common.client.events import ClientEvent
from common.frame import Frame
from tests.client.faults import Talk, run, serving
from tests.client.shared import on, queue, received
from tests.client.test_endings import send_message
from tests.client.test_servers import client_of
from tests.harness.broker import Broker


async def serve(talk: Talk, bad: str = "/bad") -> None:
    """Confirm everything, but refuse SENDs and SUBSCRIBEs to `bad` by an ERROR that names nothing, as RabbitMQ does."""
    await talk.log_in()
    while True:
        frame = await talk.frame()
        if frame.get("destination") == bad:
            talk.send("ERROR", [("message", "refused")])
            await talk.gone()
            return
        talk.receipt(frame)


def bodies(frames: list[Frame]) -> list[bytes]:
    return [frame.body for frame in frames if frame.command == "SEND"]


def test_headers_over_the_limit_cost_their_own_message_and_no_other(broker: Broker) -> None:
    """The broker refuses such a SEND before it has read its receipt."""

    async def main() -> None:
        name = queue()
        async with on(broker) as client:
            futures = [await client.post(name, b"%d" % number) for number in range(3)]
            bad = await client.post(name, b"bad", headers={"trace": "y" * 70_000})
            futures += [await client.post(name, b"%d" % number) for number in range(3, 6)]
            with pytest.raises(BrokerError, match="headers too large"):
                await bad
            await asyncio.gather(*futures)
            await client.send(name, b"6")
            assert [each.body for each in await received(client, name, 7)] == [b"%d" % number for number in range(7)]

    run(main)


def test_each_of_several_that_are_refused_namelessly_is_found() -> None:
    async def main() -> None:
        events: list[ClientEvent] = []
        async with serving(serve) as fake, client_of(fake, on_event=events.append) as client:
            names = ["/good", "/bad", "/good", "/bad", "/bad", "/good"]
            futures = [await client.post(name, b"%d" % number) for number, name in enumerate(names)]
            results = await asyncio.gather(*futures, return_exceptions=True)
            assert [isinstance(result, BrokerError) for result in results] == [name == "/bad" for name in names]
            await client.send("/good", b"6")
        # One connection is lost to learn of it, and one to each.
        assert len([event for event in events if isinstance(event, Connected)]) == 5
        assert bodies(fake.talks[1].received) == [b"1"]
        assert bodies(fake.talks[2].received) == [b"2", b"3"]
        assert bodies(fake.talks[-1].received) == [b"5", b"6"]

    run(main)


def test_what_is_posted_meanwhile_comes_after_and_in_order() -> None:
    async def script(talk: Talk) -> None:
        if talk.number != 1:
            await serve(talk)
            return
        await talk.log_in()
        first = await talk.frame("SEND")
        held.set()
        await posted.wait()
        talk.receipt(first)
        for _ in range(2):
            talk.receipt(await talk.frame("SEND"))
        for _ in range(3):
            await talk.frame("SEND")
        for frame in talk.received[-3:]:
            talk.receipt(frame)
        await talk.serve()

    async def main() -> None:
        nonlocal held, posted
        held, posted = asyncio.Event(), asyncio.Event()
        async with serving(script) as fake, client_of(fake) as client:
            futures = [await client.post(name, name.encode()) for name in ("/1", "/bad", "/2")]
            await held.wait()
            assert client.connected
            futures += [await client.post(name, name.encode()) for name in ("/3", "/4:", "/5")]
            blind = asyncio.create_task(client.send("/blind", b"blind", receipt=False))
            await asyncio.sleep(0)
            # Whatever the others write: it could be what is refused.
            assert not blind.done()
            posted.set()
            await asyncio.gather(*futures, blind)
        assert bodies(fake.talks[1].received) == [b"/bad", b"/2", b"/3", b"/4:", b"/5", b"blind"]

    held = posted = asyncio.Event()
    run(main)


def test_a_subscription_that_is_refused_namelessly_is_found_among_others() -> None:
    async def main() -> None:
        async with serving(serve) as fake, client_of(fake) as client:
            good = [client.subscribe("/good") for _ in range(3)]
            starting = [asyncio.create_task(each.start()) for each in (good[0], client.subscribe("/bad"), *good[1:])]
            results = await asyncio.gather(*starting, return_exceptions=True)
            assert [type(result) for result in results] == [type(None), BrokerError, type(None), type(None)]
            await client.send("/good")
            assert len(fake.talks) == 3

    run(main)


def test_subscriptions_come_and_go_while_the_one_to_blame_is_looked_for() -> None:
    async def script(talk: Talk) -> None:
        if talk.number != 1:
            await serve(talk)
            return
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        await talk.frame("SUBSCRIBE")
        held.set()
        await changed.wait()
        talk.receipt(talk.received[-1])
        await talk.serve()

    async def main() -> None:
        nonlocal held, changed
        held, changed = asyncio.Event(), asyncio.Event()
        async with serving(script) as fake, client_of(fake) as client:
            first, second, third = (client.subscribe(name) for name in ("/1", "/2", "/3"))
            for each in (first, second, third):
                await each.start()
            futures = [await client.post("/bad"), await client.post("/good")]
            await held.wait()
            calls = [asyncio.create_task(call) for call in (first.stop(), third.stop(), client.subscribe("/4").start())]
            await asyncio.sleep(0)
            changed.set()
            await asyncio.gather(*calls, *futures)
            said = [(frame.command, frame.get("id")) for frame in fake.talks[1].received if frame.command != "SEND"]
            assert said[1:] == [("SUBSCRIBE", "1"), ("SUBSCRIBE", "2"), ("UNSUBSCRIBE", "1"), ("SUBSCRIBE", "4")]

    held = changed = asyncio.Event()
    run(main)


def test_what_rabbitmq_subscribes_to_by_itself_is_not_waited_for() -> None:
    """The queue of replies has no SUBSCRIBE there."""

    async def script(talk: Talk) -> None:
        await talk.log_in(headers=[("server", "RabbitMQ/3.10.8")])
        while True:
            frame = await talk.frame()
            if frame.get("destination") == "/bad":
                talk.send("ERROR", [("message", "refused")])
                await talk.gone()
                return
            talk.receipt(frame)

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            with pytest.raises(TimeoutError):
                await client.request("/nobody", timeout=0.01)
            futures = [await client.post(name) for name in ("/bad", "/good")]
            results = await asyncio.gather(*futures, return_exceptions=True)
            assert [type(result) for result in results] == [BrokerError, Receipt]

    run(main)


def test_closing_while_the_one_to_blame_is_looked_for() -> None:
    async def script(talk: Talk) -> None:
        if talk.number == 0:
            await serve(talk)
            return
        await talk.log_in()
        looking.set()
        await talk.gone()

    async def main() -> None:
        nonlocal looking
        looking = asyncio.Event()
        async with serving(script) as fake:
            client = client_of(fake, close_timeout=0.1)
            await client.connect()
            futures = [await client.post(name) for name in ("/good", "/bad", "/good")]
            await looking.wait()
            with pytest.raises(Exception, match="not confirmed"):
                await client.close()
            results = await asyncio.gather(*futures, return_exceptions=True)
            assert all(isinstance(result, Exception) for result in results[1:])

    looking = asyncio.Event()
    run(main)


# --- what has no receipt


@pytest.mark.parametrize("said", [True, False])
def test_what_a_transaction_sends_is_not_put_on_the_message_of_another_task(said: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        while True:
            frame = await talk.frame()
            if frame.get("destination") == "/bad":
                talk.send("ERROR", [("frame", "SEND")] if said else [])
                await talk.gone()
                return
            if frame.get("destination") == "/good" and talk.number == 0:
                continue
            talk.receipt(frame)

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            with pytest.raises(ClientError):
                async with client.transaction() as transaction:
                    good = await client.post("/good")
                    await transaction.send("/bad")
                    await asyncio.wait([good])
                    raise ClientError("as if there were more to do")
            assert isinstance(good.result(), Receipt)

    run(main)


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("command", ["ACK", "NACK"])
def test_what_a_consumer_settles_is_not_put_on_a_message(command: str, said: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        subscribe = await talk.frame("SUBSCRIBE")
        talk.receipt(subscribe)
        send_message(talk, subscribe, talk.number)
        while True:
            frame = await talk.frame()
            if frame.command == command:
                talk.send("ERROR", [("frame", command)] if said else [])
                await talk.gone()
                return
            if talk.number > 0:
                talk.receipt(frame)

    async def main() -> None:
        async with (
            serving(script) as fake,
            client_of(fake) as client,
            client.subscribe("/queue/a", ack="client-individual") as subscription,
        ):
            message = await anext(subscription)
            good = await client.post("/good")
            await (message.ack() if command == "ACK" else message.nack())
            assert isinstance(await good, Receipt)

    run(main)


def test_a_message_is_found_out_also_while_a_consumer_acknowledges() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        number = 0
        while True:
            frame = await talk.frame()
            if frame.command == "SUBSCRIBE":
                subscribe = frame
            if frame.get("destination") == "/bad":
                talk.send("ERROR")
                await talk.gone()
                return
            if frame.command in ("SUBSCRIBE", "ACK"):
                number += 1
                send_message(talk, subscribe, number)
            talk.receipt(frame)

    async def main() -> None:
        async def consume() -> None:
            async for message in subscription:
                if message.is_current:
                    await message.ack()

        async with (
            serving(script) as fake,
            client_of(fake) as client,
            client.subscribe("/queue/a", ack="client-individual") as subscription,
        ):
            consuming = asyncio.create_task(consume())
            with pytest.raises(BrokerError):
                await client.send("/bad")
            await client.send("/good")
            consuming.cancel()
            await asyncio.wait([consuming])

    run(main)


def test_a_commit_behind_a_frame_that_is_refused_is_refused_and_nothing_happened(broker: Broker) -> None:
    async def main() -> None:
        name = queue()
        async with on(broker) as client:
            transaction = client.transaction()
            await transaction.begin()
            await transaction.send(name, b"good")
            await transaction.send(name, b"bad", headers={"delay": "soon"})
            with pytest.raises(BrokerError, match="delay was 'soon'"):
                await transaction.commit()
            await client.send(name, b"after")
            assert [message.body for message in await received(client, name, 1)] == [b"after"]

    run(main)
