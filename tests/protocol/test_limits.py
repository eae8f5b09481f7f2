"""Every limit of the configuration, exact: n is accepted and n + 1 is refused. Statement 29."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Frame, Wire, connect_on, encode

pytestmark = pytest.mark.statement(29)

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
PACE = pytest.mark.parametrize("slowly", [False, True], ids=["whole", "byte-by-byte"])

LIMITS = {
    "command_bytes": 16,
    "header_count": 8,
    "header_line_bytes": 64,
    "head_bytes": 300,
    "login_head_bytes": 200,
    "body_bytes": 1000,
    "destination_bytes": 20,
    "subscriptions": 3,
    "unacknowledged": 5,
    "transactions": 2,
    "transaction_frames": 4,
    "transaction_bytes": 1500,
}
TOPIC = ("destination", "/topic/l")


@pytest.fixture(scope="module")
def small() -> Iterator[Broker]:
    """A broker whose limits are all small."""
    with Broker(config={"limits": LIMITS}) as broker:
        yield broker


@pytest.fixture
def session(small: Broker, version: str) -> Iterator[Wire]:
    """A session with the broker of small limits."""
    with connect_on(small, None, version) as wire:
        yield wire
    small.check_log()


def write(wire: Wire, data: bytes, slowly: bool) -> None:
    if slowly:
        wire.send_slowly(data)
    else:
        wire.send(data)


def accepted(wire: Wire, data: bytes, slowly: bool = False) -> None:
    """`data` is taken, and the session goes on."""
    write(wire, data, slowly)
    wire.quiet()


def refused(wire: Wire, data: bytes, code: str, limit: str, slowly: bool = False) -> Frame:
    """`data` is answered with an ERROR that names the limit and its value."""
    write(wire, data, slowly)
    error = wire.expect_error(code)
    assert f"limits.{limit}".encode() in error.body
    assert str(LIMITS[limit]).encode() in error.body
    return error


@ALL
@PACE
def test_the_command_line(session: Wire, slowly: bool) -> None:
    # 16 bytes are still read as a command, though as one that nobody knows.
    write(session, b"X" * 16 + b"\n\n\0", slowly)
    session.expect_error("unknown-command")


@ALL
@PACE
@pytest.mark.parametrize("end", [b"", b"\n\n\0", b"\r\n\r\n\0"], ids=["open", "lf", "crlf"])
def test_the_command_line_is_too_long(session: Wire, slowly: bool, end: bytes) -> None:
    refused(session, b"X" * (17 if end else 20) + end, "bad-frame", "command_bytes", slowly)


@ALL
@PACE
def test_the_number_of_headers(session: Wire, slowly: bool) -> None:
    frame = b"SEND\ndestination:/topic/l\n" + b"a:b\n" * 7
    accepted(session, frame + b"\n\0", slowly)
    refused(session, frame + b"a:b\n\n\0", "too-many-headers", "header_count", slowly)


@ALL
def test_the_number_of_headers_of_other_frames(session: Wire) -> None:
    frame = b"BEGIN\ntransaction:t\n" + b"a:b\n" * 7
    accepted(session, frame + b"\n\0")
    refused(session, frame + b"a:b\n\n\0", "too-many-headers", "header_count")


@ALL
@PACE
@pytest.mark.parametrize("character", ["x", "é", "\U0001f389"])
def test_a_header_line(session: Wire, slowly: bool, character: str) -> None:
    # Bytes count, not characters: 62 are left beside the name and the colon.
    value = character.encode() * (62 // len(character.encode()))
    value += b"y" * (62 - len(value))
    accepted(session, b"SEND\ndestination:/topic/l\na:" + value + b"\n\n\0", slowly)
    accepted(session, b"SEND\r\ndestination:/topic/l\r\na:" + value + b"\r\n\r\n\0", slowly)
    refused(
        session, b"SEND\ndestination:/topic/l\na:" + value + b"y\n\n\0", "header-too-large", "header_line_bytes", slowly
    )


def head_of(size: int, command: bytes = b"SEND\ndestination:/topic/l\n", eol: bytes = b"\n") -> bytes:
    """Command, headers and blank line of `size` bytes in all, in few lines that are below their own limit."""
    head = command.replace(b"\n", eol)
    left = size - len(head) - len(eol)
    while left:
        line = left if left <= 60 else min(50, left - 10)
        head += b"a:" + b"x" * (line - 2 - len(eol)) + eol
        left -= line
    return head + eol


@ALL
@PACE
@pytest.mark.parametrize("eol", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_the_whole_head(session: Wire, slowly: bool, eol: bytes) -> None:
    size = LIMITS["head_bytes"]
    fits, over = (head_of(n, eol=eol) for n in (size, size + 1))
    assert (len(fits), len(over)) == (size, size + 1)
    accepted(session, fits + b"\0", slowly)
    refused(session, over + b"\0", "header-too-large", "head_bytes", slowly)


@ALL
def test_a_head_that_never_ends(session: Wire) -> None:
    refused(session, (b"SEND\n" + b"a:b\n" * 100)[: LIMITS["head_bytes"] + 1], "header-too-large", "head_bytes")


@PACE
@pytest.mark.parametrize("version", ["1.2"])
def test_the_head_before_login(small: Broker, version: str, slowly: bool) -> None:
    size = LIMITS["login_head_bytes"]
    connect = b"CONNECT\naccept-version:1.2\nhost:h\n"
    with Wire(small.address) as fits, Wire(small.address) as over:
        write(fits, head_of(size, connect) + b"\0", slowly)
        fits.expect("CONNECTED", version=version)
        write(over, head_of(size + 1, connect) + b"\0", slowly)
        over.expect_error("header-too-large")
        # Once logged in, a frame may have a larger head.
        fits.version = version
        accepted(fits, head_of(size + 50) + b"\0")


@ALL
@PACE
@pytest.mark.parametrize("counted", [True, False])
def test_the_body(session: Wire, slowly: bool, counted: bool) -> None:
    for size in (1000, 1001):
        length = [("content-length", str(size))] if counted else []
        frame = encode("SEND", [TOPIC, *length], b"x" * size)
        if size == 1000:
            accepted(session, frame, slowly)
        else:
            error = refused(session, frame, "body-too-large", "body_bytes", slowly)
            assert error["frame"] == "SEND"


@ALL
def test_a_body_that_never_ends(session: Wire) -> None:
    refused(session, b"SEND\ndestination:/topic/l\n\n" + b"x" * 1001, "body-too-large", "body_bytes")


@ALL
def test_a_body_that_is_announced_is_refused_before_it_comes(session: Wire) -> None:
    refused(session, b"SEND\ndestination:/topic/l\ncontent-length:1001\n\n", "body-too-large", "body_bytes")


@ALL
@pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE"])
@pytest.mark.parametrize("character", ["x", "é"])
def test_a_destination(session: Wire, command: str, character: str) -> None:
    name = "/topic/" + character * (13 // len(character.encode()))
    name += "y" * (20 - len(name.encode()))
    accepted(session, encode(command, [("destination", name), ("id", "1")]))
    session.frame(command, [("destination", name + "y"), ("id", "2")])
    error = session.expect_error("bad-destination", frame=command)
    assert b"limits.destination_bytes" in error.body


@ALL
def test_subscriptions(session: Wire) -> None:
    for number in range(3):
        session.subscribe(f"/topic/{number}", id=str(number))
    session.request("UNSUBSCRIBE", [("id", "1")])
    session.subscribe("/topic/3", id="3")
    refused(session, encode("SUBSCRIBE", [TOPIC, ("id", "4")]), "too-many-subscriptions", "subscriptions")


@pytest.mark.parametrize(
    ("version", "mode"), [(v, "client") for v in VERSIONS] + [(v, "client-individual") for v in VERSIONS[1:]]
)
def test_unacknowledged_messages(session: Wire, mode: str) -> None:
    session.subscribe("/topic/l", ack=mode)
    session.send(encode("SEND", [TOPIC]) * 5)
    messages = session.read_many(5)
    session.acknowledge(messages[0])
    session.send(encode("SEND", [TOPIC]))
    session.expect("MESSAGE")
    session.quiet()
    session.send(encode("SEND", [TOPIC]))
    frames = session.read_rest()
    assert frames[-1]["error-code"] == "too-many-unacknowledged"
    assert b"limits.unacknowledged" in frames[-1].body
    assert [frame.command for frame in frames[:-1]] in ([], ["MESSAGE"])


@ALL
def test_a_queue_gives_no_more_than_may_be_unacknowledged(session: Wire, version: str) -> None:
    session.subscribe(f"/queue/{version}", ack="client")
    for number in range(8):
        session.publish(f"/queue/{version}", b"%d" % number)
    assert [each.body for each in session.read_many(5)] == [b"0", b"1", b"2", b"3", b"4"]
    session.quiet()


@ALL
def test_unacknowledged_messages_do_not_count_in_auto_mode(session: Wire) -> None:
    session.subscribe("/topic/l")
    session.send(encode("SEND", [TOPIC]) * 20)
    session.read_many(20)
    session.quiet()


@ALL
def test_open_transactions(session: Wire) -> None:
    session.request("BEGIN", [("transaction", "a")])
    session.request("BEGIN", [("transaction", "b")])
    session.request("COMMIT", [("transaction", "a")])
    session.request("BEGIN", [("transaction", "c")])
    refused(session, encode("BEGIN", [("transaction", "d")]), "too-many-transactions", "transactions")


@ALL
def test_frames_in_a_transaction(session: Wire) -> None:
    send = encode("SEND", [TOPIC, ("transaction", "t")])
    session.request("BEGIN", [("transaction", "t")])
    accepted(session, send * 4)
    session.request("COMMIT", [("transaction", "t")])
    session.request("BEGIN", [("transaction", "t")])
    refused(session, send * 5, "transaction-too-large", "transaction_frames")


@ALL
def test_acknowledgements_are_frames_in_a_transaction(session: Wire) -> None:
    session.subscribe("/topic/l", ack="client")
    session.send(encode("SEND", [TOPIC]) * 5)
    messages = session.read_many(5)
    session.request("BEGIN", [("transaction", "t")])
    for message in messages[:4]:
        session.acknowledge(message, headers=[("transaction", "t")])
    session.frame("ACK", [*session.acknowledgement(messages[4]), ("transaction", "t")])
    session.expect_error("transaction-too-large", frame="ACK")


@ALL
def test_bytes_in_a_transaction(session: Wire) -> None:
    send = encode("SEND", [TOPIC, ("transaction", "t")], b"x" * 700)
    session.request("BEGIN", [("transaction", "t")])
    # What counts beside the bodies is the broker's to choose; here it is below 50 bytes a frame.
    accepted(session, send + send)
    refused(session, send, "transaction-too-large", "transaction_bytes")
