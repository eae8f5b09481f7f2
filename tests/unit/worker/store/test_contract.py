"""What every store promises about what it keeps: `worker.store.interface`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.worker.store.harness import Opened, key, keys, run
from worker.store.interface import (
    DropQueue,
    Forget,
    ForgetTransaction,
    Mark,
    Park,
    PutKeys,
    PutQueue,
    PutTransaction,
    QueueRow,
    Recovered,
    Retain,
    SetCount,
    SetExpiry,
    Unit,
    Unpark,
)

Open = Callable[..., Opened]
QUEUE = PutQueue(5, "/queue/a", 1000, key(3), b"\x81\x00")
OTHER = PutQueue(6, "/queue/ö", 2000, 0)


def row(queue: PutQueue, messages: int = 0, size: int = 0) -> QueueRow:
    return QueueRow(queue.number, queue.name, queue.reserved, queue.delivered, queue.options, messages, size)


def test_a_new_store_is_empty(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            assert s.recovered == Recovered([], {}, [], [], {}, 1)
            assert await s.page() == await s.fetch([key(1)]) == await s.expired(1 << 60) == []
            assert await s.parked() == ([], 0)

    run(main)


def test_what_was_stored_is_there_after_opening_again(opened: Open) -> None:
    async def main() -> None:
        frames = [b"", b"\0", b"a,b", b"\xff\xfe\0\n" * 100, b"x" * 100_000]
        async with opened() as s:
            await s.write(
                inserts=list(zip(keys(1, 6), frames, strict=True)),
                depths=[(5, 5, 100_404)],
                changes=[
                    *(QUEUE, OTHER, Mark("0/1", 7), Park(4, 9, "/queue/b", b"p\0\xff"), SetCount(key(2), 3)),
                    *(
                        PutTransaction("t1", b"\0rec"),
                        PutKeys("/queue/a", [b"k"], [b"m-1"], 50),
                        Retain("/topic/x", b"r\0"),
                    ),
                ],
            )
        async with await s.reopened() as again:
            assert again.recovered == Recovered(
                queues=[row(QUEUE, 5, 100_404), row(OTHER)],
                marks={"0/1": 7},
                transactions=[PutTransaction("t1", b"\0rec")],
                keys=[PutKeys("/queue/a", [b"k"], [b"m-1"], 50)],
                retained={"/topic/x": b"r\0"},
                next_parked=5,
            )
            assert await again.page() == [
                (number, frame, 3 if number == key(2) else 0) for number, frame in zip(keys(1, 6), frames, strict=True)
            ]
            assert await again.parked() == ([Park(4, 9, "/queue/b", b"p\0\xff")], 0)

    run(main)


# --- reading messages


def test_a_queue_is_read_by_priority_then_arrival(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(n, priority=n % 10), b"%d" % n) for n in range(1, 31)])
            await s.write(inserts=[(key(1, queue=4, priority=0), b"before"), (key(1, queue=6, priority=9), b"after")])
            found = [frame for _, frame, _ in await s.page(key(0, 5, 9), key(0, 6, 9))]
            assert found == [b"%d" % n for priority in range(9, -1, -1) for n in range(1, 31) if n % 10 == priority]

    run(main)


@pytest.mark.parametrize("step", [1, 3])
def test_a_page_has_neither_end_and_at_most_count(opened: Open, step: int) -> None:
    async def main() -> None:
        async with opened() as s:
            stored = keys(1, 100, step=step)
            await s.write(inserts=[(number, b"x") for number in stored])
            assert [number for number, _, _ in await s.page(stored[3], stored[9])] == stored[4:9]
            assert [number for number, _, _ in await s.page(stored[3], stored[-1], count=4)] == stored[4:8]
            assert await s.page(stored[3], stored[4]) == []
            assert await s.page(stored[-1], 1 << 62) == []

    run(main)


def test_a_page_is_about_its_size_and_never_empty_for_it(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(n), b"x" * 1000) for n in range(1, 20)])
            await s.write(inserts=[(key(20), b"y" * 100_000), (key(21), b"z")])
            assert len(await s.page(size=5000)) == 5
            assert len(await s.page(size=5999)) == 5
            assert [len(frame) for _, frame, _ in await s.page(key(19), size=10)] == [100_000]
            assert len(await s.page(size=1 << 40)) == 21

    run(main)


def test_fetch_finds_what_is_there_in_order(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(n), b"%d" % n) for n in range(1, 10)], changes=[SetCount(key(4), 2)])
            assert await s.fetch([]) == []
            assert await s.fetch([key(7), key(4), key(99), key(1)]) == [
                (key(1), b"1", 0),
                (key(4), b"4", 2),
                (key(7), b"7", 0),
            ]

    run(main)


# --- inserting and deleting


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("count", [1, 8, 9, 500])
def test_messages_of_any_number_with_and_without_gaps_come_and_go(opened: Open, count: int, step: int) -> None:
    async def main() -> None:
        async with opened() as s:
            stored = [number for queue in (1, 5, 400_000) for number in keys(1, 1 + count * step, queue, step)]
            frames = {number: b"%d" % number for number in stored}
            await s.write(inserts=list(frames.items()))
            assert await s.page() == [(number, frames[number], 0) for number in sorted(stored)]
            await s.write(deletes=stored[::3])
            assert [number for number, _, _ in await s.page()] == sorted(set(stored) - set(stored[::3]))
            await s.write(deletes=stored)
            assert await s.page() == []

    run(main)


def test_the_highest_key_is_a_key_like_others(opened: Open) -> None:
    async def main() -> None:
        highest = (1 << 63) - 2
        async with opened() as s:
            await s.write(inserts=[(highest, b"h"), (1, b"1")])
            assert await s.page(0, (1 << 63) - 1) == [(1, b"1", 0), (highest, b"h", 0)]
            await s.write(deletes=[highest, 1])
            assert await s.page(0, (1 << 63) - 1) == []

    run(main)


def test_deletes_apply_after_inserts_and_may_be_of_unknown_keys(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(1), b"1"), (key(2), b"2")], deletes=[key(2), key(77)])
            assert await s.page() == [(key(1), b"1", 0)]
            await s.write(deletes=[key(2), key(1), key(1)])
            assert await s.page() == []

    run(main)


def test_units_of_one_commit_are_applied_in_order(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            for n in range(1, 50):
                s.store.write(Unit(inserts=[(key(n), b"%d" % n)], depths=[(5, 1, 10)]))
                s.store.write(Unit(changes=[Mark("o", n), SetCount(key(n), n), Retain("/topic/x", b"%d" % n)]))
                if n % 7:
                    s.store.write(Unit(deletes=[key(n)], depths=[(5, -1, -10)]))
            await s.write(changes=[QUEUE])
            left = [n for n in range(1, 50) if n % 7 == 0]
            assert await s.page() == [(key(n), b"%d" % n, n) for n in left]
        async with await s.reopened() as again:
            assert again.recovered.queues == [row(QUEUE, len(left), 10 * len(left))]
            assert (again.recovered.marks, again.recovered.retained) == ({"o": 49}, {"/topic/x": b"49"})

    run(main)


# --- depths and queues


def test_depths_are_summed_per_queue(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(changes=[QUEUE, OTHER], depths=[(5, 3, 300), (6, 1, 1 << 50), (5, -1, -100)])
            await s.write(depths=[(5, 1, 7), (6, -1, -(1 << 50))])
            await s.write(depths=[(number, 1, 1) for number in range(1000, 2000)])
        async with await s.reopened() as again:
            assert again.recovered.queues == [row(QUEUE, 3, 207), row(OTHER, 0, 0)]

    run(main)


def test_a_depth_may_come_before_its_queue_and_stays_when_the_queue_is_replaced(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(depths=[(5, 2, 20)])
            await s.write(changes=[PutQueue(5, "/queue/old", 1, 0)])
            await s.write(changes=[PutQueue(5, "/queue/older", 2, 0), QUEUE], depths=[(5, 1, 1)])
        async with await s.reopened() as again:
            assert again.recovered.queues == [row(QUEUE, 3, 21)]

    run(main)


def test_a_dropped_queue_leaves_nothing(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            for queue in (4, 5, 6):
                await s.write(
                    inserts=[(key(n, queue, priority), b"x") for n in (1, 2, 3) for priority in (0, 4, 9)],
                    depths=[(queue, 9, 9)],
                    changes=[
                        PutQueue(queue, f"/queue/{queue}", 10, 0),
                        SetExpiry(key(1, queue), 5),
                        SetCount(key(2, queue), 1),
                    ],
                )
            await s.write(changes=[DropQueue(5)])
            assert len(await s.page()) == 18
            assert await s.expired(100) == [key(1, 4), key(1, 6)]
        async with await s.reopened() as again:
            assert [(row.number, row.messages) for row in again.recovered.queues] == [(4, 9), (6, 9)]

    run(main)


def test_the_number_of_a_dropped_queue_can_be_used_again_at_once(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            s.store.write(Unit(inserts=[(key(1), b"old")], depths=[(5, 1, 3)], changes=[QUEUE]))
            s.store.write(Unit(inserts=[(key(2), b"old")], depths=[(5, 1, 3)], changes=[DropQueue(5), QUEUE]))
            await s.write(inserts=[(key(1), b"new")], depths=[(5, 1, 3)])
            assert await s.page() == [(key(1), b"new", 0)]
        async with await s.reopened() as again:
            assert again.recovered.queues == [row(QUEUE, 1, 3)]

    run(main)


# --- what is told of messages


def test_expired_are_those_whose_time_was_up(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(
                inserts=[(key(n), b"x") for n in range(1, 8)],
                changes=[SetExpiry(key(n), 100 * (8 - n)) for n in range(1, 7)] + [SetExpiry(key(6), 1 << 60)],
            )
            assert await s.expired(99) == []
            assert sorted(await s.expired(500)) == keys(3, 6)
            assert sorted(await s.expired(499)) == keys(4, 6)
            assert len(await s.expired(1 << 61, limit=2)) == 2
            assert await s.expired(500, after=(300, key(5))) == [key(4), key(3)]

    run(main)


def test_what_is_told_of_a_message_goes_with_it(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            told = [change for n in (1, 2, 3) for change in (SetExpiry(key(n), 10), SetCount(key(n), 2))]
            await s.write(inserts=[(key(n), b"x") for n in (1, 2, 3, 4)], changes=told)
            await s.write(deletes=[key(1)])
            await s.write(deletes=[key(2)], changes=[SetExpiry(key(2), 11), SetCount(key(2), 9)])
            assert await s.expired(100) == [key(3)]
            # Nor does it come into being for one that is gone, or never was.
            await s.write(changes=[SetExpiry(key(1), 10), SetExpiry(key(99), 10)])
            await s.write(inserts=[(key(5), b"x")], deletes=[key(5)], changes=[SetExpiry(key(5), 1)])
            assert await s.expired(100) == [key(3)]
            await s.write(deletes=[key(3)])
            assert await s.expired(100) == []
            assert await s.page() == [(key(4), b"x", 0)]

    run(main)


def test_the_last_count_counts(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(inserts=[(key(1), b"x")], changes=[SetCount(key(1), 1), SetCount(key(1), 2)])
            assert await s.page() == [(key(1), b"x", 2)]
            await s.write(changes=[SetCount(key(1), 3)])
            assert await s.page() == [(key(1), b"x", 3)]

    run(main)


# --- marks, transactions, keys, retained and parked messages


def test_marks_are_replaced_and_forgotten(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(changes=[Mark("a", 1), Mark("b", 1), Mark("c", 1), Mark("a", 5), Forget("b"), Forget("zz")])
            await s.write(changes=[Forget("c"), Mark("d", 2)])
            await s.write(changes=[Forget("d"), Mark("d", 3), Mark("a", 6)])
        async with await s.reopened() as again:
            assert again.recovered.marks == {"a": 6, "d": 3}

    run(main)


def test_transactions_are_recovered_oldest_first(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(changes=[PutTransaction("z", b"1"), PutTransaction("y", b"2"), PutTransaction("x", b"3")])
            await s.write(changes=[ForgetTransaction("y"), ForgetTransaction("none"), PutTransaction("a", b"4")])
        async with await s.reopened() as again:
            assert [t.id for t in again.recovered.transactions] == ["z", "x", "a"]

    run(main)


def test_idempotency_keys_are_recovered_oldest_first_and_forgotten_by_age(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            put = [PutKeys(f"/queue/{at % 2}", [b"k%d" % at], [b"m%d" % at], at) for at in (9, 10, 11, 12, 13)]
            await s.write(changes=put)
            await s.write(changes=[again_seen := PutKeys("/queue/1", [b"k11"], [b"m99"], 20)])
            s.store.forget_keys(11)
            await s.write(changes=[Mark("after", 1)])
        async with await s.reopened() as again:
            assert again.recovered.keys == [put[2], put[3], put[4], again_seen]

    run(main)


def test_idempotency_keys_of_many_messages_are_those_of_each(opened: Open) -> None:
    """Whatever is in them, in the order of the units and of their places, whichever destinations come in turn."""

    async def main() -> None:
        names = [b"plain", b"a\\nb", b"\\n", "é€𝄞".encode(), b"x" * 256, b"a\\c\\\\ \t"]
        changes = [
            PutKeys("/queue/a", names, [b"1-%d" % place for place in range(6)], 50),
            PutKeys("/queue/b", [b"k"], [b"2-0"], 51),
            PutKeys("/queue/b", [b"l", b"m"], [b"3-0", b"3-7"], 52),
            PutKeys("/queue/a", [b"k"], [b"4-0"], 53),
        ]
        async with opened() as s:
            await s.write(changes=changes)
        async with await s.reopened() as again:
            assert again.recovered.keys == changes

    run(main)


def test_the_last_retained_message_of_a_destination_counts(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(changes=[Retain("/topic/a", b"1"), Retain("/topic/a", b"2"), Retain("/topic/b", b"3")])
            await s.write(changes=[Retain("/topic/b", None), Retain("/topic/none", None), Retain("/topic/c", b"4")])
            await s.write(changes=[Retain("/topic/c", None), Retain("/topic/c", b"5")])
        async with await s.reopened() as again:
            assert again.recovered.retained == {"/topic/a": b"2", "/topic/c": b"5"}

    run(main)


def test_parked_messages_come_by_when_they_are_due(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            parks = [Park(n, 1000 - 10 * (n // 2), "/queue/a", b"%d" % n) for n in range(1, 9)]
            await s.write(changes=parks)
            await s.write(changes=[Unpark(3), Unpark(77)])
            expected = sorted((p for p in parks if p.id != 3), key=lambda p: (p.due, p.id))
            assert await s.parked() == (expected, 0)
            assert await s.parked(limit=2) == (expected[:2], expected[2].due)

    run(main)


def test_ids_of_parked_messages_are_never_given_twice(opened: Open) -> None:
    async def main() -> None:
        async with opened() as s:
            await s.write(changes=[Park(1, 1, "/queue/a", b""), Park(9, 1, "/queue/a", b"")])
            await s.write(changes=[Unpark(9)])
            await s.write(changes=[Park(12, 1, "/queue/a", b""), Unpark(12)])
        async with await s.reopened() as again:
            assert again.recovered.next_parked == 13

    run(main)
