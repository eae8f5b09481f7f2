"""The pages of a queue: whole, in order, each message once, whatever of it is in memory, on disk, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version
from worker.connection import Connection
from worker.core import Core
from worker.queues.browsing import Browser, Browsing, Pages, wants_to_browse
from worker.queues.letters import BROWSE, PAGE
from worker.queues.message import Message, first_key
from worker.queues.owner import Owner
from worker.store.interface import Store

NAME = b"/queue/a"
NUMBER = 3
FIRST = first_key(NUMBER)
NOW = 1000

Row = tuple[int, bytes, int]


@dataclass
class FakeQueue:
    memory: list[Message]
    floor: int | None

    def snapshot(self) -> tuple[list[Message], int | None]:
        return sorted(self.memory, key=lambda message: message.key), self.floor


@dataclass
class FakeOwned:
    queue: FakeQueue
    number: int = NUMBER

    def stored(self, key: int, frame: bytes, count: int) -> Message:
        return Message.stored(key, frame, count)


@dataclass
class World:
    """An owner of one queue and its store. What is `unwritten` gets to the disk with the next commit."""

    owned: FakeOwned | None
    disk: dict[int, bytes] = field(default_factory=dict)
    unwritten: dict[int, bytes] = field(default_factory=dict)
    page_rows: int = 100
    asked: int = 0

    @property
    def registry(self) -> World:
        return self

    def get(self, name: bytes) -> FakeOwned | None:
        return self.owned if name == NAME else None

    def now(self) -> int:
        return NOW

    def when_stored(self, done: Callable[[], None]) -> None:
        self.disk |= self.unwritten
        self.unwritten = {}
        done()

    def page(self, after: int, before: int, count: int, size: int, done: Callable[[list[Row]], None]) -> None:
        self.asked += 1
        assert count <= 100 and size <= 256 << 10
        # A store gives less than it was asked for if that is large: how much less is its own.
        keys = sorted(key for key in self.disk if after < key < before)[: min(count, self.page_rows)]
        done([(key, self.disk[key], 0) for key in keys])

    def pages(self) -> list[list[bytes]]:
        """All of them."""
        reader = Pages(cast(Owner, self), cast(Store, self))
        found: list[list[bytes]] = []
        after: int | None = 0
        while after is not None:
            answers: list[tuple[list[bytes], int | None]] = []
            reader.read(NAME, after, lambda frames, last: answers.append((frames, last)))  # noqa: B023 - called at once
            [(frames, last)] = answers
            found.append(frames)
            assert last is None or last > after
            after = last
        return found


def frame(key: int, size: int = 0) -> bytes:
    return b"%d\ndestination:/queue/a\n\n%b\0" % (key, b"x" * size)


@given(
    st.dictionaries(
        st.integers(1, 400),
        st.sampled_from(["memory", "disk", "both", "unwritten"]),
        max_size=400,
    ),
    st.sampled_from([1, 3, 100]),
)
def test_every_message_once_in_order(places: dict[int, str], page_rows: int) -> None:
    only_disk = [FIRST + n for n, place in places.items() if place in ("disk", "unwritten")]
    memory = [Message(FIRST + n, frame(FIRST + n)) for n, place in places.items() if place in ("memory", "both")]
    world = World(FakeOwned(FakeQueue(memory, min(only_disk) if only_disk else None)), page_rows=page_rows)
    for n, place in places.items():
        if place in ("disk", "both"):
            world.disk[FIRST + n] = frame(FIRST + n)
        elif place == "unwritten":
            world.unwritten[FIRST + n] = frame(FIRST + n)
    pages = world.pages()
    assert [each for page in pages for each in page] == [frame(FIRST + n) for n in sorted(places)]
    assert all(len(page) <= 100 for page in pages)
    if not only_disk:
        assert not world.asked


@given(st.lists(st.integers(0, 300 << 10), max_size=20), st.booleans())
def test_a_page_is_bounded_in_bytes(sizes: list[int], on_disk: bool) -> None:
    frames = [frame(FIRST + n, size) for n, size in enumerate(sizes, 1)]
    world = World(FakeOwned(FakeQueue([], FIRST + 1 if on_disk and sizes else None)))
    if on_disk:
        world.disk = {FIRST + n: each for n, each in enumerate(frames, 1)}
    elif world.owned is not None:
        world.owned.queue.memory = [Message(FIRST + n, each) for n, each in enumerate(frames, 1)]
    pages = world.pages()
    assert [each for page in pages for each in page] == frames
    for page in pages:
        assert sum(map(len, page[:-1])) < 256 << 10


def test_what_is_over_its_time_is_left_out() -> None:
    memory = [Message(FIRST + n, frame(FIRST + n), expires=expires) for n, expires in ((1, 0), (2, NOW), (3, NOW + 1))]
    world = World(FakeOwned(FakeQueue(memory, FIRST + 4)))
    world.disk[FIRST + 4] = b"4\nexpires:%d\n\n\0" % NOW
    world.disk[FIRST + 5] = b"5\nexpires:%d\n\n\0" % (NOW + 1)
    assert [each for page in world.pages() for each in page] == [
        frame(FIRST + 1),
        frame(FIRST + 3),
        b"5\nexpires:1001\n\n\0",
    ]


def test_a_queue_that_does_not_exist_is_empty() -> None:
    assert World(None).pages() == [[]]


def test_a_queue_that_ends_while_it_is_read() -> None:
    world = World(FakeOwned(FakeQueue([], FIRST + 1)))
    world.disk[FIRST + 1] = frame(FIRST + 1)
    answers: list[tuple[list[bytes], int | None]] = []

    def ended(done: Callable[[], None]) -> None:
        world.owned = None
        done()

    world.when_stored = ended  # type: ignore[method-assign]
    Pages(cast(Owner, world), cast(Store, world)).read(NAME, 0, lambda *answer: answers.append(answer))
    assert answers == [([], None)]


@pytest.mark.parametrize(
    ("value", "queue", "wanted"), [(None, True, False), ("false", False, False), ("true", True, True)]
)
def test_who_wants_to_browse(value: str | None, queue: bool, wanted: bool) -> None:
    headers = [] if value is None else [("browser", value)]
    assert wants_to_browse(Frame("SUBSCRIBE", headers), queue=queue) is wanted


@pytest.mark.parametrize(("value", "queue"), [("true", False), ("yes", True), ("", True), ("end", True)])
def test_who_cannot(value: str, queue: bool) -> None:
    with pytest.raises(StompError) as caught:
        wants_to_browse(Frame("SUBSCRIBE", [("browser", value)]), queue=queue)
    assert caught.value.code is ErrorCode.BAD_VALUE


class FakeConnection:
    """A client on a worker whose queues are all the other worker's."""

    def __init__(self) -> None:
        self.version = Version.V1_2
        self.outbox: object | None = None
        self.closing = False
        self.written: list[bytes] = []
        self.ended: list[str] = []
        self.transport = self

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def send_frame(self, command: str, headers: list[tuple[str, str]]) -> None:
        self.ended.append(dict(headers)["subscription"])


