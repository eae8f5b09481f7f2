"""What the SQLite store opens, and what it refuses with which words."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from common.log import EventLog
from tests.unit.worker.store.harness import SqliteOpened, key, run
from worker.store import schema
from worker.store.interface import Mark, PutKeys, PutQueue, StoreError, Unit
from worker.store.schema import APPLICATION_ID, MIGRATIONS
from worker.store.sqlite import SqliteStore

Open = Callable[..., SqliteOpened]


def refusal(path: Path) -> str:
    """Why `path` is not opened; one line."""
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(StoreError) as caught:
            SqliteStore(path, loop, EventLog("test", stream=io.StringIO())).open()
    finally:
        loop.close()
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text.replace(str(path), "FILE")


def fill(directory: Path, count: int = 2000) -> Path:
    """A store with some messages, closed."""

    async def main() -> None:
        async with SqliteOpened(directory) as s:
            frames = [(key(n), b"%08d" % n * 100) for n in range(1, count + 1)]
            await s.write(inserts=frames, depths=[(5, count, 800 * count)], changes=[PutQueue(5, "/queue/a", 9, 0)])

    run(main)
    return directory / "store.db"


@pytest.mark.parametrize("content", [b"garbage", b"garbage" * 10_000, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    assert refusal(path).startswith("FILE is ")
    assert path.read_bytes() == content


def test_the_database_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE message (id)")
    connection.close()
    before = path.read_bytes()
    assert refusal(path) == "FILE is a database, but not a Stampede store"
    assert path.read_bytes() == before


def test_the_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = fill(tmp_path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", len(MIGRATIONS) + 1)
    connection.close()
    before = path.read_bytes()
    newest = len(MIGRATIONS)
    assert refusal(path) == (
        f"FILE was written by a newer Stampede: its format is {newest + 1}, this one knows {newest}"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", [0.01, 0.3, 0.999])
def test_a_store_cut_off_is_refused(tmp_path: Path, part: float) -> None:
    path = fill(tmp_path)
    os.truncate(path, int(path.stat().st_size * part))
    assert refusal(path).startswith("FILE is ")


@pytest.mark.parametrize("place", [0, 100, 4096 * 2])
def test_a_store_with_a_spoilt_beginning_is_refused(tmp_path: Path, place: int) -> None:
    path = fill(tmp_path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\x99" * 4096)
    assert "FILE is " in refusal(path)


def test_a_store_without_one_of_its_tables_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path)
    connection = apsw.Connection(str(path))
    connection.execute("DROP TABLE depth")
    connection.close()
    assert refusal(path) == "FILE is damaged: it has no table depth"


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    fill(tmp_path)


def test_a_torn_write_ahead_log_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()

    def lose_power() -> None:
        """The files as they are now, the log with half a frame at its end."""
        for suffix in ("", "-wal"):
            (torn / f"store.db{suffix}").write_bytes((tmp_path / f"store.db{suffix}").read_bytes())
        with (torn / "store.db-wal").open("r+b") as wal:
            begin = wal.read(3000)[32:]
            wal.seek(0, os.SEEK_END)
            wal.write(begin)

    async def main() -> None:
        async with SqliteOpened(tmp_path) as s:
            await s.write(inserts=[(key(1), b"one")], changes=[Mark("o", 1)])
            lose_power()
        async with SqliteOpened(torn) as again:
            assert await again.page() == [(key(1), b"one", 0)]
            assert again.recovered.marks == {"o": 1}
            await again.write(inserts=[(key(2), b"two")])

    run(main)


# --- places


@pytest.mark.parametrize("place", ["none/store.db", "file/store.db", "directory"])
def test_a_place_where_there_can_be_no_file_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    assert refusal(tmp_path / place).startswith("Cannot open FILE")


@pytest.mark.parametrize(
    ("directory", "file", "said"),
    [(0o555, 0o600, "Permission denied"), (0o777, 0o400, "Permission denied"), (0o777, 0o000, "Permission denied")],
)
def test_a_place_that_is_not_ours_to_write_is_refused(directory: int, file: int, said: str) -> None:
    # Root may write anywhere, and these tests may run as root: another user tries.
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "store.db"
        path.touch()
        path.chmod(file)
        os.chmod(place, directory)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if os.getuid() == 0:
                os.setuid(65534)
            try:
                text = refusal(path)
            finally:
                os.write(writer, locals().get("text", "it was not refused").encode())
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            assert said in answer.read()
        os.waitpid(child, 0)
        os.chmod(place, 0o700)


def test_the_files_are_the_owner_s_alone(tmp_path: Path) -> None:
    def modes() -> dict[str, int]:
        return {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}

    async def main() -> None:
        async with SqliteOpened(tmp_path) as s:
            await s.write(inserts=[(key(1), b"secret")])
            assert modes() == dict.fromkeys(
                [f"store.db{end}" for end in ("", "-shm", "-wal", ".lock", ".reserve")], 0o600
            )
        assert modes() == dict.fromkeys([f"store.db{end}" for end in ("", ".lock", ".reserve")], 0o600)

    run(main)


HOLDER = """
import asyncio, sys
from common.log import EventLog
from worker.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1], asyncio.new_event_loop(), EventLog("test"))
store.open()
print("open", flush=True)
sys.stdin.read()
"""


def test_a_store_has_one_process_which_may_be_killed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        assert refusal(path) == "FILE is in use by another process"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    fill(tmp_path)


def test_a_store_refused_can_be_opened_once_it_is_mended(tmp_path: Path, sqlite: Open) -> None:
    async def main() -> None:
        path = tmp_path / "store.db"
        path.write_bytes(b"garbage" * 1000)
        s = sqlite()
        s.store = s.make(asyncio.get_running_loop())
        with pytest.raises(StoreError):
            s.store.open()
        path.unlink()
        s.store.open()
        await s.write(inserts=[(key(1), b"x")])
        await s.close()

    run(main)


def test_a_store_that_never_opened_can_be_closed(tmp_path: Path, sqlite: Open) -> None:
    async def main() -> None:
        s = sqlite()
        s.store = s.make(asyncio.get_running_loop())
        assert str(await s.begin(Unit(inserts=[(key(1), b"x")]))) == "The store is not open"
        await s.close()

    run(main)


# --- versions


def test_a_new_store_says_what_it_is(tmp_path: Path) -> None:
    path = fill(tmp_path)
    header = path.read_bytes()[:100]
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID
    assert int.from_bytes(header[60:64], "big") == len(MIGRATIONS)


def test_an_older_store_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fill(tmp_path, 10)
    later = (*MIGRATIONS, ("CREATE TABLE extra (a)", "INSERT INTO extra VALUES (7)"), ("UPDATE extra SET a = a * 6",))
    connection = apsw.Connection(str(path))
    schema.prepare(connection, str(path), later)
    assert list(connection.execute("SELECT a FROM extra")) == [(42,)]
    assert connection.pragma("user_version") == len(MIGRATIONS) + 2
    schema.prepare(connection, str(path), later)
    assert list(connection.execute("SELECT a FROM extra")) == [(42,)]
    assert list(connection.execute("SELECT count(*) FROM message")) == [(10,)]
    connection.close()


def test_idempotency_keys_of_the_first_format_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    connection = apsw.Connection(str(path))
    schema.prepare(connection, str(path), MIGRATIONS[:1])
    rows = [("/queue/a", "k1", "m1", 5), ("/queue/b", "a\\b:c\nd\re", "m2", 6), ("/queue/a", "é", "m3", 7)]
    connection.executemany("INSERT INTO seen (destination, key, message_id, at) VALUES (?, ?, ?, ?)", rows)
    connection.close()

    async def main() -> None:
        async with SqliteOpened(tmp_path) as s:
            assert s.recovered.keys == [
                PutKeys("/queue/a", [b"k1"], [b"m1"], 5),
                PutKeys("/queue/b", [rb"a\\b\cc\nd\re"], [b"m2"], 6),
                PutKeys("/queue/a", ["é".encode()], [b"m3"], 7),
            ]

    run(main)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = fill(tmp_path, 10)
    connection = apsw.Connection(str(path))
    with pytest.raises(StoreError, match="Cannot open"):
        schema.prepare(connection, str(path), (*MIGRATIONS, ("CREATE TABLE extra (a)",), ("nonsense",)))
    assert connection.pragma("user_version") == len(MIGRATIONS)
    assert not connection.table_exists(None, "extra")
    connection.close()
    fill_again = SqliteOpened(tmp_path)

    async def main() -> None:
        async with fill_again as s:
            assert len(await s.page()) == 10

    run(main)
