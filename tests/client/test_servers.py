"""Servers that are silent, talk nonsense, or speak another dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from common.client import (
    Backoff,
    BrokerError,
    Client,
    ClientClosed,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    Disconnected,
    OutcomeUnknown,
    ProtocolFault,
)
from common.client.events import ClientEvent
from common.negotiation import Version
from tests.client.faults import Fake, Talk, run, serving

QUICK = Backoff(first=0.01, longest=0.05, give_up_after=5)
"""A back-off for tests: long enough to find whatever comes back."""


def client_of(fake: Fake, **options: Any) -> Client:
    return Client(fake.url, **{"backoff": QUICK, "close_timeout": 2.0, "connect_timeout": 2.0, **options})


async def attempt(script: Callable[[Talk], Any], **options: Any) -> Exception:
    """What comes of connecting to a server with that script."""
    async with serving(script) as fake:
        with pytest.raises(ConnectFailed) as caught:
            await client_of(fake, **options).connect()
        ((_, error),) = caught.value.attempts
        return error


# --- before CONNECTED


def test_silence_after_accept_is_told_after_the_time_limit() -> None:
    async def main() -> None:
        error = await attempt(Talk.gone, connect_timeout=0.1)
        assert isinstance(error, ConnectionLost)
        assert "no CONNECTED" in str(error)

    run(main)


def test_who_refuses_the_login_is_quoted() -> None:
    async def refuse(talk: Talk) -> None:
        await talk.frame("CONNECT")
        talk.send("ERROR", [("message", "go away"), ("error-code", "login-failed")], b"wrong passcode")
        talk.send("ERROR", [("message", "once more")])

    async def main() -> None:
        error = await attempt(refuse)
        assert isinstance(error, BrokerError)
        assert error.code == "login-failed"
        assert str(error) == "go away: wrong passcode"

    run(main)


NONSENSE = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46" * 40 + b"\n\n\0",
    "no end": b"x" * 5_000_000,
    "a message first": b"MESSAGE\nsubscription:1\nmessage-id:1\ndestination:/queue/a\n\nhello\0",
    "a receipt first": b"RECEIPT\nreceipt-id:1\n\n\0",
    "another protocol": b"CONNECTED\nversion:9.9\n\n\0",
    "bad heart-beat": b"CONNECTED\nversion:1.2\nheart-beat:often\n\n\0",
    "no header line": b"CONNECTED\nversion\n\n\0",
    "not UTF-8": b"CONNECTED\nversion:1.2\nserver:\xff\xfe\n\n\0",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_instead_of_connected(name: str) -> None:
    async def talk_nonsense(talk: Talk) -> None:
        await talk.frame("CONNECT")
        talk.raw(NONSENSE[name])
        if name not in ("http",):
            await talk.gone()

    async def main() -> None:
        error = await attempt(talk_nonsense)
        assert isinstance(error, ConnectionLost), repr(error)
        assert isinstance(error, ProtocolFault) or name == "http"
        assert len(str(error)) < 1000

    run(main)


def test_a_connection_that_is_closed_before_connected() -> None:
    async def leave(talk: Talk) -> None:
        await talk.frame("CONNECT")
        talk.raw(b"CONNEC")

    async def reset(talk: Talk) -> None:
        await talk.frame("CONNECT")
        talk.reset()

    async def main() -> None:
        for script in leave, reset:
            assert isinstance(await attempt(script), ConnectionLost)

    run(main)


# --- after CONNECTED


def test_silence_with_agreed_heart_beats_is_a_lost_connection() -> None:
    """It reads, and confirms nothing, and beats on its first connection only by its CONNECTED."""

    async def script(talk: Talk) -> None:
        await talk.log_in(headers=[("heart-beat", "40,40")])
        if talk.number == 0:
            await talk.gone()
            return
        frames = asyncio.create_task(talk.serve())
        while not frames.done():
            talk.raw(b"\n")
            await asyncio.wait([frames], timeout=0.02)
        await frames

    async def main() -> None:
        events: list[ClientEvent] = []
        async with serving(script) as fake, client_of(fake, heart_beat=0.04, on_event=events.append) as client:
            await client.send("/queue/a", b"1")
            assert len(fake.talks) == 2
        lost = [event.error for event in events if isinstance(event, Disconnected)]
        assert "was silent" in str(lost[0])

    run(main)


def test_a_server_that_does_not_want_heart_beats_may_be_silent() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in(headers=[("heart-beat", "0,0")])
        frame = await talk.frame("SEND")
        await asyncio.sleep(0.2)
        talk.receipt(frame)
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake, heart_beat=0.02) as client:
            await client.send("/queue/a", b"1")
            assert len(fake.talks) == 1

    run(main)


MIDDLE = {
    "no NUL in five megabytes of header": b"MESSAGE\nfoo:" + b"x" * 5_000_000,
    "bad escape": b"MESSAGE\nsubscription:1\nmessage-id:a\\tb\ndestination:/queue/a\n\nhello\0",
    "body with no NUL after it": b"MESSAGE\nsubscription:1\nmessage-id:1\ncontent-length:2\n\nhello\0",
    "bad content-length": b"MESSAGE\nsubscription:1\nmessage-id:1\ncontent-length:-2\n\nhello\0",
    "binary": bytes(range(256)) * 20,
    "a line that is no header": b"RECEIPT\nreceipt-id\n\n\0",
}


@pytest.mark.parametrize("name", MIDDLE)
def test_nonsense_in_the_middle_costs_the_connection_and_nothing_else(name: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        if talk.number == 0:
            await talk.frame("SEND")
            talk.raw(MIDDLE[name])
            await talk.gone()
        await talk.serve()

    async def main() -> None:
        events: list[ClientEvent] = []
        async with serving(script) as fake, client_of(fake, on_event=events.append) as client:
            await client.send("/queue/a", b"1")
            first, second = (talk.received for talk in fake.talks)
            resent = [frame for frame in second if frame.command == "SEND"]
            assert [frame.headers for frame in resent] == [frame.headers for frame in first if frame.command == "SEND"]
            assert resent[0].get("idempotency-key")
        assert isinstance(next(event.error for event in events if isinstance(event, Disconnected)), ProtocolFault)

    run(main)


def test_what_nobody_asked_for_is_ignored() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.send("RECEIPT", [("receipt-id", "77")])
        talk.send("RECEIPT")
        talk.send("MESSAGE", [("subscription", "nobody's"), ("message-id", "1"), ("destination", "/queue/a")], b"x")
        talk.send("MESSAGE", [], b"x")
        talk.send("WHATEVER", [("a", "b")])
        talk.raw(b"\n\r\n\n")
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            for _ in range(3):
                await client.send("/queue/a", b"1")
            assert len(fake.talks) == 1

    run(main)


def test_an_error_for_no_frame_at_all_over_and_over_is_an_answer() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.frame("SEND")
        talk.send("ERROR", [("message", "I do not like you"), ("receipt-id", "of nobody")])

    async def main() -> None:
        async with serving(script) as fake:
            client = client_of(fake)
            await client.connect()
            futures = [await client.post("/queue/a", b"%d" % number) for number in range(5)]
            async with asyncio.timeout(5):
                results = await asyncio.gather(*futures, return_exceptions=True)
            # Each was written once, and none of them is what was refused.
            for number, result in enumerate(results):
                assert isinstance(result, OutcomeUnknown)
                assert result.frame.body == b"%d" % number
                assert isinstance(result.__cause__, BrokerError)
            assert len(fake.talks) == 3
            with pytest.raises(BrokerError, match="do not like"):
                await client.send("/queue/a", b"1")
            await client.close()

    run(main)


def test_connected_and_closed_over_and_over_is_given_up() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()

    async def main() -> None:
        backoff = Backoff(first=0.01, longest=0.08, give_up_after=0.5)
        async with serving(script) as fake:
            client = client_of(fake, backoff=backoff)
            await client.connect()
            future = await client.post("/queue/a", b"1")
            async with asyncio.timeout(5):
                with pytest.raises(ConnectFailed):
                    await future
            # Waits that double, not a storm.
            assert 4 <= len(fake.talks) <= 40
            await client.close()

    run(main)


# --- at its end


def test_an_error_to_disconnect_does_not_keep_the_client_open() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        frame = await talk.frame("DISCONNECT")
        talk.send("ERROR", [("message", "no"), ("receipt-id", frame.get("receipt") or "")])

    async def main() -> None:
        async with serving(script) as fake:
            client = client_of(fake)
            await client.connect()
            await client.close()
            assert len(fake.talks) == 1

    run(main)


def test_a_server_that_takes_nothing_any_more_does_not_keep_the_client_open() -> None:
    """Megabytes are on their way, and stay there."""

    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.pause()
        await over.wait()

    async def main() -> None:
        nonlocal over
        over = asyncio.Event()
        async with serving(script) as fake:
            client = client_of(fake, close_timeout=0.1)
            await client.connect()
            futures = [await client.post("/queue/a", bytes(1 << 20)) for _ in range(12)]
            with pytest.raises(ClientClosed, match="confirmed: 12"):
                await client.close()
            for result in await asyncio.gather(*futures, return_exceptions=True):
                assert isinstance(result, ClientClosed)
            over.set()

    over = asyncio.Event()
    run(main)


def test_a_server_that_never_confirms_disconnect() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.gone()

    async def main() -> None:
        async with serving(script) as fake:
            client = client_of(fake, close_timeout=0.1)
            await client.connect()
            await client.close()

    run(main)


@pytest.mark.parametrize("how", ["silence", "end", "receipt"])
def test_what_had_no_receipt_is_left_over_if_disconnect_gets_none(how: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        disconnect = await talk.frame("DISCONNECT")
        if how == "receipt":
            talk.receipt(disconnect)
        if how != "end":
            await talk.gone()

    async def main() -> None:
        async with serving(script) as fake:
            client = client_of(fake, close_timeout=0.2)
            await client.connect()
            for _ in range(3):
                await client.send("/queue/a", receipt=False)
            if how == "receipt":
                await client.close()
            else:
                with pytest.raises(ClientClosed, match="not confirmed: 0, and without a receipt: 3") as caught:
                    await client.close()
                assert isinstance(caught.value.__cause__, ConnectionLost) == (how == "end")

    run(main)


def test_a_client_that_leaves_makes_no_other_connection() -> None:
    """A server of 1.0 closes at DISCONNECT without a RECEIPT."""

    async def script(talk: Talk) -> None:
        await talk.log_in(None)
        await talk.frame("DISCONNECT")

    async def main() -> None:
        async with serving(script) as fake:
            async with client_of(fake):
                pass
            await asyncio.sleep(0.05)
            assert len(fake.talks) == 1

    run(main)


def test_closing_ends_a_request_that_waits() -> None:
    asked_for = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        talk.receipt(await talk.frame("SEND"))
        asked_for.set()
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake:
            client = client_of(fake)
            await client.connect()
            asked = asyncio.create_task(client.request("/queue/a", b"?", timeout=None))
            await asked_for.wait()
            # Behind its RECEIPT.
            await client.send("/queue/b", b"")
            await client.close()
            with pytest.raises((ClientClosed, OutcomeUnknown)):
                async with asyncio.timeout(1):
                    await asked

    run(main)


def test_closing_with_frames_that_nobody_waits_for() -> None:
    """A subscription on its way, and one whose UNSUBSCRIBE is: their failures are nobody's to hear."""

    async def script(talk: Talk) -> None:
        await talk.log_in()
        frame = await talk.frame("SUBSCRIBE")
        talk.receipt(frame)
        await talk.gone()

    async def main() -> None:
        async with serving(script) as fake:
            client = client_of(fake, close_timeout=0.05)
            await client.connect()
            first, second = client.subscribe("/queue/a"), client.subscribe("/queue/b")
            await first.start()
            starting = asyncio.create_task(second.start())
            stopping = asyncio.create_task(first.stop())
            await asyncio.sleep(0)
            await client.close()
            results = await asyncio.gather(starting, stopping, return_exceptions=True)
            assert isinstance(results[0], ClientClosed)
            assert results[1] is None

    run(main)