class FakeCore:
    def __init__(self) -> None:
        self.turn: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self.router = self.ids = self
        self.delivered = self.bytes_out = 0

    def next_prefix(self) -> bytes:
        return b"0-1-"

    def soon(self, call: Callable[..., None], *arguments: object) -> None:
        self.turn.append((call, arguments))

    def run(self) -> None:
        """One turn of the loop."""
        turn, self.turn = self.turn, []
        for call, arguments in turn:
            call(*arguments)


class Clients:
    def __init__(self) -> None:
        self.core = FakeCore()
        self.asked: list[tuple[int, int]] = []
        """Browser and key of what the other worker was asked for."""
        self.browsing = Browsing(cast(Core, self.core), 0, cast(Pages, None), self._ask)

    def _ask(self, slot: int, letter: list[object]) -> None:
        kind, _, number, after = letter
        assert (slot, kind) == (1, BROWSE)
        self.asked.append((cast(int, number), cast(int, after)))

    def start(self, connection: FakeConnection, number: int) -> Browser:
        browser = Browser(
            cast(Connection, connection), NAME, NAME.decode(), str(number), number, Version.V1_2, None, owner=1
        )
        self.browsing.start(browser)
        return browser

    def answer(self, number: int, after: int, frames: list[bytes], last: int | None) -> None:
        self.browsing.on_letter(1, [PAGE, number, after, frames, last])
        self.core.run()


def test_a_connection_has_one_page_under_way() -> None:
    clients, connection = Clients(), FakeConnection()
    browsers = [clients.start(connection, number) for number in (1, 2, 3)]
    assert clients.asked == [(1, 0)]
    # Also if it forgets and asks anew all the time.
    clients.browsing.stop(browsers[0])
    clients.start(connection, 4)
    assert clients.asked == [(1, 0)]
    clients.answer(1, 0, [frame(5)], 5)
    assert connection.written == []
    assert clients.asked == [(1, 0), (2, 0)]
    # In turn.
    clients.answer(2, 0, [frame(5)], 5)
    clients.answer(3, 0, [], None)
    clients.answer(4, 0, [frame(5)], 5)
    assert clients.asked[2:] == [(3, 0), (4, 0), (2, 5)]
    assert connection.ended == ["3"]
    assert len(connection.written) == 2


def test_nothing_is_asked_for_before_the_client_has_read() -> None:
    clients, connection = Clients(), FakeConnection()
    clients.start(connection, 1)
    connection.outbox = outbox = FakeConnection()
    outbox.keep = outbox.write  # type: ignore[attr-defined]
    clients.answer(1, 0, [frame(5)], 5)
    assert clients.asked == [(1, 0)]
    connection.outbox = None
    clients.browsing.drained(cast(Connection, connection))
    assert clients.asked == [(1, 0), (1, 5)]
    assert (len(outbox.written), connection.written) == (1, [])


def test_asked_again_of_the_next_life_and_answered_by_both() -> None:
    clients, connection = Clients(), FakeConnection()
    clients.start(connection, 1)
    clients.browsing.greet(2)
    assert clients.asked == [(1, 0)]
    clients.browsing.greet(1)
    assert clients.asked == [(1, 0), (1, 0)]
    for _ in range(2):
        clients.answer(1, 0, [frame(5)], 5)
    assert len(connection.written) == 1
    assert clients.asked[2:] == [(1, 5)]


def test_a_connection_that_left_is_sent_nothing() -> None:
    clients, connection = Clients(), FakeConnection()
    clients.start(connection, 1)
    clients.browsing.left(cast(Connection, connection))
    clients.answer(1, 0, [frame(5)], 5)
    clients.browsing.greet(1)
    assert (connection.written, clients.asked) == ([], [(1, 0)])
