"""How frames are read and written: commands, line ends, bodies and their length. Statements 1 to 5 and 21 to 32."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS, Wire, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])


def subscribed(connect: Connect, version: str, destination: str = "/topic/framing") -> Wire:
    """A session that gets what it sends to `destination`."""
    wire = connect(version)
    wire.subscribe(destination)
    return wire


@pytest.mark.statement(1)
@ALL
def test_frame_has_command_headers_blank_line_body_and_nul(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\ndestination:/topic/framing\nkind:greeting\n\nhello\0")
    message = wire.expect("MESSAGE", kind="greeting")
    assert message.body == b"hello"
    assert message.raw.startswith(b"MESSAGE\n") and message.raw.endswith(b"\n\nhello\0")


@pytest.mark.statement(2)
@ALL
def test_line_ends_between_frames_are_skipped(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    frame = b"SEND\ndestination:/topic/framing\n\nx\0"
    wire.send(b"\n\n\n" + frame + b"\n" + frame + b"\n" * 5000 + frame + frame)
    assert [wire.expect("MESSAGE").body for _ in range(4)] == [b"x"] * 4


@pytest.mark.statement(3)
def test_crlf_ends_every_line_in_1_2(connect: Connect) -> None:
    wire = subscribed(connect, "1.2")
    wire.send(b"\r\n\r\nSEND\r\ndestination:/topic/framing\r\nkind:a b\r\nempty:\r\n\r\nline\r\n\0\r\n\r\n")
    message = wire.expect("MESSAGE", kind="a b", empty="", destination="/topic/framing")
    assert message.body == b"line\r\n"
    assert b"\r" not in message.raw.removesuffix(b"line\r\n\0")


@pytest.mark.statement(4)
def test_lf_and_crlf_are_mixed_in_one_frame(connect: Connect) -> None:
    wire = subscribed(connect, "1.2")
    for lines in (
        b"SEND\ndestination:/topic/framing\r\none:1\ntwo:2\r\n\nx\0",
        b"SEND\r\ndestination:/topic/framing\none:1\r\ntwo:2\n\r\nx\0\r\n\n",
        b"SEND\ndestination:/topic/framing\none:1\ntwo:2\n\nx\0",
    ):
        wire.send(lines)
        assert wire.expect("MESSAGE", one="1", two="2", destination="/topic/framing").body == b"x"


@pytest.mark.statement(5)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_cr_before_the_line_end_never_comes_back(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\r\ndestination:/topic/framing\r\nkind:a\r\n\r\nx\0")
    message = wire.expect("MESSAGE", kind="a", destination="/topic/framing")
    assert b"\r" not in message.raw


@pytest.mark.statement(6)
@ALL
@pytest.mark.parametrize("command", [b"send", b"Send", b"SENd"])
def test_commands_are_case_sensitive(connect: Connect, version: str, command: bytes) -> None:
    wire = connect(version)
    wire.send(command + b"\ndestination:/topic/framing\n\n\0")
    assert command in wire.expect_error("unknown-command").body


@pytest.mark.statement(21, 23)
@ALL
def test_content_length_counts_nuls_as_data(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    body = b"\0a\0\n\nSEND\n\n\0" + bytes(range(256))
    wire.send(b"SEND\ndestination:/topic/framing\ncontent-length:%d\n\n%b\0" % (len(body), body))
    message = wire.expect("MESSAGE", content_length=str(len(body)))
    assert message.body == body


@pytest.mark.statement(21)
@ALL
def test_content_length_of_zero_is_an_empty_body(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\ndestination:/topic/framing\ncontent-length:0\n\n\0SEND\ndestination:/topic/framing\n\n\0")
    assert [message.body for message in wire.read_many(2)] == [b"", b""]


@pytest.mark.statement(21)
@ALL
@pytest.mark.parametrize("length", [0, 3, 4, 6])
def test_a_nul_must_follow_the_counted_body(connect: Connect, version: str, length: int) -> None:
    wire = connect(version)
    wire.send(b"SEND\ndestination:/topic/framing\ncontent-length:%d\n\nhello\0\n\n\n" % length)
    wire.expect_error("bad-frame", frame="SEND")


@pytest.mark.statement(22)
@ALL
def test_the_first_nul_ends_a_body_of_unknown_length(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\ndestination:/topic/framing\n\nfirst\0\nSEND\ndestination:/topic/framing\n\n\n\nsecond\n\0")
    assert [message.body for message in wire.read_many(2)] == [b"first", b"\n\nsecond\n"]


@pytest.mark.statement(24)
@ALL
def test_message_with_a_body_has_a_content_length(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\ndestination:/topic/framing\n\n\xc3\xa9\0")
    assert wire.expect("MESSAGE").all("content-length") == ["2"]


@pytest.mark.statement(24)
@ALL
def test_content_length_keeps_the_place_the_sender_gave_it(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\nfirst:1\ncontent-length:1\ndestination:/topic/framing\nlast:2\n\nx\0")
    names = [name for name, _ in wire.expect("MESSAGE").headers]
    assert names == ["subscription", "message-id", "destination", "first", "content-length", "last"]
    wire.send(b"SEND\nfirst:1\ndestination:/topic/framing\nlast:2\n\nx\0")
    names = [name for name, _ in wire.expect("MESSAGE").headers]
    assert names == ["subscription", "message-id", "destination", "first", "last", "content-length"]


BODILESS = {
    "SUBSCRIBE": [("destination", "/topic/framing"), ("id", "s")],
    "BEGIN": [("transaction", "t")],
    "DISCONNECT": [],
}


@pytest.mark.statement(25)
@NEWER
@pytest.mark.parametrize("command", BODILESS)
@pytest.mark.parametrize("counted", [True, False])
def test_a_body_elsewhere_is_fatal(connect: Connect, version: str, command: str, counted: bool) -> None:
    wire = connect(version)
    length = [("content-length", "4")] if counted else []
    wire.frame(command, [*BODILESS[command], *length], b"body")
    wire.expect_error("unexpected-body", frame=command)


@pytest.mark.statement(25)
@NEWER
def test_content_length_of_zero_is_no_body(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.request("BEGIN", [("transaction", "t"), ("content-length", "0")])


@pytest.mark.statement(26)
@pytest.mark.parametrize("command", BODILESS)
@pytest.mark.parametrize("counted", [True, False])
def test_1_0_ignores_a_body_elsewhere(connect: Connect, command: str, counted: bool) -> None:
    wire = connect("1.0")
    length = [("content-length", "4")] if counted else []
    wire.frame(command, [*BODILESS[command], *length, ("receipt", "r")], b"body")
    wire.expect("RECEIPT", receipt_id="r")


@pytest.mark.statement(27)
@ALL
@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "+5",
        "five",
        "",
        "5.0",
        "0x5",
        "5 ",
        "  5",
        "\t5",
        "5,5",
        "1e3",
        "٥",
        "²",
        "1_0",
        "9" * 19,
        "9" * 4000,
    ],
)
def test_malformed_content_length_is_refused(connect: Connect, version: str, value: str) -> None:
    wire = connect(version)
    wire.send(f"SEND\ndestination:/topic/framing\ncontent-length:{value}\n\nhello\0".encode())
    wire.expect_error("bad-content-length", frame="SEND")


@pytest.mark.statement(27)
@NEWER
def test_a_blank_before_content_length_is_refused(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.send(b"SEND\ndestination:/topic/framing\ncontent-length: 5\n\nhello\0")
    wire.expect_error("bad-content-length", frame="SEND")


@pytest.mark.statement(27)
@ALL
def test_two_content_lengths_that_differ_are_refused(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.send(b"SEND\ndestination:/topic/framing\ncontent-length:5\ncontent-length:4\n\nhello\0")
    wire.expect_error("bad-content-length", frame="SEND")


@pytest.mark.statement(27)
@ALL
def test_the_same_content_length_twice_is_fine(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\ndestination:/topic/framing\ncontent-length:5\ncontent-length:5\n\nhel\0o\0")
    assert wire.expect("MESSAGE").body == b"hel\0o"


@pytest.mark.statement(27)
@ALL
def test_the_largest_writable_content_length_is_too_large_not_a_crash(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.send(b"SEND\ndestination:/topic/framing\ncontent-length:" + b"9" * 18 + b"\n\n")
    wire.expect_error("body-too-large", frame="SEND")


@pytest.mark.statement(30)
@ALL
def test_frames_may_come_byte_by_byte(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    body = b"a\0b\n\n\0c"
    frame = b"SEND\ndestination:/topic/framing\nkind:slow\ncontent-length:%d\n\n%b\0\n" % (len(body), body)
    wire.send_slowly(frame + encode("SEND", [("destination", "/topic/framing")], b"next"))
    assert wire.expect("MESSAGE", kind="slow").body == body
    assert wire.expect("MESSAGE").body == b"next"


@pytest.mark.statement(30)
@ALL
def test_a_frame_may_be_cut_anywhere(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    frame = b"SEND\ndestination:/topic/framing\nk\xc3\xa4:v\xe2\x82\xac\ncontent-length:3\n\nx\0y\0\n"
    for cut in range(1, len(frame)):
        # The receipt in between makes the broker read the first half by itself.
        wire.send(b"BEGIN\ntransaction:t\nreceipt:r\n\n\0" + frame[:cut])
        wire.expect("RECEIPT", receipt_id="r")
        wire.send(frame[cut:] + b"ABORT\ntransaction:t\n\n\0")
        assert wire.expect("MESSAGE", kä="v€").body == b"x\0y"


@pytest.mark.statement(30)
@ALL
def test_thousands_of_frames_may_come_at_once(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"".join(b"SEND\ndestination:/topic/framing\nn:%d\n\n%d\0" % (n, n) for n in range(5000)))
    messages = wire.read_many(5000)
    assert [message.body for message in messages] == [b"%d" % n for n in range(5000)]
    assert [message["n"] for message in messages] == [str(n) for n in range(5000)]


@pytest.mark.statement(30)
def test_a_body_of_a_megabyte_arrives_whole(connect: Connect) -> None:
    wire = subscribed(connect, "1.2")
    body = bytes(range(256)) * 4096
    wire.publish("/topic/framing", body)
    assert wire.expect("MESSAGE").body == body


@pytest.mark.statement(31)
@ALL
@pytest.mark.parametrize("command", ["HELLO", "SENDX", " SEND", "SEND ", "G\u00fcte", "SEND:x"])
def test_unknown_command_is_fatal(connect: Connect, version: str, command: str) -> None:
    wire = connect(version)
    wire.send(f"{command}\ndestination:/topic/framing\n\n\0".encode())
    assert command.encode() in wire.expect_error("unknown-command").body


@pytest.mark.statement(32)
@ALL
@pytest.mark.parametrize("command", ["MESSAGE", "CONNECTED", "RECEIPT", "ERROR"])
def test_commands_of_servers_are_fatal(connect: Connect, version: str, command: str) -> None:
    wire = connect(version)
    wire.send(f"{command}\nreceipt-id:1\nversion:1.2\ndestination:/topic/framing\n\n\0".encode())
    assert command.encode() in wire.expect_error("unknown-command").body
