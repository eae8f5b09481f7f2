"""How much the SQLite store does for what it is asked: counted in pages, never by the clock."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.unit.worker.store.harness import SqliteOpened, key, run
from worker.store import reader, statements
from worker.store.interface import PutQueue, SetExpiry

Open = Callable[..., SqliteOpened]
MILLION = 1_000_000


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a store of a million messages in one queue."""
    directory = tmp_path_factory.mktemp("million")

    async def make() -> None:
        async with SqliteOpened(directory) as s:
            await s.write(depths=[(5, MILLION, 20 * MILLION)], changes=[PutQueue(5, "/queue/a", MILLION, 0)])

    run(make)
    connection = apsw.Connection(str(directory / "store.db"))
    connection.pragma("synchronous", "off")
    connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO message SELECT ? + i, printf('%020d', i) FROM n",
        (MILLION, key(0)),
    )
    connection.close()
    return directory


def pages_read(connection: apsw.Connection) -> int:
    return connection.status(apsw.SQLITE_DBSTATUS_CACHE_MISS, True)[0]


def test_opening_reads_as_little_of_a_million_messages_as_of_none(million: Path, sqlite: Open) -> None:
    async def main() -> None:
        async with SqliteOpened(million) as s:
            assert [(queue.messages, queue.bytes) for queue in s.recovered.queues] == [(MILLION, 20 * MILLION)]
            assert (million / "store.db").stat().st_size > 7000 * 4096
            assert pages_read(s.store._connections[0]) < 40

    run(main)


def test_a_page_deep_in_a_queue_is_found_by_its_key(million: Path) -> None:
    async def main() -> None:
        async with SqliteOpened(million) as s:
            pages_read(s.store._connections[1])
            found = await s.page(key(700_000), key(800_000), count=100)
            assert [number for number, _, _ in found] == [key(n) for n in range(700_001, 700_101)]
            assert pages_read(s.store._connections[1]) < 20

    run(main)


def test_no_statement_looks_through_a_table(tmp_path: Path, sqlite: Open) -> None:
    async def main() -> None:
        async with sqlite() as s:
            await s.write(inserts=[(key(1), b"x")])

    run(main)
    connection = apsw.Connection(str(tmp_path / "store.db"))
    numbers = apsw.carray(array("q", [1]))
    steps = [step for *_, each in statements._TRIGGERS for step in each]
    for statement, bindings in (
        (reader._SPAN, (1, 2, 3)),
        (reader._SIZES, (1, 2, 3)),
        (reader._PAGE, (1, 2)),
        (reader._FETCH, (numbers,)),
        (reader._FETCH_SIZES, (numbers,)),
        (reader._EXPIRED, (1, 2, 3, 4)),
        (reader._PARKED_SIZES, (1, 2)),
        (reader._PARKED, (1, 2)),
        *((re.sub(r"NEW\.\w+", "1", step), ()) for step in steps if step.startswith("DELETE") and "json" not in step),
        ("DELETE FROM seen WHERE at < ?", (1,)),
    ):
        plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", bindings)]
        assert not [line for line in plan if line.startswith("SCAN") and "carray" not in line and "(" not in line], plan
        assert [line for line in plan if "SEARCH" in line], plan
        assert not [line for line in plan if "message" in line and "SCAN" in line], plan
    connection.close()


def test_the_log_stays_near_its_size_while_writes_go_on(sqlite: Open) -> None:
    async def main() -> None:
        limit = 1 << 20
        async with sqlite(wal_bytes=limit) as s:
            largest = 0
            for n in range(1, 401):
                await s.write(inserts=[(key(n), b"x" * 40_000)])
                largest = max(largest, (s.path.parent / "store.db-wal").stat().st_size)
            # Four times its size is when writing waits for it, after at most sixteen commits more.
            assert largest < 4 * limit + 17 * 60_000
            assert s.store._writer is not None
            assert s.store._writer._wal.checkpoints > 0
            assert len(await s.page()) == 400

    run(main)


def test_when_idle_the_log_is_emptied_and_the_file_shrinks(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.writer._IDLE", 0.0)
    monkeypatch.setattr("worker.store.log_file._KEPT", 0)
    monkeypatch.setattr("worker.store.log_file._MANY_FREE", 300)
    monkeypatch.setattr("worker.store.log_file._FEW_FREE", 100)

    async def main() -> None:
        async with sqlite() as s:
            await s.write(inserts=[(key(n), b"x" * 40_000) for n in range(1, 101)])
            await s.write(inserts=[(key(101), b"stays")], deletes=[key(n) for n in range(1, 101)])
            while s.store._writer is not None and s.store._writer._wal.used:
                await s.page()
            assert s.path.stat().st_size < 130 * 4096
            assert (s.path.parent / "store.db-wal").stat().st_size == 0
            assert await s.page() == [(key(101), b"stays", 0)]
            assert s.store.failing is None

    run(main)


def test_a_short_log_is_written_over_not_cut(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.writer._IDLE", 0.0)

    async def main() -> None:
        async with sqlite() as s:
            log = s.path.parent / "store.db-wal"
            await s.write(inserts=[(key(n), b"x" * 40_000) for n in range(1, 11)])
            while s.store._writer is not None and s.store._writer._wal.used:
                await s.page()
            size = log.stat().st_size
            assert size >= 400_000
            monkeypatch.setattr("worker.store.writer._IDLE", 60.0)
            await s.write(inserts=[(key(11), b"x")])
            frames, _ = s.store._connections[0].wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            assert 0 < frames < 10
            assert log.stat().st_size == size
            assert len(await s.page()) == 11

    run(main)


def test_the_log_is_longer_than_what_comes_next(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with sqlite() as s:
            log = s.path.parent / "store.db-wal"
            lengths = set()
            for n in range(1, 400):
                await s.write(inserts=[(key(n), b"x")])
                if n >= 16:
                    lengths.add(log.stat().st_size)
            frames, _ = s.store._connections[0].wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            assert frames * 4096 < max(lengths)
            assert len(lengths) < 10

    run(main)


def test_what_was_written_ahead_is_nothing_after_a_crash(sqlite: Open, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()

    async def main() -> None:
        async with sqlite() as s:
            for n in range(1, 40):
                await s.write(inserts=[(key(n), b"x")])
            assert (s.path.parent / "store.db-wal").stat().st_size > 1 << 20
            for name in ("store.db", "store.db-wal"):
                (copy / name).write_bytes((s.path.parent / name).read_bytes())
        async with SqliteOpened(copy) as again:
            assert [number for number, _, _ in await again.page()] == [key(n) for n in range(1, 40)]
            await again.write(inserts=[(key(40), b"x")])

    run(main)


def test_a_disk_that_is_nearly_full_is_not_filled_ahead(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.log_file._SPARE", 1 << 60)

    async def main() -> None:
        async with sqlite() as s:
            for n in range(1, 40):
                await s.write(inserts=[(key(n), b"x")])
            assert (s.path.parent / "store.db-wal").stat().st_size < 1 << 20

    run(main)


def test_a_reader_keeps_no_log_from_being_emptied(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.log_file._KEPT", 0)
    monkeypatch.setattr("worker.store.writer._IDLE", 0.0)

    async def main() -> None:
        async with sqlite() as s:
            await s.write(inserts=[(key(1), b"x")], changes=[SetExpiry(key(1), 1)])
            assert await s.page()
            assert await s.fetch([key(1)])
            assert await s.expired(5)
            assert await s.parked() == ([], 0)
            while s.store._writer is not None and s.store._writer._wal.used:
                await s.fetch([])
            assert (s.path.parent / "store.db-wal").stat().st_size == 0

    run(main)
