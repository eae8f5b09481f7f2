"""What a store reads in portions, so that nobody has to hold all of it: every implementation."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.worker.store.harness import Opened, key, keys, run
from worker.store.interface import Park, SetExpiry

Open = Callable[..., Opened]


def test_many_that_expire_at_once_are_gone_through_by_key(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(
                inserts=[(key(n), b"x") for n in range(1, 8)], changes=[SetExpiry(key(n), 5) for n in range(1, 8)]
            )
            found = [await s.expired(5, 3, (5, key(each))) for each in (0, 3, 6, 7)]
            assert found == [keys(1, 4), keys(4, 7), [key(7)], []]

    run(main)


def test_fetched_in_portions(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(n), b"12345") for n in range(1, 8)])
            assert [row[0] for row in await s.fetch(keys(1, 9), 12)] == keys(1, 3)
            # One at the least.
            assert [row[0] for row in await s.fetch([key(9), key(3), key(4)], 1)] == [key(3)]
            assert await s.fetch([key(9)], 1) == []

    run(main)


def test_only_what_is_due_is_taken_from_the_parked_and_not_too_much_of_it(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            parks = [Park(n, 10 * n, "/queue/a", b"12345") for n in range(1, 6)]
            await s.write(changes=parks)
            assert await s.parked(9) == ([], 10)
            assert await s.parked(30) == (parks[:3], 40)
            assert await s.parked(30, size=11) == (parks[:2], 30)
            # One at the least.
            assert await s.parked(30, size=1) == (parks[:1], 20)

    run(main)
