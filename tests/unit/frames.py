"""Hypothesis strategies for STOMP, drawn from the specification's alphabet and written without the codec."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from common.frame import Frame
from common.negotiation import Version

__all__ = ["BODIES", "COMMANDS", "EOLS", "NAMES", "PIECES", "VALUES", "cut", "streams", "through"]

_CHARACTERS = st.sampled_from([":", "\\", "\n", "\r", " ", "a", "c", "n", "r", "-", "7", "é", "€", "𝄞", "\x7f", "\t"])
_TEXT = st.text(_CHARACTERS, max_size=8)

VALUES = _TEXT
NAMES = st.one_of(
    st.text(_CHARACTERS, min_size=1, max_size=6),
    st.sampled_from(["content-type", "receipt", "id", "content-length\r", "content-length:5", "ack\n", "x"]),
)
"""Any name but exactly `content-length`, whose value is not free."""
BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=20),
    st.lists(st.sampled_from([b"\n", b"\r", b"\0", b":", b"\\", b"SEND\n", b"x"]), max_size=8).map(b"".join),
)
COMMANDS = st.sampled_from(["SEND", "MESSAGE", "ERROR", "CONNECT", "STOMP", "CONNECTED", "SUBSCRIBE", "ACK", "BEGIN"])
EOLS = st.lists(st.sampled_from([b"\n", b"\r\n"]), max_size=3).map(b"".join)

PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(b"\n", b"\r\n", b"\0", b":", b"\\", b"\\n", b"\\c", b"\\r", b"\\t", b"\r", b" ", b"a", b"\xc3\xa9"),
                *(b"\xff", b"SEND", b"MESSAGE", b"SUBSCRIBE", b"CONNECT", b"DISCONNECT", b"\n\n", b"\r\n\r\n"),
                *(b"destination:", b"/topic/a", b"content-length:", b"receipt:", b"transaction:", b"id:1"),
                *(b"0", b"3", b"99999999999999999999", b"-1", b"\xef\xbc\x91", b"SEND\ndestination:/topic/a\n\nx\0"),
            ]
        ),
        st.binary(max_size=4),
    ),
    max_size=24,
).map(b"".join)
"""What could almost be a stream of frames."""


_UNSPEAKABLE = {Version.V1_0: "\r\n:\0", Version.V1_1: "\r\0", Version.V1_2: "\0"}
_UNESCAPED = ("CONNECT", "STOMP", "CONNECTED")


def through(frame: Frame, version: Version) -> Frame:
    """`frame` after a way through `version`: the same, less what that version cannot say."""
    rules = Version.V1_0 if frame.command in _UNESCAPED else version
    kept = []
    for name, value in frame.headers:
        if any(char in name for char in _UNSPEAKABLE[rules]):
            continue
        value = value.replace("\0", "")
        if rules is not Version.V1_2:
            value = value.replace("\r", "")
        if rules is Version.V1_0:
            value = value.replace("\n", " ")
        if version is Version.V1_0 and value.startswith(" "):
            value = value[1:]
        kept.append((name, value))
    if frame.body:
        kept.append(("content-length", str(len(frame.body))))
    return Frame(frame.command, kept, frame.body)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` cut at `places`, each taken modulo its length."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(marks)] or [data]


def _line(name: str, value: str, eol: bytes) -> bytes:
    return f"{name}:{value}".encode() + eol


_PLAIN_NAMES = st.sampled_from(
    ["content-type", "x", "ack", "message-id", "subscription", "redelivered", "Receipt", "é"]
)
_WRITTEN = st.lists(st.sampled_from(["a", ":", " ", "\\n", "\\c", "\\\\", "é", "7", "-"]), max_size=5).map("".join)


@st.composite
def sends(draw: st.DrawFn, names: tuple[str, ...] = ("/topic/a", "/topic/b", "/topic/c\\cd", "c")) -> bytes:
    """A valid SEND as the wire has it, for 1.1 and 1.2: escapes written out, LF or CRLF, counted body or not."""
    eol = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"]))
    headers = draw(st.lists(st.tuples(_PLAIN_NAMES, _WRITTEN), max_size=3))
    headers.insert(draw(st.integers(0, len(headers))), ("destination", draw(st.sampled_from(names))))
    body = draw(BODIES)
    if b"\0" in body or draw(st.booleans()):
        for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
            headers.insert(draw(st.integers(0, len(headers))), ("content-length", str(len(body))))
    if draw(st.integers(0, 3)) == 0:
        headers.insert(draw(st.integers(0, len(headers))), ("receipt", draw(_WRITTEN)))
    if draw(st.integers(0, 7)) == 0:
        headers.insert(draw(st.integers(0, len(headers))), ("transaction", "t"))
    lines = [_line(name, value, eol) for name, value in headers]
    return b"SEND" + eol + b"".join(lines) + eol + body + b"\0" + draw(EOLS)


@st.composite
def _others(draw: st.DrawFn) -> bytes:
    eol = draw(st.sampled_from([b"\n", b"\n", b"\r\n"]))
    command, header = draw(
        st.sampled_from([(b"SUBSCRIBE", b"id:1"), (b"BEGIN", b"transaction:t"), (b"ACK", b"id:\\c")])
    )
    return command + eol + header + eol + eol + b"\0" + draw(EOLS)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Valid frames one after the other, SENDs for the most part, some of them again and again."""
    frames = draw(st.lists(st.one_of(sends(), sends(), _others()), min_size=1, max_size=5))
    order = draw(st.lists(st.integers(0, len(frames) - 1), min_size=1, max_size=12))
    return draw(EOLS) + b"".join(frames[number] for number in order)
