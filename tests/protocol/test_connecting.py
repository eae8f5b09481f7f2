"""CONNECT, STOMP, CONNECTED and the choice of the version. Statements 13, 14, 33 to 45 and 55 to 57."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.conftest import HASTY, HOSTED, MAIN, Connect, StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import CLOCK_GRAIN, TIMEOUT, VERSIONS, Wire, connect_on, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])

Open = Callable[..., Wire]


@pytest.mark.statement(13)
@NEWER
@pytest.mark.parametrize("passcode", ["a\\cb", "a:b", "\\", "\\t", "a\\nb", " blank ", "пароль"])
def test_connect_is_not_unescaped(wire: Open, version: str, passcode: str) -> None:
    # An undefined escape would be refused in any other frame.
    client = wire()
    client.connect(version, [("login", "user\\q:x"), ("passcode", passcode)])
    client.quiet()


@pytest.mark.statement(14)
@ALL
def test_connected_is_not_escaped(connect: Connect, version: str) -> None:
    connected = connect(version).connected
    assert connected is not None
    # Whatever a server header held, a backslash in it could only be an escape.
    assert b"\\" not in connected.raw
    assert connected.raw.startswith(b"CONNECTED\n") and connected.raw.endswith(b"\n\n\0")


@pytest.mark.statement(33, 34)
@ALL
def test_stomp_is_connect(wire: Open, version: str) -> None:
    client = wire()
    client.connect(version, command="STOMP")
    client.quiet()


@pytest.mark.statement(33, 34)
@ALL
def test_stomp_after_connect_is_a_second_connect(connect: Connect, version: str) -> None:
    client = connect(version)
    client.send(encode("STOMP", [("accept-version", version), ("host", "localhost")]))
    client.expect_error("already-connected", frame="STOMP")


@pytest.mark.statement(35)
@NEWER
def test_connected_says_the_version(connect: Connect, version: str) -> None:
    client = connect(version)
    assert client.connected is not None and client.connected["version"] == version


@pytest.mark.statement(36)
@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("1.0,1.1,1.2", "1.2"),
        ("1.2,1.1,1.0", "1.2"),
        ("1.1,1.0", "1.1"),
        ("1.0,1.2", "1.2"),
        ("1.0,1.1,2.0", "1.1"),
        ("2.0,1.1,1.5", "1.1"),
        ("1.1,1.1", "1.1"),
        ("1.0, 1.1", "1.1"),
        ("1.2,", "1.2"),
        ("1.2,nonsense,,9" * 20, "1.2"),
    ],
)
def test_the_highest_common_version_is_taken(wire: Open, accepted: str, chosen: str) -> None:
    client = wire()
    client.send(encode("CONNECT", [("accept-version", accepted), ("host", "localhost")]))
    client.expect("CONNECTED", version=chosen)


@pytest.mark.statement(36)
@ALL
def test_the_negotiated_version_holds_from_the_next_byte_on(wire: Open, version: str) -> None:
    client = wire()
    client.version = version
    subscribe = encode("SUBSCRIBE", [("id", "0"), ("destination", "/topic/at-once")], version=version)
    send = b"SEND\ndestination:/topic/at-once\nkind:a\\\\b\n\nx\0"
    client.send(encode("CONNECT", [("accept-version", version), ("host", "h")]) + subscribe + send)
    client.expect("CONNECTED")
    client.expect("MESSAGE", kind="a\\\\b" if version == "1.0" else "a\\b")


@pytest.mark.statement(37, 43, 45)
@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_without_accept_version_it_is_1_0(wire: Open, command: str) -> None:
    client = wire()
    client.version = "1.0"
    client.send(command.encode() + b"\n\n\0")
    connected = client.expect("CONNECTED")
    assert connected["session"]
    assert connected.get("version") in (None, "1.0")
    # Only 1.0 lets a subscription be without an id, and leaves a backslash alone.
    client.subscribe("/topic/oldest", id=None)
    client.send(b"SEND\ndestination:/topic/oldest\nkind:\\q\n\n\0")
    assert client.expect("MESSAGE", kind="\\q").get("subscription") is None


@pytest.mark.statement(38, 39, 42)
@pytest.mark.parametrize("accepted", ["2.0", "1.3,9.9", "0.9", "1", "1.20", "11.2", "nonsense"])
def test_no_common_version(wire: Open, accepted: str) -> None:
    client = wire()
    client.send(encode("CONNECT", [("accept-version", accepted), ("host", "localhost")]))
    error = client.expect_error("unsupported-version", version="1.0,1.1,1.2", frame="CONNECT")
    assert b"1.2" in error.body


@pytest.mark.statement(40)
@NEWER
@pytest.mark.parametrize("host", ["localhost", "any.name.at.all", "/", "größe"])
def test_any_host_is_accepted_by_default(wire: Open, version: str, host: str) -> None:
    client = wire()
    client.send(encode("CONNECT", [("accept-version", version), ("host", host)]))
    client.expect("CONNECTED", version=version)


@pytest.mark.statement(40)
@NEWER
@pytest.mark.parametrize("host", ["alpha.example", "beta.example"])
def test_a_configured_host_is_accepted(wire: Open, version: str, host: str) -> None:
    client = wire(HOSTED)
    client.send(encode("CONNECT", [("accept-version", version), ("host", host)]))
    client.expect("CONNECTED", version=version)


@pytest.mark.statement(40)
@NEWER
def test_an_absent_host_is_any_host(wire: Open, version: str) -> None:
    client, picky = wire(), wire(HOSTED)
    client.send(encode("CONNECT", [("accept-version", version)]))
    client.expect("CONNECTED", version=version)
    picky.send(encode("CONNECT", [("accept-version", version)]))
    picky.expect_error("unknown-host", frame="CONNECT")


@pytest.mark.statement(41, 42)
@NEWER
@pytest.mark.parametrize("host", ["gamma.example", "alpha.example.evil", "", "alpha.example "])
def test_another_host_is_refused(wire: Open, version: str, host: str) -> None:
    client = wire(HOSTED)
    client.send(encode("CONNECT", [("accept-version", version), ("host", host)]))
    client.expect_error("unknown-host", frame="CONNECT")


@pytest.mark.statement(43)
@ALL
@pytest.mark.parametrize("headers", [[], [("login", "me")], [("login", ""), ("passcode", "")], [("passcode", "x")]])
def test_login_and_passcode_are_optional(wire: Open, version: str, headers: list[tuple[str, str]]) -> None:
    client = wire()
    client.connect(version, headers)
    client.quiet()


@pytest.mark.statement(44, 45)
@ALL
def test_connected_has_session_and_server(connect: Connect, version: str) -> None:
    first, second = connect(version).connected, connect(version).connected
    assert first is not None and second is not None
    assert re.fullmatch(r"0-\S+", first["session"])
    assert first["session"] != second["session"]
    assert re.fullmatch(r"Stampede/\d+\.\d+\.\d+", first["server"], re.IGNORECASE)


@pytest.mark.statement(44)
def test_the_version_of_the_server_can_be_kept_secret(start_broker: StartBroker) -> None:
    broker = start_broker(config={"broker": {"announce_version": False}})
    with connect_on(broker, None) as client:
        assert client.connected is not None
        assert not re.search(r"\d", client.connected.get("server") or "")


@pytest.mark.statement(95)
@ALL
def test_connect_has_no_receipt(wire: Open, version: str) -> None:
    client = wire()
    client.connect(version, [("receipt", "r")])
    client.quiet()
    refused = wire()
    refused.send(encode("CONNECT", [("accept-version", "9"), ("receipt", "r")]))
    assert "receipt-id" not in refused.expect_error("unsupported-version")


@pytest.mark.statement(55)
@ALL
def test_rapid_connects_and_disconnects(broker: Broker, version: str) -> None:
    for turn in range(100):
        with Wire(broker.address) as client:
            client.connect(version)
            if turn % 2:
                client.frame("DISCONNECT", [("receipt", "r")])
                client.expect("RECEIPT", receipt_id="r")
                client.expect_closed()


@pytest.mark.statement(56)
@NEWER
def test_the_error_of_a_refused_connect_arrives_though_the_client_goes_on_sending(wire: Open, version: str) -> None:
    client = wire(HOSTED)
    client.send(encode("CONNECT", [("accept-version", version), ("host", "wrong.example")]) + b"\n" * 200_000)
    client.expect_error("unknown-host")


@pytest.mark.statement(57)
@pytest.mark.parametrize("first", [b"", b"\n", b"\r\n\n", b"CONN", b"CONNECT\naccept-version:1.2\nhost:h\n"])
def test_a_client_that_says_nothing_is_sent_away(broker: Broker, wire: Open, first: bytes) -> None:
    before = broker.position
    started = time.monotonic()
    client = wire(HASTY)
    client.send(first)
    client.expect_error("connect-timeout")
    assert time.monotonic() - started >= 0.3 - CLOCK_GRAIN
    closed = broker.wait_event("connection.closed", since=before, peer=client.peer)
    assert closed["reason"] == "connect-timeout"


@pytest.mark.statement(57)
def test_line_ends_do_not_prolong_the_connect_timeout(wire: Open) -> None:
    client = wire(HASTY)
    deadline = time.monotonic() + TIMEOUT
    while not client.readable() and time.monotonic() < deadline:
        client.send(b"\n")
        time.sleep(0.02)
    client.expect_error("connect-timeout")


@pytest.mark.statement(57)
def test_a_connected_client_has_no_connect_timeout(start_broker: StartBroker) -> None:
    broker = start_broker(config={"listener": [{"bind": "127.0.0.1:0", "connect_timeout": "2s"}]})
    with connect_on(broker, 0) as client, Wire(broker.address) as later:
        # Who came later is sent away for it, so the time of the other is over as well.
        later.expect_error("connect-timeout")
        client.quiet()


@ALL
def test_a_second_connect_is_refused(connect: Connect, version: str) -> None:
    client = connect(version)
    client.send(encode("CONNECT", [("accept-version", version), ("host", "localhost"), ("passcode", "s3cret")]))
    error = client.expect_error("already-connected", frame="CONNECT")
    assert b"s3cret" not in error.raw


@pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT"])
def test_a_frame_before_connect_is_refused(wire: Open, command: str) -> None:
    client = wire(MAIN)
    client.send(encode(command, [("destination", "/topic/early"), ("id", "1"), ("transaction", "t")]))
    client.expect_error("not-connected", frame=command)


def test_disconnect_before_connect_is_refused(wire: Open) -> None:
    client = wire(MAIN)
    client.send(b"DISCONNECT\nreceipt:r\n\n\0")
    client.expect_error("not-connected", frame="DISCONNECT")


@pytest.mark.parametrize("command", ["CONNECTED", "MESSAGE", "HELLO", "connect"])
def test_an_unknown_command_before_connect_is_refused(wire: Open, command: str) -> None:
    client = wire(MAIN)
    client.send(encode(command, [("accept-version", "1.2"), ("host", "h")]))
    client.expect_error("unknown-command")
