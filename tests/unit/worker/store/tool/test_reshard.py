"""Another number of workers: everything is where its new owner looks for it, whatever happens on the way."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import apsw
import msgpack
import pytest

from common import layout as layouts
from common.layout import STAGING, Layout, database, read_layout, write_layout
from common.ownership import owner_of
from tests.unit.worker.store.tool.stored import contents, execute, files, fill, frame, put, queue_unit, records
from worker.queues.letters import ADD, NACK, RETAIN, SETTLE, TAKE
from worker.queues.message import first_key
from worker.store.interface import Mark, PutTransaction, StoreError, Unit
from worker.store.tool import generation
from worker.store.tool.check import check
from worker.store.tool.reshard import Resharded, reshard

ROOT = Path(__file__).parents[5]


def lay_out(directory: Path, workers: int) -> Resharded:
    return reshard(directory, workers, lambda done, total: None)


def assert_whole(directory: Path, workers: int) -> None:
    said: list[str] = []
    assert check(directory, said.append), said
    assert read_layout(directory) == Layout(workers)
    assert not (directory / STAGING).exists()
    slots = {int(path.stem.removeprefix("slot-")) for path in directory.glob("slot-*.db")}
    assert slots <= set(range(workers))
    assert not [path for path in directory.glob("slot-*") if int(path.name[5:].split(".")[0]) >= workers]


@pytest.mark.parametrize("seed", range(6))
def test_everything_moves_to_its_new_owner_and_nothing_else_changes(seed: int, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    fill(directory, (1, 2, 4)[seed % 3], seed)
    before = contents(directory)
    assert any(each.startswith("messages") for each in before)
    for workers in (2, 4, 1, 3, 7, 2):
        lay_out(directory, workers)
        assert contents(directory) == before
        assert_whole(directory, workers)


def test_it_says_what_it_did(tmp_path: Path) -> None:
    fill(tmp_path, 2, 7)
    before = contents(tmp_path)
    queues = [name.removeprefix("queue ") for name in before if name.startswith("queue ")]
    moving = [name for name in queues if owner_of(name.encode(), 2) != owner_of(name.encode(), 3)]
    assert moving
    told: list[tuple[int, int]] = []
    done = reshard(tmp_path, 3, lambda *progress: told.append(progress))
    total = sum(len(each) for name, each in before.items() if name.startswith("messages"))
    of_moving = sum(len(before.get(f"messages {name}", ())) for name in moving)
    assert done == Resharded(2, len(queues), total, len(moving), of_moving)
    assert told[-1] == (total, total)
    assert [each for each, _ in told] == sorted(each for each, _ in told)


def test_long_queues_are_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.store.tool.generation._CHUNK", 3)
    # Without gaps, and in several priorities; a piece ends within one and at its end.
    content = [(4 + counter // 8, counter, frame(f"m{counter}")) for counter in range(1, 18)]
    put(tmp_path, 0, queue_unit(9, "/queue/a", content), queue_unit(11, "/queue/b", content[:3]))
    before = contents(tmp_path)
    lay_out(tmp_path, 3)
    assert contents(tmp_path) == before
    assert_whole(tmp_path, 3)


def test_a_new_directory_and_the_same_number_are_no_work(tmp_path: Path) -> None:
    assert lay_out(tmp_path, 3) == Resharded(3)
    assert os.listdir(tmp_path) == ["layout"]
    fill(tmp_path, 3, 1)
    before = files(tmp_path)
    assert lay_out(tmp_path, 3) == Resharded(3)
    assert files(tmp_path) == before


def test_a_directory_that_says_nothing_is_laid_out_as_its_databases_are(tmp_path: Path) -> None:
    fill(tmp_path, 4, 3)
    (tmp_path / "layout").unlink()
    before = contents(tmp_path)
    assert lay_out(tmp_path, 2).before == 4
    assert contents(tmp_path) == before
    assert_whole(tmp_path, 2)


def test_what_ends_with_its_worker_is_left_behind(tmp_path: Path) -> None:
    put(
        tmp_path,
        0,
        queue_unit(1, "/temp-queue/a", [(4, 1, frame("m1"))], options=b"volatile"),
        queue_unit(2, "/queue/a", [(4, 1, frame("m2"))]),
        Unit(changes=[Mark("0-abc.1", 77)]),
    )
    lay_out(tmp_path, 2)
    assert {name.split()[1] for name in contents(tmp_path)} == {"/queue/a"}
    marks = [list(apsw.Connection(str(each)).execute("SELECT * FROM mark")) for each in tmp_path.glob("slot-*.db")]
    assert marks == [[], []]


def test_idempotency_keys_stay_in_the_order_of_their_age(tmp_path: Path) -> None:
    fill(tmp_path, 4, 5, queues=60)
    lay_out(tmp_path, 1)
    connection = apsw.Connection(str(database(tmp_path, 0)))
    times = [at for (at,) in connection.execute("SELECT at FROM seen ORDER BY place")]
    connection.close()
    assert len(times) > 20
    assert times == sorted(times)


def test_a_wrong_counter_of_messages_is_right_afterwards(tmp_path: Path) -> None:
    fill(tmp_path, 2, 8)
    before = contents(tmp_path)
    for slot in (0, 1):
        execute(tmp_path, slot, "UPDATE depth SET messages = messages + 1, bytes = 5")
    lay_out(tmp_path, 3)
    assert contents(tmp_path) == before


# --- transactions under way


def names_for(workers: int, moving_to: int, count: int, slot: int) -> list[str]:
    """Queues of `slot` among `workers` that another slot owns among `moving_to`."""
    names = [f"/queue/t{number}" for number in range(1000)]
    return [
        name
        for name in names
        if owner_of(name.encode(), workers) == slot and owner_of(name.encode(), moving_to) != slot
    ][:count]


@pytest.mark.parametrize("after", [1, 3])
def test_transactions_under_way_find_the_new_owners_and_the_new_keys(after: int, tmp_path: Path) -> None:
    [a, fresh] = names_for(2, after, 2, 0) if after == 3 else ["/queue/t0", "/queue/t1"]
    if after == 1:
        [a, fresh] = [n for n in (f"/queue/u{i}" for i in range(99)) if owner_of(n.encode(), 2) == 0][:2]
    b = next(n for n in (f"/queue/v{i}" for i in range(99)) if owner_of(n.encode(), 2) == 1)
    other = next(n for n in (f"/queue/w{i}" for i in range(99)) if owner_of(n.encode(), 2) == 0)
    done, undone = [ADD, b.encode(), b"1-", [b"x\n\n\0"], None], [ADD, fresh.encode(), b"2-", [b"x\n\n\0"], None]
    kept = [RETAIN, b"/topic/new", b"y\n\n\0", True]
    key_a, key_b = first_key(5, 9) + 3, first_key(7) + 2
    parts = {
        0: [
            undone,
            kept,
            [SETTLE, a.encode(), 12, [key_a, first_key(6) + 1, first_key(77) + 1]],
            [TAKE, other.encode(), [first_key(88) + 1]],
        ],
        1: [
            done,
            [RETAIN, b"/topic/old", b"x\n\n\0", True],
            [NACK, b.encode(), 3, [key_b], None, True, ""],
            [TAKE, b.encode(), [key_b]],
        ],
    }
    put(
        tmp_path,
        0,
        queue_unit(5, a, [(9, 3, frame("m1"))]),
        queue_unit(6, other, [(4, 1, frame("m2"))]),
    )
    put(
        tmp_path,
        1,
        queue_unit(7, b, [(9, 2, frame("m3"))]),
        Unit(changes=[PutTransaction("1-x-1", msgpack.packb(parts)), Mark("transaction 1-x-1", 1)]),
        Unit(changes=[PutTransaction("1-x-2", msgpack.packb({1: [done]})), Mark("transaction 1-x-2", 1)]),
    )
    lay_out(tmp_path, after)
    found = records(tmp_path)
    # Nothing is left to do for the second.
    assert set(found) == {"1-x-1"}

    def new_key(name: str, old: int) -> int:
        connection = apsw.Connection(str(database(tmp_path, owner_of(name.encode(), after))))
        [(number,)] = connection.execute("SELECT number FROM queue WHERE name = ?", (name,))
        connection.close()
        return first_key(number) | (old & (first_key(1) - 1))

    expected: dict[int, list[list[object]]] = {}
    for operation in (
        undone,
        kept,
        [SETTLE, a.encode(), 12, [new_key(a, key_a)]],
        [NACK, b.encode(), 3, [new_key(b, key_b)], None, True, ""],
        [TAKE, b.encode(), [new_key(b, key_b)]],
    ):
        expected.setdefault(owner_of(operation[1], after), []).append(operation)
    assert found["1-x-1"] == expected
    for path in tmp_path.glob("slot-*.db"):
        connection = apsw.Connection(str(path))
        assert not list(connection.execute("SELECT * FROM mark"))
        connection.close()


# --- what it refuses


def assert_refused(directory: Path, workers: int, what: str) -> None:
    before, held = files(directory), contents(directory)
    with pytest.raises(StoreError, match=what):
        lay_out(directory, workers)
    assert files(directory) == before
    assert contents(directory) == held
    assert not (directory / STAGING).exists()


def test_messages_of_no_queue_are_not_left_behind(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    put(tmp_path, 1, Unit(inserts=[(first_key(500) + 1, frame("stray"))]))
    assert_refused(tmp_path, 3, "slot-1.db holds 1 message of no known queue")


def test_a_queue_in_two_databases_is_not_merged(tmp_path: Path) -> None:
    for slot in (0, 1):
        put(tmp_path, slot, queue_unit(1, "/queue/a", [(4, 1, frame(f"m{slot}"))]))
    before = files(tmp_path)
    with pytest.raises(StoreError, match=r"'/queue/a' is both in slot-0\.db and in slot-1\.db"):
        lay_out(tmp_path, 3)
    assert files(tmp_path) == before


def test_a_half_done_import_is_not_torn(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    put(tmp_path, 1, Unit(changes=[Mark("import", 5)]))
    assert_refused(tmp_path, 3, "store import --continue")


def test_too_little_room_is_seen_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 2, 1)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096))
    assert_refused(tmp_path, 3, "too little room")


def test_a_disk_that_fills_up_meanwhile_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1, messages=60)
    before, held = files(tmp_path), contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "worker.store", "reshard", str(tmp_path), "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )
    assert done.returncode == 1
    assert "nothing was changed: The disk is full" in done.stdout
    assert "Traceback" not in done.stderr
    assert files(tmp_path) == before
    assert contents(tmp_path) == held
    assert not (tmp_path / STAGING).exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b'{"workers": 0}', b'{"workers": "2"}', b"\xff"])
def test_a_damaged_layout_is_told_not_guessed(damage: bytes, tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    (tmp_path / "layout").write_bytes(damage)
    assert_refused(tmp_path, 3, "layout is damaged")


def test_a_damaged_database_is_told_and_kept(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    path = database(tmp_path, 1)
    path.write_bytes(b"not SQLite at all" + path.read_bytes()[17:])
    before = files(tmp_path)
    with pytest.raises(StoreError, match=r"slot-1\.db"):
        lay_out(tmp_path, 3)
    assert files(tmp_path) == before


# --- killed on the way


class Killed(BaseException):
    """What no code of ours handles."""


class Fuse:
    """Raises `Killed` instead of the `number`th change of the file system, and at all that follow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for module, name in (
            (os, "replace"),
            (os, "unlink"),
            (os, "mkdir"),
            (os, "rmdir"),
            (os, "fsync"),
            (os, "write"),
        ):
            monkeypatch.setattr(module, name, self._around(getattr(module, name)))
        monkeypatch.setattr(layouts, "sync", self._around(layouts.sync))
        monkeypatch.setattr("worker.store.tool.reshard.make", self._around(generation.make))

    def _around(self, does: Callable[..., object]) -> Callable[..., object]:
        def guarded(*arguments: object, **named: object) -> object:
            if self.left is not None:
                if self.left <= 0:
                    raise Killed
                self.left -= 1
            return does(*arguments, **named)

        return guarded


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1)])
def test_killed_at_any_step_nothing_is_lost_or_there_twice(
    before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = Fuse(monkeypatch)
    filled = tmp_path / "filled"
    fill(filled, before, 11, queues=6, messages=6)
    held = contents(filled)
    steps = 0
    while True:
        directory = tmp_path / str(steps)
        shutil.copytree(filled, directory)
        fuse.left = steps
        try:
            lay_out(directory, after)
        except Killed:
            pass
        else:
            break
        # The next start wants the same, what was before, or something else; now and then it dies, too.
        goal = (after, before, 2)[steps % 3]
        fuse.left = steps // 2 if steps % 5 == 0 else None
        try:
            lay_out(directory, goal)
        except Killed:
            fuse.left = None
            lay_out(directory, goal)
        fuse.left = None
        assert contents(directory) == held, f"after step {steps}"
        assert_whole(directory, goal)
        steps += 1
    # It has so many steps at least: mkdir, databases, syncs, the decision, the new in place, the old away.
    assert steps > 10


def test_what_was_only_in_a_log_moves_too(tmp_path: Path) -> None:
    """As after a kill: what was committed last is in the write-ahead log alone."""
    fill(tmp_path / "alive", 2, 1)
    connection = apsw.Connection(str(database(tmp_path / "alive", 0)))
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE queue SET reserved = reserved + 1")
    held = contents(tmp_path / "alive")
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "alive", killed)
    connection.close()
    assert (killed / "slot-0.db-wal").stat().st_size
    lay_out(killed, 3)
    assert contents(killed) == held
    assert_whole(killed, 3)


def test_a_log_of_the_old_database_is_not_taken_for_the_new_ones(tmp_path: Path) -> None:
    old, new, directory = tmp_path / "old", tmp_path / "new", tmp_path / "data"
    fill(old, 2, 1)
    fill(new, 2, 2)
    connection = apsw.Connection(str(database(old, 0)))
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE queue SET reserved = reserved + 1")
    shutil.copytree(old, directory)
    connection.close()
    shutil.copytree(new, directory / STAGING)
    assert (directory / "slot-0.db-wal").stat().st_size
    write_layout(directory, Layout(5, 2))
    lay_out(directory, 2)
    assert contents(directory) == contents(new)
    assert_whole(directory, 2)


def test_the_new_layout_is_not_used_before_it_is_complete(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    write_layout(tmp_path, Layout(2, 3))
    said: list[str] = []
    with pytest.raises(StoreError, match="between the layouts for 2 and 3 workers"):
        check(tmp_path, said.append)
