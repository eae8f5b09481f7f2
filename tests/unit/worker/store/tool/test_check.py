"""`check` finds what is wrong, and nothing where nothing is; `stats` counts what is there."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest

from common.layout import Layout, database, write_layout
from common.ownership import owner_of
from tests.unit.worker.store.tool.stored import contents, execute, fill, frame, put, queue_unit
from worker.queues.message import first_key
from worker.store.interface import Park, PutKeys, PutTransaction, Retain, StoreError, Unit
from worker.store.tool.check import check
from worker.store.tool.stats import stats

A = "/queue/a"
SLOT = owner_of(A.encode(), 2)
KEY = first_key(3, 4) + 1


def checked(directory: Path) -> tuple[bool, list[str]]:
    said: list[str] = []
    return check(directory, said.append), said


def small(directory: Path) -> None:
    put(directory, 1 - SLOT)
    put(directory, SLOT, queue_unit(3, A, [(4, 1, frame("m1", b"one")), (0, 2, frame("m2"))]))
    write_layout(directory, Layout(2))


@pytest.mark.parametrize("seed", range(3))
def test_what_workers_store_is_sound(seed: int, tmp_path: Path) -> None:
    fill(tmp_path, 3, seed)
    sound, said = checked(tmp_path)
    assert sound
    assert [line.split(":")[0] for line in said] == ["slot-0.db", "slot-1.db", "slot-2.db", str(tmp_path)]
    assert all("OK" in line for line in said)


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (
            "UPDATE depth SET messages = 5",
            f"'{A}' is counted to hold 5 messages of 90 bytes, but 2 of",
        ),
        ("UPDATE depth SET bytes = 1", f"'{A}' is counted to hold 2 messages of 1 byte, but 2 of"),
        ("DELETE FROM depth", f"'{A}' is counted to hold 0 messages of 0 bytes, but 2 of"),
        ("DELETE FROM message", f"'{A}' is counted to hold 2 messages of 90 bytes, but 0 of 0 bytes"),
        ("DELETE FROM queue", "2 messages of a queue 3, which is not known"),
        ("DELETE FROM queue; DELETE FROM message", "1 depth of queues that are not known"),
        ("UPDATE queue SET reserved = 2", f"'{A}' has a message at place 2, but only those below 2 are reserved"),
        (f"UPDATE message SET key = {first_key(4) - 5} WHERE key = {KEY}", "with a priority that there is not"),
        (f"UPDATE message SET frame = x'00' WHERE key = {KEY}", f"1 message of '{A}' with no end of the headers"),
        (f"INSERT INTO delivery VALUES ({KEY + 7}, 1)", "1 count of deliveries of messages that are not there"),
        (f"INSERT INTO expiry VALUES ({KEY + 7}, 1), (5, 5)", "2 expiries of messages that are not there"),
        (f"INSERT INTO queue VALUES (9, '{A}', 1, 0, x'')", f"'{A}' is there twice, as 3 and 9"),
        ("INSERT INTO queue VALUES (1 << 19, '/x', 1, 0, x'')", "has the number 524288, which no key can hold"),
        (f"INSERT INTO parked VALUES (1, 1, '{A}', x'00')", "1 parked message with no end of the headers"),
        ("INSERT INTO committed VALUES (1, 't', x'c1')", "transaction t: its record cannot be read"),
        ("INSERT INTO committed VALUES (1, 't', x'01')", "transaction t: its record is not one"),
        ("INSERT INTO committed VALUES (1, 't', x'810290')", "transaction t: it is for worker 2, of 2"),
        ("PRAGMA user_version = 99", "was written by a newer Stampede: its format is 99"),
        ("PRAGMA user_version = 0", "was written by an older Stampede"),
        ("PRAGMA application_id = 0", "is a database, but not a Stampede store"),
        ("PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'expiry_at'", "damaged"),
    ],
)
def test_each_fault_is_named(broken: str, fault: str, tmp_path: Path) -> None:
    small(tmp_path)
    assert checked(tmp_path)[0]
    execute(tmp_path, SLOT, broken)
    sound, said = checked(tmp_path)
    assert not sound
    assert [line for line in said if line.startswith(f"slot-{SLOT}.db: ") and fault in line], said
    assert f"slot-{1 - SLOT}.db: OK, 0 queues, 0 messages, 0 bytes" in said
    assert said[-1] == f"{tmp_path}: 1 of 2 databases is not as they should be"


@pytest.mark.parametrize(
    ("unit", "fault"),
    [
        (queue_unit(1, A, []), f"'{A}' should be in slot-{SLOT}.db"),
        (Unit(changes=[Park(1, 1, A, frame("p"))]), f"parked messages of '{A}' should be in slot-{SLOT}.db"),
        (Unit(changes=[PutKeys(A, [b"k"], [b"m"], 1)]), f"idempotency keys of '{A}' should be in slot-{SLOT}.db"),
        (Unit(changes=[Retain(A, frame("r"))]), f"the retained message of '{A}' should be in slot-{SLOT}.db"),
    ],
)
def test_what_is_in_the_wrong_database_is_told(unit: Unit, fault: str, tmp_path: Path) -> None:
    put(tmp_path, SLOT)
    put(tmp_path, 1 - SLOT, unit)
    write_layout(tmp_path, Layout(2))
    sound, said = checked(tmp_path)
    assert not sound
    assert f"slot-{1 - SLOT}.db: {fault}" in said


def test_a_database_of_no_worker_is_told(tmp_path: Path) -> None:
    small(tmp_path)
    put(tmp_path, 5)
    sound, said = checked(tmp_path)
    assert not sound
    assert "slot-5.db: the directory is laid out for 2 workers, none of which opens this one" in said


def test_a_torn_file_is_told_and_the_others_are_still_looked_at(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1, messages=60)
    path = database(tmp_path, 0)
    content = bytearray(path.read_bytes())
    content[4096 * 5 : 4096 * 20] = bytes(4096 * 15)
    path.write_bytes(content)
    sound, said = checked(tmp_path)
    assert not sound
    assert any(line.startswith("slot-0.db: ") and "OK" not in line for line in said)
    assert any(line.startswith("slot-1.db: OK") for line in said)
    path.write_bytes(b"")
    assert "slot-0.db: OK, never used" in checked(tmp_path)[1]


def test_very_many_faults_are_counted(tmp_path: Path) -> None:
    for number in range(2, 90):
        put(tmp_path, 0, queue_unit(number, f"/queue/{number}", []))
    execute(tmp_path, 0, "INSERT INTO depth SELECT number, 1, 1 FROM queue WHERE true")
    write_layout(tmp_path, Layout(1))
    sound, said = checked(tmp_path)
    assert not sound
    assert len(said) == 22
    assert said[-2] == "slot-0.db: and 68 more faults"


def test_it_reads_while_a_worker_writes_and_sees_what_was_committed(tmp_path: Path) -> None:
    small(tmp_path)
    writer = apsw.Connection(str(database(tmp_path, SLOT)))
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM message")
    assert checked(tmp_path)[0]
    writer.execute("ROLLBACK")
    writer.close()


def test_nothing_to_check_is_sound_and_a_directory_in_between_is_told(tmp_path: Path) -> None:
    write_layout(tmp_path, Layout(2))
    assert checked(tmp_path) == (True, [f"{tmp_path}: OK, 0 databases, laid out for 2 workers"])
    with pytest.raises(StoreError, match="cannot read"):
        checked(tmp_path / "absent")


# --- stats


def test_stats_counts_what_is_there(tmp_path: Path) -> None:
    fill(tmp_path, 3, 4)
    put(tmp_path, 0, Unit(changes=[PutTransaction("t", b"\x80")]))
    held = contents(tmp_path)
    said: list[str] = []
    stats(tmp_path, said.append, top=0, as_json=True)
    [text] = said
    found = json.loads(text)
    assert found["workers"] == 3
    for row in found["queues"]:
        messages = held.get(f"messages {row['queue']}", [])
        assert row["messages"] == len(messages)
        assert row["bytes"] == sum(len(content) for _, content, _, _ in messages)
        assert row["parked"] == len(held.get(f"parked {row['queue']}", []))
        assert row["slot"] == owner_of(row["queue"].encode(), 3)
    depths = [row["messages"] for row in found["queues"]]
    assert depths == sorted(depths, reverse=True)
    assert len(depths) == found["totals"]["queues"] == 12
    assert found["totals"]["messages"] == sum(depths)
    assert (found["totals"]["transactions"], found["totals"]["retained"]) == (1, 5)
    assert found["totals"]["keys"] == sum(len(each) for name, each in held.items() if name.startswith("keys"))
    assert found["totals"]["file_bytes"] >= sum(path.stat().st_size for path in tmp_path.glob("slot-*.db"))


def test_the_table_is_aligned_and_shows_the_deepest(tmp_path: Path) -> None:
    put(
        tmp_path,
        0,
        queue_unit(1, "/queue/few", [(4, 1, frame("m"))]),
        queue_unit(2, "/queue/most of all", [(4, n, frame("m")) for n in range(1, 2001)]),
        queue_unit(3, "/queue/\x1b[2J", [(4, n, frame("m")) for n in range(1, 3)]),
    )
    said: list[str] = []
    stats(tmp_path, said.append, top=2, as_json=False)
    assert said[0].split() == ["queue", "slot", "messages", "bytes", "parked"]
    assert said[1].startswith("/queue/most of all     0     2,000  ")
    assert said[2].startswith("'/queue/\\x1b[2J'  ")
    assert len({len(line) for line in said[:3]}) == 1
    assert said[3] == "... and 1 more queue"
    assert said[-1].startswith("2,003 messages of ")
