"""What an ERROR says, what it never says, and what it ends. Statements 97 and 100 to 111."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Wire, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])


class TestErrors:
    @pytest.mark.statement(100, 101, 102, 103, 104)
    @ALL
    def test_an_error_says_what_and_closes(self, broker: Broker, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.frame("COMMIT", [("transaction", "nope"), ("receipt", "r")])
        error = wire.expect_error("unknown-transaction", frame="COMMIT", receipt_id="r")
        assert 0 < len(error["message"]) < 100
        assert error["content-type"] == "text/plain"
        assert error["content-length"] == str(len(error.body))
        assert b"nope" in error.body
        assert broker.wait_event("connection.closed", session=wire.session)["reason"] == "protocol-error"

    @pytest.mark.statement(103)
    @ALL
    def test_without_receipt_an_error_has_no_receipt_id(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.frame("COMMIT", [("transaction", "nope")])
        assert "receipt-id" not in wire.expect_error("unknown-transaction")

    @pytest.mark.statement(100, 101)
    @ALL
    def test_nothing_after_an_error_is_processed_or_answered(self, connect: Connect, version: str) -> None:
        receiver, wire = connect(version), connect(version)
        receiver.subscribe("/topic/after")
        wire.subscribe("/topic/after")
        bad = encode("COMMIT", [("transaction", "nope")])
        good = encode("SEND", [("destination", "/topic/after"), ("receipt", "r")], b"after the error")
        wire.send(bad + good + bad)
        wire.expect_error("unknown-transaction")
        connect(version).publish("/topic/after", b"marker")
        assert receiver.expect("MESSAGE").body == b"marker"

    @pytest.mark.statement(97, 107)
    @ALL
    def test_everything_before_an_error_is_processed_and_answered(self, connect: Connect, version: str) -> None:
        receiver, wire = connect(version), connect(version)
        receiver.subscribe("/topic/before")
        send = encode("SEND", [("destination", "/topic/before"), ("receipt", "r")], b"before")
        wire.send(send * 3 + b"BROKEN\n\n\0")
        for _ in range(3):
            wire.expect("RECEIPT", receipt_id="r")
        wire.expect_error("unknown-command")
        assert [frame.body for frame in receiver.read_many(3)] == [b"before"] * 3

    @pytest.mark.statement(107)
    @ALL
    def test_an_error_does_not_overtake_a_receipt_that_waits_for_another_worker(
        self, connect: Connect, version: str
    ) -> None:
        wire = connect(version)
        for n in range(20):
            wire.frame("SUBSCRIBE", [("id", str(n)), ("destination", f"/topic/waits.{n}"), ("receipt", str(n))])
        wire.send(b"BROKEN\n\n\0")
        frames = wire.read_rest()
        assert frames[-1]["error-code"] == "unknown-command"
        # Those whose effect came about are answered, in order; the rest may be cut off by the error.
        receipts = [frame["receipt-id"] for frame in frames[:-1]]
        assert receipts == [str(n) for n in range(len(receipts))]

    @pytest.mark.statement(106)
    @ALL
    def test_an_error_arrives_while_the_client_goes_on_sending(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.send(b"BROKEN\n\n\0" + encode("SEND", [("destination", "/topic/x")], b"x" * 100) * 5000)
        wire.expect_error("unknown-command")

    @pytest.mark.statement(105, 111)
    @ALL
    def test_an_error_never_holds_a_passcode(self, connect: Connect, version: str) -> None:
        secret = "tr0ub4dor-and-3"
        login = [("login", "me"), ("passcode", secret)]
        wire = connect(version, login)
        wire.send(encode("CONNECT", [("accept-version", version), ("host", "h"), *login]))
        assert secret.encode() not in wire.expect_error("already-connected").raw

    @pytest.mark.statement(105, 111)
    @pytest.mark.parametrize(
        "block",
        [
            b"accept-version:9.9\npasscode:SECRET\n",
            b"passcode:SECRET\nnonsense\n",
            b"passcode\nSECRET-IN-A-LINE-OF-ITS-OWN-WITHOUT-ANY-COLON\n",
            b"passcode SECRET\n",
            b"passcode:SECRET\naccept-version:1.2\nhost:h\nheart-beat:SECRET,1\n",
            b"passcode:SECRET\xff\n",
            b"passcode:SECRET\ncontent-length:x\n",
            b"passcode:SECRET" + b"x" * 70_000 + b"\n",
        ],
    )
    def test_no_broken_connect_gets_its_passcode_back(self, broker: Broker, block: bytes) -> None:
        with Wire(broker.address) as wire:
            wire.send(b"CONNECT\nlogin:me\n" + block + b"\n\0")
            error = wire.expect("ERROR")
            assert b"passcode:" not in error.raw and error.raw.count(b"SECRET") <= (b"heart-beat:SECRET" in block)
            wire.expect_closed()

    @pytest.mark.statement(105)
    def test_an_error_holds_nothing_of_another_client(self, connect: Connect) -> None:
        other, wire = connect("1.2"), connect("1.2")
        other.subscribe("/topic/private", id="private-id")
        other.publish("/topic/private", b"private words")
        other.expect("MESSAGE")
        wire.frame("UNSUBSCRIBE", [("id", "private-id")])
        error = wire.expect_error("unknown-subscription")
        assert b"/topic/private" not in error.raw and b"private words" not in error.raw
        assert b"Traceback" not in error.raw and b".py" not in error.raw

    @pytest.mark.statement(100)
    @ALL
    def test_an_error_ends_the_subscriptions_of_its_connection_only(self, connect: Connect, version: str) -> None:
        wire, other = connect(version), connect(version)
        wire.subscribe("/topic/shared")
        other.subscribe("/topic/shared")
        wire.send(b"BROKEN\n\n\0")
        wire.expect_error("unknown-command")
        other.publish("/topic/shared", b"x")
        assert other.expect("MESSAGE").body == b"x"
        other.quiet()

    @pytest.mark.statement(103)
    @ALL
    @pytest.mark.parametrize("eol", [b"\n", b"\r\n"], ids=["lf", "crlf"])
    def test_the_receipt_id_is_that_of_the_frame_at_fault(self, connect: Connect, version: str, eol: bytes) -> None:
        wire = connect(version)
        lines = [b"COMMIT", b"transaction:nope", b"", b"\0"]
        good = [b"BEGIN", b"transaction:t", b"receipt:of-the-next-frame", b"", b"\0"]
        wire.send(eol.join(lines) + eol.join(good))
        assert "receipt-id" not in wire.expect_error("unknown-transaction", frame="COMMIT")

    @pytest.mark.statement(103, 17)
    def test_1_0_takes_the_padding_off_the_receipt_id(self, connect: Connect) -> None:
        wire = connect("1.0")
        wire.send(b"COMMIT\ntransaction: nope\nreceipt: r\n\n\0")
        wire.expect_error("unknown-transaction", receipt_id="r")

    @pytest.mark.statement(8, 11, 103)
    @NEWER
    @pytest.mark.parametrize(
        ("line", "code"),
        [(b"receipt:a\xffb", "bad-encoding"), (b"receipt:\\q", "bad-escape"), (b"receipt:x\\", "bad-escape")],
    )
    def test_a_broken_receipt_is_not_echoed(self, connect: Connect, version: str, line: bytes, code: str) -> None:
        # The harness reads the ERROR as strictly as a client does: it must hold neither bad UTF-8 nor a bad escape.
        wire = connect(version)
        wire.send(b"COMMIT\ntransaction:nope\n" + line + b"\n\n\0")
        wire.expect_error(code, frame="COMMIT")

    @pytest.mark.statement(103)
    @ALL
    def test_a_repeated_receipt_in_an_error(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.send(b"COMMIT\ntransaction:nope\nreceipt:first\nreceipt:second\n\n\0")
        wire.expect_error("unknown-transaction", receipt_id="first")

    @pytest.mark.statement(103)
    @ALL
    @pytest.mark.parametrize(
        ("block", "code"),
        [
            (b"receipt:r\nnonsense\n\nx\0", "bad-header"),
            (b"receipt:r\n:x\n\nx\0", "bad-header"),
            (b"receipt:r\na:\xff\n\nx\0", "bad-encoding"),
            (b"receipt:r\ncontent-length:x\n\nx\0", "bad-content-length"),
            (b"receipt:r\ncontent-length:1\n\nxx\0", "bad-frame"),
            (b"receipt:r\ncontent-length:999999999999\n\nx", "body-too-large"),
            (b"receipt:r\n" + b"a:b\n" * 200 + b"\nx\0", "too-many-headers"),
            (b"receipt:r\na:" + b"b" * 20_000 + b"\n\nx\0", "header-too-large"),
        ],
    )
    def test_faults_of_the_frame_itself_have_frame_and_receipt_id(
        self, connect: Connect, version: str, block: bytes, code: str
    ) -> None:
        wire = connect(version)
        wire.send(b"SEND\ndestination:/topic/faulty\n" + block)
        wire.expect_error(code, frame="SEND", receipt_id="r")
