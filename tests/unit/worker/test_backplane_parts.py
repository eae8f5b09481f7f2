"""The pure parts of the ZeroMQ backplane: the wire form, barriers, the end, interest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backplane import wire
from worker.backplane.barrier import Barriers
from worker.backplane.ending import Ending
from worker.backplane.interest import Interest
from worker.backplane.interface import Batch
from worker.backplane.pieces import Pieces
from worker.backplane.wire import Peer

A, B, C = Peer(0, 1), Peer(1, 1), Peer(2, 3)

destinations = st.binary(max_size=40).map(lambda name: name.replace(b"\0", b"/"))
items = st.lists(st.binary(max_size=50), max_size=20)


@given(destinations, st.lists(st.tuples(st.binary(max_size=10), items), min_size=1, max_size=20))
def test_wire_form_is_reversible(destination: bytes, batches: list[tuple[bytes, list[bytes]]]) -> None:
    parts = [wire.pack_batch(Batch(prefix, items)) for prefix, items in batches]
    topic, elements = wire.split(wire.assemble(wire.topic_of(destination), parts))
    assert wire.destination_of(topic) == destination
    assert [(batch.id_prefix, batch.items) for batch in map(wire.batch_of, elements)] == batches


@given(st.integers(0, 5), st.data())
def test_wire_form_of_versions_is_reversible(count: int, data: st.DataObject) -> None:
    exactly = st.lists(st.binary(max_size=20), min_size=count, max_size=count)
    versions = data.draw(exactly), data.draw(exactly), data.draw(exactly)
    _, elements = wire.split(wire.assemble(b"ta\0", [wire.pack_batch(Batch(b"ID", versions[2], versions))]))
    batch = wire.batch_of(elements[0])
    assert (batch.items, batch.by_version) == (versions[2], versions)


@given(st.binary())
def test_any_message_is_read_or_refused(message: bytes) -> None:
    try:
        topic, elements = wire.split(message)
    except wire.WireError:
        return
    assert topic.endswith(b"\0") and isinstance(elements, list)


@given(st.integers(-70, 70), st.integers(0, 3))
def test_pieces_make_the_whole(around: int, times: int) -> None:
    element = wire.pack([b"x" * max(0, times * wire.PIECE_BYTES + around)])
    pieces = list(wire.pieces_of(element, A))
    assert max(map(len, pieces)) <= wire.COALESCED_BYTES
    taken = Pieces()
    *rest, last = [taken.add(b"ta\0", wire.unpack(b"ta\0", piece)) for piece in pieces]
    assert rest == [None] * len(rest) and last == wire.unpack(b"", element) and not taken


def pieces_of_three(peer: Peer, content: bytes) -> list[list[Any]]:
    element = wire.pack([content * (2 * wire.PIECE_BYTES // len(content) + 1)])
    pieces = [wire.unpack(b"", piece) for piece in wire.pieces_of(element, peer)]
    assert len(pieces) == 3 and all(len(piece) == wire.PIECE_FIELDS for piece in pieces)
    return pieces


def test_pieces_of_several_topics_and_siblings_come_mixed() -> None:
    taken = Pieces()
    keys = [(topic, peer) for topic in (b"ta\0", b"tb\0") for peer in (A, B, Peer(0, 2))]
    sent = [pieces_of_three(peer, b"%d" % number) for number, (_, peer) in enumerate(keys)]
    results: list[list[Any] | None] = []
    for number in range(3):
        results = [taken.add(topic, pieces[number]) for (topic, _), pieces in zip(keys, sent, strict=True)]
        assert number == 2 or results == [None] * 6
    assert [result and result[0][:1] for result in results] == [b"%d" % number for number in range(6)]
    assert not taken


@pytest.mark.parametrize("seen", [(1, 2), (2,), (0, 2), (0, 2, 1), (0,), (0, 1)])
def test_pieces_of_which_some_are_missing_make_nothing(seen: tuple[int, ...]) -> None:
    taken = Pieces()
    old, new = pieces_of_three(A, b"o"), pieces_of_three(A, b"n")
    assert [taken.add(b"ta\0", old[number]) for number in seen] == [None] * len(seen)
    results = [taken.add(b"ta\0", piece) for piece in new]
    assert results[:2] == [None, None] and results[2] is not None and results[2][0][:1] == b"n"


def test_pieces_that_nobody_will_complete_are_forgotten() -> None:
    taken = Pieces()
    for topic, peer in ((b"ta\0", A), (b"tb\0", A), (b"tb\0", B)):
        taken.add(topic, pieces_of_three(peer, b"x")[0])
    assert len(taken) == 3
    taken.retain(lambda topic: topic == b"tb\0")
    assert len(taken) == 2
    taken.leave(A)
    assert len(taken) == 1
    piece = pieces_of_three(B, b"x")
    assert taken.add(b"tb\0", piece[1]) is None and taken.add(b"tb\0", piece[2]) is not None


@pytest.mark.parametrize("element", [[], [b"ID"], [b"ID", [], []], [b"ID", [], [], [], []]])
def test_batch_of_another_shape(element: list[Any]) -> None:
    with pytest.raises(wire.WireError, match=f"2 or 4 fields, got {len(element)}"):
        wire.batch_of(element)


def test_tokens_name_what_they_are_for() -> None:
    tokens = [wire.barrier_token(peer, number) for peer in (A, B, C) for number in (1, 2, 12)]
    tokens += [wire.ready_token(peer, own) for peer in (A, B, C) for own in (A, B, C)]
    tokens += [wire.inbox(peer) for peer in (A, B, C, Peer(0, 11))]
    tokens += [wire.topic_of(b"a"), wire.topic_of(b"ab")]
    for token in tokens:
        assert [other for other in tokens if other.startswith(token)] == [token]
    assert wire.barrier_number(wire.barrier_token(C, 4711)) == 4711
    assert wire.ready_peer(wire.ready_token(A, C)) == C
    assert wire.ready_token(A, C).startswith(wire.ready_prefix(A))
    assert not wire.ready_token(Peer(0, 11), C).startswith(wire.ready_prefix(A))


class Asked:
    """Barriers with named requests."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.barriers = Barriers()

    def request(self, name: str) -> None:
        self.barriers.request(lambda: self.called.append(name))

    def take(self) -> list[str]:
        for done in self.barriers.take_proved():
            done()
        called, self.called = self.called, []
        return called


