"""RECEIPT and DISCONNECT. Statements 95 to 99, 106 and 107."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.conftest import Connect, StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, connect_on, encode
from tests.protocol.site import Site

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
    @pytest.mark.statement(97, 98)
    @pytest.mark.parametrize("count", [3, 4])
    def test_what_was_refused_before_has_its_error_instead(self, site: Site, count: int) -> None:
        queue, producer = site.queue("few"), site.producer()
        frames = encode("SEND", [("destination", queue)], b"x") * count
        producer.send(frames + encode("DISCONNECT", [("receipt", "bye")]))
        if count > 3:
            producer.expect_error("queue-full", frame="SEND")
        else:
            producer.expect("RECEIPT", receipt_id="bye")
            producer.expect_closed()

    @pytest.mark.statement(97, 98)
    @ALL
    def test_what_was_settled_before_is_settled(self, site: Site, version: str) -> None:
        queue, consumer = site.queue(), site.consumer(version)
        site.fill(queue, *[b"%d" % each for each in range(10)])
        consumer.subscribe(queue, ack="client-individual" if version != "1.0" else "client")
        for message in consumer.read_many(10):
            consumer.frame("ACK", consumer.acknowledgement(message))
        consumer.request("DISCONNECT")
        consumer.expect_closed()
        other = site.consumer()
        other.subscribe(queue)
        site.silent(other)

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