# --- versions and dialects


@pytest.mark.parametrize("version", [None, *Version])
@pytest.mark.parametrize("ack", ["auto", "client-individual"])
def test_servers_of_one_version(version: Version | None, ack: str) -> None:
    spoken = version or Version.V1_0

    async def script(talk: Talk) -> None:
        await talk.log_in(version)
        subscribe = await talk.frame("SUBSCRIBE")
        talk.receipt(subscribe)
        talk.send(
            "MESSAGE",
            [
                ("subscription", subscribe.get("id") or ""),
                ("message-id", "m:1"),
                ("destination", "/queue/a"),
                *([("ack", "a:1")] if spoken is Version.V1_2 else []),
            ],
            b"hello",
        )
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            assert client.version == spoken.label
            async with client.subscribe("/queue/a", ack=ack) as subscription:
                message = await anext(subscription)
                assert (message.id, message.body) == ("m:1", b"hello")
                if ack != "auto":
                    await message.ack(receipt=True)
            await client.send("/queue/b", b"1", headers={"key:1": "a:b\nc"})
            acks = [frame.headers for frame in fake.talks[0].received if frame.command == "ACK"]
        if ack != "auto":
            named = {name: value for name, value in acks[0] if name != "receipt"}
            wanted = {
                Version.V1_0: {"message-id": "m:1"},
                Version.V1_1: {"message-id": "m:1", "subscription": subscription.id},
                Version.V1_2: {"id": "a:1"},
            }[spoken]
            assert wanted.items() <= named.items()

    run(main)


