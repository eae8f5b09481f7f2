"""Peer over a pipe: frames, their versions, the bounds, and every way to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from common.client import frames
from common.client.address import Address
from common.client.errors import AddressError, ConnectionClosed, ConnectionLost, ProtocolFault
from common.client.peer import Peer
from common.client.streams import HIGH_MARK
from common.codec import Limits, encode
from common.frame import Frame
from common.negotiation import Version
from tests.unit.common.client.farends import running

ODD = Frame("SEND", [("destination", "/queue/a:b\\c\nd")], b"\0body\0")
ODD_COUNTED = Frame("SEND", [*ODD.headers, ("content-length", "6")], ODD.body)


def run(main: Callable[[Peer, Peer], Coroutine[None, None, None]], **settings: object) -> None:
    async def made() -> None:
        one, other = Peer.pipe(**settings)
        async with one, other:
            await main(one, other)

    running("asyncio", made)


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_frames_go_both_ways_as_they_are() -> None:
    async def main(one: Peer, other: Peer) -> None:
        await one.send(ODD)
        await other.send(Frame("RECEIPT", [("receipt-id", "1")]))
        assert await other.receive() == ODD_COUNTED
        assert await one.receive() == Frame("RECEIPT", [("receipt-id", "1")])

    run(main)


def test_raw_bytes_and_frames_in_pieces() -> None:
    async def main(one: Peer, other: Peer) -> None:
        for byte in b"\n\r\n" + encode(ODD) + b"\n":
            await one.send_bytes(bytes([byte]))
        assert await other.receive() == ODD_COUNTED

    run(main)


def test_the_version_holds_from_the_next_frame_on() -> None:
    async def main(one: Peer, other: Peer) -> None:
        assert one.version is Version.V1_2
        frame = Frame("SEND", [("x", "a:b")])
        await one.send_bytes(encode(frame, Version.V1_2) + encode(frame, Version.V1_0))
        assert await other.receive() == frame
        other.version = Version.V1_0
        assert other.version is Version.V1_0
        assert await other.receive() == frame
        await other.send(frame)
        one.version = Version.V1_0
        assert await one.receive() == frame

    run(main)


def test_iteration_ends_with_an_orderly_close_after_the_last_frame() -> None:
    async def main(one: Peer, other: Peer) -> None:
        for number in range(3):
            await one.send(frames.begin(str(number)))
        await one.send_bytes(b"\n\r\n")
        closing = asyncio.create_task(one.close())
        await turns()
        assert [frame.get("transaction") async for frame in other] == ["0", "1", "2"]
        with pytest.raises(ConnectionClosed, match="the other end of the pipe closed"):
            await other.receive()
        with pytest.raises(ConnectionClosed, match="the other end of the pipe closed"):
            await other.send(frames.begin("3"))
        await closing
        with pytest.raises(ConnectionClosed, match="closed by this side"):
            await one.send(frames.begin("3"))
        assert [frame async for frame in one] == []

    run(main)


@pytest.mark.parametrize(
    "part", [b"S", b"SEND\n", b"SEND\nx:1\n\nbody", b"SEND\nx:1\n\n", b"SEND\ncontent-length:9\n\nbody"]
)
def test_an_end_within_a_frame_is_no_orderly_one(part: bytes) -> None:
    async def main(one: Peer, other: Peer) -> None:
        await one.send(frames.begin("1"))
        await one.send_bytes(part)
        await one.close()
        assert (await other.receive()).command == "BEGIN"
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="closed the connection within a frame") as caught:
                await anext(other)
            assert not isinstance(caught.value, ConnectionClosed)

    run(main)


def test_closing_here_within_a_frame_of_the_other_side_is_orderly() -> None:
    async def main(one: Peer, other: Peer) -> None:
        await one.send_bytes(b"SEND\n")
        reading = asyncio.create_task(anext(other, None))
        await turns()
        await other.close()
        assert await reading is None

    run(main)


def test_a_reset_ends_iteration_with_an_error() -> None:
    async def main(one: Peer, other: Peer) -> None:
        one.abort()
        with pytest.raises(ConnectionLost, match="reset"):
            await anext(other)

    run(main)


@pytest.mark.parametrize("ended", [False, True])
def test_what_is_no_stomp_is_a_fault(ended: bool) -> None:
    async def main(one: Peer, other: Peer) -> None:
        await one.send(frames.begin("1"))
        await one.send_bytes(b"HTTP/1.1 400 Bad Request\r\nServer x\r\n\r\n\0")
        if ended:
            await one.close()
        assert (await other.receive()).command == "BEGIN"
        for _ in range(2):
            with pytest.raises(ProtocolFault) as caught:
                await other.receive()
            assert caught.value.reason.startswith(
                "the other end of the pipe sent what is no STOMP: malformed header line: header line 1 takes a name"
            )
        with pytest.raises(ProtocolFault):
            await other.send(frames.begin("1"))
        if not ended:
            with pytest.raises(ConnectionLost, match="reset"):
                await one.receive()

    run(main)


def test_what_is_received_has_limits() -> None:
    async def main(one: Peer, other: Peer) -> None:
        await one.send(frames.send("/queue/q", b"x" * 10))
        await one.send(frames.send("/queue/q", b"x" * 11))
        await other.receive()
        with pytest.raises(ProtocolFault, match="the limit is 10"):
            await other.receive()

    run(main, limits=Limits(body_bytes=10))


def test_the_limits_are_generous_by_default() -> None:
    async def main(one: Peer, other: Peer) -> None:
        headers = [(f"x{number}", "y" * 20_000) for number in range(150)]
        sending = asyncio.create_task(one.send(Frame("MESSAGE", headers, b"z" * (17 << 20))))
        assert len((await other.receive()).body) == 17 << 20
        await sending

    run(main)


def test_a_receiver_that_does_not_keep_up_holds_its_sender_back() -> None:
    async def main(one: Peer, other: Peer) -> None:
        count = 400
        frame = frames.send("/queue/q", b"x" * 10_000)
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            for _ in range(count):
                await one.send(frame)
                sent += 1

        sending = asyncio.create_task(send_all())
        await turns()
        assert not sending.done()
        assert sent * 10_000 < 100_000 + HIGH_MARK + 20_000
        for number in range(count):
            assert len((await other.receive()).body) == 10_000
            assert sent <= number + 50
        await sending

    run(main, receive_buffer=100_000)


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_a_sender_that_waits_hears_of_the_end(ending: str) -> None:
    async def main(one: Peer, other: Peer) -> None:
        sending = asyncio.create_task(one.send_bytes(b"\n" * (HIGH_MARK + 20)))
        waiting = [asyncio.create_task(one.send(ODD)) for _ in range(3)]
        await turns()
        assert sending.done()
        assert not any(task.done() for task in waiting)
        if ending == "close":
            await other.close()
        else:
            one.abort()
        for task in waiting:
            with pytest.raises(ConnectionLost):
                await task

    # The bytes are over the bound at once, and nobody receives.
    async def made() -> None:
        one, other = Peer.pipe(receive_buffer=1)
        async with one, other:
            await one.send_bytes(b"\n\n")
            await turns()
            await main(one, other)

    running("asyncio", made)


def test_a_cancelled_receive_loses_no_frame() -> None:
    async def main(one: Peer, other: Peer) -> None:
        for number in range(20):
            receiving = asyncio.create_task(other.receive())
            await asyncio.sleep(0)
            await one.send(frames.begin(str(number)))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            receiving.cancel()
            try:
                frame = await receiving
            except asyncio.CancelledError:
                frame = await other.receive()
            assert frame.get("transaction") == str(number)

    run(main)


def test_several_tasks_receive_each_frame_once() -> None:
    async def main(one: Peer, other: Peer) -> None:
        receiving = [asyncio.create_task(other.receive()) for _ in range(5)]
        await turns()
        for number in range(5):
            await one.send(frames.begin(str(number)))
        got = await asyncio.gather(*receiving)
        assert sorted(frame.get("transaction") or "" for frame in got) == ["0", "1", "2", "3", "4"]

    run(main)


@pytest.mark.parametrize("way", ["in vain", "cancelled"])
def test_close_does_not_wait_for_ever_for_one_that_does_not_read(way: str) -> None:
    async def made() -> None:
        one, other = Peer.pipe(receive_buffer=1)
        await one.send_bytes(b"\n\n")
        await turns()
        await one.send_bytes(b"\n\n")
        if way == "in vain":
            await one.close(timeout=0.01)
        else:
            closing = asyncio.create_task(one.close())
            await turns()
            assert not closing.done()
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
        with pytest.raises(ConnectionLost, match="reset"):
            await other.receive()
        with pytest.raises(ConnectionClosed):
            await one.receive()

    running("asyncio", made)


def test_a_peer_connects_to_one_address() -> None:
    async def main() -> None:
        with pytest.raises(AddressError, match="one address"):
            await Peer.connect("stomp://h1,h2")
        with pytest.raises(AddressError):
            await Peer.connect("localhost")
        with pytest.raises(ConnectionLost, match="no such socket /nowhere/s"):
            await Peer.connect(Address("unix", path="/nowhere/s"))

    running("asyncio", main)
