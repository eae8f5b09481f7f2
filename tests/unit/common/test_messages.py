"""The control channel's messages and their framing."""

from __future__ import annotations

from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import messages
from common.messages import (
    MAX_MESSAGE_BYTES,
    Answer,
    Bound,
    CannotStart,
    Configure,
    ControlDecoder,
    ControlError,
    Drain,
    Drained,
    Happened,
    Message,
    NameSession,
    Ping,
    Pong,
    Query,
    Ready,
    Roster,
    SessionNamed,
    Start,
    encode,
)

NUMBERS = st.integers(0, 2**63)
TEXTS = st.text(max_size=20)
MEMBERS = st.lists(st.tuples(st.integers(0, 63), NUMBERS, TEXTS).map(list), max_size=4)
CONFIG = st.dictionaries(TEXTS, st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(0, 1e9), TEXTS), max_size=5)
STRATEGIES: dict[type[Message], st.SearchStrategy[Message]] = {
    Start: st.builds(Start, NUMBERS, NUMBERS, NUMBERS, TEXTS, TEXTS, MEMBERS, CONFIG, st.booleans(), st.booleans()),
    Roster: st.builds(Roster, MEMBERS),
    Configure: st.builds(Configure, CONFIG),
    Ping: st.builds(Ping, NUMBERS),
    Query: st.builds(Query, NUMBERS, TEXTS, CONFIG),
    Answer: st.builds(Answer, NUMBERS, st.none() | CONFIG),
    Drain: st.builds(Drain, st.floats(0, 1e6)),
    Bound: st.builds(Bound, TEXTS),
    Ready: st.builds(Ready),
    Happened: st.builds(Happened, st.lists(st.lists(st.none() | NUMBERS | TEXTS, max_size=6), max_size=4)),
    NameSession: st.builds(NameSession, NUMBERS, TEXTS),
    SessionNamed: st.builds(SessionNamed, NUMBERS, st.none() | TEXTS),
    Pong: st.builds(Pong, NUMBERS, st.dictionaries(TEXTS, NUMBERS, max_size=5)),
    Drained: st.builds(Drained),
    CannotStart: st.builds(CannotStart, TEXTS),
}
ANY = st.one_of(*STRATEGIES.values())


def test_every_message_is_tried_here() -> None:
    assert set(STRATEGIES) == set(Message.kinds.values())
    assert {kind.__name__ for kind in STRATEGIES} <= set(messages.__all__)


@given(st.lists(ANY, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_any_split_of_the_bytes_gives_the_same_messages(sent: list[Message], cuts: list[int]) -> None:
    wire = b"".join(encode(message) for message in sent)
    places = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    decoder = ControlDecoder()
    received = [m for a, b in pairwise(places) for m in decoder.feed(wire[a:b])]
    assert received == sent


@given(ANY)
def test_byte_by_byte(sent: Message) -> None:
    decoder = ControlDecoder()
    wire = encode(sent)
    assert [m for i in range(len(wire)) for m in decoder.feed(wire[i : i + 1])] == [sent]


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_messages_or_the_one_documented_error(data: bytes) -> None:
    try:
        assert all(isinstance(message, Message) for message in ControlDecoder().feed(data))
    except ControlError:
        return


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "non-empty array, not int"),
        ([], "non-empty array"),
        (["Hello"], "unknown control message 'Hello'"),
        (["Message"], "unknown control message 'Message'"),
        ([[1]], "unknown control message"),
        (["Ping"], "Ping takes 1 fields, got 0"),
        (["Ready", 1], "Ready takes 0 fields, got 1"),
    ],
)
def test_what_does_not_fit_says_why(value: object, said: str) -> None:
    with pytest.raises(ControlError, match=said.replace("[", r"\[")):
        list(ControlDecoder().feed(msgpack.packb(value)))


def test_a_message_over_the_limit_is_refused_before_it_is_held() -> None:
    decoder = ControlDecoder()
    piece = b"x" * (1 << 20)
    with pytest.raises(ControlError):
        # An array of two whose second element announces 64 MiB.
        list(decoder.feed(b"\x92\xa5Bound\xdb\x04\x00\x00\x00"))
        for _ in range(MAX_MESSAGE_BYTES // len(piece) + 1):
            list(decoder.feed(piece))


def test_messages_before_the_bad_one_are_delivered() -> None:
    received = []
    with pytest.raises(ControlError):
        received.extend(ControlDecoder().feed(encode(Ping(1))))
        for message in ControlDecoder().feed(encode(Ping(2)) + b"\xc1"):
            received.append(message)
    assert received == [Ping(1), Ping(2)]
