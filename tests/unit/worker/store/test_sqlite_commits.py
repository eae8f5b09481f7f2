"""The SQLite store's commits: what is one, what is never written, and how they fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import pytest

from tests.unit.worker.store.harness import BIG, SqliteOpened, key, run
from worker.store.batch import Batch
from worker.store.interface import Mark, Park, PutKeys, PutQueue, SetCount, SetExpiry, StoreError, Unit
from worker.store.statements import _INPUTS

Open = Callable[..., SqliteOpened]


def statements(s: SqliteOpened) -> Any:
    assert s.store._writer is not None
    return s.store._writer._statements


@contextmanager
def held(s: SqliteOpened, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The writer stands in the midst of its next commit until the end of the block; set once it stands there."""
    reached, go = threading.Event(), threading.Event()
    original = statements(s).commit

    def wait(batches: list[Batch]) -> None:
        reached.set()
        go.wait()
        original(batches)

    monkeypatch.setattr(statements(s), "commit", wait)
    try:
        yield reached
    finally:
        go.set()


async def in_commit(s: SqliteOpened, reached: threading.Event) -> None:
    s.store.write(Unit(inserts=[(key(1), b"first")]))
    await asyncio.get_running_loop().run_in_executor(None, reached.wait)


def events(s: SqliteOpened) -> list[str]:
    return [json.loads(line)["event"] for line in s.log.getvalue().splitlines()]


