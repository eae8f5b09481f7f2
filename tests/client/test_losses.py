"""What a lost connection costs, one promise at a time, against servers by script."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from common.client import (
    Backoff,
    Client,
    ClientClosed,
    ClientError,
    Connected,
    ConnectFailed,
    ConnectFailing,
    Disconnected,
    Ended,
    OutcomeUnknown,
    StaleDelivery,
    TransactionLost,
)
from common.client.events import ClientEvent
from common.negotiation import Version
from tests.client.faults import LOOPS, Talk, run, serving
from tests.client.test_servers import QUICK, client_of


def message(talk: Talk, number: int, body: bytes = b"", ack: str = "") -> None:
    talk.send(
        "MESSAGE",
        [("subscription", "1"), ("message-id", str(number)), ("destination", "/queue/a"), ("ack", ack or str(number))],
        body,
    )


@contextmanager
def dead_port() -> Iterator[int]:
    """Where nobody listens, nor can a stranger begin to; a server of this test's own can."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


# --- SEND


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_was_not_confirmed_goes_out_again_in_order_and_under_its_key(idempotent: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        if talk.number < 3:
            # Two are confirmed on each connection, and two more have arrived.
            for confirmed in (True, True, False, False):
                frame = await talk.frame("SEND")
                if confirmed:
                    talk.receipt(frame)
            return
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake, idempotent=idempotent) as client:
            futures = [await client.post("/queue/a", b"%d" % number) for number in range(20)]
            await asyncio.gather(*futures)
            sent = [[f for f in talk.received if f.command == "SEND"] for talk in fake.talks]
        assert [frame.body for frame in sent[-1]] == [b"%d" % number for number in range(6, 20)]
        assert [frame.body for frame in sent[1]] == [b"%d" % number for number in range(2, 6)]
        keys: dict[bytes, set[str | None]] = {}
        for frame in (frame for frames in sent for frame in frames):
            keys.setdefault(frame.body, set()).add(frame.get("idempotency-key"))
        assert all(len(of_one) == 1 for of_one in keys.values())
        assert len({key for of_one in keys.values() for key in of_one}) == (20 if idempotent else 1)

    run(main)


def test_what_goes_out_again_is_written_as_the_new_connection_has_it() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in(Version.V1_2 if talk.number == 0 else None)
        if talk.number == 0:
            await talk.frame("SEND")
            await talk.frame("SEND")
            return
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            futures = [
                await client.post("/queue/a", b"1", headers={"colon": "a:b"}),
                await client.post("/queue/a", b"2", headers={"plain": "ab"}),
            ]
            await asyncio.gather(*futures)
            assert client.version == "1.0"
            first, second = (frame for frame in fake.talks[1].received if frame.command == "SEND")
        assert first.get("colon") == "a:b"
        assert second.get("plain") == "ab"

    run(main)


def test_what_cannot_be_written_harms_nothing_else() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            for attempt in (
                lambda: client.send("/queue/\ud800"),
                lambda: client.send("/queue/a", headers={"a": "\ud800"}),
                lambda: client.send("/queue/a", headers={"a:": "\ud800"}),
                lambda: client.send("/queue/a", idempotency_key="\ud800"),
                lambda: client.send("/queue/a", "\ud800"),
                lambda: client.send("/queue/a", content_type="\ud800"),
                lambda: client.send("/queue/\ud800", receipt=False),
                lambda: client.subscribe("/queue/\ud800").start(),
                lambda: client.subscribe("/queue/a", selector="\ud800").start(),
                lambda: client.request("/queue/\ud800"),
            ):
                with pytest.raises(ValueError):
                    await attempt()
            fake.talks[0].reset()
            async with asyncio.timeout(2):
                await client.send("/queue/a")
            assert len(fake.talks) == 2

    run(main)


