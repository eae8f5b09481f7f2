"""What every store promises about when it keeps it, and about disks that refuse: `worker.store.interface`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.worker.store.harness import BIG, Opened, key, run
from worker.store.interface import Mark, PutQueue, StoreError, Unit

Open = Callable[..., Opened]


def big(number: int, *, must: bool = False) -> Unit:
    return Unit(inserts=[(key(number), BIG)], depths=[(5, 1, len(BIG))], changes=[Mark("o", number)], must=must)


async def stored(s: Opened) -> list[int]:
    return [number - key(0) for number, _, _ in await s.page()]


def test_outcomes_come_in_the_order_of_the_units_and_never_from_within_a_call(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            heard: list[int] = []
            over = asyncio.get_running_loop().create_future()
            for n in range(1, 300):
                s.store.write(Unit(inserts=[(key(n), b"x")]), lambda _, n=n: heard.append(n))
                if n % 50 == 0:
                    await asyncio.sleep(0)
            assert len(heard) < 299
            before = list(heard)
            s.store.write(Unit(), over.set_result)
            assert heard == before
            await over
            assert heard == list(range(1, 300))
            assert await stored(s) == heard

    run(main)


def test_a_callback_that_raises_takes_nothing_from_the_others(opened: Open) -> None:
    async def main() -> None:
        caught: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))

        def fail(_: object) -> None:
            raise ZeroDivisionError

        async with opened() as s:
            heard: list[int] = []
            for n in (1, 2, 3):
                s.store.write(Unit(inserts=[(key(n), b"x")]), lambda _, n=n: heard.append(n))
                s.store.write(Unit(), fail)
            await s.write(deletes=[key(2)])
            assert heard == [1, 2, 3]
            s.store.page(0, 1, 1, 1, fail)
            assert await stored(s) == [1, 3]
            assert s.store.pending_bytes == 0
        assert [type(context["exception"]) for context in caught] == [ZeroDivisionError] * 4

    run(main)


def test_pending_bytes_are_those_of_units_that_wait(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            assert s.store.pending_bytes == 0
            last = [s.begin(big(n)) for n in (1, 2, 3)][-1]
            assert 3 * len(BIG) <= s.store.pending_bytes < 3.1 * len(BIG)
            await last
            assert s.store.pending_bytes == 0

    run(main)


def test_stats_count_since_the_start(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(n), b"x") for n in (1, 2, 3)])
            await s.write(deletes=[key(1), key(2)])
            stats = s.store.stats()
            assert (stats["commits"], stats["inserted"], stats["deleted"]) == (2, 3, 2)
            assert stats["bytes"] > 0
            assert stats["commit_microseconds"] > 0

    run(main)


# --- closing


def test_closing_stores_what_is_pending_and_tells_before_it_is_over(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            heard: list[object] = []
            over = asyncio.get_running_loop().create_future()
            for n in range(1, 50):
                s.store.write(Unit(inserts=[(key(n), b"x")]), lambda error, n=n: heard.append((n, error)))
            s.store.close(lambda: over.set_result(len(heard)))
            s.closed = True
            assert not heard
            assert await over == 49
            assert heard == [(n, None) for n in range(1, 50)]
        async with await s.reopened() as again:
            assert await stored(again) == list(range(1, 50))

    run(main)


def test_nothing_is_written_and_nobody_called_after_closing(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            heard: list[object] = []
            over = asyncio.get_running_loop().create_future()
            s.store.close(lambda: over.set_result(None))
            s.closed = True
            s.store.write(Unit(inserts=[(key(1), b"x")]), heard.append)
            s.store.forget_keys(5)
            await over
            s.store.write(Unit(inserts=[(key(2), b"x")]), heard.append)
            s.store.page(0, 1 << 62, 10, 10, heard.append)
            s.store.expired(0, 1, heard.append)
            s.store.close(lambda: heard.append("closed"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert s.store.failing is None
        async with await s.reopened() as again:
            assert await stored(again) == []
        assert heard == []

    run(main)


def test_what_cannot_be_stored_fails_when_the_store_is_closed(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            s.break_disk()
            outcome = s.begin(big(1, must=True))
            await s.close()
            error = await outcome
            assert error is not None
            assert error.full
        async with await s.reopened() as again:
            assert await stored(again) == []

    run(main)


# --- failing disks


def test_a_unit_that_fails_leaves_nothing_behind(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(1), b"kept")], depths=[(5, 1, 4)], changes=[PutQueue(5, "/queue/a", 10, 0)])
            assert s.store.failing is None
            s.break_disk()
            with pytest.raises(StoreError) as caught:
                await s.write(
                    inserts=[(key(2), b"small"), (key(3), BIG)],
                    deletes=[key(1)],
                    depths=[(5, 1, 1000)],
                    changes=[Mark("o", 1), PutQueue(6, "/queue/b", 10, 0)],
                )
            assert caught.value.full
            assert str(caught.value) == "The disk is full"
            assert "\n" not in str(s.store.failing)
            s.mend_disk()
            await s.write(inserts=[(key(4), BIG)], depths=[(5, 1, len(BIG))])
            assert s.store.failing is None
            assert await stored(s) == [1, 4]
        async with await s.reopened() as again:
            assert again.recovered.marks == {}
            assert [(q.number, q.messages, q.bytes) for q in again.recovered.queues] == [(5, 2, 4 + len(BIG))]

    run(main)


def test_one_unit_without_room_takes_no_other_with_it(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(n), BIG) for n in (1, 2, 3, 4)])
            await s.write(deletes=[key(n) for n in (1, 2, 3, 4)])
            s.break_disk()
            # Room is left for four, not for six.
            units = [Unit(inserts=[(key(n), BIG)]) for n in range(5, 8)]
            units.insert(1, Unit(inserts=[(key(n), BIG) for n in range(50, 56)]))
            outcomes = [await outcome for outcome in [s.begin(unit) for unit in units]]
            assert [error is None for error in outcomes] == [True, False, True, True]
            assert await stored(s) == [5, 6, 7]

    run(main)


def test_units_that_must_be_stored_are_once_there_is_room_in_their_order(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            heard: list[object] = []
            s.break_disk()
            for n in (1, 2, 3):
                s.store.write(big(n, must=True), lambda error, n=n: heard.append((n, error)))
                s.store.write(big(n + 10), lambda error, n=n: heard.append((n + 10, error is not None)))
            # The order of this one's failure tells that those before it have been tried.
            with pytest.raises(StoreError):
                await s.write(inserts=[(key(20), BIG)])
            assert heard == [(11, True), (12, True), (13, True)]
            assert await stored(s) == []
            assert s.store.failing is not None
            assert s.store.pending_bytes >= 3 * len(BIG)
            s.mend_disk()
            await s.write(deletes=[key(99)])
            assert heard[3:] == [(1, None), (2, None), (3, None)]
            assert s.store.failing is None
            assert s.store.pending_bytes == 0
        async with await s.reopened() as again:
            assert await stored(again) == [1, 2, 3]
            assert again.recovered.marks == {"o": 3}

    run(main)


def test_nothing_overtakes_a_unit_that_must_be_stored(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            s.break_disk()
            waits = s.begin(big(1, must=True))
            # There would be room for this one.
            with pytest.raises(StoreError):
                await s.write(changes=[Mark("o", 2)])
            follows = s.begin(Unit(changes=[Mark("o", 3)], must=True))
            s.mend_disk()
            await s.write(inserts=[(key(4), b"x")])
            assert (await waits, await follows) == (None, None)
        async with await s.reopened() as again:
            assert again.recovered.marks == {"o": 3}

    run(main)


def test_a_store_recovers_by_itself(opened: Open) -> None:
    async def main() -> None:
        async with opened(retry_interval=0.01) as s:
            s.break_disk()
            outcome = s.begin(big(1, must=True))
            with pytest.raises(StoreError):
                await s.write(inserts=[(key(2), BIG)])
            s.mend_disk()
            assert await outcome is None
            assert await stored(s) == [1]
            # Where nobody must be stored, it finds out all the same.
            s.break_disk()
            with pytest.raises(StoreError):
                await s.write(inserts=[(key(3), BIG)])
            s.mend_disk()
            while s.store.failing is not None:
                await s.expired(0)
            await s.write(inserts=[(key(4), BIG)])

    run(main)


def test_deletes_go_on_without_room(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(n), BIG) for n in range(1, 5)])
            s.break_disk()
            with pytest.raises(StoreError):
                await s.write(inserts=[(key(9), BIG)])
            await s.write(deletes=[key(1), key(2)], must=True)
            await s.write(inserts=[(key(10), BIG)])
            assert await stored(s) == [3, 4, 10]

    run(main)
