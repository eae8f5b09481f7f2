"""Subscriptions that end in odd ways, callers that give up, brokers that only close, scripts that go on too long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.client import (
    Backoff,
    BrokerError,
    Client,
    ClientClosed,
    ClientError,
    ClientEvent,
    ConnectFailed,
    Ended,
    Message,
    StaleDelivery,
    connect_sync,
)
from common.frame import Frame
from common.negotiation import Version
from tests.client.faults import Fake, Talk, serving
from tests.client.shared import on, queue, received, url_of
from tests.harness.broker import Broker
from tests.harness.wire import TIMEOUT

SOON = Backoff(first=0.01, longest=0.05, give_up_after=TIMEOUT)


def client_of(fake: Fake, **options: Any) -> Client:
    return Client(fake.url, **{"backoff": SOON, "close_timeout": 1.0, "connect_timeout": TIMEOUT, **options})


def send_message(talk: Talk, subscribe: Frame, id: int, body: bytes = b"x", **headers: str) -> None:
    pairs = [
        ("subscription", subscribe.get("id") or ""),
        ("message-id", str(id)),
        ("destination", subscribe.get("destination") or ""),
        ("ack", str(id)),
        *headers.items(),
    ]
    talk.send("MESSAGE", pairs, body)


def run(coroutine: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT):
            await coroutine

    asyncio.run(bounded())


def test_what_is_left_of_a_browsed_queue_is_not_held_for_ever() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        while True:
            frame = await talk.frame()
            talk.receipt(frame)
            if frame.command == "SUBSCRIBE":
                for number in range(3):
                    send_message(talk, frame, number, bytes(300))
                if frame.get("browser"):
                    send_message(talk, frame, 9, b"", browser="end")

    async def test() -> None:
        async with serving(script) as fake, client_of(fake, buffer_bytes=2000) as client:
            for _ in range(2):
                async with client.subscribe("/queue/a", browse=True) as subscription:
                    await anext(subscription)
            async with client.subscribe("/queue/b") as subscription:
                assert [(await anext(subscription)).id for _ in range(3)] == ["0", "1", "2"]

    run(test())


def test_a_reply_is_read_also_behind_much_that_nobody_takes() -> None:
    subscribes: dict[str, Frame] = {}

    async def script(talk: Talk) -> None:
        await talk.log_in()
        while True:
            frame = await talk.frame()
            talk.receipt(frame)
            if frame.command == "SUBSCRIBE":
                subscribes[frame.get("destination") or ""] = frame
            if frame.get("reply-to"):
                await talk.drain()
                # Each is read on its own: the client stops in between, if at all.
                for number in range(20):
                    send_message(talk, subscribes["/topic/a"], number, bytes(1000))
                    await talk.drain()
                    await asyncio.sleep(0.005)
                replies = next(frame for name, frame in subscribes.items() if "temp" in name)
                headers = {"correlation-id": frame.get("correlation-id") or ""}
                send_message(talk, replies, 99, b"reply", **headers)

    async def test() -> None:
        async with (
            serving(script) as fake,
            client_of(fake, buffer_bytes=2000) as client,
            client.subscribe("/topic/a"),
        ):
            assert (await client.request("/queue/q", timeout=5)).body == b"reply"

    run(test())


@pytest.mark.parametrize(("version", "error"), [(Version.V1_0, ValueError), (Version.V1_2, asyncio.CancelledError)])
def test_a_callback_that_fails_gets_the_next_message(version: Version, error: type[BaseException]) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in(version)
        subscribe = await talk.frame("SUBSCRIBE")
        talk.receipt(subscribe)
        for number in range(3):
            send_message(talk, subscribe, number)
        await talk.serve()

    async def test() -> None:
        got: list[str] = []
        reports: list[str] = []
        done = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context["message"]))

        async def handle(message: Message) -> None:
            got.append(message.id)
            if len(got) == 1:
                raise error
            if len(got) == 3:
                done.set()

        async with (
            serving(script) as fake,
            client_of(fake) as client,
            client.subscribe("/queue/a", handle, ack="client-individual"),
        ):
            await done.wait()
        assert (got, len(reports)) == (["0", "1", "2"], 1)

    run(test())


def test_an_error_that_names_no_frame_is_not_put_on_another() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        while True:
            frame = await talk.frame()
            if frame.get("destination") == "/bad" and talk.number == 0:
                await talk.frame()
                talk.send("ERROR", [("message", "bad destination")])
                await talk.gone()
                return
            talk.receipt(frame)

    async def test() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            await client.send("/bad", receipt=False)
            assert await client.send("/queue/good") is not None

    run(test())


def test_a_broker_that_confirms_subscriptions_and_closes_is_given_up() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        await talk.close()

    async def test() -> None:
        async with serving(script) as fake:
            client = client_of(fake, backoff=Backoff(first=0.05, longest=10, give_up_after=0.5))
            await client.connect()
            subscription = client.subscribe("/queue/a")
            await subscription.start()
            with pytest.raises(ClientError):
                await anext(subscription)
            # Waits of 0.025 s and more, twice as long each time: a dozen at the very most.
            assert len(fake.talks) < 15
            await client.close()

    run(test())


def test_callers_who_gave_up_are_forgotten() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        if talk.number == 0:
            await talk.serve()

    async def test() -> None:
        async with serving(script) as fake, client_of(fake) as client, client.subscribe("/queue/a") as subscription:
            for _ in range(20):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await anext(subscription)
            assert not subscription._waiters

    run(test())


def test_a_start_that_is_stopped_ends() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.frame("SUBSCRIBE")
        talk.receipt(await talk.frame("UNSUBSCRIBE"))
        await talk.serve()

    async def test() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            subscription = client.subscribe("/queue/a")
            starting = asyncio.create_task(subscription.start())
            await asyncio.sleep(0)
            await subscription.stop()
            with pytest.raises(ClientError, match="stopped"):
                await starting

    run(test())


@pytest.mark.parametrize("name", ["id", "destination", "ack", "receipt"])
def test_headers_of_subscribe_that_are_the_clients_are_refused_at_once(broker: Broker, name: str) -> None:
    async def test() -> None:
        async with on(broker) as client:
            session = client.session
            with pytest.raises(ValueError, match=name):
                client.subscribe("/queue/a", headers={name: "x"})
            assert await client.send(queue()) is not None
            assert client.session == session

    run(test())


def test_a_reply_takes_headers_as_a_mapping(broker: Broker) -> None:
    async def test() -> None:
        name = queue()
        async with on(broker) as client, client.subscribe(name) as asked:
            asking = asyncio.create_task(client.request(name))
            await (await anext(asked)).reply(b"yes", headers={"colour": "red"})
            assert (await asking).get("colour") == "red"

    run(test())


def test_errors_of_a_closed_client_do_not_grow(broker: Broker) -> None:
    async def test() -> None:
        async with on(broker) as client:
            pass
        depths = []
        for _ in range(20):
            with pytest.raises(ClientClosed) as caught:
                await client.send(queue())
            depths.append(len(caught.traceback))
        assert len(set(depths)) == 1

    run(test())


def test_others_have_their_turn_while_much_is_sent_without_receipts(broker: Broker) -> None:
    async def test() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with on(broker) as client:
            task = asyncio.create_task(other())
            for _ in range(1000):
                await client.send("/topic/nobody", receipt=False)
            assert turns > 10
            task.cancel()

    run(test())


def test_an_ack_after_the_end_of_its_subscription_is_refused_and_costs_nothing(broker: Broker) -> None:
    async def test() -> None:
        name = queue()
        async with on(broker) as client:
            session = client.session
            await client.send(name, b"mine")
            async with client.subscribe(name, ack="client-individual") as subscription:
                message = await anext(subscription)
            with pytest.raises(StaleDelivery, match="given back"):
                await message.ack()
            assert [message.body for message in await received(client, name, 1)] == [b"mine"]
            assert client.session == session

    run(test())


def test_a_callback_may_stop_its_subscription(broker: Broker) -> None:
    async def test() -> None:
        name = queue()
        stopped = asyncio.Event()
        async with on(broker) as client:
            session = client.session

            async def handle(message: Message) -> None:
                await message.ack(receipt=True)
                await subscription.stop()
                stopped.set()

            for number in range(3):
                await client.send(name, b"%d" % number)
            subscription = client.subscribe(name, handle, ack="client-individual")
            await subscription.start()
            await stopped.wait()
            assert [message.body for message in await received(client, name, 2)] == [b"1", b"2"]
            assert client.session == session

    run(test())


def test_who_goes_on_sending_while_it_is_closed_is_told_and_keeps_nobody_waiting(broker: Broker) -> None:
    async def test() -> None:
        name = queue()
        futures = []

        async def produce() -> None:
            while True:
                futures.append(await client.post(name))

        client = on(broker, window=10)
        await client.connect()
        producers = [asyncio.create_task(produce()) for _ in range(3)]
        for _ in range(100):
            await asyncio.sleep(0)
        assert futures
        await client.close()
        for outcome in await asyncio.gather(*producers, return_exceptions=True):
            assert isinstance(outcome, ClientClosed)
        # All that was taken is stored.
        await asyncio.gather(*futures)

    run(test())


@pytest.mark.parametrize("closed", [True, False])
def test_who_only_has_callbacks_is_told_of_the_end(closed: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        if closed:
            await talk.serve()

    async def test() -> None:
        events: list[ClientEvent] = []
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        backoff = Backoff(first=0.01, longest=0.01, give_up_after=0.1)
        async with serving(script) as fake:
            client = client_of(fake, backoff=backoff, on_event=events.append)
            with pytest.raises(ClientError, match="not connected"):
                await client.wait_ended()
            await client.connect()
            subscription = client.subscribe("/queue/a", lambda message: None)
            await subscription.start()
            ends = [asyncio.create_task(each.wait_ended()) for each in (client, subscription)]
            if closed:
                await subscription.stop()
                await client.close()
        of_client, of_subscription = await asyncio.gather(*ends, return_exceptions=True)
        await client.close()
        # Whoever comes late is told as well.
        assert (await asyncio.gather(client.wait_ended(), return_exceptions=True)) == [of_client]
        kinds = [type(event) for event in events]
        assert kinds.count(Ended) == 1
        assert isinstance(events[-1], Ended)
        if closed:
            assert (of_client, of_subscription, events[-1].error) == (None, None, None)
        else:
            assert isinstance(of_client, ConnectFailed)
            assert of_client is of_subscription is events[-1].error

    run(test())


def test_the_end_of_one_subscription_is_told_to_who_waits_for_it(broker: Broker) -> None:
    async def test() -> None:
        name = queue()
        async with on(broker) as client:
            async with client.subscribe(name, browse=True) as browsing:
                await browsing.wait_ended()
            async with client.subscribe(name) as subscription:
                ended = asyncio.create_task(subscription.wait_ended())
                await asyncio.sleep(0)
                assert not ended.done()
            await ended
            refused = client.subscribe(name, selector="(")
            with pytest.raises(BrokerError):
                await refused.start()
            with pytest.raises(BrokerError):
                await refused.wait_ended()

    run(test())


def test_who_never_connected_is_told_by_connect_alone() -> None:
    async def script(talk: Talk) -> None:
        await talk.close()

    async def test() -> None:
        events: list[ClientEvent] = []
        async with serving(script) as fake:
            with pytest.raises(ConnectFailed):
                await client_of(fake, on_event=events.append).connect()
            await asyncio.sleep(0)
        assert events == []

    run(test())


def test_a_script_that_goes_on_after_close_is_told(broker: Broker) -> None:
    client = connect_sync(url_of(broker))
    client.close()
    with pytest.raises(ClientClosed):
        client.send(queue())
    with pytest.raises(ClientError):
        client.post(queue())


def test_a_broker_error_has_its_frame(broker: Broker) -> None:
    with connect_sync(url_of(broker)) as client, pytest.raises(BrokerError) as caught:
        client.send(queue(), headers={"priority": "10"})
    assert caught.value.frame.command == "ERROR"