def test_without_a_receipt_the_loss_is_told() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        if talk.number == 0:
            for _ in range(3):
                await talk.frame("SEND")
            return
        await talk.serve()

    async def main() -> None:
        events: list[ClientEvent] = []
        async with serving(script) as fake, client_of(fake, on_event=events.append) as client:
            for _ in range(3):
                await client.send("/queue/a", receipt=False)
            await client.send("/queue/b", b"after")
        # The one with a receipt may have been written to either connection.
        (lost,) = (event for event in events if type(event).__name__ == "Disconnected")
        assert lost.unknown == 3
        assert [frame.body for frame in fake.talks[1].received if frame.command == "SEND"] == [b"after"]

    run(main)


def test_when_the_back_off_gives_up_everything_fails_and_says_why() -> None:
    over = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        for _ in range(3):
            await talk.frame("SEND")
        over.set()

    async def main() -> None:
        over.clear()
        events: list[ClientEvent] = []
        backoff = Backoff(first=0.02, longest=0.16, give_up_after=0.5)
        async with serving(script) as fake:
            client = client_of(fake, backoff=backoff, window=3, on_event=events.append)
            await client.connect()
            subscription = client.subscribe("/queue/a")
            await subscription.start()
            futures = [await client.post("/queue/a", b"1") for _ in range(3)]
            waits = [
                asyncio.create_task(anext(subscription)),
                asyncio.create_task(client.send("/queue/a")),
                asyncio.create_task(client.send("/queue/a", receipt=False)),
            ]
            await over.wait()
        # Nobody listens there any more.
        async with asyncio.timeout(5):
            results = await asyncio.gather(*futures, *waits, return_exceptions=True)
        # The last of them was written before the connection was lost.
        assert [type(result) for result in results[:-1]] == [ConnectFailed] * 5
        for call in (client.send("/queue/a"), client.post("/queue/a"), client.request("/queue/a")):
            with pytest.raises(ConnectFailed):
                await call
        with pytest.raises(ConnectFailed):
            client.subscribe("/queue/a")
        await client.close()
        waits = [event.wait for event in events if isinstance(event, ConnectFailing)]
        assert len(waits) >= 3
        assert waits[0] <= 0.02 < waits[2] <= 0.08 or waits[1] > waits[0]

    run(main)


@pytest.mark.parametrize("give_up_after", [0.0, 0.2])
def test_the_back_off_counts_no_time_with_a_connection_and_tries_once_at_least(give_up_after: float) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        if talk.number < 2:
            await asyncio.sleep(0.3)
            return
        await talk.serve()

    async def main() -> None:
        backoff = Backoff(first=0.01, longest=10, give_up_after=give_up_after)
        events: list[ClientEvent] = []
        async with (
            serving(script) as fake,
            client_of(fake, backoff=backoff, on_event=events.append) as client,
            client.subscribe("/queue/quiet") as subscription,
        ):
            if give_up_after:
                await client.send("/queue/a")
            else:
                # Twice in a row nothing came of it.
                with pytest.raises(ConnectFailed):
                    await anext(subscription)
            told = [Connected, Disconnected, Connected, Disconnected, Connected if give_up_after else Ended]
            assert [type(event) for event in events] == told

    run(main)


# --- addresses


def test_the_second_address_serves_when_the_first_is_dead() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        if talk.number == 0:
            await talk.frame("SEND")
            return
        await talk.serve()

    async def main() -> None:
        events: list[ClientEvent] = []
        with dead_port() as dead:
            async with serving(script) as fake:
                url = f"stomp://127.0.0.1:{dead},127.0.0.1:{fake.port}"
                async with Client(url, backoff=QUICK, on_event=events.append) as client:
                    await client.send("/queue/a", b"1")
                    assert len(fake.talks) == 2
        assert [event.address.port for event in events if isinstance(event, Connected)] == [fake.port] * 2

    run(main)


