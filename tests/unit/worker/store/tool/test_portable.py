"""Out by `export` and in by `import`: the same messages, wherever they go and whatever happens on the way."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apsw
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.codec import encode_headers
from common.layout import Layout, database, read_layout, write_layout
from common.negotiation import Version
from common.ownership import owner_of
from tests.unit.worker.store.tool.stored import contents, execute, fill, frame, put, queue_unit
from worker.queues.letters import ADD, RETAIN, SETTLE, TAKE
from worker.queues.message import first_key
from worker.store.interface import Mark, PutKeys, PutTransaction, Retain, StoreError, Unit
from worker.store.tool import importing
from worker.store.tool.check import check
from worker.store.tool.export import export
from worker.store.tool.importing import Imported, import_lines
from worker.store.tool.portable import encode_frame, line, portable, read
from worker.traits import Traits

NOW = 1_795_000_000_000


def exported(directory: Path, *names: str) -> list[bytes]:
    lines: list[bytes] = []
    export(directory, lines.append, names, NOW)
    return lines


def imported(directory: Path, lines: Iterable[bytes], workers: int = 3, **more: Any) -> Imported:
    return import_lines(directory, lines, workers=workers, now=NOW, progress=lambda done, size: None, **more)


def parsed(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(each) for each in lines]


def messages_in(directory: Path) -> dict[str, list[bytes]]:
    """The frames of each queue, in order."""
    return {
        name.removeprefix("messages "): [content for _, content, _, _ in each]
        for name, each in contents(directory).items()
        if name.startswith("messages ")
    }


def assert_sound(directory: Path) -> None:
    said: list[str] = []
    assert check(directory, said.append), said
    for path in directory.glob("slot-*.db"):
        connection = apsw.Connection(str(path))
        assert not list(connection.execute("SELECT * FROM mark"))
        connection.close()


# --- lines


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
            st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        )
    ),
    st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")),
)
def test_a_line_holds_any_message(headers: list[tuple[str, str]], body: bytes) -> None:
    headers = [(name, value) for name, value in headers if name not in ("content-length", "expires")]
    whole = [*headers, ("content-length", str(len(body)))]
    stored = b"id-1\n%b\n%b\0" % (encode_headers(whole, Version.V1_2), body)
    fields = portable(stored)
    assert [tuple(each) for each in fields["headers"]] == whole
    written = line({"kind": "message", **fields})
    assert written.count(b"\n") == 1 and written.endswith(b"\n")
    assert encode_frame(read(written)) == stored


def test_the_length_is_that_of_the_body_whatever_a_line_says() -> None:
    fields = {"kind": "message", "id": "m", "headers": [["content-length", "99"], ["a", "b"]], "body": "\u00fcber"}
    assert encode_frame(fields) == b"m\ncontent-length:5\na:b\n\n\xc3\xbcber\0"
    assert encode_frame(fields | {"headers": []}) == b"m\ncontent-length:5\n\n\xc3\xbcber\0"
    assert encode_frame(fields | {"headers": [], "body": ""}) == b"m\n\n\0"
    assert encode_frame(fields | {"headers": [], "body": "", "expires": 5}) == b"m\nexpires:5\n\n\0"


def test_idempotency_keys_are_lines_of_their_own_whatever_is_in_them(tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    put(there, 0, Unit(changes=[PutKeys("/queue/a", [rb"a\nb\c", "é".encode()], [b"m 1", b"m2"], 5)]))
    write_layout(there, Layout(1))
    found = [(each["key"], each["id"], each["at"]) for each in parsed(exported(there)) if each["kind"] == "key"]
    assert found == [("a\nb:", "m 1", 5), ("é", "m2", 5)]
    back.mkdir()
    imported(back, exported(there), workers=1)
    assert contents(back) == contents(there)


def test_the_format_is_the_documented_one(tmp_path: Path) -> None:
    fill(tmp_path, 2, 3)
    lines = parsed(exported(tmp_path))
    assert lines[0] == {"kind": "stampede-export", "version": 1, "release": lines[0]["release"], "workers": 2}
    assert lines[-1] == {"kind": "end"}
    assert {each["kind"] for each in lines[1:-1]} == {"message", "subscription", "key", "retained"}
    for each in lines:
        if each["kind"] == "message":
            assert set(each) - {"count", "expires", "due"} <= {
                *("kind", "queue", "id", "headers", "priority"), "body" if "body" in each else "body64"
            }  # fmt: skip


# --- round trips


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", [1, 4])
def test_everything_comes_back_in_order(seed: int, workers: int, tmp_path: Path) -> None:
    origin, target = tmp_path / "origin", tmp_path / "target"
    fill(origin, 2, seed)
    lines = exported(origin)
    target.mkdir()
    before = contents(origin)
    done = imported(target, lines, workers)
    assert done.line == len(lines)
    assert messages_in(target).keys() == messages_in(origin).keys()
    assert read_layout(target) == Layout(workers)
    assert_sound(target)
    after = contents(target)
    for name in before:
        kind = name.split()[0]
        if kind == "messages":
            # Places are new ones, but of the same priority; counts of what may have been delivered are spelled out.
            [_, delivered, _] = before[name.replace("messages", "queue")][0]
            assert [(key >> 40, ids(content), count, at) for key, content, count, at in after[name]] == [
                (key >> 40, ids(content), count or (1 if key & ((1 << 40) - 1) <= delivered else None), at)
                for key, content, count, at in before[name]
            ]
        elif kind == "parked":
            assert sorted(after[name]) == sorted(before[name])
        elif kind in ("keys", "retained"):
            assert after[name] == before[name]
        elif kind == "queue" and before[name][0][2]:
            assert after[name][0][2] == before[name][0][2]
    # And once more, byte for byte.
    third = tmp_path / "third"
    third.mkdir()
    imported(third, exported(target), 2)
    assert sorted(exported(third)[1:]) == sorted(exported(target)[1:])


def ids(content: bytes) -> tuple[bytes, bytes]:
    """The message-id and the body."""
    return content.split(b"\n")[0], content.split(b"\n\n", 1)[1]


def test_it_goes_to_the_tail_and_number_and_place_are_never_used_again(tmp_path: Path) -> None:
    name = "/queue/a"
    put(tmp_path, 0, queue_unit(2, name, [(4, 7, frame("old")), (9, 8, frame("high"))]))
    put(tmp_path, 0, queue_unit(1, "/temp-queue/x", [], options=b"volatile"))
    write_layout(tmp_path, Layout(1))
    lines = [
        line({"kind": "stampede-export", "version": 1}),
        *[
            line({"kind": "message", "queue": queue, "id": id, "headers": [], "body": "", "priority": priority})
            for queue, id, priority in ((name, "new", 4), ("/queue/b", "first", 0), (name, "urgent", 9))
        ],
        line({"kind": "end"}),
    ]
    imported(tmp_path, lines)
    found = messages_in(tmp_path)
    assert [ids(each)[0] for each in found[name]] == [b"high", b"urgent", b"old", b"new"]
    assert_sound(tmp_path)
    connection = apsw.Connection(str(database(tmp_path, 0)))
    numbers = dict(connection.execute("SELECT name, number FROM queue"))
    [(key,)] = connection.execute("SELECT key FROM message WHERE key > ?", (first_key(3),))
    connection.close()
    assert numbers == {"/temp-queue/x": 1, name: 2, "/queue/b": 3}
    # By the time, as for every new queue: see `first_counter`.
    assert key & ((1 << 40) - 1) > 1 << 30
    # The next import goes behind it.
    imported(tmp_path, [lines[0], line(json.loads(lines[1]) | {"id": "newer"}), lines[-1]])
    assert [ids(each)[0] for each in messages_in(tmp_path)[name]] == [b"high", b"urgent", b"old", b"new", b"newer"]


def test_only_the_queues_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    names = sorted(messages_in(tmp_path))[:2]
    lines = parsed(exported(tmp_path, *names))
    assert {each.get("queue", names[0]) for each in lines} == set(names)
    assert sum(each["kind"] == "message" and "due" not in each for each in lines) == sum(
        len(messages_in(tmp_path)[name]) for name in names
    )
    with pytest.raises(StoreError, match="has no queue '/queue/absent'"):
        exported(tmp_path, "/queue/absent")


def test_what_transactions_still_have_to_do_counts_as_done(tmp_path: Path) -> None:
    mine = next(n for n in (f"/queue/{i}" for i in range(99)) if owner_of(n.encode(), 2) == 0)
    theirs = next(n for n in (f"/queue/{i}" for i in range(99)) if owner_of(n.encode(), 2) == 1)
    new = Traits(priority=7, ttl=1000)
    late = Traits(delay=500)
    # As the first format had it, with an idempotency key.
    old = (*new.pack()[:7], "key", *new.pack()[7:])
    parts = {
        0: [
            [ADD, mine.encode(), b"a-", [b"1\n\nx\0", b"2\n\ny\0"], {0: old, 1: late.pack()}],
            [SETTLE, mine.encode(), 1, [first_key(3, 4) + 1]],
            [RETAIN, b"/topic/a", b"r\n\nnew\0", True],
        ],
        1: [
            [RETAIN, b"/topic/a", b"r\n\nold\0", True],
            [ADD, theirs.encode(), b"b-", [b"1\n\nz\0"], None],
            [TAKE, theirs.encode(), [first_key(3, 4) + 1]],
        ],
    }
    two = [(4, 1, frame("m1")), (4, 2, frame("m2"))]
    put(tmp_path, 0, queue_unit(3, mine, two), Unit(changes=[PutTransaction("t", msgpack.packb(parts))]))
    last = Retain("/topic/a", frame("r0"))
    put(tmp_path, 1, queue_unit(3, theirs, two), Unit(changes=[Mark("transaction t", 1), last]))
    write_layout(tmp_path, Layout(2))
    kept = [each for each in parsed(exported(tmp_path)) if each["kind"] == "retained"]
    assert [(each["destination"], each["body"]) for each in kept] == [("/topic/a", "new")]
    found = [
        (
            each["queue"],
            each["id"],
            each["priority"] if "due" not in each else None,
            each.get("expires"),
            each.get("due"),
        )
        for each in parsed(exported(tmp_path))
        if each["kind"] == "message"
    ]
    assert sorted(found, key=str) == sorted(
        [
            (mine, "m2", 4, None, None),
            (mine, "a-1", 7, NOW + 1000, None),
            (mine, "a-2", None, None, NOW + 500),
            (theirs, "m2", 4, None, None),
        ],
        key=str,
    )


def test_an_export_is_one_moment_of_each_database(tmp_path: Path) -> None:
    fill(tmp_path, 1, 1)
    expected = exported(tmp_path)
    lines: list[bytes] = []

    def write(each: bytes) -> None:
        if not lines:
            execute(tmp_path, 0, "DELETE FROM message")
        lines.append(each)

    export(tmp_path, write, (), NOW)
    assert lines == expected
    assert exported(tmp_path) != expected


# --- what is no export, or ends early

GOOD = {"kind": "message", "queue": "/queue/a", "id": "m", "headers": [["a", "b"]], "body": "x"}
HEADER = line({"kind": "stampede-export", "version": 1})
END = line({"kind": "end"})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{", "no JSON"),
        (b"\xff\n", "no JSON"),
        (b"\n", "no JSON"),
        (b"[]", 'no JSON object with a "kind"'),
        (line({"kind": 1}), 'no JSON object with a "kind"'),
        (line({"kind": "song"}), "no kind of line is called 'song'"),
        (HEADER, "no kind of line is called 'stampede-export'"),
        (line(GOOD | {"queue": ""}), "'queue' must be text of one line"),
        (line(GOOD | {"queue": 7}), "'queue' must be text of one line"),
        (line(GOOD | {"id": "a\nb"}), "'id' must be text of one line"),
        (line(GOOD | {"id": "a\0b"}), "has a NUL"),
        (line(GOOD | {"priority": 10}), "'priority' must be a whole number from 0 to 9"),
        (line(GOOD | {"priority": True}), "'priority' must be a whole number"),
        (line(GOOD | {"count": -1}), "'count' must be a whole number"),
        (line(GOOD | {"expires": 1.5}), "'expires' must be a whole number"),
        (line(GOOD | {"due": 1 << 60}), "'due' must be a whole number"),
        (line(GOOD | {"headers": {}}), "'headers' must be a list of pairs"),
        (line(GOOD | {"headers": [["a"]]}), "a header must be a pair"),
        (line(GOOD | {"headers": [["", "b"]]}), "a header must be a pair"),
        (line(GOOD | {"headers": [["a", "b\0"]]}), "has a NUL"),
        (b'{"kind":"message","queue":"/queue/a","id":"m","headers":[["a","\\ud800"]],"body":""}', "no Unicode text"),
        (b'{"kind":"message","queue":"/queue/a","id":"m","headers":[],"body":"\\ud800"}', "the body cannot be read"),
        (line(GOOD | {"body": None}), "there must be a 'body'"),
        (line({k: v for k, v in GOOD.items() if k != "body"} | {"body64": "?"}), "the body cannot be read"),
        (line({"kind": "key", "queue": "/queue/a", "key": "k", "id": "m", "at": "now"}), "'at' must be"),
        (line({"kind": "key", "queue": "/queue/a", "key": "k", "id": "m\n", "at": 1}), "'id' must be text of one line"),
        (line({"kind": "retained", "destination": ""}), "'destination' must be"),
        (line({"kind": "subscription", "queue": "/durable/a", "options": "?"}), "'options' cannot be read"),
    ],
)
def test_a_bad_line_is_told_by_its_number_and_what_was_before_it_stays(bad: bytes, reason: str, tmp_path: Path) -> None:
    lines = [HEADER, *[line(GOOD | {"id": f"m{n}"}) for n in range(2, 5)], bad, line(GOOD | {"id": "m6"}), END]
    with pytest.raises(StoreError) as told:
        imported(tmp_path, lines)
    text = str(told.value)
    assert text.startswith("line 5: ") and reason in text
    assert text.endswith("the first 4 lines, with 3 messages, are imported: go on with --skip 4")
    assert_sound(tmp_path)
    assert imported(tmp_path, [*lines[:4], line(GOOD | {"id": "m5"}), *lines[5:]], skip=4).messages == 2
    assert [ids(each)[0] for each in messages_in(tmp_path)["/queue/a"]] == [b"m2", b"m3", b"m4", b"m5", b"m6"]
    assert_sound(tmp_path)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (line(GOOD), "line 1: this is no export of Stampede"),
        (b"PK\x03\x04\n", "line 1: no JSON"),
        (line({"kind": "stampede-export", "version": 2}), "line 1: the export has version 2, this Stampede reads 1"),
    ],
)
def test_what_is_no_export_is_not_imported(first: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=reason):
        imported(tmp_path, [first, line(GOOD), END])
    assert messages_in(tmp_path) == {}


def test_an_export_that_was_cut_off_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the export was cut off; the first 2 lines, with 1 message, are imported"):
        imported(tmp_path, [HEADER, line(GOOD)])
    with pytest.raises(StoreError, match="there should be none after"):
        imported(tmp_path, [HEADER, END, line(GOOD)])
    assert len(messages_in(tmp_path)["/queue/a"]) == 1


def test_an_interrupted_import_stores_what_it_read(tmp_path: Path) -> None:
    answers = iter([False, False, False, True])
    lines = [HEADER, *[line(GOOD | {"id": f"m{n}"}) for n in range(2, 9)], END]
    with pytest.raises(StoreError, match=r"interrupted; the first 3 lines, with 2 messages, .* --skip 3"):
        imported(tmp_path, lines, is_stopped=lambda: next(answers))
    assert imported(tmp_path, lines, skip=3).messages == 5
    assert len(messages_in(tmp_path)["/queue/a"]) == 7


class Killed(BaseException):
    """What no code of ours handles."""


def test_killed_at_any_commit_it_goes_on_exactly_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_LINES", 7)
    origin = tmp_path / "origin"
    fill(origin, 2, 9, queues=8, messages=8)
    lines = exported(origin)
    whole = tmp_path / "whole"
    whole.mkdir()
    imported(whole, lines)
    expected = sorted(exported(whole)[1:])
    left = 0
    commit = importing._Target.commit

    def guarded(target: Any, mark: int | None) -> None:
        nonlocal left
        if left <= 0:
            raise Killed
        left -= 1
        commit(target, mark)

    monkeypatch.setattr(importing._Target, "commit", guarded)
    step, went_on, complete, anew = 0, 0, 0, 0
    while True:
        directory = tmp_path / str(step)
        directory.mkdir()
        left = step
        try:
            imported(directory, lines)
        except Killed:
            pass
        else:
            break
        left = 1000
        try:
            imported(directory, lines, go_on=True)
            went_on += 1
        except StoreError as error:
            if "was complete" in str(error):
                complete += 1
            else:
                assert "no import into" in str(error)
                imported(directory, lines)
                anew += 1
        assert sorted(exported(directory)[1:]) == expected, f"after {step} commits"
        assert_sound(directory)
        step += 1
    assert went_on > 10 and complete == 2 and anew > 2


def test_an_import_that_was_killed_is_not_begun_again_by_mistake(tmp_path: Path) -> None:
    put(tmp_path, 0, Unit(changes=[Mark("import", 12)]))
    put(tmp_path, 1, Unit(changes=[Mark("import", 10)]))
    write_layout(tmp_path, Layout(2))
    with pytest.raises(
        StoreError, match="was interrupted after line 10: run it again with the same input and --continue"
    ):
        imported(tmp_path, [HEADER, END])
