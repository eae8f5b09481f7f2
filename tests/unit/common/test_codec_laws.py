"""What holds for every frame, every stream and every way to cut it. The expectations are written from the
specifications and the deviations listed at the top of the codec, never with the codec's own functions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.codec import Limits, encode, escape, unescape
from common.decoder import Decoder
from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version
from tests.unit.frames import BODIES, COMMANDS, EOLS, NAMES, PIECES, VALUES, cut, streams, through

VERSIONS = list(Version)
FAULTS = {
    *(ErrorCode.BAD_FRAME, ErrorCode.BAD_HEADER, ErrorCode.BAD_ESCAPE, ErrorCode.BAD_ENCODING),
    *(ErrorCode.BAD_CONTENT_LENGTH, ErrorCode.UNEXPECTED_BODY, ErrorCode.TOO_MANY_HEADERS),
    *(ErrorCode.HEADER_TOO_LARGE, ErrorCode.BODY_TOO_LARGE),
}
WITH_BODY = ("SEND", "MESSAGE", "ERROR")

laws = settings(max_examples=250, deadline=None)
versions = st.sampled_from(VERSIONS)
headers = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    command = draw(COMMANDS)
    return Frame(command, draw(headers), draw(BODIES) if command in WITH_BODY else b"")


def decode(data: list[bytes], version: Version, limits: Limits | None = None) -> tuple[list[Frame], StompError | None]:
    """The frames before the first fault, and the fault. Anything but a StompError goes through."""
    decoder = Decoder(version, limits)
    found: list[Frame] = []
    try:
        for piece in data:
            for frame in decoder.feed(piece):
                found.append(Frame(frame.command, list(frame.headers), frame.body))
    except StompError as error:
        return found, error
    return found, None


@laws
@given(st.lists(st.tuples(frames(), EOLS), max_size=4), versions, EOLS)
def test_decode_of_encode_is_identity(sent: list[tuple[Frame, bytes]], version: Version, first: bytes) -> None:
    data = first + b"".join(encode(frame, version) + eols for frame, eols in sent)
    got, error = decode([data], version)
    assert error is None
    assert got == [through(frame, version) for frame, _ in sent]


@laws
@given(headers, versions, BODIES)
def test_what_is_sent_has_one_line_per_header_and_no_bare_carriage_return(
    sent: list[tuple[str, str]], version: Version, body: bytes
) -> None:
    head, _, _ = encode(Frame("MESSAGE", sent, body), version).partition(b"\n\n")
    names = [name for name, _ in through(Frame("MESSAGE", sent, body), version).headers]
    lines = head.split(b"\n")[1:]
    assert len(lines) == len(names)
    assert b"\r" not in head and b"\0" not in head
    if version is not Version.V1_0:
        assert all(line.count(b":") == 1 for line in lines)


@laws
@given(VALUES)
def test_unescape_undoes_escape(text: str) -> None:
    assert unescape(escape(text, Version.V1_2), Version.V1_2) == text
    assert unescape(escape(text, Version.V1_1), Version.V1_1) == text.replace("\r", "")


@laws
@given(streams(), st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([Version.V1_1, Version.V1_2]))
def test_any_cut_of_the_bytes_gives_the_same_frames(data: bytes, places: list[int], version: Version) -> None:
    whole, error = decode([data], version)
    assert error is None and len(whole) >= 1
    assert decode(cut(data, places), version) == (whole, None)


@laws
@given(st.one_of(PIECES, st.binary(max_size=60)), st.lists(st.integers(0, 10_000), max_size=8), versions)
def test_arbitrary_bytes_give_frames_or_a_documented_fault(data: bytes, places: list[int], version: Version) -> None:
    limits = Limits(command_bytes=12, header_count=4, header_line_bytes=30, head_bytes=60, body_bytes=20)
    whole, fault = decode([data], version, limits)
    pieces, cut_fault = decode(cut(data, places), version, limits)
    assert pieces == whole
    assert (fault is None) == (cut_fault is None)
    for error in (fault, cut_fault):
        assert error is None or (error.code in FAULTS and error.message and error.detail)


@laws
@given(streams(), st.data())
def test_a_changed_byte_gives_frames_or_a_documented_fault(data: bytes, choice: st.DataObject) -> None:
    place = choice.draw(st.integers(0, len(data) - 1))
    byte = choice.draw(st.sampled_from([b"", b"\0", b"\n", b"\r", b":", b"\\", b"\xff", b"9", b"\n\n"]))
    changed = data[:place] + byte + data[place + 1 :]
    whole, fault = decode([changed], Version.V1_2)
    pieces, cut_fault = decode([changed[at : at + 1] for at in range(len(changed))], Version.V1_2)
    assert pieces == whole
    assert (fault is None) == (cut_fault is None)
    assert fault is None or fault.code in FAULTS


def _frame(command: int = 4, head: int = 0, lines: int = 1, line: int = 3, body: int = 0, *, counted: bool) -> bytes:
    """A frame of exactly these sizes: `lines` header lines, the first of `line` bytes; `head` bytes up to the body."""
    first = b"a:" + b"x" * (line - 2)
    rest = [b"b:"] * (lines - 1)
    if counted:
        rest[-1:] = [b"content-length:%d" % body]
    block = b"\n".join([b"SEND".ljust(command, b"D"), first, *rest])
    if head:
        block += b"y" * (head - len(block) - 2)
    return block + b"\n\n" + b"z" * body + b"\0"


@pytest.mark.parametrize("counted", [False, True], ids=["NUL-ended", "counted"])
@pytest.mark.parametrize("size", ["whole", "byte by byte"])
@given(excess=st.integers(0, 1), number=st.integers(8, 40))
@settings(max_examples=40, deadline=None)
def test_body_limit_is_exact(counted: bool, size: str, excess: int, number: int) -> None:
    data = _frame(lines=2, body=number + excess, counted=counted)
    _check(data, Limits(body_bytes=number), size, ErrorCode.BODY_TOO_LARGE if excess else None)


@pytest.mark.parametrize("size", ["whole", "byte by byte"])
@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize(
    ("limit", "sizes", "code"),
    [
        ("command_bytes", {"command": 9}, ErrorCode.BAD_FRAME),
        ("header_count", {"lines": 9}, ErrorCode.TOO_MANY_HEADERS),
        ("header_line_bytes", {"line": 9}, ErrorCode.HEADER_TOO_LARGE),
        ("head_bytes", {"head": 29}, ErrorCode.HEADER_TOO_LARGE),
    ],
)
def test_head_limits_are_exact(limit: str, sizes: dict[str, int], code: ErrorCode, excess: int, size: str) -> None:
    (argument, number), *_ = sizes.items()
    data = _frame(**{argument: number + excess}, counted=False)  # type: ignore[arg-type]
    _check(data, Limits(**{limit: number}), size, code if excess else None)


@pytest.mark.parametrize("text", ["é" * 5, "€" * 5, "𝄞" * 5])
@pytest.mark.parametrize("limit", ["command_bytes", "header_line_bytes"])
def test_limits_count_bytes_and_not_characters(limit: str, text: str) -> None:
    size = len(text.encode())
    data = f"{text}\n\n\0" if limit == "command_bytes" else f"SEND\na:{text[1:]}\n\n\0"
    number = size if limit == "command_bytes" else len(f"a:{text[1:]}".encode())
    assert decode([data.encode()], Version.V1_2, Limits(**{limit: number}))[1] is None
    assert decode([data.encode()], Version.V1_2, Limits(**{limit: number - 1}))[1] is not None


def _check(data: bytes, limits: Limits, size: str, code: ErrorCode | None) -> None:
    pieces = [data] if size == "whole" else [data[at : at + 1] for at in range(len(data))]
    found, fault = decode(pieces, Version.V1_2, limits)
    assert (fault.code if fault else None) == code
    assert len(found) == (0 if code else 1)
