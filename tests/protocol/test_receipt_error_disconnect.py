"""RECEIPT, ERROR and DISCONNECT. Statements 95 to 107 and 111."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.conftest import Connect, StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Wire, connect_on, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])

IDS = ["77", "", "a:b", "\\", "a\nb", "a\\nb", " blank ", "ä€\U0001f389", "x" * 5000]


TRANSACTION: dict[str, list[tuple[str, str]]] = {
    "SEND": [], "SUBSCRIBE": [], "DISCONNECT": [], "BEGIN": [("transaction", "t")],
}  # fmt: skip


class TestReceipts:
    @pytest.mark.statement(95)
    @ALL
    def test_every_frame_may_ask_for_a_receipt(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.request("SUBSCRIBE", [("id", "0"), ("destination", "/topic/receipts"), ("ack", "client")])
        wire.send(encode("SEND", [("destination", "/topic/receipts")]) * 2)
        messages = wire.read_many(2)
        wire.request("BEGIN", [("transaction", "t")])
        wire.acknowledge(messages[0])
        if version != "1.0":
            wire.acknowledge(messages[1], "NACK")
        wire.request("COMMIT", [("transaction", "t")])
        wire.request("BEGIN", [("transaction", "t")])
        wire.request("ABORT", [("transaction", "t")])
        wire.request("UNSUBSCRIBE", [("id", "0")])
        wire.request("SEND", [("destination", "/topic/receipts")], b"x")
        wire.request("DISCONNECT")
        wire.expect_closed()

    @pytest.mark.statement(95, 12)
    @ALL
    @pytest.mark.parametrize("receipt", IDS)
    @pytest.mark.parametrize("command", ["SEND", "BEGIN", "SUBSCRIBE", "DISCONNECT"])
    def test_the_receipt_id_is_the_same_byte_for_byte(
        self, connect: Connect, version: str, receipt: str, command: str
    ) -> None:
        if version == "1.0":
            # 1.0 cannot write a line feed, and its one leading blank is padding.
            receipt = receipt.replace("\n", "").lstrip()
        wire = connect(version)
        # A SEND would hand the other headers on; the other commands ignore those they do not know.
        wire.frame(command, [("destination", "/topic/r"), ("id", "0"), ("receipt", receipt), *TRANSACTION[command]])
        wire.expect("RECEIPT", receipt_id=receipt)

    @pytest.mark.statement(99)
    @ALL
    def test_a_receipt_has_one_header_and_no_body(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.frame("BEGIN", [("transaction", "t"), ("receipt", "77")])
        assert wire.expect("RECEIPT").raw == b"RECEIPT\nreceipt-id:77\n\n\0"

    @pytest.mark.statement(95)
    @ALL
    def test_no_receipt_unless_asked_for(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.frame("SUBSCRIBE", [("id", "0"), ("destination", "/topic/silent")])
        wire.frame("SEND", [("destination", "/topic/other")], b"x")
        wire.frame("UNSUBSCRIBE", [("id", "0")])
        wire.quiet()

    @pytest.mark.statement(96, 107)
    @ALL
    def test_receipts_come_in_the_order_of_their_frames(self, connect: Connect, version: str) -> None:
        # SUBSCRIBE and UNSUBSCRIBE wait for the other worker; what follows them must not overtake.
        wire = connect(version)
        parts: list[bytes] = []
        for n in range(100):
            destination = ("destination", f"/topic/order.{n}")
            for command, headers in (
                ("SUBSCRIBE", [destination, ("id", str(n))]),
                ("SEND", [("destination", "/topic/elsewhere")]),
                ("BEGIN", [("transaction", str(n))]),
                ("ABORT", [("transaction", str(n))]),
                ("UNSUBSCRIBE", [("id", str(n))]),
            ):
                parts.append(encode(command, [*headers, ("receipt", str(len(parts)))], version=version))
        wire.send(b"".join(parts))
        assert [frame.get("receipt-id") for frame in wire.read_many(500)] == [str(n) for n in range(500)]

    @pytest.mark.statement(96)
    @ALL
    def test_a_receipt_comes_after_the_messages_of_its_own_frame(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.subscribe("/topic/own")
        for n in range(50):
            wire.frame("SEND", [("destination", "/topic/own"), ("receipt", str(n))], b"%d" % n)
            assert wire.expect("MESSAGE").body == b"%d" % n
            wire.expect("RECEIPT", receipt_id=str(n))

    @pytest.mark.statement(96)
    @pytest.mark.parametrize("slots", [(0, 1), (1, 0), (0, 0)])
    def test_after_the_receipt_of_subscribe_no_message_is_missed(
        self, connect: Connect, slots: tuple[int, int]
    ) -> None:
        wire, sender = connect("1.2", slot=slots[0]), connect("1.2", slot=slots[1])
        for n in range(50):
            wire.subscribe(f"/topic/barrier.{n}", id=str(n))
            sender.publish(f"/topic/barrier.{n}", b"%d" % n)
            assert wire.expect("MESSAGE", subscription=str(n)).body == b"%d" % n

    @pytest.mark.statement(96, 107)
    def test_receipts_wait_until_every_worker_routes_by_the_subscription(self, start_broker: StartBroker) -> None:
        broker = start_broker(workers=2)
        sibling = broker.worker_pids()[1]
        with connect_on(broker, 0) as wire:
            wire.subscribe("/topic/left", id="left")
            for command, headers in (
                ("SUBSCRIBE", [("destination", "/topic/new"), ("id", "new")]),
                ("SUBSCRIBE", [("destination", "/topic/pattern.*"), ("id", "pattern")]),
                ("UNSUBSCRIBE", [("id", "left")]),
            ):
                os.kill(sibling, signal.SIGSTOP)
                try:
                    wire.frame(command, [*headers, ("receipt", "slow")])
                    wire.frame("BEGIN", [("transaction", command), ("receipt", "quick")])
                    # The sibling cannot have heard of it, and what was asked for later must not overtake.
                    assert wire.collect_beats(0.2) == []
                finally:
                    os.kill(sibling, signal.SIGCONT)
                wire.expect("RECEIPT", receipt_id="slow")
                wire.expect("RECEIPT", receipt_id="quick")
                wire.request("ABORT", [("transaction", command)])
            os.kill(sibling, signal.SIGSTOP)
            try:
                wire.frame("SUBSCRIBE", [("destination", "/topic/last"), ("id", "last"), ("receipt", "slow")])
                wire.frame("DISCONNECT", [("receipt", "bye")])
                assert wire.collect_beats(0.2) == []
            finally:
                os.kill(sibling, signal.SIGCONT)
            assert [frame["receipt-id"] for frame in wire.read_rest()] == ["slow", "bye"]


class TestDisconnect:
    @pytest.mark.statement(98)
    @ALL
    def test_receipt_then_the_end(self, broker: Broker, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.frame("DISCONNECT", [("receipt", "bye")])
        wire.expect("RECEIPT", receipt_id="bye")
        wire.expect_closed()
        wire.close()
        assert broker.wait_event("connection.closed", session=wire.session)["reason"] == "disconnect"

    @pytest.mark.statement(98)
    @ALL
    def test_without_receipt_just_the_end(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.frame("DISCONNECT")
        wire.expect_closed()

    @pytest.mark.statement(97)
    @ALL
    @pytest.mark.parametrize("slot", [0, 1], ids=["same-worker", "other-worker"])
    @pytest.mark.parametrize("end", ["disconnect", "receipt", "half-close", "close"])
    def test_what_was_sent_before_is_processed(self, connect: Connect, version: str, slot: int, end: str) -> None:
        receiver, sender = connect(version, slot=slot), connect(version)
        receiver.subscribe("/topic/last-words")
        frames = b"".join(encode("SEND", [("destination", "/topic/last-words")], b"%d" % n) for n in range(500))
        if end == "disconnect":
            frames += encode("DISCONNECT")
        elif end == "receipt":
            frames += encode("DISCONNECT", [("receipt", "r")])
        sender.send(frames)
        if end == "half-close":
            sender.shut_write()
        elif end == "close":
            sender.close()
        assert [frame.body for frame in receiver.read_many(500)] == [b"%d" % n for n in range(500)]
        if end == "receipt":
            sender.expect("RECEIPT", receipt_id="r")
            sender.expect_closed()

    @pytest.mark.statement(98)
    @ALL
    @pytest.mark.parametrize("receipt", [[], [("receipt", "bye")]])
    def test_nothing_after_disconnect_is_accepted(
        self, connect: Connect, version: str, receipt: list[tuple[str, str]]
    ) -> None:
        receiver, sender = connect(version), connect(version)
        receiver.subscribe("/topic/too-late")
        late = encode("SEND", [("destination", "/topic/too-late"), ("receipt", "late")], b"late")
        sender.send(encode("DISCONNECT", receipt) + late + b"nonsense\n\n\0")
        if receipt:
            sender.expect("RECEIPT", receipt_id="bye")
        sender.expect_closed()
        connect(version).publish("/topic/too-late", b"marker")
        assert receiver.expect("MESSAGE").body == b"marker"

    @pytest.mark.statement(98)
    @ALL
    def test_nothing_is_accepted_in_a_later_segment_either(self, connect: Connect, version: str) -> None:
        receiver, sender = connect(version), connect(version)
        receiver.subscribe("/topic/too-late")
        sender.frame("DISCONNECT", [("receipt", "bye")])
        sender.expect("RECEIPT", receipt_id="bye")
        sender.frame("SEND", [("destination", "/topic/too-late"), ("receipt", "late")], b"late")
        sender.frame("DISCONNECT", [("receipt", "again")])
        sender.expect_closed()
        connect(version).publish("/topic/too-late", b"marker")
        assert receiver.expect("MESSAGE").body == b"marker"

    @pytest.mark.statement(98)
    @ALL
    def test_a_disconnected_client_gets_no_message(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.subscribe("/topic/own")
        send = encode("SEND", [("destination", "/topic/own")])
        wire.send(encode("DISCONNECT", [("receipt", "bye")]) + send)
        wire.expect("RECEIPT", receipt_id="bye")
        wire.expect_closed()

    @pytest.mark.statement(106)
    @NEWER
    def test_the_last_receipt_arrives_while_the_client_goes_on_sending(self, connect: Connect, version: str) -> None:
        # A server that closes with unread bytes makes the kernel reset the connection, and the receipt is lost.
        wire = connect(version)
        wire.send(encode("DISCONNECT", [("receipt", "bye")]) + b"\n" * 500_000)
        wire.expect("RECEIPT", receipt_id="bye")
        wire.expect_closed()

    @pytest.mark.statement(106)
    @NEWER
    def test_a_client_that_never_closes_is_cut_off(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.frame("DISCONNECT")
        wire.expect_closed()
        deadline = time.monotonic() + 10
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() < deadline:
                wire.send(b"\n")
                time.sleep(0.02)

    @pytest.mark.statement(106)
    @NEWER
    def test_messages_queued_before_disconnect_arrive_before_the_end(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.subscribe("/topic/own")
        send = encode("SEND", [("destination", "/topic/own"), ("content-length", "10000")], b"x" * 10_000)
        wire.send(send * 100 + encode("DISCONNECT", [("receipt", "bye")]))
        frames = wire.read_rest()
        assert [frame.command for frame in frames] == ["MESSAGE"] * 100 + ["RECEIPT"]


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
