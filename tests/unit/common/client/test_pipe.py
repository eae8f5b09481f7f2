"""The pair of streams in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from common.client.errors import ConnectionClosed
from common.client.streams import HIGH_MARK, Stream, pipe
from tests.unit.common.client.farends import Heard, running

Ends = tuple[Stream, Heard, Stream, Heard]
HERE = "the pipe was closed by this side"
THERE = "the other end of the pipe closed the connection"


def run(main: Callable[[Ends], Coroutine[None, None, None]]) -> None:
    async def made() -> None:
        one, other = Heard(), Heard()
        first, second = pipe(one, other)
        await main((first, one, second, other))
        for end in (first, second):
            end.abort()
            await end.wait_closed()
            end.write(b"in vain")
            end.close()
            assert not end.congested
        await turns()
        assert (len(one.losses), len(other.losses)) == (1, 1)

    running("asyncio", made)


async def turns() -> None:
    """Return when nothing more happens by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_bytes_come_later_both_ways_and_in_order() -> None:
    async def main(ends: Ends) -> None:
        first, one, second, other = ends
        first.write(b"a")
        first.write(b"")
        first.write(b"b")
        second.write(b"c")
        assert one.nothing
        assert other.nothing
        await turns()
        assert (one.data, other.data) == (b"c", b"ab")

    run(main)


def test_close_delivers_what_was_written_and_drops_what_comes() -> None:
    async def main(ends: Ends) -> None:
        first, one, second, other = ends
        second.pause_reading()
        first.write(b"last")
        second.write(b"dropped")
        first.close()
        await turns()
        assert one.nothing
        assert other.nothing
        second.resume_reading()
        assert str(await other.loss()) == THERE
        assert str(await one.loss()) == HERE
        assert isinstance(other.losses[0], ConnectionClosed)
        assert isinstance(one.losses[0], ConnectionClosed)
        assert (other.data, one.data) == (b"last", b"")

    run(main)


def test_both_ends_may_close_at_once() -> None:
    async def main(ends: Ends) -> None:
        first, one, second, other = ends
        first.write(b"x")
        first.close()
        second.close()
        assert str(await one.loss()) == str(await other.loss()) == HERE
        assert not other.data

    run(main)


@pytest.mark.parametrize("closing", [False, True])
def test_abort_resets_the_other_end(closing: bool) -> None:
    async def main(ends: Ends) -> None:
        first, one, second, other = ends
        second.pause_reading()
        first.write(b"x")
        if closing:
            first.close()
            await turns()
            assert one.nothing
        first.abort()
        assert not one.losses
        assert not other.losses
        error = await other.loss()
        assert str(error) == "connection reset by the other end of the pipe"
        assert not isinstance(error, ConnectionClosed)
        assert str(await one.loss()) == HERE
        assert not other.data

    run(main)


def test_congestion_and_rest() -> None:
    async def main(ends: Ends) -> None:
        first, one, second, other = ends
        second.pause_reading()
        first.write(b"x" * HIGH_MARK)
        assert not first.congested
        first.write(b"y")
        assert first.congested
        await turns()
        assert other.nothing
        assert one.nothing
        second.resume_reading()
        await one.until(lambda: one.writables == 1)
        assert not first.congested
        await turns()
        assert len(other.data) == HIGH_MARK + 1
        assert one.writables == 1

    run(main)


def test_the_end_of_the_other_side_is_heard_while_congested_and_at_rest() -> None:
    async def main(ends: Ends) -> None:
        first, one, second, _ = ends
        first.pause_reading()
        second.pause_reading()
        first.write(b"x" * (HIGH_MARK + 1))
        second.close()
        assert str(await one.loss()) == THERE

    run(main)


def test_an_end_that_is_closed_holds_nobody_back() -> None:
    async def main(ends: Ends) -> None:
        first, one, second, _ = ends
        first.pause_reading()
        second.pause_reading()
        second.write(b"unread")
        first.write(b"x" * (HIGH_MARK + 1))
        second.close()
        await one.until(lambda: one.writables == 1)
        assert not first.congested
        assert not one.losses
        first.resume_reading()
        assert str(await one.loss()) == THERE
        assert one.data == b"unread"

    run(main)


def test_reading_can_rest_from_within_received() -> None:
    async def main(ends: Ends) -> None:
        first, _, second, other = ends
        first.write(b"a")
        first.write(b"b")
        keep = other.received

        def once(data: bytes) -> None:
            keep(data)
            second.pause_reading()

        other.received = once  # type: ignore[method-assign]
        await turns()
        assert other.data == b"a"
        second.resume_reading()
        await turns()
        assert other.data == b"ab"

    run(main)
