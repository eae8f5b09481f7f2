"""The codec by example: each deviation listed at its top, each fault it names."""

from __future__ import annotations

import time

import pytest

from common.codec import Limits, content_length, decode_head, encode, encode_headers, refuse_body
from common.decoder import Decoder
from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version

V1_0, V1_1, V1_2 = Version


def decode(data: bytes, version: Version = V1_2, limits: Limits | None = None) -> list[Frame]:
    return list(Decoder(version, limits).feed(data))


def fault(data: bytes, version: Version = V1_2, limits: Limits | None = None) -> StompError:
    with pytest.raises(StompError) as caught:
        decode(data, version, limits)
    return caught.value


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("data", [b"SEND\r\na:b\r\n\r\nx\0", b"SEND\na:b\n\r\nx\0", b"SEND\r\na:b\n\nx\0"])
def test_carriage_return_before_the_line_feed_ends_the_line(data: bytes, version: Version) -> None:
    assert decode(data, version) == [Frame("SEND", [("a", "b")], b"x")]


@pytest.mark.parametrize("version", Version)
def test_first_colon_splits(version: Version) -> None:
    assert decode(b"SEND\na:b:c\n\n\0", version)[0].headers == [("a", "b:c")]


@pytest.mark.parametrize("version", Version)
def test_empty_value(version: Version) -> None:
    assert decode(b"SEND\na:\n\n\0", version)[0].headers == [("a", "")]


def test_one_blank_after_the_colon_is_padding_in_1_0_only() -> None:
    assert [decode(b"SEND\na:  b \n\n\0", version)[0].get("a") for version in Version] == [" b ", "  b ", "  b "]


def test_no_escapes_in_1_0() -> None:
    assert decode(b"SEND\na:\\n\\t\\\n\n\0", V1_0)[0].get("a") == "\\n\\t\\"


def test_escapes() -> None:
    assert decode(b"SEND\n\\ca\\c:\\\\n\\n\\c\\r\n\n\0")[0].headers == [(":a:", "\\n\n:\r")]


@pytest.mark.parametrize("version", [V1_1, V1_2])
@pytest.mark.parametrize("text", [b"\\t", b"\\", b"\\\\\\", b"\\N", b"\\\xc3\xa9"])
def test_undefined_escape(text: bytes, version: Version) -> None:
    assert fault(b"SEND\na:" + text + b"\n\n\0", version).code is ErrorCode.BAD_ESCAPE
    assert fault(b"SEND\n" + text + b":a\n\n\0", version).code is ErrorCode.BAD_ESCAPE


def test_carriage_return_has_no_escape_in_1_1() -> None:
    assert fault(b"SEND\na:\\r\n\n\0", V1_1).code is ErrorCode.BAD_ESCAPE


@pytest.mark.parametrize("command", ["CONNECT", "STOMP", "CONNECTED"])
@pytest.mark.parametrize("version", Version)
def test_connecting_frames_are_never_escaped(command: str, version: Version) -> None:
    data = f"{command}\npasscode:a\\b:c\n\n\0".encode()
    frame = Frame(command, [("passcode", "a\\b:c")])
    assert decode(data, version) == [frame]
    assert encode(frame, version) == data


@pytest.mark.parametrize("version", [V1_1, V1_2])
@pytest.mark.parametrize("data", [b"ACK\nid:1\n\nx\0", b"ACK\nid:1\ncontent-length:1\n\nx\0"])
def test_body_where_none_may_be(data: bytes, version: Version) -> None:
    assert fault(data, version).code is ErrorCode.UNEXPECTED_BODY
    assert decode(data, V1_0)[0].body == b""


def test_body_where_none_may_be_is_refused_before_its_end() -> None:
    assert fault(b"CONNECT\n\nx").code is ErrorCode.UNEXPECTED_BODY
    assert fault(b"CONNECT\ncontent-length:1000000\n\n").code is ErrorCode.UNEXPECTED_BODY


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("plain", (True, True, True)),
        ("content-length\r", (False, False, True)),
        ("\r", (False, False, True)),
        ("content-length:5", (False, True, True)),
        ("a\nreceipt-id", (False, True, True)),
        ("content-length\0", (False, False, False)),
        ("", (False, False, False)),
    ],
)
def test_name_that_cannot_be_said_takes_its_header_along(name: str, kept: tuple[bool, bool, bool]) -> None:
    for version in Version:
        lines = encode_headers([(name, "9"), ("z", "z")], version)
        assert lines.endswith(b"z:z\n")
        assert (lines != b"z:z\n") == kept[version]


def test_value_loses_what_cannot_be_said() -> None:
    lines = [encode_headers([("a", "\\b\r\nc:\0d")], version) for version in Version]
    assert lines == [b"a:\\b c:d\n", b"a:\\\\b\\nc\\cd\n", b"a:\\\\b\\r\\nc\\cd\n"]


