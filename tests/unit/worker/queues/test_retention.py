"""What the owner of topics keeps of their last messages: in order, within its bounds, as the store has it."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest

from common.config import Config
from common.log import EventLog
from worker.queues.letters import RETAIN, Operation
from worker.queues.retention import Retention, expiry, slices
from worker.settings import QueueSettings
from worker.store.interface import Retain, Unit


class Owner:
    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.time = 1000

    def write(self, unit: Unit) -> None:
        self.units.append(unit)

    def now(self) -> int:
        return self.time


class Kept:
    """A `Retention`, and what it tells."""

    def __init__(self, messages: int = 100, size: int = 10_000) -> None:
        self.owner = Owner()
        self.log = io.StringIO()
        self.stored: dict[str, bytes] = {}
        self.known: dict[bytes, bytes] = {}
        config = Config.model_validate({"retained": {"max_messages": messages, "max_bytes": size}})
        log = EventLog("worker-0", stream=self.log)
        self.retention = Retention(cast(Any, self.owner), QueueSettings.of(config), log)
        self.retention.changed = self._changed

    def _changed(self, destination: bytes, frame: bytes | None) -> None:
        self.known.pop(destination, None)
        if frame is not None:
            self.known[destination] = frame

    def begin(self, name: str, frame: bytes | None, persistent: bool = True) -> tuple[Unit, Operation]:
        unit, operation = Unit(), [RETAIN, name.encode(), frame, persistent]
        self.retention.take(unit, operation)
        return unit, operation

    def end(self, begun: tuple[Unit, Operation], *, stored: bool = True) -> None:
        unit, operation = begun
        if stored:
            self.write(unit)
        self.retention.taken(operation, stored=stored)
        while self.owner.units:
            self.write(self.owner.units.pop(0))

    def write(self, unit: Unit) -> None:
        for change in unit.changes:
            assert isinstance(change, Retain)
            self.stored.pop(change.destination, None)
            if change.frame is not None:
                self.stored[change.destination] = change.frame

    def put(self, name: str, frame: bytes | None, *, persistent: bool = True) -> None:
        self.end(self.begin(name, frame, persistent))

    def agrees(self) -> bool:
        """Whether everybody knows the same."""
        return (
            dict(self.retention.snapshot()) == self.known == {name.encode(): f for name, f in self.stored.items()}
            and self.retention.bytes == sum(len(name) + len(frame) for name, frame in self.known.items())
            and len(self.retention) == len(self.known)
        )


def test_the_last_counts_once_it_is_stored() -> None:
    kept = Kept()
    kept.put("/topic/a", b"1")
    begun = kept.begin("/topic/a", b"2")
    assert kept.known == {b"/topic/a": b"1"}
    kept.end(begun)
    assert kept.known == {b"/topic/a": b"2"} and kept.agrees()
    kept.end(kept.begin("/topic/a", b"3"), stored=False)
    assert kept.known == {b"/topic/a": b"2"} and kept.agrees()
    kept.put("/topic/a", None)
    assert kept.known == {} and kept.agrees()


def test_the_oldest_have_to_go_and_the_log_says_so() -> None:
    kept = Kept(messages=3)
    for name in "abcd":
        kept.put(name, name.encode())
    kept.put("b", b"again")
    kept.put("e", b"e")
    assert list(kept.known) == [b"d", b"b", b"e"] and kept.agrees()
    assert kept.log.getvalue().count("retained.evicted") == 1 and "count=1" in kept.log.getvalue()
    kept.owner.time += 10_000
    kept.put("f", b"f")
    assert kept.log.getvalue().count("retained.evicted") == 2 and "count=2" in kept.log.getvalue()


def test_one_that_is_too_large_drives_out_nothing_but_the_one_before_it() -> None:
    kept = Kept(size=50)
    for name in "abc":
        kept.put(name, b"x" * 10)
    kept.put("b", b"x" * 50)
    assert list(kept.known) == [b"a", b"c"] and kept.agrees()
    kept.put("d", b"x" * 40)
    assert list(kept.known) == [b"d"] and kept.agrees()


def test_one_that_has_to_go_while_a_newer_is_on_its_way_comes_back_with_that() -> None:
    kept = Kept(messages=1)
    kept.put("a", b"old")
    begun = kept.begin("a", b"new")
    # The store has both in this order, then the end of the first; that must not take the second with it.
    kept.write(begun[0])
    kept.put("b", b"b")
    assert list(kept.known) == [b"b"]
    kept.retention.taken(begun[1], stored=True)
    while kept.owner.units:
        kept.write(kept.owner.units.pop(0))
    assert kept.known == {b"a": b"new"} and kept.agrees()


def test_what_is_in_memory_alone_leaves_no_older_one_on_disk() -> None:
    kept = Kept()
    kept.put("a", b"stored")
    kept.put("a", b"memory", persistent=False)
    assert kept.known == {b"a": b"memory"} and kept.stored == {}
    unit, operation = kept.begin("a", b"memory 2", persistent=False)
    assert not unit.changes
    kept.end((unit, operation))
    kept.put("a", b"stored again")
    assert kept.agrees()


def test_a_restart_finds_them_but_for_those_whose_time_is_up() -> None:
    kept = Kept(messages=2)
    frames = {
        "/topic/late": b"1\nexpires:1000\ndestination:/topic/late\n\nx\0",
        "/topic/a": b"2\nexpires:1001\ndestination:/topic/a\n\nexpires:1\0",
        "/topic/b": b"3\ndestination:/topic/b\n\nx\0",
        "/topic/c": b"4\ndestination:/topic/c\n\nx\0",
    }
    kept.stored = dict(frames)
    kept.retention.recover(frames, 1000)
    while kept.owner.units:
        kept.write(kept.owner.units.pop(0))
    assert list(kept.known) == [b"/topic/b", b"/topic/c"] and kept.agrees()
    assert expiry(frames["/topic/a"]) == 1001 and expiry(frames["/topic/b"]) == 0


@pytest.mark.parametrize("size", [0, 1, 100_000, 300_000])
def test_slices_are_of_a_bounded_size_and_make_the_whole(size: int) -> None:
    news = [(b"%d" % number, b"x" * size) for number in range(20)]
    pieces = list(slices(cast(Any, news)))
    assert [each for piece in pieces for each in piece] == news
    assert all(sum(len(frame or b"") for _, frame in piece[:-1]) < 256 << 10 for piece in pieces)
    assert list(slices([])) == []
