"""How events wait for their readers: in order, bounded, with what is missing told where it is missing."""

from __future__ import annotations

import asyncio
import threading

import pytest

from broker.events import BlockingEvents, ClientDisconnected, Event, Events, EventsLost, ServerStopped
from common.errors import CloseReason


def event(number: int) -> Event:
    return ClientDisconnected(str(number), CloseReason.DISCONNECT)


def test_everything_is_read_in_order_and_the_end_ends_it() -> None:
    async def main() -> None:
        events = Events()
        for number in range(5):
            events.add(event(number))
        events.add(ServerStopped(0))
        assert [each async for each in events] == [*map(event, range(5)), ServerStopped(0)]
        assert [each async for each in events] == []

    asyncio.run(main())


def test_a_reader_waits_for_what_comes() -> None:
    async def main() -> None:
        events = Events()
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        assert not reading.done()
        events.add(event(1))
        assert await reading == event(1)
        assert not await _ends(events)

    async def _ends(events: Events) -> bool:
        events.add(ServerStopped(3))
        assert await anext(events) == ServerStopped(3)
        return [each async for each in events] != []

    asyncio.run(main())


def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    async def main() -> None:
        events = Events()
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        reading.cancel()
        events.add(event(1))
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await anext(events) == event(1)

    asyncio.run(main())


def test_what_is_too_much_is_counted_and_told_where_it_is_missing() -> None:
    async def main() -> None:
        events = Events(kept=2)
        for number in range(5):
            events.add(event(number))
        assert await anext(events) == event(0)
        # There is room again, but the reader has not heard yet that something is missing.
        events.add(event(5))
        assert await anext(events) == event(1)
        with pytest.raises(EventsLost) as caught:
            await anext(events)
        assert caught.value.missed == 4
        assert "4 events" in str(caught.value)
        events.add(event(6))
        assert await anext(events) == event(6)

    asyncio.run(main())


def test_exactly_as_many_as_are_kept_are_no_loss() -> None:
    async def main() -> None:
        events = Events(kept=3)
        for number in range(3):
            events.add(event(number))
        events.add(ServerStopped(0))
        assert [each async for each in events] == [*map(event, range(3)), ServerStopped(0)]

    asyncio.run(main())


def test_the_end_is_told_to_the_slowest_reader() -> None:
    events = BlockingEvents(kept=1, timeout=0)
    for number in range(3):
        events.add(event(number))
    events.add(ServerStopped(1))
    assert next(events) == event(0)
    with pytest.raises(EventsLost):
        next(events)
    assert list(events) == [ServerStopped(1)]


def test_nothing_kept_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        BlockingEvents(kept=0)


def test_a_blocking_reader_waits_for_another_thread() -> None:
    events = BlockingEvents(timeout=20)
    read: list[Event] = []
    thread = threading.Thread(target=lambda: read.extend(events))
    thread.start()
    events.add(event(1))
    events.add(ServerStopped(0))
    thread.join(20)
    assert read == [event(1), ServerStopped(0)]


def test_a_blocking_reader_waits_no_longer_than_it_said() -> None:
    events = BlockingEvents(timeout=0)
    with pytest.raises(TimeoutError, match="no event within 0 s"):
        next(events)
    events.add(event(1))
    assert next(events) == event(1)