def test_a_server_of_1_0_that_does_not_say_which_subscription() -> None:
    """1.0 leaves `subscription` out of MESSAGE where it can."""

    async def script(talk: Talk) -> None:
        await talk.log_in(None)
        talk.receipt(await talk.frame("SUBSCRIBE"))
        talk.send("MESSAGE", [("message-id", "1"), ("destination", "/queue/a")], b"hello")
        await talk.serve()

    async def main() -> None:
        async with (
            serving(script) as fake,
            client_of(fake) as client,
            client.subscribe("/queue/a") as subscription,
            asyncio.timeout(2),
        ):
            assert (await anext(subscription)).body == b"hello"

    run(main)


# --- subscriptions


def test_two_subscriptions_with_one_id_the_second_is_refused_and_the_first_goes_on() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        await talk.frame("SEND")
        talk.send("MESSAGE", [("subscription", "7"), ("message-id", "1"), ("destination", "/queue/a")], b"hello")
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            async with client.subscribe("/queue/a", id="7") as first, asyncio.timeout(2):
                with pytest.raises(ClientError, match="there is a subscription"):
                    await client.subscribe("/queue/b", id="7").start()
                await client.send("/queue/a", b"hello", receipt=False)
                assert (await anext(first)).body == b"hello"
            assert [f.command for f in fake.talks[0].received].count("UNSUBSCRIBE") == 1

    run(main)