def test_encode_counts_the_body_once() -> None:
    assert encode(Frame("SEND", [], b"a\0b")) == b"SEND\ncontent-length:3\n\na\0b\0"
    assert encode(Frame("SEND", [("content-length", "1")], b"a")) == b"SEND\ncontent-length:1\n\na\0"
    assert encode(Frame("RECEIPT", [("receipt-id", "1")])) == b"RECEIPT\nreceipt-id:1\n\n\0"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"SEND\na:b\0", ErrorCode.BAD_FRAME),
        (b"SEND\na:b\0\n\nx\0", ErrorCode.BAD_FRAME),
        (b"\0", ErrorCode.BAD_FRAME),
        (b"S" * 40, ErrorCode.BAD_FRAME),
        (b"SEND\nab\n\n\0", ErrorCode.BAD_HEADER),
        (b"SEND\n:b\n\n\0", ErrorCode.BAD_HEADER),
        (b"SEND\na:\xff\n\n\0", ErrorCode.BAD_ENCODING),
        (b"SEND\na:\xed\xa0\x80\n\n\0", ErrorCode.BAD_ENCODING),
        (b"SEND\ncontent-length:1\n\nab\0", ErrorCode.BAD_FRAME),
        (b"SEND\ncontent-length:-1\n\n\0", ErrorCode.BAD_CONTENT_LENGTH),
        (b"SEND\ncontent-length:\n\n\0", ErrorCode.BAD_CONTENT_LENGTH),
        (b"SEND\ncontent-length:1 \n\n\0", ErrorCode.BAD_CONTENT_LENGTH),
        (b"SEND\ncontent-length:1_0\n\n\0", ErrorCode.BAD_CONTENT_LENGTH),
        ("SEND\ncontent-length:١\n\n\0".encode(), ErrorCode.BAD_CONTENT_LENGTH),
        (b"SEND\ncontent-length:" + b"0" * 19 + b"\n\n\0", ErrorCode.BAD_CONTENT_LENGTH),
        (b"SEND\ncontent-length:" + b"9" * 18 + b"\n\n\0", ErrorCode.BODY_TOO_LARGE),
        (b"SEND\ncontent-length:1\ncontent-length:2\n\na\0", ErrorCode.BAD_CONTENT_LENGTH),
    ],
)
def test_faults(data: bytes, code: ErrorCode) -> None:
    assert fault(data).code is code


def test_repeated_equal_content_length() -> None:
    assert decode(b"SEND\ncontent-length:1\ncontent-length:1\n\n\0\0")[0].body == b"\0"


def test_first_of_repeated_headers_counts() -> None:
    frame = decode(b"SEND\na:1\na:2\n\n\0")[0]
    assert (frame.get("a"), frame.get("b"), len(frame.headers)) == ("1", None, 2)


def test_a_malformed_line_is_not_shown_whole() -> None:
    assert "hunter2" not in fault(b"CONNECT\na line break before a hunter2\n\n\0").detail


def test_version_holds_from_the_next_frame() -> None:
    decoder = Decoder(V1_0)
    frames = []
    for frame in decoder.feed(b"CONNECTED\nversion:1.2\n\n\0MESSAGE\na:\\c\n\n\0"):
        decoder.version = V1_2
        frames.append(frame)
    assert frames[1].get("a") == ":"


def test_frames_before_the_fault_come_first() -> None:
    frames = Decoder().feed(b"SEND\na:1\n\n\0SEND\nbad\n\n\0")
    assert next(frames).get("a") == "1"
    with pytest.raises(StompError):
        next(frames)


def test_functions_for_the_hot_path() -> None:
    assert decode_head(b"ACK\r\nid:1\r", V1_2, Limits()) == Frame("ACK", [("id", "1")])
    assert content_length(Frame("SEND", [("content-length", "007")]), Limits()) == 7
    assert content_length(Frame("SEND"), Limits()) == -1
    refuse_body("SEND", 5, V1_2)
    with pytest.raises(StompError):
        refuse_body("RECEIPT", 5, V1_2)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"SEND\n\n\0" * 40_000],
        [b"SEND\n\n", *[b"x" * 50] * 20_000, b"\0"],
        [b"SEND\ncontent-length:1000000\n\n", *[b"x" * 50] * 20_000, b"\0"],
        [b"SEND\na:", *[b"x"] * 20_000, b"\n\n\0"],
    ],
    ids=["many frames", "body to NUL", "counted body", "head"],
)
def test_work_grows_with_the_bytes_and_not_with_their_square(pieces: list[bytes]) -> None:
    decoder = Decoder(limits=Limits(header_line_bytes=1 << 20, head_bytes=1 << 20))
    start = time.process_time()
    found = sum(1 for piece in pieces for _ in decoder.feed(piece))
    assert found >= 1
    # Linear work takes 0.1 s here, quadratic work minutes; the bound only has to tell them apart.
    assert time.process_time() - start < 3
