"""What every ERROR has in common, whatever its code; one case for each code that needs no configuration of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.conftest import BEATING, HASTY, HOSTED, MAIN, Connect, StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Frame, Wire, connect_on, encode

SECRET = "correct-horse-battery"


@dataclass(frozen=True)
class Case:
    """`block` is sent in a session; `%r` in it stands for the receipt header or nothing."""

    code: str
    command: str
    block: bytes
    versions: tuple[str, ...] = VERSIONS

    @property
    def name(self) -> str:
        return f"{self.code}-{self.command}"


NEWER = VERSIONS[1:]
CASES = [
    Case("bad-frame", "SEND", b"SEND\ndestination:/topic/e\n%rcontent-length:2\n\nabc\0"),
    Case("unknown-command", "", b"BROKEN\n%r\n\0"),
    Case("unknown-command", "NACK", b"NACK\nmessage-id:1\n%r\n\0", ("1.0",)),
    Case("bad-header", "SEND", b"SEND\ndestination:/topic/e\n%rnonsense\n\n\0"),
    Case("bad-escape", "SEND", b"SEND\ndestination:/topic/e\n%ra:\\x\n\n\0", NEWER),
    Case("bad-escape", "SUBSCRIBE", b"SUBSCRIBE\nid:\\x\n%rdestination:/topic/e\n\n\0", NEWER),
    Case("bad-encoding", "SEND", b"SEND\ndestination:/topic/e\n%ra:\xff\n\n\0"),
    Case("bad-content-length", "SEND", b"SEND\ndestination:/topic/e\n%rcontent-length:x\n\n\0"),
    Case("unexpected-body", "BEGIN", b"BEGIN\ntransaction:t\n%r\nbody\0", NEWER),
    Case("too-many-headers", "SEND", b"SEND\ndestination:/topic/e\n%r" + b"a:b\n" * 128 + b"\n\0"),
    Case("header-too-large", "SEND", b"SEND\ndestination:/topic/e\n%ra:" + b"b" * 16384 + b"\n\n\0"),
    Case("header-too-large", "BEGIN", b"BEGIN\n%rtransaction:t\n" + (b"a:" + b"b" * 9000 + b"\n") * 9 + b"\n\0"),
    Case("body-too-large", "SEND", b"SEND\ndestination:/topic/e\n%rcontent-length:16777217\n\n"),
    Case("missing-header", "SEND", b"SEND\n%r\n\0"),
    Case("missing-header", "SUBSCRIBE", b"SUBSCRIBE\nid:1\n%r\n\0"),
    Case("missing-header", "UNSUBSCRIBE", b"UNSUBSCRIBE\n%r\n\0"),
    Case("missing-header", "ACK", b"ACK\n%r\n\0"),
    Case("missing-header", "NACK", b"NACK\n%r\n\0", NEWER),
    Case("missing-header", "BEGIN", b"BEGIN\n%r\n\0"),
    Case("missing-header", "COMMIT", b"COMMIT\n%r\n\0"),
    Case("missing-header", "ABORT", b"ABORT\n%r\n\0"),
    Case("bad-value", "SUBSCRIBE", b"SUBSCRIBE\nid:1\ndestination:/topic/e\nack:maybe\n%r\n\0"),
    Case("bad-destination", "SEND", b"SEND\ndestination:/topic/*\n%r\n\0"),
    Case("bad-destination", "SUBSCRIBE", b"SUBSCRIBE\nid:1\ndestination:/topic/>.e\n%r\n\0"),
    Case("bad-destination", "SEND", b"SEND\ndestination:/queue/\n%r\nx\0"),
    Case("bad-destination", "SUBSCRIBE", b"SUBSCRIBE\nid:1\ndestination:/queue/*\n%r\n\0"),
    Case("bad-value", "SEND", b"SEND\ndestination:/queue/e\npriority:10\n%r\nx\0"),
    Case("bad-value", "SUBSCRIBE", b"SUBSCRIBE\nid:1\ndestination:/queue/e\nexclusive:yes\n%r\n\0"),
    Case("bad-value", "NACK", b"NACK\nid:1\nmessage-id:1\nsubscription:taken\ndelay:soon\n%r\n\0", NEWER),
    Case("access-denied", "SUBSCRIBE", b"SUBSCRIBE\nid:1\ndestination:/temp-queue/0-00000000.1-1/e\n%r\n\0"),
    Case("bad-destination", "SEND", b"SEND\ndestination:/temp-topic/a/b\n%r\nx\0"),
    Case("bad-value", "SUBSCRIBE", b"SUBSCRIBE\nid:1\ndestination:/topic/e\nbrowser:true\n%r\n\0"),
    Case("duplicate-subscription", "SUBSCRIBE", b"SUBSCRIBE\nid:taken\ndestination:/topic/e\n%r\n\0"),
    Case("unknown-subscription", "UNSUBSCRIBE", b"UNSUBSCRIBE\nid:free\n%r\n\0"),
    Case("unknown-message", "ACK", b"ACK\nid:1\nmessage-id:1\nsubscription:taken\n%r\n\0"),
    Case("unknown-message", "NACK", b"NACK\nid:1\nmessage-id:1\nsubscription:taken\n%r\n\0", NEWER),
    Case("duplicate-transaction", "BEGIN", b"BEGIN\ntransaction:open\n%r\n\0"),
    Case("unknown-transaction", "COMMIT", b"COMMIT\ntransaction:closed\n%r\n\0"),
    Case("unknown-transaction", "ABORT", b"ABORT\ntransaction:closed\n%r\n\0"),
    Case("unknown-transaction", "SEND", b"SEND\ndestination:/topic/e\ntransaction:closed\n%r\nx\0"),
]


def check(error: Frame, code: str) -> None:
    """What holds for each ERROR of every version."""
    names = [name for name, _ in error.headers]
    assert len(names) == len(set(names))
    assert error["error-code"] == code
    assert 0 < len(error["message"]) <= 80
    assert error["content-type"] == "text/plain"
    assert error["content-length"] == str(len(error.body))
    assert 0 < len(error.body) < 1000
    assert error.body.decode("utf-8")
    assert SECRET.encode() not in error.raw
    assert b"Traceback" not in error.raw and b'File "' not in error.raw


@pytest.mark.statement(59, 60, 100, 101, 102, 103, 104, 105, 111)
@pytest.mark.parametrize("receipt", [None, "asked-for"], ids=["plain", "receipt"])
@pytest.mark.parametrize(
    ("version", "case"), [pytest.param(v, case, id=f"{v}-{case.name}") for case in CASES for v in case.versions]
)
def test_a_fault_in_a_session(broker: Broker, connect: Connect, version: str, case: Case, receipt: str | None) -> None:
    bystander = connect(version)
    bystander.subscribe("/topic/e", id="b")
    wire = connect(version, [("login", "me"), ("passcode", SECRET)])
    wire.subscribe("/topic/unused", id="taken", ack="client")
    wire.request("BEGIN", [("transaction", "open")])
    wire.send(case.block.replace(b"%r", b"" if receipt is None else f"receipt:{receipt}\n".encode()))
    # `expect_error` reads up to the end of the connection: the broker closes in every version.
    error = wire.expect_error(case.code)
    check(error, case.code)
    if case.command:
        assert error["frame"] == case.command
        assert error.get("receipt-id") == receipt
    (line,) = [broker.wait_event("connection.closed", session=wire.session)]
    assert (line["reason"], line["error_code"]) == ("protocol-error", case.code)
    assert [event["event"] for event in broker.events(session=wire.session)] == [
        "connection.opened",
        "connection.closed",
    ]
    # Nobody else noticed.
    bystander.publish("/topic/e", b"still here")
    assert bystander.expect("MESSAGE").body == b"still here"
    bystander.quiet()


LOGIN = b"login:me\npasscode:" + SECRET.encode() + b"\n"
LOGIN_CASES = [
    ("not-connected", "SEND", MAIN, b"SEND\ndestination:/topic/e\n" + LOGIN + b"\n\0"),
    ("unsupported-version", "CONNECT", MAIN, b"CONNECT\naccept-version:3.0\n" + LOGIN + b"\n\0"),
    ("unsupported-version", "STOMP", MAIN, b"STOMP\naccept-version:3.0\n" + LOGIN + b"\n\0"),
    ("unknown-host", "CONNECT", HOSTED, b"CONNECT\naccept-version:1.2\nhost:x\n" + LOGIN + b"\n\0"),
    ("bad-value", "CONNECT", MAIN, b"CONNECT\naccept-version:1.2\nhost:x\nheart-beat:x\n" + LOGIN + b"\n\0"),
    ("bad-header", "CONNECT", MAIN, b"CONNECT\n" + LOGIN + b"nonsense\n\n\0"),
    ("bad-encoding", "CONNECT", MAIN, b"CONNECT\n" + LOGIN + b"a:\xff\n\n\0"),
    ("unexpected-body", "CONNECT", MAIN, b"CONNECT\naccept-version:1.2\n" + LOGIN + b"\nbody\0"),
    ("unexpected-body", "CONNECT", MAIN, b"CONNECT\naccept-version:1.2\n" + LOGIN + b"content-length:9000000\n\nx"),
    ("header-too-large", "CONNECT", MAIN, b"CONNECT\n" + LOGIN + b"a:" + b"b" * 20_000 + b"\n\n\0"),
    ("header-too-large", "CONNECT", MAIN, b"CONNECT\n" + LOGIN + b"a:" + b"b" * 20_000),
    ("too-many-headers", "CONNECT", MAIN, b"CONNECT\n" + LOGIN + b"a:b\n" * 200 + b"\n\0"),
    ("connect-timeout", "", HASTY, b"CONNECT\n" + LOGIN),
]


@pytest.mark.statement(42, 56, 100, 102, 104, 105, 111)
@pytest.mark.parametrize(
    ("code", "command", "listener", "block"), [pytest.param(*c, id=f"{c[0]}-{n}") for n, c in enumerate(LOGIN_CASES)]
)
def test_a_fault_before_the_session(
    broker: Broker, wire: Callable[..., Wire], code: str, command: str, listener: int, block: bytes
) -> None:
    before = broker.position
    client = wire(listener)
    client.send(block)
    error = client.expect_error(code)
    check(error, code)
    if command:
        assert error["frame"] == command
    line = broker.wait_event("connection.closed", since=before, peer=client.peer)
    assert line["error_code"] == code
    assert SECRET not in str(line)


def test_a_second_connect_has_the_same_form(connect: Connect) -> None:
    wire = connect("1.2")
    wire.send(encode("CONNECT", [("accept-version", "1.2"), ("host", "x"), ("passcode", SECRET)]))
    check(wire.expect_error("already-connected", frame="CONNECT"), "already-connected")


def test_silence_has_the_same_form(connect: Connect) -> None:
    wire = connect("1.2", [("heart-beat", "1,0")], listener=BEATING)
    check(wire.expect_error("heart-beat-timeout"), "heart-beat-timeout")


def test_one_connection_too_many(start_broker: StartBroker) -> None:
    broker = start_broker(config={"limits": {"connections": 3}})
    clients = [connect_on(broker, None) for _ in range(3)]
    with Wire(broker.address) as refused:
        error = refused.expect_error("too-many-connections")
        check(error, "too-many-connections")
        # Those who were there first stay, and a place that becomes free is taken again.
        for client in clients:
            client.quiet()
        clients[0].frame("DISCONNECT")
        clients[0].expect_closed()
        clients[0].close()
    for _ in range(100):
        with Wire(broker.address) as again:
            again.send(encode("CONNECT", [("accept-version", "1.2"), ("host", "h")]))
            if again.read().command == "CONNECTED":
                break
    else:
        pytest.fail("the place of a client that has left stays taken")
    for client in clients[1:]:
        client.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stopping_broker_says_so(start_broker: StartBroker, version: str) -> None:
    broker = start_broker(config={"broker": {"drain_timeout": "5s"}})
    with (
        connect_on(broker, None, version) as idle,
        connect_on(broker, None, version) as busy,
        Wire(broker.address) as new,
    ):
        idle.subscribe("/topic/last")
        busy.send(encode("SEND", [("destination", "/topic/last")], b"before the end") * 10)
        assert [frame.body for frame in idle.read_many(10)] == [b"before the end"] * 10
        broker.terminate()
        for client in (idle, busy, new):
            check(client.expect_error("shutting-down"), "shutting-down")
    assert broker.wait() == 0


def test_a_stopping_broker_answers_what_it_was_asked_before(start_broker: StartBroker) -> None:
    broker = start_broker()
    with connect_on(broker, None) as wire:
        wire.subscribe("/topic/last")
        wire.send(encode("SEND", [("destination", "/topic/last"), ("receipt", "r")], b"x") * 200)
        wire.expect("MESSAGE")
        broker.terminate()
        frames = wire.read_rest()
    assert frames[-1]["error-code"] == "shutting-down"
    # All 200 were read in one go before the signal; each is delivered and answered.
    assert [frame.command for frame in frames[:-1]].count("MESSAGE") == 199
    assert [frame.command for frame in frames[:-1]].count("RECEIPT") == 200