def test_what_was_written_while_a_commit_ran_is_the_next_one(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sqlite() as s:
            with held(s, monkeypatch) as reached:
                await in_commit(s, reached)
                outcomes = [s.begin(Unit(inserts=[(key(n), b"x")])) for n in range(2, 500)]
            assert [await outcome for outcome in outcomes] == [None] * 498
            assert s.store.stats()["commits"] == 2

    run(main)


def test_reading_does_not_wait_for_a_commit(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sqlite() as s:
            await s.write(inserts=[(key(5), b"x")], changes=[SetExpiry(key(5), 1), Park(1, 1, "/queue/a", b"")])
            with held(s, monkeypatch) as reached:
                await in_commit(s, reached)
                assert await s.page() == [(key(5), b"x", 0)] == await s.fetch([key(5), key(1)])
                assert await s.expired(5) == [key(5)]
                assert len((await s.parked())[0]) == 1

    run(main)


def test_what_comes_and_goes_within_a_group_is_never_written(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        seen: list[Batch] = []
        async with sqlite() as s:
            with held(s, monkeypatch) as reached:
                await in_commit(s, reached)
                original = statements(s).commit
                monkeypatch.setattr(statements(s), "commit", lambda found: (seen.extend(found), original(found)))
                for n in range(2, 100):
                    s.store.write(Unit(inserts=[(key(n), b"x")], changes=[SetExpiry(key(n), 1), SetCount(key(n), 1)]))
                for n in range(2, 99):
                    s.store.write(Unit(deletes=[key(n)]))
                last = s.begin(Unit(deletes=[key(1)]))
            assert await last is None
            assert [(list(batch.inserts), list(batch.deletes)) for batch in seen] == [([key(99)], [key(1)])]
            stats = s.store.stats()
            assert (stats["inserted"], stats["deleted"], stats["elided"]) == (2, 1, 97)
            assert await s.expired(10) == [key(99)]

    run(main)


def test_only_the_last_state_of_a_thing_is_written(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sqlite() as s:
            with held(s, monkeypatch) as reached:
                await in_commit(s, reached)
                for n in range(100):
                    changes = [Mark("o", n), PutQueue(5, "/queue/a", n, 0)]
                    last = s.begin(Unit(depths=[(5, 1, 10), (6, 1, 1), (6, -1, -1)], changes=[*changes]))
                executed = traced(s)
                assert not executed
            assert await last is None
            _, (_, bound) = executed
            assert [json.loads(bound[_INPUTS.index(name)]) for name in ("depths", "queues", "marks")] == [
                [[5, 100, 1000]],
                [[5, "/queue/a", 99, 0, ""]],
                [["o", 99]],
            ]

    run(main)


def traced(s: SqliteOpened) -> list[tuple[str, Any]]:
    """What the writer executes from now on, with its bindings."""
    executed: list[tuple[str, Any]] = []
    s.store._connections[0].exec_trace = lambda _, sql, bound: bool(executed.append((sql, bound))) or True
    return executed


def test_a_commit_is_one_statement_whatever_its_size(sqlite: Open) -> None:
    async def main() -> None:
        async with sqlite() as s:
            executed = traced(s)
            near, far = list(range(key(1), key(1000))), list(range(key(2000), key(9000), 7))
            await s.write(inserts=[(number, b"x") for number in (*near, *far)])
            changes = [Mark("o", 1), PutQueue(5, "/queue/a", 1, 0), *(SetCount(number, 1) for number in far)]
            changes += [PutKeys("/queue/a", [b"k"], [b"m"], 1), PutKeys("/queue/b", [b"k", b"l"], [b"n", b"o"], 2)]
            depths = [(number, 1, 1) for number in range(1000)]
            await s.write(changes=[*changes, *(SetExpiry(number, 1) for number in far)], depths=depths)
            await s.write(deletes=near)
            await s.write(deletes=far)
            assert len(executed) == 4
            assert await s.page() == []
            # What is rarer has statements of its own, within one transaction.
            executed.clear()
            await s.write(inserts=[(key(1), b"x")], changes=[Park(1, 1, "/queue/a", b"x")])
            assert [sql.split()[0] for sql, _ in executed] == ["BEGIN", "INSERT", "INSERT", "COMMIT"]

    run(main)


@pytest.mark.parametrize("gaps", range(7))
def test_any_number_of_gaps_between_keys_is_stored_and_deleted_alike(gaps: int, sqlite: Open) -> None:
    async def main() -> None:
        async with sqlite() as s:
            wanted = [key(n * 100 + place) for n in range(gaps + 1) for place in range(1 + n)]
            others = [key(n * 100 + 50) for n in range(gaps + 1)]
            rows = sorted((number, b"%d" % number) for number in (*wanted, *others))
            told = [change for number in wanted for change in (SetCount(number, number), SetExpiry(number, number))]
            await s.write(inserts=rows, changes=[*told, SetCount(others[0], 3), SetExpiry(others[0], 4)])
            assert await s.page() == [
                (number, frame, number if number in wanted else 3 if number == others[0] else 0)
                for number, frame in rows
            ]
            await s.write(deletes=wanted)
            assert await s.page() == [(number, b"%d" % number, 3 * (number == others[0])) for number in others]
            assert await s.expired(1 << 62) == [others[0]]

    run(main)


# --- failures


def failing(s: SqliteOpened, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> list[bool]:
    """Commits raise `error` as their last step while the returned list is not empty."""
    faults = [True]
    original = statements(s).commit

    def commit(batches: list[Batch]) -> None:
        if faults:
            s.store._connections[0].execute("BEGIN IMMEDIATE")
            original(batches)
            raise error("injected")
        original(batches)

    monkeypatch.setattr(statements(s), "commit", commit)
    return faults


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (apsw.IOError, "The store failed: injected"),
        (apsw.FullError, "The disk is full"),
        (apsw.ReadOnlyError, "The store cannot be written: injected"),
        (apsw.CorruptError, "The store is damaged: injected"),
    ],
)
def test_a_failed_commit_is_rolled_back_and_said_once(
    sqlite: Open, monkeypatch: pytest.MonkeyPatch, error: type[apsw.Error], text: str
) -> None:
    async def main() -> None:
        async with sqlite(retry_interval=0.0) as s:
            faults = failing(s, monkeypatch, error)
            kept = s.begin(Unit(inserts=[(key(1), b"kept")], changes=[SetCount(key(1), 1)], must=True))
            for n in (2, 3, 4):
                with pytest.raises(StoreError, match=text):
                    await s.write(inserts=[(key(n), b"lost")])
            assert await s.page() == []
            assert str(s.store.failing) == text
            faults.clear()
            assert await kept is None
            assert await s.page() == [(key(1), b"kept", 1)]
            await s.write(deletes=[key(1)])
            await s.close()
            assert [name for name in events(s) if name.startswith("store.")] == [
                "store.opened",
                "store.failing",
                "store.recovered",
            ]

    run(main)


def test_a_unit_that_never_can_be_stored_holds_up_nothing(sqlite: Open) -> None:
    async def main() -> None:
        async with sqlite() as s:
            await s.write(inserts=[(key(1), b"x")])
            wrong = s.begin(Unit(inserts=[(key(1), b"a key used twice")], must=True))
            right = s.begin(Unit(inserts=[(key(2), b"x")], must=True))
            assert await wrong is not None
            assert await right is None
            assert await s.page() == [(key(1), b"x", 0), (key(2), b"x", 0)]
            assert "internal.error" in events(s)

    run(main)


def test_the_one_at_fault_is_found_among_many(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sqlite() as s:
            with held(s, monkeypatch) as reached:
                await in_commit(s, reached)
                outcomes = [s.begin(Unit(inserts=[(key(1 if n == 70 else n), b"x")])) for n in range(2, 130)]
            results = [await outcome for outcome in outcomes]
            assert [n for n, error in enumerate(results, 2) if error is not None] == [70]

    run(main)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_the_writer_is_never_silent(
    sqlite: Open, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    async def main() -> None:
        async with sqlite() as s:
            failing(s, monkeypatch, error)
            outcomes = [s.begin(Unit(inserts=[(key(n), b"x")], must=n == 2)) for n in (1, 2, 3)]
            results = [await outcome for outcome in outcomes]
            with pytest.raises(StoreError, match="The store's writer ended"):
                await s.write(inserts=[(key(9), b"x")])
            assert all("The store's writer ended" in str(result) for result in results)
            assert "The store's writer ended" in str(s.store.failing)
            assert s.store.pending_bytes == 0
            await s.close()
            assert events(s).count("internal.error") == 1
        async with await s.reopened() as again:
            assert await again.page() == []

    run(main)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_the_reader_is_never_silent(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sqlite() as s:

            def leave(*_: object, **__: object) -> None:
                raise SystemExit

            monkeypatch.setattr("worker.store.reader.page", leave)
            s.store.page(0, 1, 1, 1, lambda _: None)
            while s.store.failing is None:
                await s.begin(Unit())
            assert "The store's reader ended" in str(s.store.failing)
            assert events(s).count("internal.error") == 1

    run(main)


# --- room


def test_above_its_quota_a_store_takes_nothing_in_and_lets_go(sqlite: Open) -> None:
    async def main() -> None:
        async with sqlite(quota_bytes=2 << 20) as s:
            number = 0
            with pytest.raises(StoreError, match="quota of 2097152 bytes") as caught:
                while number < 100:
                    number += 1
                    await s.write(inserts=[(key(number), BIG)])
            assert caught.value.full
            assert 4 <= number <= 8
            assert s.store.failing is not None
            with pytest.raises(StoreError, match="quota"):
                await s.write(changes=[Park(1, 1, "/queue/a", BIG)])
            await s.write(inserts=[(key(50), BIG)], must=True)
            await s.write(changes=[Mark("o", 1)])
            assert s.store.failing is not None
            await s.write(deletes=[key(n) for n in range(1, number)])
            await s.write(inserts=[(key(60), BIG)])
            assert s.store.failing is None
            assert [found - key(0) for found, _, _ in await s.page()] == [50, 60]

    run(main)


def test_room_is_kept_for_what_must_leave_a_full_disk(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sqlite() as s:
            reserve = s.directory / "store.db.reserve"
            assert reserve.stat().st_blocks * 512 >= 8 << 20
            await s.write(inserts=[(key(n), b"x") for n in (1, 2, 3)])
            original = statements(s).commit

            def full(batches: list[Batch]) -> None:
                if reserve.exists():
                    raise apsw.FullError
                original(batches)

            monkeypatch.setattr(statements(s), "commit", full)
            monkeypatch.setattr("worker.store.reserve.os.posix_fallocate", no_room)
            with pytest.raises(StoreError):
                await s.write(inserts=[(key(8), b"x")])
            assert reserve.exists(), "only what must be stored may use it up"
            await s.write(deletes=[key(1)], must=True)
            assert not reserve.exists()
            assert s.store.failing is not None
            with pytest.raises(StoreError, match="The disk is full"):
                await s.write(inserts=[(key(9), b"x")])
            await s.write(deletes=[key(2)])
            monkeypatch.undo()
            await s.write(inserts=[(key(10), b"x")])
            assert reserve.stat().st_blocks * 512 >= 8 << 20
            assert s.store.failing is None
            assert [found - key(0) for found, _, _ in await s.page()] == [3, 10]

    run(main)


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_keys_wait_by_their_number(sqlite: Open) -> None:
    async def main() -> None:
        async with sqlite() as s:
            for n in range(50):
                s.store.write(Unit(changes=[PutKeys("/queue/a", [b"key-%d" % n], [b"m"], 1)]))
            alone = s.store.pending_bytes
            s.store.write(Unit(changes=[PutKeys("/queue/a", [b"key-%d" % n for n in range(50)], [b"m"] * 50, 1)]))
            assert s.store.pending_bytes - alone >= alone // 3
            await s.write(changes=[Mark("after", 1)])
            assert s.store.pending_bytes == 0

    run(main)