def test_another_broker_takes_over_what_was_not_confirmed() -> None:
    async def dying(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        await talk.frame("SEND")

    async def living(talk: Talk) -> None:
        await talk.log_in()
        await talk.serve()

    async def main() -> None:
        async with serving(dying) as first, serving(living) as second:
            url = f"stomp://127.0.0.1:{first.port},127.0.0.1:{second.port}"
            async with Client(url, backoff=QUICK) as client, client.subscribe("/queue/a"):
                await client.send("/queue/a", b"1")
                commands = [frame.command for frame in second.talks[0].received]
                assert commands == ["CONNECT", "SUBSCRIBE", "SEND"]

    run(main)


def test_refused_at_first_is_told_at_once_or_tried_again() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.serve()

    async def main() -> None:
        refused = asyncio.Event()
        with dead_port() as port:
            with pytest.raises(ConnectFailed):
                await Client(f"stomp://127.0.0.1:{port}", backoff=QUICK).connect()
            url = f"stomp://127.0.0.1:{port}"
            client = Client(url, backoff=QUICK, retry_first=True, on_event=lambda _: refused.set())
            connecting = asyncio.create_task(client.connect())
            await refused.wait()
            async with serving(script, port):
                await connecting
                await client.send("/queue/a")
                await client.close()

    run(main)


# --- ACK, transactions, requests


@pytest.mark.parametrize("ack", ["client", "client-individual"])
def test_an_ack_of_a_connection_that_is_gone_hits_no_other_message(ack: str) -> None:
    """Both connections call their messages the same."""

    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        message(talk, 1, b"on connection %d" % talk.number)
        if talk.number == 0:
            await talk.frame("SEND")
            return
        await talk.serve()

    async def main() -> None:
        async with (
            serving(script) as fake,
            client_of(fake) as client,
            client.subscribe("/queue/a", ack=ack, id="1") as subscription,
        ):
            old = await anext(subscription)
            await client.send("/queue/b")
            new = await anext(subscription)
            assert (old.body, new.body) == (b"on connection 0", b"on connection 1")
            assert (old.is_current, new.is_current) == (False, True)
            for call in (old.ack(), old.nack(), old.ack(receipt=True)):
                with pytest.raises(StaleDelivery):
                    await call
            async with client.transaction() as transaction:
                with pytest.raises(StaleDelivery):
                    await old.ack(transaction=transaction)
            assert not {"ACK", "NACK"} & {frame.command for frame in fake.talks[1].received}
            await new.ack(receipt=True)
            assert [frame.command for frame in fake.talks[1].received].count("ACK") == 1

    run(main)


def test_what_was_received_and_not_taken_comes_again_or_is_still_there() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        if talk.number == 0:
            for number in range(5):
                message(talk, number, b"old")
            await talk.frame("SEND")
            return
        message(talk, 1, b"new")
        await talk.serve()

    async def main() -> None:
        for ack, wanted in (("auto", [b"old"] * 5 + [b"new"]), ("client-individual", [b"new"])):
            async with (
                serving(script) as fake,
                client_of(fake) as client,
                client.subscribe("/queue/a", ack=ack, id="1") as subscription,
            ):
                await client.send("/queue/b")
                assert [(await anext(subscription)).body for _ in wanted] == wanted

    run(main)


@pytest.mark.parametrize("at", ["SEND", "COMMIT"])
def test_a_transaction_says_what_became_of_it(at: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        if talk.number == 0:
            await talk.frame(at)
            return
        await talk.serve()

    async def main() -> None:
        gone = asyncio.Event()

        def hear(event: ClientEvent) -> None:
            if type(event).__name__ == "Disconnected":
                gone.set()

        async with serving(script) as fake, client_of(fake, on_event=hear) as client:
            expected = TransactionLost if at == "SEND" else OutcomeUnknown
            with pytest.raises(expected):
                async with client.transaction() as transaction:
                    await transaction.send("/queue/a", b"1")
                    if at == "SEND":
                        await gone.wait()
            async with client.transaction() as transaction:
                await transaction.send("/queue/a", b"2")
            assert transaction.receipt is not None
            assert [f.command for f in fake.talks[1].received] == ["CONNECT", "BEGIN", "SEND", "COMMIT"]

    run(main)


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_request_whose_connection_is_lost_says_so_and_the_next_one_works(confirmed: bool) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        asked = await talk.frame("SEND")
        if talk.number == 0:
            if confirmed:
                talk.receipt(asked)
            return
        talk.receipt(asked)
        reply = [("subscription", asked.get("reply-to") or ""), ("message-id", "1"), ("destination", "/temp-queue/x")]
        talk.send("MESSAGE", [*reply, ("correlation-id", asked.get("correlation-id") or "")], b"answer")
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            with pytest.raises(OutcomeUnknown):
                await client.request("/queue/a", b"?")
            assert (await client.request("/queue/a", b"?")).body == b"answer"

    run(main)


@pytest.mark.parametrize("awaited", ["queue of replies", "RECEIPT"])
def test_a_request_that_comes_not_even_so_far_says_how_far(awaited: str) -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        if awaited == "RECEIPT":
            talk.receipt(await talk.frame("SUBSCRIBE"))
        await talk.gone()

    async def main() -> None:
        async with serving(script) as fake:
            client = client_of(fake, close_timeout=0.05)
            await client.connect()
            with pytest.raises(TimeoutError, match=f"^no {awaited} within 0.1 s for a request to /queue/a$"):
                await client.request("/queue/a", timeout=0.1)
            await client.close()

    run(main)


def test_a_request_after_the_queue_of_replies_was_refused() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in()
        subscribe = await talk.frame("SUBSCRIBE")
        if talk.number == 0:
            talk.receipt(subscribe)
            talk.receipt(await talk.frame("SEND"))
            return
        if talk.number == 1:
            talk.send("ERROR", [("message", "not now"), ("receipt-id", subscribe.get("receipt") or "")])
            return
        talk.receipt(subscribe)
        asked = await talk.frame("SEND")
        reply = [("subscription", asked.get("reply-to") or ""), ("message-id", "1"), ("destination", "/temp-queue/x")]
        talk.send("MESSAGE", [*reply, ("correlation-id", asked.get("correlation-id") or "")], b"answer")
        talk.receipt(asked)
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake, client_of(fake) as client:
            with pytest.raises(OutcomeUnknown):
                await client.request("/queue/a", b"?")
            answer = None
            for _ in range(3):
                try:
                    answer = await client.request("/queue/a", b"?", timeout=2)
                    break
                except (ClientError, TimeoutError):
                    continue
            assert answer is not None
            assert answer.body == b"answer"

    run(main)


# --- flow and time


def test_a_slow_consumer_of_auto_stops_the_broker_and_loses_nothing() -> None:
    total, size = 400, 64 << 10

    async def script(talk: Talk) -> None:
        await talk.log_in()
        talk.receipt(await talk.frame("SUBSCRIBE"))
        for number in range(total):
            message(talk, number, bytes(size))
            await talk.drain()
        await talk.serve()

    async def main() -> None:
        async with (
            serving(script) as fake,
            client_of(fake, buffer_bytes=1 << 20) as client,
            client.subscribe("/queue/a", id="1") as subscription,
        ):
            held = 0
            # Until it takes no more, having taken what it may. One that does not stop ends here with all of it.
            while held < 1 << 20 or held < len(subscription._buffer) * size:
                held = len(subscription._buffer) * size
                await asyncio.sleep(0.1)
            most = len(subscription._buffer) * size
            for number in range(total):
                assert (await anext(subscription)).id == str(number)
                if number % 40 == 0:
                    # In the middle of it, and it comes behind what was not taken.
                    await asyncio.sleep(0)
                most = max(most, len(subscription._buffer) * size)
            # What one read brings is over the bound.
            assert most <= (1 << 20) + (1 << 20)
            await client.send("/queue/b")

    run(main)


def test_a_loop_that_was_held_up_does_not_take_the_broker_for_silent() -> None:
    async def script(talk: Talk) -> None:
        await talk.log_in(headers=[("heart-beat", "50,50")])
        frames = asyncio.create_task(talk.serve())
        while not frames.done():
            talk.raw(b"\n")
            await asyncio.wait([frames], timeout=0.03)
        await frames

    async def main() -> None:
        async with serving(script) as fake, client_of(fake, heart_beat=0.05) as client:
            for _ in range(4):
                await client.send("/queue/a")
                time.sleep(0.25)  # noqa: ASYNC251 - to hold it up is the point
                await asyncio.sleep(0.06)
            assert len(fake.talks) == 1

    run(main)


# --- giving up waiting


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("seed", range(4))
def test_cancelling_anything_anywhere_leaves_nothing(seed: int, loop: str) -> None:
    pick = random.Random(seed)

    async def script(talk: Talk) -> None:
        if pick.random() < 0.1:
            return
        await talk.log_in()
        while True:
            frame = await talk.frame()
            if pick.random() < 0.03:
                talk.reset()
                return
            if pick.random() < 0.3:
                await asyncio.sleep(pick.random() * 0.002)
            talk.receipt(frame)
            if frame.command == "SUBSCRIBE":
                id = frame.get("id") or ""
                for number in range(3):
                    talk.send(
                        "MESSAGE",
                        [
                            ("subscription", id),
                            ("message-id", str(number)),
                            ("destination", "/q"),
                            ("ack", str(number)),
                        ],
                    )

    async def subscribed(client: Client) -> None:
        async with client.subscribe("/queue/a", ack="client-individual") as subscription:
            async for each in subscription:
                await each.ack(receipt=True)

    async def handled(client: Client) -> None:
        async def handle(_: Any) -> None:
            await asyncio.sleep(0.001)

        async with client.subscribe("/queue/a", handle, ack="client-individual"):
            await asyncio.sleep(1)

    async def in_transaction(client: Client) -> None:
        async with client.transaction() as transaction:
            for _ in range(3):
                await transaction.send("/queue/a", b"1")

    async def connected(client: Client) -> None:
        async with Client(url, backoff=QUICK, close_timeout=0.1, retry_first=True) as other:
            await other.send("/queue/a")

    calls = [
        lambda client: client.send("/queue/a", bytes(1000)),
        lambda client: client.send("/queue/a", bytes(100_000), receipt=False),
        lambda client: client.request("/queue/a", timeout=0.01),
        subscribed,
        handled,
        in_transaction,
        connected,
    ]
    url = ""

    async def main() -> None:
        nonlocal url
        async with serving(script) as fake:
            url = fake.url
            client = client_of(fake, window=3, retry_first=True, close_timeout=0.2)
            await client.connect()
            for _ in range(25):
                tasks = [asyncio.create_task(pick.choice(calls)(client)) for _ in range(8)]
                for task in tasks:
                    if pick.random() < 0.5:
                        await asyncio.sleep(pick.choice([0, 0, 0.0005, 0.002]))
                    task.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, BaseException) and not isinstance(
                        result, ClientError | asyncio.CancelledError | TimeoutError
                    ):
                        raise result
            async with asyncio.timeout(10):
                await client.send("/queue/a", b"still there")
            closing = asyncio.create_task(client.close())
            if seed % 2:
                await asyncio.sleep(0)
                closing.cancel()
            await asyncio.wait([closing])
            if not closing.cancelled() and closing.exception() is not None:
                assert isinstance(closing.exception(), ClientClosed)

    run(main, loop)


def test_connecting_that_is_cancelled_anywhere_leaves_nothing() -> None:
    async def script(talk: Talk) -> None:
        await asyncio.sleep(0.001)
        await talk.log_in()
        await talk.serve()

    async def main() -> None:
        async with serving(script) as fake:
            for steps in range(25):
                client = client_of(fake)
                connecting = asyncio.create_task(client.connect())
                for _ in range(steps):
                    await asyncio.sleep(0.0002)
                connecting.cancel()
                await asyncio.wait([connecting])
                await client.close()

    run(main)
