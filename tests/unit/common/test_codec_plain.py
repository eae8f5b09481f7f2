"""The decoder's short cut for plain frames against the same decoder without it: no bytes, however cut, and no limits
tell one from the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import decoder as decoder_module
from common.codec import Limits
from common.decoder import Decoder
from common.errors import StompError
from common.frame import Frame
from common.negotiation import Version
from tests.unit.frames import PIECES, cut, streams

laws = settings(max_examples=300, deadline=None)
versions = st.sampled_from([Version.V1_2, Version.V1_2, Version.V1_1, Version.V1_0])


class Careful(Decoder):
    """Every frame the long way."""

    def _plain_frames(self) -> Iterator[Frame]:
        return iter(())


Seen = tuple[list[list[tuple[str, list[tuple[str, str]], bytes]]], tuple[object, ...] | None]


def seen(decoder: Decoder, pieces: list[bytes], turns: list[Version]) -> Seen:
    """The frames of each piece, then the fault; after each frame the version is set to the next of `turns`."""
    found: Seen = ([], None)
    following = iter(turns)
    try:
        for piece in pieces:
            found[0].append([])
            for frame in decoder.feed(piece):
                assert type(frame.body) is bytes
                found[0][-1].append((frame.command, frame.headers, frame.body))
                decoder.version = next(following, decoder.version)
    except StompError as error:
        return found[0], (error.code, error.message, error.detail)
    return found


def agree(
    pieces: list[bytes], version: Version, limits: Limits | None = None, turns: list[Version] | None = None
) -> Seen:
    careful = seen(Careful(version, limits), pieces, turns or [])
    assert seen(Decoder(version, limits), pieces, turns or []) == careful
    return careful


_LINES = [
    *(b"a:b", b"a:", b"a", b":", b":b", b"::b:c", b"a:b:c", b"a: b", b"a:\\c", b"\\n:a", b"a:\\t", b"a:\xc3\xa9"),
    *(b"a:\xff", b"a:b\r", b"\r", b"a\0:b", b"a:\x0b\x0c\x1c\x85", "é:\u2028\u0085".encode(), b"\r:a", b" :a"),
    *(b"content-length:3", b"content-length:3", b"content-length:0", b"content-length:03", b"content-length:2"),
    *(b"content-length:", b"content-length:-1", b"content-length:+3", b"content-length:1_0", b"content-length: 3"),
    *("content-length:\u0663".encode(), "content-length:³".encode(), b"content-length:" + b"0" * 17 + b"3"),
    *(b"content-length:" + b"0" * 18 + b"3", b"content-length:99999999", b"Content-Length:1", b"xcontent-length:1"),
]
_STARTS = st.sampled_from(
    [b"MESSAGE", b"MESSAGE", b"RECEIPT", b"SEND", b"ERROR", b"CONNECTED", b"ACK", b"", b"a:b", b"Z" * 9]
)


@st.composite
def nearly_plain(draw: st.DrawFn) -> bytes:
    """Frames of which most are plain, and some are not for one small thing."""
    frames = []
    for _ in range(draw(st.integers(1, 4))):
        frames.append(draw(st.sampled_from([b"", b"", b"", b"\n", b"\r\n", b"\n\n", b"\r"])))
        lines = [draw(_STARTS), *draw(st.lists(st.sampled_from(_LINES), max_size=3))]
        body = draw(st.sampled_from([b"", b"", b"xyz", b"xyz", b"a\0b", b"\n\n", b"\0\0\0"]))
        if draw(st.booleans()):
            lines.append(b"content-length:%d" % len(body))
        frames.append(b"\n".join(lines) + draw(st.sampled_from([b"\n\n", b"\n\n", b"\n\r\n", b"\r\n\n"])) + body)
        frames.append(draw(st.sampled_from([b"\0", b"\0", b"\0", b"x\0", b""])))
    return b"".join(frames)


_VALUES = st.sampled_from(
    [b"1", b"2-a", b"0-3.1-x", b"x" * 30, b"", b"a:b", b"a\\cb", b"\xc3\xa9", b"\xff", b"a b", b"a\rb"]
)
_BETWEEN = st.sampled_from(
    [*[b""] * 8, b"\ncontent-length:2", b"\nack:9", b"\nack:9\nack:8", b"\na:b", b"\nack", b"\n"]
)


@st.composite
def alike(draw: st.DrawFn) -> bytes:
    """MESSAGEs of which most are like the one before, but for the values that always differ, and some are nearly."""
    frames = []
    kinds = draw(
        st.lists(st.tuples(st.sampled_from([b"1", b"2"]), st.sampled_from([b"", b"\nb:c"])), min_size=1, max_size=2)
    )
    for _ in range(draw(st.integers(1, 6))):
        id, more = draw(st.sampled_from(kinds))
        body = draw(st.sampled_from([b"xyz", b"xyz", b"xyz", b"a\0b", b"xy", b""]))
        ack = b"\nack:" + draw(_VALUES) if draw(st.booleans()) else b""
        frames += [
            *(draw(st.sampled_from([b"", b"", b"", b"\n", b"\r\n"])), b"MESSAGE\nsubscription:", id),
            *(b"\nmessage-id:", draw(_VALUES), ack, draw(_BETWEEN), b"\ndestination:/q"),
            *(more, b"\ncontent-length:3", draw(st.sampled_from([*[b"\n\n"] * 3, b"\n\r\n"])), body, b"\0"),
        ]
    return b"".join(frames)


@settings(max_examples=1000, deadline=None)
@given(
    alike(),
    st.lists(st.integers(0, 400), max_size=3),
    st.sampled_from(
        [None, *(Limits(header_count=count) for count in (4, 5, 6)), *(Limits(head_bytes=n) for n in (60, 90))]
    ),
    st.lists(st.sampled_from([Version.V1_1, Version.V1_2, Version.V1_0]), max_size=2),
)
def test_they_agree_on_messages_that_are_alike(
    data: bytes, places: list[int], bounds: Limits | None, turns: list[Version]
) -> None:
    agree(cut(data, places), Version.V1_2, bounds, turns)


@pytest.mark.parametrize(
    ("bounds", "taken"),
    [(Limits(header_count=4), 1), (Limits(header_count=5), 2), (Limits(head_bytes=74), 1), (Limits(head_bytes=75), 2)],
)
def test_one_header_or_byte_more_than_the_message_before_had_is_one_more(bounds: Limits, taken: int) -> None:
    message = b"MESSAGE\nsubscription:1\nmessage-id:1%b\ndestination:/q\ncontent-length:3\n\nxyz\0"
    frames, fault = agree([message % b"" + message % b"\nack:2"], Version.V1_2, bounds)
    assert (len(frames[0]), fault is None) == (taken, taken == 2)


_RECEIPTS = st.sampled_from(
    [
        *(
            b"receipt-id:1",
            b"receipt-id:1\nmessage-id:2-a",
            b"receipt-id:1\nmessage-id:2\nrouted:1",
            b"receipt-id:1\nrouted:0",
        ),
        *(
            b"receipt-id:a:b",
            b"receipt-id:a\\cb",
            b"receipt-id:\xc3\xa9",
            b"receipt-id:\xff",
            b"receipt-id:",
            b"receipt-id:1\r",
        ),
        *(
            b"receipt-id:1\ncontent-length:1",
            b"receipt-id:1\nrouted:x",
            b"message-id:1\nreceipt-id:1",
            b"receipt-id:1\n\nx",
        ),
        b"receipt-id:1\nmessage-id:2\nrouted:1\nduplicate:true",
    ]
)


@laws
@given(
    st.lists(_RECEIPTS.map(lambda lines: b"RECEIPT\n" + lines + b"\n\n\0") | alike(), max_size=5).map(b"".join),
    st.lists(st.integers(0, 200), max_size=3),
    st.sampled_from(
        [None, *(Limits(header_count=n) for n in (1, 2, 3)), *(Limits(head_bytes=n) for n in (22, 37, 60))]
    ),
    st.lists(st.sampled_from([Version.V1_1, Version.V1_2, Version.V1_0]), max_size=2),
)
def test_they_agree_on_receipts(data: bytes, places: list[int], bounds: Limits | None, turns: list[Version]) -> None:
    agree(cut(data, places), Version.V1_2, bounds, turns)


def test_messages_like_one_before_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    original = decoder_module._PLAIN_HEAD

    class Counted:
        def match(self, *arguments: Any) -> Any:
            taken.append(arguments[0])
            return original.match(*arguments)

    monkeypatch.setattr(decoder_module, "_PLAIN_HEAD", Counted())
    message = b"MESSAGE\nsubscription:1\nmessage-id:%d\nack:1-%d\ndestination:/queue/a\ncontent-length:3\n\nxyz\0"
    frames = list(Decoder().feed(b"".join([message % (number, number) for number in range(500)])))
    assert [frame.get("ack") for frame in frames] == [f"1-{number}" for number in range(500)]
    assert len(taken) == 2, "the first one, and the end"


limits = st.one_of(
    st.none(),
    st.builds(
        Limits,
        command_bytes=st.sampled_from([4, 7, 8, 32]),
        header_count=st.sampled_from([0, 1, 2, 3, 128]),
        header_line_bytes=st.integers(1, 40),
        head_bytes=st.integers(5, 80),
        body_bytes=st.sampled_from([0, 2, 3, 100]),
    ),
)


@laws
@given(
    st.one_of(nearly_plain(), streams(), PIECES, st.binary(max_size=60)),
    st.lists(st.integers(0, 10_000), max_size=8),
    versions,
    limits,
    st.lists(versions, max_size=4),
)
def test_short_cut_and_long_way_agree(
    data: bytes, places: list[int], version: Version, bounds: Limits | None, turns: list[Version]
) -> None:
    agree(cut(data, places), version, bounds, turns)


@laws
@given(nearly_plain(), limits)
def test_they_agree_on_frames_that_are_there_at_once(data: bytes, bounds: Limits | None) -> None:
    agree([data], Version.V1_2, bounds)


@pytest.mark.parametrize(
    ("limit", "number", "frame"),
    [
        ("command_bytes", 7, b"MESSAGE\na:b\n\n\0"),
        ("header_count", 2, b"MESSAGE\na:b\nc:d\n\n\0"),
        ("header_count", 3, b"RECEIPT\nreceipt-id:1\nmessage-id:2\nrouted:1\n\n\0"),
        ("header_line_bytes", 5, b"MESSAGE\na:bcd\n\n\0"),
        ("head_bytes", 13, b"MESSAGE\na:b\n\n\0"),
        ("body_bytes", 3, b"MESSAGE\ncontent-length:3\n\nxyz\0"),
        ("body_bytes", 3, b"MESSAGE\n\nxyz\0"),
    ],
)
def test_they_agree_at_each_limit_and_one_below(limit: str, number: int, frame: bytes) -> None:
    for below in (0, 1):
        frames, fault = agree([frame * 2], Version.V1_2, Limits(**{limit: number - below}))
        assert (len(frames[0]), fault is None) == ((0, False) if below else (2, True))


@pytest.mark.parametrize("start", [b"MESSAGE\n", b"RECEIPT\n", b"\n\n"])
def test_they_agree_on_each_two_lines(start: bytes) -> None:
    for first in _LINES:
        for second in _LINES:
            agree([start + first + b"\n" + second + b"\n\nxyz\0"], Version.V1_2)


@pytest.mark.parametrize(
    "data",
    [
        b"MESSAGE\na:a long first header\ncontent-length:3\n\nxyz\0RECEIPT\na:b\n\n\0\nMESSAGE\na:b\n\nMESSAGE\n\n\0",
        b"SEND\na:b\n\na body\n\nx\0MESSAGE\n\n\0MESSAGE\na:\\c\n\nx\0SEND\r\na:b\r\n\r\nx\0\r\n\r\nRECEIPT\n\n\0",
        b"MESSAGE\n\nMESSAGE\n\n\0ERROR\ncontent-length:12\n\nRECEIPT\n\n\0\n\0\n\n\nRECEIPT\n\n\0RECEIPT\n\n\0RECEIPT\n\nx\0",
    ],
)
def test_they_agree_wherever_the_bytes_are_cut(data: bytes) -> None:
    for first in range(len(data)):
        for second in range(first, len(data)):
            agree([data[:first], data[first:second], data[second:]], Version.V1_2)


def test_head_longer_than_the_short_cut_looks() -> None:
    for size in range(2030, 2060):
        frames, fault = agree([(b"MESSAGE\na:" + b"x" * size + b"\n\nbody\0") * 2], Version.V1_2)
        assert len(frames[0]) == 2 and fault is None


def test_plain_frames_take_the_short_cut() -> None:
    class Plain(Decoder):
        def _read_head(self) -> bool:
            assert self._start == len(self._buffer), "the long way"
            return super()._read_head()

    data = b"\nMESSAGE\nsubscription:1\ncontent-length:3\n\na\0b\0\nRECEIPT\nreceipt-id:\xc3\xa9 1\n\n\0SEND\n\nx\n\n\0"
    frames = list(Plain().feed(data))
    assert [(frame.command, frame.body) for frame in frames] == [
        ("MESSAGE", b"a\0b"),
        ("RECEIPT", b""),
        ("SEND", b"x\n\n"),
    ]


def test_limits_set_between_two_frames_hold_from_the_next() -> None:
    decoder = Decoder()
    frames = decoder.feed(b"SEND\n\nabc\0SEND\n\nabc\0")
    assert next(frames).body == b"abc"
    decoder.limits = Limits(body_bytes=2)
    with pytest.raises(StompError):
        next(frames)


def test_what_one_feed_left_unread_comes_before_the_bytes_of_the_next() -> None:
    for kind in (Decoder, Careful):
        decoder = kind()
        assert next(decoder.feed(b"SEND\na:1\n\n\0SEND\na:2\n\n\0SEND\na:")).get("a") == "1"
        assert [frame.get("a") for frame in decoder.feed(b"3\n\n\0")] == ["2", "3"]
