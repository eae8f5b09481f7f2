"""How the ZeroMQ backplane sends: a socket that is full for the topics the test says, and a loop stepped by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zmq

from worker.backplane import sender as module
from worker.backplane.sender import Sender
from worker.backplane.wire import COALESCED_BYTES, pack, split


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Just what a sender asks of one."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.timers: list[tuple[float, Callable[..., None], Handle]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> Handle:
        self.soon.append((callback, arguments))
        return Handle()

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Handle:
        assert arguments == ()
        handle = Handle()
        self.timers.append((self.now + delay, callback, handle))
        return handle

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback, arguments in soon:
            callback(*arguments)

    def settle(self) -> None:
        while self.soon:
            self.turn()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback, handle in due:
            if not handle.cancelled:
                callback()
        self.settle()


class Rig:
    def __init__(self, kept_bytes: int = 0, kept_total_bytes: int = 1 << 30) -> None:
        """Unless told otherwise, all that is kept is too much."""
        self.loop = Loop()
        self.full: set[bytes] = set()
        self.room: int | None = None
        self.sizes: list[int] = []
        self.sent: list[tuple[bytes, list[Any]]] = []
        self.tries = 0
        self.told: list[tuple[str, bytes]] = []
        loop: Any = self.loop
        self.sender = Sender(
            loop,
            self._send,
            blocked=lambda destination: self.told.append(("blocked", destination)),
            unblocked=lambda destination: self.told.append(("unblocked", destination)),
            after=lambda: None,
            retry_interval=0.02,
            kept_bytes=kept_bytes,
            kept_total_bytes=kept_total_bytes,
        )

    def _send(self, message: bytes, flags: int) -> None:
        assert flags == zmq.NOBLOCK
        self.tries += 1
        topic, elements = split(message)
        if topic in self.full or self.room == 0:
            raise zmq.Again
        if self.room is not None:
            self.room -= 1
        self.sizes.append(len(message))
        self.sent.append((topic, elements))

    def put(self, topic: bytes, *elements: Any) -> None:
        for element in elements:
            self.sender.put(topic, pack(element))

    def put_bytes(self, topic: bytes, size: int) -> None:
        """One element of `size` bytes, and a turn of the loop."""
        self.sender.put(topic, pack(b"x" * (size - 2)))
        self.loop.settle()

    def elements(self, topic: bytes) -> list[Any]:
        return [element for name, elements in self.sent for element in elements if name == topic]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_message_per_topic_and_turn(rig: Rig) -> None:
    rig.put(b"ta\0", 1, 2)
    rig.put(b"tb\0", 3)
    rig.put(b"ta\0", 4)
    assert rig.sent == []
    rig.loop.settle()
    assert rig.sent == [(b"ta\0", [1, 2, 4]), (b"tb\0", [3])]
    rig.put(b"ta\0", 5)
    rig.loop.settle()
    assert rig.sent[2:] == [(b"ta\0", [5])]
    assert rig.loop.timers == []


@pytest.mark.parametrize("count", [1, 15, 16, 65535, 65536])
def test_any_number_of_elements(rig: Rig, count: int) -> None:
    rig.put(b"ta\0", *range(count))
    rig.loop.settle()
    assert rig.elements(b"ta\0") == list(range(count))


def test_much_is_sent_before_the_turn_ends(rig: Rig) -> None:
    element = b"x" * (COALESCED_BYTES // 4)
    rig.put(b"ta\0", *[element] * 10)
    assert [len(elements) for _, elements in rig.sent] == [3, 3, 3]
    rig.loop.settle()
    assert [len(elements) for _, elements in rig.sent] == [3, 3, 3, 1]
    assert max(rig.sizes) <= COALESCED_BYTES + 16


def test_full_link_holds_up_its_own_topic_only(rig: Rig) -> None:
    rig.full = {b"ta\0"}
    for number in range(3):
        rig.put(b"ta\0", number)
        rig.put(b"tb\0", number)
        rig.loop.settle()
    assert rig.elements(b"tb\0") == [0, 1, 2] and rig.elements(b"ta\0") == []
    assert rig.told == [("blocked", b"a")]
    rig.full = set()
    rig.put(b"ta\0", 3)
    rig.sender.retry()
    rig.loop.settle()
    assert rig.elements(b"ta\0") == [0, 1, 2, 3]
    assert rig.told == [("blocked", b"a"), ("unblocked", b"a")]
    assert not rig.sender.keeps


def test_nothing_overtakes_what_is_kept(rig: Rig) -> None:
    rig.full = {b"ta\0"}
    rig.put(b"ta\0", 0)
    rig.loop.settle()
    rig.full = set()
    for number in range(1, 5):
        rig.put(b"ta\0", number)
        rig.loop.turn()
    rig.loop.now += 1
    rig.put(b"ta\0", 5)
    rig.loop.settle()
    assert rig.elements(b"ta\0") == [0, 1, 2, 3, 4, 5]


def test_kept_elements_are_sent_in_few_messages(rig: Rig) -> None:
    rig.full = {b"ta\0"}
    element = b"x" * 1000
    for _ in range(1000):
        rig.put(b"ta\0", element)
        rig.loop.settle()
    rig.full = set()
    rig.sender.retry()
    rig.loop.settle()
    assert rig.elements(b"ta\0") == [element] * 1000
    assert len(rig.sent) == 1 + 4
    assert max(rig.sizes) <= COALESCED_BYTES + 16


def test_blocked_and_unblocked_alternate(rig: Rig) -> None:
    for _ in range(3):
        rig.full = {b"ta\0"}
        rig.put(b"ta\0", 1)
        rig.loop.settle()
        rig.full = set()
        rig.sender.retry()
        rig.loop.settle()
    assert rig.told == [("blocked", b"a"), ("unblocked", b"a")] * 3


def test_blocked_only_above_what_may_be_kept() -> None:
    rig = Rig(kept_bytes=100)
    rig.full = {b"ta\0", b"tb\0"}
    for _ in range(2):
        rig.put_bytes(b"ta\0", 50)
        rig.put_bytes(b"tb\0", 50)
    assert rig.told == []
    rig.put(b"ta\0", 1)
    assert rig.told == []
    rig.loop.settle()
    assert rig.told == [("blocked", b"a")]
    rig.put_bytes(b"ta\0", 200)
    assert rig.told == [("blocked", b"a")]
    rig.full = set()
    for _ in range(2):
        rig.sender.retry()
        rig.loop.settle()
    assert not rig.sender.keeps and rig.told == [("blocked", b"a"), ("unblocked", b"a")]
    # What has gone does not count any more.
    rig.full = {b"ta\0"}
    rig.put_bytes(b"ta\0", 100)
    assert len(rig.told) == 2
    rig.put(b"ta\0", 1)
    rig.loop.settle()
    assert rig.told[2:] == [("blocked", b"a")]


def test_what_was_sent_of_it_makes_room_in_what_may_be_kept() -> None:
    rig = Rig(kept_bytes=100, kept_total_bytes=150)
    rig.room = 0
    rig.put_bytes(b"ta\0", 60)
    rig.put_bytes(b"ta\0", 40)
    for _ in range(100):
        rig.room = 1
        rig.sender.retry()
        rig.room = 0
        rig.put_bytes(b"ta\0", 40)
    assert rig.told == [] and len(rig.elements(b"ta\0")) == 100


def test_unblocked_only_when_all_has_gone() -> None:
    rig = Rig(kept_bytes=100)
    rig.room = 0
    rig.put_bytes(b"ta\0", 90)
    rig.put_bytes(b"ta\0", 90)
    assert rig.told == [("blocked", b"a")]
    for _ in range(10):
        rig.room = 1
        rig.sender.retry()
        rig.put_bytes(b"ta\0", 90)
    assert rig.told == [("blocked", b"a")]
    rig.room = None
    rig.sender.retry()
    rig.loop.settle()
    assert rig.told == [("blocked", b"a"), ("unblocked", b"a")]


def test_all_that_keep_something_are_blocked_above_the_total() -> None:
    rig = Rig(kept_bytes=100, kept_total_bytes=300)
    rig.room = 0
    for number in range(3):
        rig.put_bytes(b"t%d\0" % number, 99)
    rig.put_bytes(b"i1/1\0", 1000)
    assert rig.told == []
    rig.put_bytes(b"t3\0", 5)
    assert rig.told == [("blocked", b"%d" % number) for number in range(4)]
    # Nothing is told twice, and what is new while there is too much is told at once.
    rig.put_bytes(b"t1\0", 5)
    rig.put_bytes(b"t4\0", 5)
    assert rig.told[4:] == [("blocked", b"4")]
    rig.room = None
    while rig.sender.keeps:
        rig.sender.retry()
        rig.loop.settle()
    assert sorted(rig.told[5:]) == [("unblocked", b"%d" % number) for number in range(5)]
    # All of it has gone, so there is room for as much again.
    rig.room = 0
    for number in range(3):
        rig.put_bytes(b"t%d\0" % number, 99)
    assert len(rig.told) == 10
    rig.put_bytes(b"t3\0", 5)
    assert sorted(rig.told[10:]) == [("blocked", b"%d" % number) for number in range(4)]


def test_one_that_was_blocked_and_went_is_judged_anew() -> None:
    rig = Rig(kept_bytes=100, kept_total_bytes=250)
    for topic in (b"ta\0", b"tb\0"):
        rig.full.add(topic)
        rig.put_bytes(topic, 90)
    rig.full = {b"tb\0"}
    rig.sender.retry()
    rig.loop.settle()
    # The one that has gone is not among those the total is about.
    rig.full.add(b"tc\0")
    rig.put_bytes(b"tc\0", 90)
    rig.put_bytes(b"tb\0", 9)
    assert rig.told == []
    rig.full.add(b"td\0")
    rig.put_bytes(b"td\0", 90)
    assert sorted(rig.told) == [("blocked", b"b"), ("blocked", b"c"), ("blocked", b"d")]


def test_timer_runs_only_while_something_is_kept(rig: Rig) -> None:
    rig.full = {b"ta\0"}
    rig.put(b"ta\0", 1)
    rig.loop.settle()
    for _ in range(5):
        tries = rig.tries
        rig.loop.pass_time(0.0201)
        assert rig.tries == tries + 1 and len(rig.loop.timers) == 1
    rig.full = set()
    rig.loop.pass_time(0.0201)
    assert rig.elements(b"ta\0") == [1]
    rig.loop.pass_time(1)
    assert rig.loop.timers == []


def test_control_is_sent_before_batches_that_waited_longer(rig: Rig) -> None:
    rig.room = 0
    for number in range(10):
        rig.put(b"t%d\0" % number, number)
    rig.loop.settle()
    rig.sender.put_now(b"s1/1/1\0", pack("answer"))
    rig.put(b"i1/1\0", "letter")
    rig.loop.settle()
    rig.room = 2
    rig.sender.retry()
    assert sorted(topic for topic, _ in rig.sent) == [b"i1/1\0", b"s1/1/1\0"]
    assert [event for event in rig.told if event[0] != "blocked"] == []


def test_topics_that_wait_share_the_room_there_is(rig: Rig) -> None:
    topics = [b"t%d\0" % number for number in range(5)]
    rig.room = 0
    for _ in range(4):
        for topic in topics:
            rig.put(topic, b"x" * COALESCED_BYTES)
        rig.loop.settle()
    for sent in range(1, 16):
        rig.room = 1
        rig.sender.retry()
        counts = [len(rig.elements(topic)) for topic in topics]
        assert sum(counts) == sent and max(counts) - min(counts) <= 1


def test_many_full_topics_do_not_hide_one_with_room(rig: Rig) -> None:
    count = module.RETRIES_AT_ONCE * 5
    topics = [b"t%d\0" % number for number in range(count)]
    rig.full = set(topics)
    for topic in topics:
        rig.put(topic, 1)
    rig.loop.settle()
    rig.full.remove(topics[-1])
    tries = rig.tries
    rig.sender.retry()
    assert rig.tries == tries + module.RETRIES_AT_ONCE
    for _ in range(4):
        rig.loop.pass_time(0.0201)
    assert rig.sent == [(topics[-1], [1])]


def test_room_reported_during_a_flush_is_used(rig: Rig) -> None:
    rig.full = {b"ta\0"}
    rig.put(b"ta\0", 1)
    rig.loop.settle()
    rig.full = set()
    rig.loop.now += 0.002
    rig.put(b"tb\0", 1)
    rig.loop.settle()
    assert rig.elements(b"ta\0") == [1]


def test_what_is_left_for_a_lost_reader_is_forgotten(rig: Rig) -> None:
    rig.full = {b"i1/1\0"}
    rig.put(b"i1/1\0", 1)
    rig.loop.settle()
    rig.put(b"i1/1\0", 2)
    rig.sender.forget(b"i1/1\0")
    rig.full = set()
    rig.loop.settle()
    rig.loop.pass_time(1)
    assert rig.sent == [] and not rig.sender.keeps


def test_batches_sent(rig: Rig) -> None:
    assert rig.sender.batches_sent
    rig.put(b"i1/1\0", 1)
    assert rig.sender.batches_sent
    rig.full = {b"ta\0"}
    rig.put(b"ta\0", 1)
    assert not rig.sender.batches_sent
    rig.loop.settle()
    assert not rig.sender.batches_sent
    rig.full = set()
    rig.loop.pass_time(0.0201)
    assert rig.sender.batches_sent


def test_closed(rig: Rig) -> None:
    rig.full = {b"ta\0"}
    rig.put(b"ta\0", 1)
    rig.loop.turn()
    rig.put(b"tb\0", 1)
    rig.sender.close()
    rig.put(b"tc\0", 1)
    rig.full = set()
    rig.loop.settle()
    rig.loop.pass_time(1)
    assert rig.sent == [] and rig.told == [] and rig.loop.timers == []
