"""ACK, NACK, BEGIN, COMMIT and ABORT on topics. Statements 79 to 94."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS, Frame, Headers, Wire, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
BOTH = pytest.mark.parametrize("command", ["ACK", "NACK"])

TOPIC = "/topic/acknowledged"


def delivered(wire: Wire, count: int, *, mode: str = "client", id: str = "0") -> list[Frame]:
    """Subscribe, publish and receive `count` messages that wait for their acknowledgement."""
    wire.subscribe(TOPIC, id=id, ack=mode)
    wire.send(encode("SEND", [("destination", TOPIC)]) * count)
    return wire.read_many(count)


def refused(wire: Wire, message: Frame, command: str = "ACK", headers: Headers = ()) -> None:
    """An ACK of something that is not, or no longer, to be acknowledged."""
    wire.frame(command, [*wire.acknowledgement(message), ("receipt", "refused"), *headers])
    wire.expect_error("unknown-message", frame=command, receipt_id="refused")


class TestWhatAckNames:
    @pytest.mark.statement(79)
    def test_1_0_names_the_message_id(self, connect: Connect) -> None:
        wire = connect("1.0")
        (message,) = delivered(wire, 1)
        wire.request("ACK", [("message-id", message["message-id"])])

    @pytest.mark.statement(79, 80)
    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_the_message_id_is_required_before_1_2(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        (message,) = delivered(wire, 1)
        wire.frame("ACK", [("id", message["message-id"]), ("subscription", "0"), ("receipt", "r")])
        wire.expect_error("missing-header", frame="ACK", receipt_id="r")

    @pytest.mark.statement(80)
    @BOTH
    def test_1_1_names_message_id_and_subscription(self, connect: Connect, command: str) -> None:
        wire = connect("1.1")
        first, second = delivered(wire, 2)
        wire.request(command, [("message-id", first["message-id"]), ("subscription", "0")])
        wire.frame(command, [("message-id", second["message-id"])])
        wire.expect_error("missing-header", frame=command)

    @pytest.mark.statement(80)
    @BOTH
    def test_1_1_refuses_another_subscriptions_message(self, connect: Connect, command: str) -> None:
        wire = connect("1.1")
        wire.subscribe("/topic/elsewhere", id="other", ack="client")
        (message,) = delivered(wire, 1)
        wire.frame(command, [("message-id", message["message-id"]), ("subscription", "other")])
        wire.expect_error("unknown-message", frame=command)

    @pytest.mark.statement(80)
    def test_1_1_refuses_an_unknown_subscription(self, connect: Connect) -> None:
        wire = connect("1.1")
        (message,) = delivered(wire, 1)
        wire.frame("ACK", [("message-id", message["message-id"]), ("subscription", "nobody")])
        assert wire.read()["error-code"] in ("unknown-message", "unknown-subscription")
        wire.expect_closed()

    @pytest.mark.statement(81)
    @BOTH
    @pytest.mark.parametrize("header", ["ack", "message-id"])
    def test_1_2_names_the_ack_header_or_the_message_id(self, connect: Connect, command: str, header: str) -> None:
        wire = connect("1.2")
        (message,) = delivered(wire, 1)
        wire.request(command, [("id", message[header])])
        refused(wire, message, command)

    @pytest.mark.statement(81)
    @BOTH
    def test_1_2_needs_the_id(self, connect: Connect, command: str) -> None:
        wire = connect("1.2")
        (message,) = delivered(wire, 1)
        wire.frame(command, [("message-id", message["message-id"]), ("subscription", "0"), ("receipt", "r")])
        wire.expect_error("missing-header", frame=command, receipt_id="r")

    @pytest.mark.statement(81)
    @pytest.mark.parametrize("id", ["", "0", "-", "1-", "-1", "99999-x", "9" * 400, "٣-x", "x\n\\:"])
    def test_1_2_refuses_any_other_id(self, connect: Connect, id: str) -> None:
        wire = connect("1.2")
        delivered(wire, 1)
        wire.frame("ACK", [("id", id)])
        assert wire.read()["error-code"] in ("unknown-message", "missing-header")
        wire.expect_closed()

    @pytest.mark.statement(81)
    def test_another_connections_ack_header_means_nothing_here(self, connect: Connect) -> None:
        wire, other = connect("1.2"), connect("1.2")
        other.subscribe("/topic/others", ack="client")
        other.publish("/topic/others")
        message = other.expect("MESSAGE")
        refused(wire, message)
        other.acknowledge(message)

    @pytest.mark.statement(82)
    def test_1_0_has_no_nack(self, connect: Connect) -> None:
        wire = connect("1.0")
        (message,) = delivered(wire, 1)
        wire.frame("NACK", [("message-id", message["message-id"]), ("receipt", "r")])
        wire.expect_error("unknown-command", frame="NACK", receipt_id="r")


class TestWhatAckCovers:
    @pytest.mark.statement(83)
    @ALL
    @pytest.mark.parametrize("earlier", [0, 1])
    def test_client_mode_is_cumulative(self, connect: Connect, version: str, earlier: int) -> None:
        wire = connect(version)
        messages = delivered(wire, 4)
        wire.acknowledge(messages[2])
        wire.acknowledge(messages[3])
        refused(wire, messages[earlier])

    @pytest.mark.statement(83)
    @ALL
    def test_client_mode_does_not_cover_later_messages(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 4)
        for message in messages:
            wire.acknowledge(message)

    @pytest.mark.statement(83)
    @NEWER
    @BOTH
    def test_no_other_subscription_is_covered(self, connect: Connect, version: str, command: str) -> None:
        wire = connect(version)
        wire.subscribe(TOPIC, id="b", ack="client")
        wire.subscribe(TOPIC, id="a", ack="client")
        wire.send(encode("SEND", [("destination", TOPIC)]) * 3)
        messages = wire.read_many(6)
        of_a = [message for message in messages if message["subscription"] == "a"]
        of_b = [message for message in messages if message["subscription"] == "b"]
        wire.acknowledge(of_a[2], command)
        for message in of_b:
            wire.acknowledge(message)
        refused(wire, of_a[0])

    @pytest.mark.statement(84)
    @NEWER
    @BOTH
    def test_individual_mode_touches_one_message(self, connect: Connect, version: str, command: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 5, mode="client-individual")
        for number in (3, 0, 4, 1, 2):
            wire.acknowledge(messages[number], command)
        refused(wire, messages[3], command)

    @pytest.mark.statement(85, 87)
    @NEWER
    def test_nack_is_cumulative_in_client_mode(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 4)
        wire.acknowledge(messages[0])
        wire.acknowledge(messages[2], "NACK")
        wire.acknowledge(messages[3], "NACK")
        refused(wire, messages[1])

    @pytest.mark.statement(87)
    @NEWER
    @pytest.mark.parametrize("mode", ["client", "client-individual"])
    def test_nack_discards(self, connect: Connect, version: str, mode: str) -> None:
        wire, bystander = connect(version), connect(version)
        bystander.subscribe(TOPIC, id="b", ack=mode)
        (message,) = delivered(wire, 1, mode=mode)
        bystander.expect("MESSAGE")
        wire.acknowledge(message, "NACK")
        # It comes again to nobody.
        wire.quiet()
        bystander.quiet()
        refused(wire, message, "NACK")

    @pytest.mark.statement(83, 84)
    @ALL
    @pytest.mark.parametrize("mode", ["client", "client-individual"])
    def test_nothing_is_acknowledged_twice(self, connect: Connect, version: str, mode: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 2, mode=mode)
        wire.acknowledge(messages[0])
        refused(wire, messages[0])

    @NEWER
    def test_unsubscribe_forgets_what_was_not_acknowledged(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        (message,) = delivered(wire, 1)
        wire.request("UNSUBSCRIBE", [("id", "0")])
        wire.frame("ACK", wire.acknowledgement(message))
        assert wire.read()["error-code"] in ("unknown-message", "unknown-subscription")
        wire.expect_closed()

    @NEWER
    def test_a_new_subscription_of_the_same_id_knows_nothing_of_the_old(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        (message,) = delivered(wire, 1)
        wire.request("UNSUBSCRIBE", [("id", "0")])
        wire.subscribe(TOPIC, id="0", ack="client")
        refused(wire, message)


class TestTransactions:
    @pytest.mark.statement(88)
    @ALL
    @pytest.mark.parametrize("command", ["BEGIN", "COMMIT", "ABORT"])
    @pytest.mark.parametrize("headers", [[], [("transaction", "")]])
    def test_the_transaction_header_is_required(
        self, connect: Connect, version: str, command: str, headers: list[tuple[str, str]]
    ) -> None:
        wire = connect(version)
        wire.frame(command, [*headers, ("receipt", "r")])
        wire.expect_error("missing-header", frame=command, receipt_id="r")

    @pytest.mark.statement(89)
    @ALL
    def test_an_open_transaction_cannot_be_begun(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.request("BEGIN", [("transaction", "t")])
        wire.request("BEGIN", [("transaction", "u")])
        wire.frame("BEGIN", [("transaction", "t"), ("receipt", "r")])
        wire.expect_error("duplicate-transaction", frame="BEGIN", receipt_id="r")

    @pytest.mark.statement(89)
    @ALL
    def test_a_name_is_free_again_at_the_end_and_on_other_connections(self, connect: Connect, version: str) -> None:
        wire, other = connect(version), connect(version)
        for end in ("COMMIT", "ABORT", "COMMIT"):
            wire.request("BEGIN", [("transaction", "t")])
            wire.request(end, [("transaction", "t")])
            other.request("BEGIN", [("transaction", "t")])
            other.request("ABORT", [("transaction", "t")])

    @pytest.mark.statement(90)
    @ALL
    @pytest.mark.parametrize("command", ["COMMIT", "ABORT"])
    @pytest.mark.parametrize("state", ["never", "over"])
    def test_an_unknown_transaction_cannot_end(self, connect: Connect, version: str, command: str, state: str) -> None:
        wire = connect(version)
        if state == "over":
            wire.request("BEGIN", [("transaction", "t")])
            wire.request("COMMIT", [("transaction", "t")])
        wire.frame(command, [("transaction", "t"), ("receipt", "r")])
        wire.expect_error("unknown-transaction", frame=command, receipt_id="r")

    @pytest.mark.statement(90)
    @NEWER
    def test_another_connections_transaction_is_unknown(self, connect: Connect, version: str) -> None:
        wire, other = connect(version), connect(version)
        other.request("BEGIN", [("transaction", "t")])
        wire.frame("COMMIT", [("transaction", "t")])
        wire.expect_error("unknown-transaction", frame="COMMIT")
        other.request("COMMIT", [("transaction", "t")])

    @pytest.mark.statement(91)
    @ALL
    @pytest.mark.parametrize("headers", [[("transaction", "t")], [("transaction", "")]])
    def test_send_in_an_unknown_transaction(
        self, connect: Connect, version: str, headers: list[tuple[str, str]]
    ) -> None:
        wire = connect(version)
        wire.frame("SEND", [("destination", TOPIC), *headers, ("receipt", "r")])
        error = wire.expect("ERROR", frame="SEND", receipt_id="r")
        assert error["error-code"] in ("unknown-transaction", "missing-header")
        wire.expect_closed()

    @pytest.mark.statement(91)
    @pytest.mark.parametrize(
        ("version", "command"), [("1.0", "ACK"), ("1.1", "ACK"), ("1.1", "NACK"), ("1.2", "ACK"), ("1.2", "NACK")]
    )
    def test_ack_in_an_unknown_transaction(self, connect: Connect, version: str, command: str) -> None:
        wire = connect(version)
        (message,) = delivered(wire, 1)
        wire.frame(command, [*wire.acknowledgement(message), ("transaction", "t"), ("receipt", "r")])
        wire.expect_error("unknown-transaction", frame=command, receipt_id="r")

    @pytest.mark.statement(92)
    @ALL
    @pytest.mark.parametrize("slot", [0, 1], ids=["same-worker", "other-worker"])
    def test_commit_sends_in_order_and_abort_sends_nothing(self, connect: Connect, version: str, slot: int) -> None:
        wire, receiver = connect(version), connect("1.2", slot=slot)
        receiver.subscribe("/topic/transacted.*")
        wire.frame("BEGIN", [("transaction", "kept")])
        wire.frame("BEGIN", [("transaction", "dropped")])
        for n in range(30):
            transaction = "dropped" if n % 3 == 0 else "kept"
            headers = [("destination", f"/topic/transacted.{n % 2}"), ("transaction", transaction), ("n", str(n))]
            wire.frame("SEND", headers, b"%d" % n)
        wire.publish("/topic/transacted.0", b"outside")
        assert receiver.expect("MESSAGE").body == b"outside"
        wire.request("ABORT", [("transaction", "dropped")])
        wire.request("COMMIT", [("transaction", "kept")])
        wire.publish("/topic/transacted.0", b"end")
        wire.publish("/topic/transacted.1", b"end")
        messages = receiver.read_many(22)
        for parity in (0, 1):
            bodies = [m.body for m in messages if m["destination"] == f"/topic/transacted.{parity}"]
            assert bodies == [b"%d" % n for n in range(30) if n % 3 and n % 2 == parity] + [b"end"]
        assert not any("transaction" in message for message in messages)

    @pytest.mark.statement(92)
    @ALL
    def test_a_body_with_nuls_goes_through_a_transaction(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        wire.subscribe(TOPIC)
        wire.frame("BEGIN", [("transaction", "t")])
        wire.publish(TOPIC, b"\0a\0", [("transaction", "t"), ("kind", "x")])
        wire.send(f"SEND\ndestination:{TOPIC}\ntransaction:t\n\nuncounted\0".encode())
        wire.frame("COMMIT", [("transaction", "t")])
        assert wire.expect("MESSAGE", kind="x").body == b"\0a\0"
        assert wire.expect("MESSAGE", content_length="9").body == b"uncounted"

    @pytest.mark.statement(92)
    @ALL
    def test_abort_gives_acknowledgements_back(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 4)
        wire.request("BEGIN", [("transaction", "t")])
        wire.acknowledge(messages[0], headers=[("transaction", "t")])
        wire.acknowledge(messages[2], headers=[("transaction", "t")])
        wire.request("ABORT", [("transaction", "t")])
        for message in messages:
            wire.acknowledge(message)

    @pytest.mark.statement(92)
    @ALL
    def test_commit_settles(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 2)
        wire.request("BEGIN", [("transaction", "t")])
        wire.acknowledge(messages[0], headers=[("transaction", "t")])
        wire.request("COMMIT", [("transaction", "t")])
        refused(wire, messages[0])

    @pytest.mark.statement(92)
    @NEWER
    def test_a_nack_is_transacted_too(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 2, mode="client-individual")
        for end in ("ABORT", "COMMIT"):
            wire.request("BEGIN", [("transaction", "t")])
            wire.acknowledge(messages[1], "NACK", [("transaction", "t")])
            wire.request(end, [("transaction", "t")])
        wire.acknowledge(messages[0])
        refused(wire, messages[1], "NACK")

    @pytest.mark.statement(92)
    @ALL
    def test_a_transaction_reserves_what_it_acknowledges(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 2)
        wire.request("BEGIN", [("transaction", "t")])
        wire.acknowledge(messages[0], headers=[("transaction", "t")])
        refused(wire, messages[0])

    @pytest.mark.statement(92)
    @ALL
    def test_abort_after_unsubscribe(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        (message,) = delivered(wire, 1)
        wire.request("BEGIN", [("transaction", "t")])
        wire.acknowledge(message, headers=[("transaction", "t")])
        wire.request("UNSUBSCRIBE", [("id", "0")])
        wire.request("ABORT", [("transaction", "t")])

    @pytest.mark.statement(93)
    @ALL
    @pytest.mark.parametrize("end", ["DISCONNECT", "close", "reset", "error"])
    def test_the_end_of_the_connection_aborts(self, connect: Connect, version: str, end: str) -> None:
        wire, receiver = connect(version), connect("1.2")
        receiver.subscribe(TOPIC)
        wire.request("BEGIN", [("transaction", "t")])
        wire.request("SEND", [("destination", TOPIC), ("transaction", "t")], b"uncommitted")
        if end == "DISCONNECT":
            wire.frame("DISCONNECT", [("receipt", "bye")])
            wire.expect("RECEIPT", receipt_id="bye")
            wire.expect_closed()
        elif end == "error":
            wire.frame("ABORT", [("transaction", "another")])
            wire.expect_error("unknown-transaction")
        elif end == "reset":
            wire.reset()
        else:
            wire.close()
        other = connect(version)
        other.publish(TOPIC, b"marker")
        assert receiver.expect("MESSAGE").body == b"marker"
        receiver.quiet()

    @pytest.mark.statement(94, 107)
    @ALL
    def test_receipts_in_a_transaction_come_at_once_and_in_order(self, connect: Connect, version: str) -> None:
        wire = connect(version)
        messages = delivered(wire, 3)
        receipts = [f"r{n}" for n in range(8)]
        frames: list[tuple[str, list[tuple[str, str]]]] = [
            ("BEGIN", [("transaction", "t")]),
            ("SEND", [("destination", "/topic/nobody"), ("transaction", "t")]),
            ("ACK", [*wire.acknowledgement(messages[0]), ("transaction", "t")]),
            ("SEND", [("destination", "/topic/nobody")]),
            ("SEND", [("destination", "/topic/nobody"), ("transaction", "t")]),
            ("ACK", [*wire.acknowledgement(messages[2]), ("transaction", "t")]),
            ("SEND", [("destination", "/topic/nobody"), ("transaction", "t")]),
            ("ABORT", [("transaction", "t")]),
        ]
        for receipt, (command, headers) in list(zip(receipts, frames, strict=True))[:-1]:
            wire.frame(command, [*headers, ("receipt", receipt)])
        assert [frame["receipt-id"] for frame in wire.read_many(7)] == receipts[:-1]
        wire.frame("ABORT", [("transaction", "t"), ("receipt", receipts[-1])])
        wire.expect("RECEIPT", receipt_id=receipts[-1])