def test_barrier_is_over_when_each_sibling_answered() -> None:
    asked = Asked()
    asked.request("x")
    asked.request("y")
    assert asked.barriers.requested and not asked.barriers.in_flight
    assert asked.barriers.begin([A, B])
    number = asked.barriers.number
    assert asked.barriers.in_flight and not asked.barriers.requested
    assert not asked.barriers.answer(number, A)
    assert not asked.barriers.answer(number, A)
    assert not asked.barriers.answer(number, C)
    assert not asked.barriers.answer(number - 1, B)
    assert asked.barriers.answer(number, B)
    assert not asked.barriers.answer(number, B)
    assert asked.take() == ["x", "y"]
    assert not asked.barriers.in_flight
    assert not asked.barriers.answer(number, B)


def test_barrier_requested_on_the_way_waits_for_the_next() -> None:
    asked = Asked()
    asked.request("x")
    asked.barriers.begin([A])
    first = asked.barriers.number
    asked.request("y")
    assert asked.barriers.answer(first, A)
    assert asked.take() == ["x"]
    assert asked.barriers.requested
    assert asked.barriers.begin([A, B])
    assert not asked.barriers.answer(first, B)
    assert asked.barriers.number != first
    assert not asked.barriers.answer(asked.barriers.number, B)
    assert asked.barriers.answer(asked.barriers.number, A)
    assert asked.take() == ["y"]


def test_barrier_without_siblings() -> None:
    asked = Asked()
    asked.request("x")
    assert not asked.barriers.begin([])
    assert asked.take() == ["x"]
    assert not asked.barriers.in_flight


def test_barrier_does_not_wait_for_one_that_left() -> None:
    asked = Asked()
    assert not asked.barriers.leave(A)
    asked.request("x")
    asked.barriers.begin([A, B])
    assert not asked.barriers.leave(C)
    assert not asked.barriers.answer(asked.barriers.number, A)
    assert not asked.barriers.leave(A)
    assert asked.barriers.leave(B)
    assert asked.take() == ["x"]


def test_end_needs_both_words_of_each_sibling() -> None:
    ending, called = Ending(), []
    ending.ended(B)
    assert not ending.wanted and ending.take_done([A, B]) == []
    ending.request(lambda: called.append(1))
    assert ending.wanted
    assert ending.to_mark([A, B]) == [A, B]
    assert ending.to_mark([A, B, C]) == [C]
    ending.ended(A)
    ending.confirmed(A)
    ending.confirmed(B)
    assert ending.take_done([A, B, C]) == []
    ending.leave(C)
    (done,) = ending.take_done([A, B])
    done()
    assert called == [1] and not ending.wanted and ending.take_done([A, B]) == []


def test_interest() -> None:
    interest = Interest()
    assert not interest.wants(b"a") and not interest.wants(b"")
    for topic in (b"ta\0", b"tp.", b"tp.", b"tp.q"):
        interest.add(topic)
    assert [name for name in (b"a", b"ab", b"", b"p", b"p.", b"p.x", b"p.q") if interest.wants(name)] == [
        b"a",
        b"p.",
        b"p.x",
        b"p.q",
    ]
    interest.discard(b"tp.")
    interest.discard(b"tz\0")
    assert interest.wants(b"p.qr") and not interest.wants(b"p.x")
    interest.discard(b"ta\0")
    interest.discard(b"tp.q")
    assert not interest.wants(b"a") and not interest.wants(b"p.q")
    interest.add(b"t")
    assert interest.wants(b"") and interest.wants(b"anything")
