"""Names and values of headers: escapes, UTF-8, blanks, repetitions. Statements 6 to 20 and 28."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS, Wire

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])


def subscribed(connect: Connect, version: str, destination: str = "/topic/headers") -> Wire:
    """A session that gets what it sends to `destination`."""
    wire = connect(version)
    wire.subscribe(destination)
    return wire


@pytest.mark.statement(6)
@ALL
def test_header_names_are_case_sensitive(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.send(b"SEND\nDestination:/topic/headers\n\n\0")
    wire.expect_error("missing-header", frame="SEND")


@pytest.mark.statement(7)
@ALL
def test_utf8_survives_in_names_values_and_destinations(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version, "/topic/größe.\U0001f389")
    header = ("stimmung-\U0001f680", "prächtig \U0001f389 \u200d\ufeff 日本")
    wire.frame("SEND", [("destination", "/topic/größe.\U0001f389"), header], "日本".encode())
    message = wire.expect("MESSAGE", destination="/topic/größe.\U0001f389")
    assert header in message.headers
    assert message.body == "日本".encode()


@pytest.mark.statement(8)
@ALL
@pytest.mark.parametrize(
    "line",
    [b"a:\xff", b"\xc3\x28:b", b"a:\xc0\x80", b"a:\xed\xa0\x80", b"a:\xf8\x88\x80\x80\x80", b"a:\xe2\x82"],
    ids=["stray", "bad-continuation", "overlong", "surrogate", "five-bytes", "cut"],
)
def test_invalid_utf8_in_headers_is_refused(connect: Connect, version: str, line: bytes) -> None:
    wire = connect(version)
    wire.send(b"SEND\ndestination:/topic/headers\n" + line + b"\n\nx\0")
    wire.expect_error("bad-encoding")


@pytest.mark.statement(9)
def test_1_2_undoes_its_four_escapes_in_names_and_values(connect: Connect) -> None:
    wire = subscribed(connect, "1.2", "/topic/a:b\\c")
    wire.send(b"SEND\ndestination:/topic/a\\cb\\\\c\nna\\cme\\\\\\n\\r:va\\clue\\\\n\\n\\r\\\\\\\\r\n\nx\0")
    message = wire.expect("MESSAGE", destination="/topic/a:b\\c")
    assert ("na:me\\\n\r", "va:lue\\n\n\r\\\\r") in message.headers


@pytest.mark.statement(9)
def test_1_2_undoes_escapes_on_subscribe_and_begin_too(connect: Connect) -> None:
    wire = connect("1.2")
    wire.send(b"SUBSCRIBE\nid:i\\cd\ndestination:/topic/x\\cy\nreceipt:r\\c1\n\n\0")
    wire.expect("RECEIPT", receipt_id="r:1")
    wire.send(b"BEGIN\ntransaction:t\\c\\n\nreceipt:2\n\n\0COMMIT\ntransaction:t\\c\\n\nreceipt:3\n\n\0")
    wire.expect("RECEIPT", receipt_id="2")
    wire.expect("RECEIPT", receipt_id="3")
    wire.frame("SEND", [("destination", "/topic/x:y")])
    wire.expect("MESSAGE", subscription="i:d")


@pytest.mark.statement(10)
def test_1_1_undoes_its_three_escapes(connect: Connect) -> None:
    wire = subscribed(connect, "1.1")
    wire.send(b"SEND\ndestination:/topic/headers\nna\\cme:va\\clue\\\\n\\n\n\nx\0")
    assert ("na:me", "va:lue\\n\n") in wire.expect("MESSAGE").headers


@pytest.mark.statement(10)
def test_1_1_has_no_escape_of_cr(connect: Connect) -> None:
    wire = connect("1.1")
    wire.send(b"SEND\ndestination:/topic/headers\nkind:a\\rb\n\nx\0")
    wire.expect_error("bad-escape", frame="SEND")


@pytest.mark.statement(11)
@NEWER
@pytest.mark.parametrize("value", [b"\\t", b"a\\qb", b"lone\\", b"\\\\\\", b"\\N", b"\\ n", b"\\\xc3\xa9", b"\\0"])
@pytest.mark.parametrize("place", ["name", "value"])
def test_undefined_escapes_are_fatal(connect: Connect, version: str, value: bytes, place: str) -> None:
    wire = connect(version)
    line = value + b":v" if place == "name" else b"n:" + value
    wire.send(b"SEND\ndestination:/topic/headers\n" + line + b"\n\nx\0")
    wire.expect_error("bad-escape", frame="SEND")


@pytest.mark.statement(12)
@NEWER
def test_message_and_receipt_are_escaped(connect: Connect, version: str) -> None:
    nasty = "\\ a:b\nc\\n\\c" + ("\r" if version == "1.2" else "")
    wire = connect(version)
    wire.frame(
        "SUBSCRIBE",
        [("destination", f"/topic/{nasty.strip()}".replace("\n", "")), ("id", nasty), ("receipt", nasty)],
    )
    wire.expect("RECEIPT", receipt_id=nasty)
    wire.frame("SEND", [("destination", f"/topic/{nasty.strip()}".replace("\n", "")), (nasty, nasty)])
    message = wire.expect("MESSAGE", subscription=nasty)
    assert (nasty, nasty) in message.headers


@pytest.mark.statement(12)
@NEWER
def test_error_is_escaped(connect: Connect, version: str) -> None:
    wire = connect(version)
    nasty = "\\ a:b\nc\\n\\c"
    wire.frame("COMMIT", [("transaction", nasty), ("receipt", nasty)])
    wire.expect_error("unknown-transaction", receipt_id=nasty, frame="COMMIT")


@pytest.mark.statement(15)
def test_1_0_escapes_nothing(connect: Connect) -> None:
    wire = subscribed(connect, "1.0")
    wire.send(b"SEND\ndestination:/topic/headers\nkind:a\\nb\nlone:\\\nurl:http://a:1/\n\nx\0")
    message = wire.expect("MESSAGE", kind="a\\nb", lone="\\", url="http://a:1/")
    assert b"\nkind:a\\nb\n" in message.raw and b"\nurl:http://a:1/\n" in message.raw


@pytest.mark.statement(16)
@NEWER
def test_blanks_are_kept(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\ndestination:/topic/headers\n foo : bar \n\ttab\t:\t\n\nx\0")
    message = wire.expect("MESSAGE")
    assert (" foo ", " bar ") in message.headers
    assert ("\ttab\t", "\t") in message.headers


@pytest.mark.statement(16)
@NEWER
def test_a_blank_belongs_to_the_destination(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version, " /topic/headers ")
    wire.send(b"SEND\ndestination:/topic/headers\n\nother\0SEND\ndestination: /topic/headers \n\nours\0")
    assert wire.expect("MESSAGE", destination=" /topic/headers ").body == b"ours"


@pytest.mark.statement(17)
def test_1_0_takes_one_blank_after_the_colon_as_padding(connect: Connect) -> None:
    wire = connect("1.0")
    wire.send(b"SUBSCRIBE\ndestination: /topic/headers\nack: client\nreceipt: r\n\n\0")
    wire.expect("RECEIPT", receipt_id="r")
    wire.send(b"SEND\ndestination: /topic/headers\ncontent-length: 3\none: 1\ntwo:  2\nend:3 \n\na\0b\0")
    message = wire.expect("MESSAGE", destination="/topic/headers", one="1", two=" 2", end="3 ")
    assert message.body == b"a\0b"


@pytest.mark.statement(18)
@ALL
@pytest.mark.parametrize("line", [b"nonsense", b" ", b"destination"])
def test_header_without_colon_is_fatal(connect: Connect, version: str, line: bytes) -> None:
    wire = connect(version)
    wire.send(b"SEND\ndestination:/topic/headers\n" + line + b"\n\nx\0")
    wire.expect_error("bad-header", frame="SEND")


@pytest.mark.statement(19, 20)
@ALL
def test_header_value_may_be_empty(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(b"SEND\ndestination:/topic/headers\nempty:\n\nx\0")
    assert b"\nempty:\n" in wire.expect("MESSAGE", empty="").raw


@pytest.mark.statement(19)
@ALL
def test_header_name_may_not_be_empty(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.send(b"SEND\ndestination:/topic/headers\n:value\n\nx\0")
    wire.expect_error("bad-header", frame="SEND")


@pytest.mark.statement(28)
@ALL
def test_the_first_of_a_repeated_header_counts(connect: Connect, version: str) -> None:
    wire = subscribed(connect, version)
    wire.send(
        b"SEND\ndestination:/topic/headers\ndestination:/topic/other\nfoo:World\nfoo:Hello\nreceipt:1\nreceipt:2\n\nx\0"
    )
    message = wire.expect("MESSAGE")
    assert message.all("foo") == ["World", "Hello"]
    assert message.all("destination") == ["/topic/headers"]
    wire.expect("RECEIPT", receipt_id="1")
    wire.quiet()


@pytest.mark.statement(28)
@ALL
def test_the_first_of_a_repeated_subscribe_header_counts(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.request(
        "SUBSCRIBE",
        [("id", "a"), ("id", "b"), ("destination", "/topic/headers"), ("destination", "/topic/x")],
    )
    wire.publish("/topic/x", b"not subscribed")
    wire.publish("/topic/headers", b"subscribed")
    assert wire.expect("MESSAGE", subscription="a").body == b"subscribed"
