"""The client's `Peer` and its frames against the broker: every command, in every version."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from uuid import uuid4

import pytest
import uvloop

from common.client import frames
from common.client.address import Address
from common.client.errors import BrokerError, ConnectionLost
from common.client.peer import Peer
from common.frame import Frame
from common.negotiation import Version
from tests.harness.broker import Broker

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run(loop: str, main: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(timed(main))


async def timed(main: Callable[[], Coroutine[None, None, None]]) -> None:
    async with asyncio.timeout(30):
        await main()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def log_in(broker: Broker, version: Version) -> Peer:
    host, port = broker.addresses[0]
    peer = await Peer.connect(f"stomp://{host}:{port}")
    await peer.send(frames.connect(accept_version=version.label))
    connected = await peer.receive()
    assert connected.command == "CONNECTED"
    assert connected.get("version") == version.label
    peer.version = version
    return peer


async def receipted(peer: Peer, frame: Frame, receipt: str) -> list[Frame]:
    """Send `frame`, which asks for `receipt`; the frames up to that RECEIPT."""
    await peer.send(frame)
    before = []
    while (answer := await peer.receive()).command != "RECEIPT":
        assert answer.command == "MESSAGE", answer
        before.append(answer)
    assert answer.get("receipt-id") == receipt
    return before


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_session_with_every_command(loop: str, version: Version, broker: Broker) -> None:
    queue = f"/queue/{uuid4()}"

    async def main() -> None:
        async with await log_in(broker, version) as peer:
            await receipted(peer, frames.subscribe(queue, "s:1", ack="client", receipt="a"), "a")
            await peer.send_bytes(b"\n")
            await peer.send(frames.send(queue, "é\0", content_type="text/plain", headers={"x": "1\\2:3"}))
            message = await peer.receive()
            assert message.command == "MESSAGE"
            assert message.body == "é\0".encode()
            assert (message.get("x"), message.get("content-type")) == ("1\\2:3", "text/plain")
            assert message.get("subscription") == "s:1"
            await receipted(peer, frames.ack(message, version=version, receipt="b"), "b")

            await peer.send(frames.begin("t"))
            await peer.send(frames.send(queue, b"never", transaction="t"))
            assert not await receipted(peer, frames.abort("t", receipt="c"), "c")
            await peer.send(frames.begin("t"))
            await peer.send(frames.send(queue, b"again", transaction="t"))
            early = await receipted(peer, frames.commit("t", receipt="d"), "d")
            message = early[0] if early else await peer.receive()
            assert message.body == b"again"
            if version is not Version.V1_0:
                await receipted(peer, frames.nack(message, version=version, receipt="e"), "e")
            await receipted(peer, frames.unsubscribe("s:1", receipt="f"), "f")
            await receipted(peer, frames.disconnect("g"), "g")
            assert [frame async for frame in peer] == []

    run(loop, main)


def test_stomp_logs_in_as_connect_does(broker: Broker) -> None:
    async def main() -> None:
        host, port = broker.addresses[0]
        async with await Peer.connect(Address("tcp", host, port)) as peer:
            await peer.send(frames.stomp("anybody", "secret", heart_beat=(60_000, 60_000)))
            assert (await peer.receive()).get("version") == "1.2"

    run("asyncio", main)


def test_an_error_is_a_frame_then_the_end(broker: Broker) -> None:
    async def main() -> None:
        async with await log_in(broker, Version.V1_2) as peer:
            await peer.send(frames.commit("unknown", receipt="r"))
            (error,) = [frame async for frame in peer]
            assert error.command == "ERROR"
            assert error.get("receipt-id") == "r"
            assert BrokerError(error).code == "unknown-transaction"
            with pytest.raises(ConnectionLost):
                await peer.send(frames.begin("t"))

    run("asyncio", main)


def test_many_messages_to_one_that_takes_its_time(broker: Broker) -> None:
    """More than all buffers on the way hold, through a receive buffer of little: each comes once, in order."""
    topic = f"/topic/{uuid4()}"
    count = 3000

    async def main() -> None:
        host, port = broker.addresses[0]
        async with await Peer.connect(f"stomp://{host}:{port}", receive_buffer=20_000) as reader:
            await reader.send(frames.connect())
            await reader.receive()
            await receipted(reader, frames.subscribe(topic, receipt="a"), "a")
            async with await log_in(broker, Version.V1_2) as writer:

                async def publish() -> None:
                    for number in range(count):
                        await writer.send(frames.send(topic, b"%04d" % number + b"x" * 4000))

                publishing = asyncio.create_task(publish())
                for number in range(count):
                    frame = await reader.receive()
                    assert frame.body[:4] == b"%04d" % number
                    if number % 500 == 0:
                        await asyncio.sleep(0)
                await publishing

    run("uvloop", main)
