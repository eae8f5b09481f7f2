"""`Client` and RabbitMQ or ActiveMQ: versions, logins, heart-beats, transports, and what they refuse."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from common.client import (
    BrokerError,
    Connected,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    Disconnected,
    Ended,
    frames,
)
from tests.interop.brokers.rivals import LOGIN, OUTSIDER, PASSCODE, Rival
from tests.interop.brokers.shared import Told, bodies, queue, running


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_every_version(version: str, rival: Rival) -> None:
    carried = {
        "1.0": {"plain": "value"},
        "1.1": {"plain": "value", "co:lon": "a:b \\ c\nd"},
        "1.2": {"plain": "value", "co:lon": "a:b \\ c\nd\re"},
    }[version]

    async def run() -> None:
        name = queue()
        async with (
            rival.client(accept_version=version) as client,
            client.subscribe(name, ack="client") as subscription,
        ):
            assert client.version == version
            assert client.server is not None and client.server.startswith(f"{rival.name}/")
            assert client.session
            await client.send(name, b"NUL \0 and \xff", headers=carried)
            message = await anext(subscription)
            assert message.body == b"NUL \0 and \xff"
            assert message.headers.items() >= carried.items()
            await message.ack(receipt=True)
            await client.send(name, b"after it")
            message = await anext(subscription)
            assert message.body == b"after it"
            await message.ack(receipt=True)

    running(run)


def test_headers_of_1_0_have_no_escapes(activemq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with activemq.client(accept_version="1.0") as client, client.subscribe(name) as subscription:
            await client.send(name, headers={"path": "C:\\dir"})
            assert (await anext(subscription)).get("path") == "C:\\dir"

    running(run)


def test_rabbitmq_escapes_in_1_0_too(rabbitmq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rabbitmq.client(accept_version="1.0") as client, client.subscribe(name) as subscription:
            await client.send(name, headers={"time": "12:30"})
            assert (await anext(subscription)).get("time") == "12\\c30"

    running(run)


def test_the_highest_version_is_taken(rival: Rival) -> None:
    async def run() -> None:
        async with rival.client() as client:
            assert client.version == "1.2"

    running(run)


def test_a_wrong_passcode_is_a_failure_that_says_so(rival: Rival) -> None:
    async def run() -> None:
        with pytest.raises(ConnectFailed) as caught:
            await rival.client(passcode="not the one").connect()
        ((_, error),) = caught.value.attempts
        assert isinstance(error, BrokerError)
        assert LOGIN in str(caught.value)
        assert "not the one" not in str(caught.value)

    running(run)


def test_login_and_passcode_from_the_url(rival: Rival) -> None:
    async def run() -> None:
        url = f"stomp://{LOGIN}:{PASSCODE.replace(':', '%3A')}@127.0.0.1:{rival.port}"
        async with rival.client(url, login=None, passcode=None) as client:
            await client.send(queue())

    running(run)


def test_an_address_that_answers_after_one_that_does_not(rival: Rival) -> None:
    async def run() -> None:
        async with rival.client(f"stomp://127.0.0.1:1,127.0.0.1:{rival.port}") as client:
            await client.send(queue())

    running(run)


def test_virtual_hosts_of_rabbitmq(rabbitmq: Rival) -> None:
    async def run() -> None:
        name = queue()
        async with rabbitmq.client(f"{rabbitmq.url}/other") as there, rabbitmq.client() as here:
            await there.send(name, b"there")
            await here.send(name, b"here")
            assert await bodies(here, name, 1) == [b"here"]
            assert await bodies(there, name, 1) == [b"there"]
        with pytest.raises(ConnectFailed, match="nowhere"):
            await rabbitmq.client(host="nowhere").connect()

    running(run)


# --- heart-beats


def test_heart_beats_keep_the_connection_that_silence_would_end(rival: Rival) -> None:
    async def run() -> None:
        told = Told()
        mute = await rival.peer()
        async with rival.client(heart_beat=(0.5, 2.0), on_event=told) as client:
            await mute.send(frames.connect(LOGIN, PASSCODE, heart_beat=(500, 0)))
            assert (await mute.receive()).command == "CONNECTED"
            # The broker gives it up because it hears nothing of it; of the client it hears as little else.
            with pytest.raises(ConnectionLost):
                while True:
                    await mute.receive()
            await client.send(queue())
        await mute.close()
        assert [type(event) for event in told.events] == [Connected, Ended]

    running(run)


def test_a_broker_that_holds_still_is_left_and_found_again(rival: Rival) -> None:
    async def run() -> None:
        told = Told()
        name = queue()
        async with rival.client(heart_beat=0.3, on_event=told) as client, client.subscribe(name) as subscription:
            rival.hold_still()
            try:
                sent = await client.post(name, b"kept")
                lost = await told.until(Disconnected)
            finally:
                rival.go_on()
            assert "silent" in str(lost.error)
            assert lost.unconfirmed == 1
            await sent
            assert (await anext(subscription)).body == b"kept"

    running(run)


# --- transports


def test_tls(rival: Rival) -> None:
    async def run() -> None:
        url = f"stomps://127.0.0.1:{rival.tls_port}"
        name = queue()
        async with rival.client(url, ssl=rival.trust()) as client:
            await client.send(name, b"secret" * 20_000)
            assert await bodies(client, name, 1) == [b"secret" * 20_000]
        with pytest.raises(ConnectFailed) as caught:
            await rival.client(url, ssl=ssl.create_default_context()).connect()
        assert "certificate" in str(caught.value)

    running(run)


def test_websocket_of_rabbitmq(rabbitmq: Rival) -> None:
    async def run() -> None:
        told = Told()
        url = f"ws://127.0.0.1:{rabbitmq.ws_port}{rabbitmq.ws_path}"
        name = queue()
        async with rabbitmq.client(url, heart_beat=2.0, on_event=told) as client:
            for body in (b"NUL \0 and \xff", b"large" * 20_000):
                await client.send(name, body)
                assert await bodies(client, name, 1) == [body]
        assert [type(event) for event in told.events] == [Connected, Ended]

    running(run)


# --- what they refuse


def test_a_login_that_may_do_nothing(rival: Rival) -> None:
    async def run() -> None:
        for _ in range(2):
            async with rival.client(login=OUTSIDER) as client:
                with pytest.raises(BrokerError, match=r"(?i)authorized|refused"):
                    await client.send("/queue/forbidden", b"x")
                # That was the end of its connection, not of the client.
                with pytest.raises(BrokerError, match=r"(?i)authorized|refused"):
                    await client.subscribe("/queue/forbidden").start()

    running(run)


def test_a_destination_that_rabbitmq_does_not_know(rabbitmq: Rival) -> None:
    async def run() -> None:
        async with rabbitmq.client() as client:
            with pytest.raises(BrokerError) as caught:
                await client.send("/nowhere/x", b"x")
            assert caught.value.message == "Unknown destination"
            assert "'/nowhere/x' is not a valid destination" in caught.value.detail
            with pytest.raises(BrokerError, match="Unknown destination"):
                await client.subscribe("/nowhere/x").start()
            name = queue()
            await client.send(name, b"goes on")
            assert await bodies(client, name, 1) == [b"goes on"]

    running(run)


def test_of_several_sends_the_one_that_rabbitmq_refuses_is_found(rabbitmq: Rival) -> None:
    """Its ERROR has no `receipt-id`: which of them it was shows when each is sent again by itself."""

    async def run() -> None:
        name = queue()
        async with rabbitmq.client() as client, client.subscribe(name) as subscription:
            await client.send(name, b"first")
            sent = [await client.post(to, b"x") for to in (name, "/nowhere/x", name)]
            results = await asyncio.gather(*sent, return_exceptions=True)
            assert [isinstance(result, BrokerError) for result in results] == [False, True, False]
            assert (await anext(subscription)).body == b"first"
            await client.send(name, b"goes on")

    running(run)


def test_a_frame_nobody_knows(rival: Rival) -> None:
    async def run() -> None:
        peer = await rival.peer()
        await peer.send(frames.connect(LOGIN, PASSCODE))
        assert (await peer.receive()).command == "CONNECTED"
        await peer.send_bytes(b"NONSENSE\n\n\0")
        error = BrokerError(await peer.receive())
        assert error.frame.command == "ERROR"
        assert "NONSENSE" in str(error)
        await peer.close()

    running(run)


def test_what_is_no_frame_ends_the_connection_to_rabbitmq_without_an_error(rabbitmq: Rival) -> None:
    async def run() -> None:
        peer = await rabbitmq.peer()
        await peer.send(frames.connect(LOGIN, PASSCODE))
        assert (await peer.receive()).command == "CONNECTED"
        await peer.send_bytes(b"SEND\nno colon\n\n\0")
        with pytest.raises(ConnectionClosed):
            await peer.receive()
        await peer.close()

    running(run)