def test_an_unsubscribe_that_is_refused() -> None:
    """Nobody waits for that of a browser; of others, it is over one way or the other."""

    async def script(talk: Talk) -> None:
        await talk.log_in()
        subscribe = await talk.frame("SUBSCRIBE")
        talk.receipt(subscribe)
        if subscribe.get("browser"):
            end = [("subscription", subscribe.get("id") or ""), ("message-id", "0"), ("destination", "/queue/a")]
            talk.send("MESSAGE", [*end, ("browser", "end")])
        unsubscribe = await talk.frame("UNSUBSCRIBE")
        talk.send("ERROR", [("message", "no such thing"), ("receipt-id", unsubscribe.get("receipt") or "")])

    async def main() -> None:
        for browse in False, True:
            async with (
                serving(script) as fake,
                client_of(fake) as client,
                asyncio.timeout(5),
                client.subscribe("/queue/a", browse=browse) as subscription,
            ):
                if browse:
                    assert [message async for message in subscription] == []

    run(main)


def test_browsing_that_ends_before_its_receipt() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        subscribe = await talk.frame("SUBSCRIBE")
        end = [("subscription", subscribe.get("id") or ""), ("message-id", "0"), ("destination", "/queue/a")]
        if talk.number == 0:
            talk.receipt(subscribe)
        talk.send("MESSAGE", [*end, ("browser", "end")])
        if talk.number == 1:
            # Its RECEIPT never comes.
            talk.reset()
        await talk.serve()

    async def main() -> None:
        for number in range(2):
            async with serving(script) as fake:
                fake.talks += [None] * number  # type: ignore[list-item]
                async with (
                    client_of(fake) as client,
                    asyncio.timeout(5),
                    client.subscribe("/queue/a", browse=True) as subscription,
                ):
                    assert [message async for message in subscription] == []

    run(main)
