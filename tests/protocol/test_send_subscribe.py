"""SEND, SUBSCRIBE, UNSUBSCRIBE and what a MESSAGE looks like. Statements 58 to 78, 108 and 110."""

from __future__ import annotations

from itertools import product

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
ACROSS = pytest.mark.parametrize("slot", [0, 1], ids=["same-worker", "other-worker"])

OWN_NAMES = ("message-id", "subscription", "ack", "redelivered", "receipt-id")


@pytest.mark.statement(58, 59)
@ALL
@pytest.mark.parametrize("headers", [[], [("destination", "")], [("receipt", "r"), ("kind", "x")]])
def test_send_without_destination(connect: Connect, version: str, headers: list[tuple[str, str]]) -> None:
    wire = connect(version)
    wire.frame("SEND", headers, b"x")
    error = wire.expect_error("missing-header", frame="SEND")
    assert error.get("receipt-id") == dict(headers).get("receipt")


@pytest.mark.statement(59)
@ALL
@pytest.mark.parametrize("destination", ["/topic/*", "/topic/a.#", "/topic/>", "*", "a.*.b", "#"])
def test_send_to_a_pattern(connect: Connect, version: str, destination: str) -> None:
    wire = connect(version)
    wire.publish(destination, b"x")
    wire.expect_error("bad-destination", frame="SEND")


@pytest.mark.statement(59, 60)
@ALL
@pytest.mark.parametrize("destination", ["/queue/", "/queue/*", "/queue/a.#", "/queue/a.>"])
@pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE"])
def test_a_queue_is_named_in_full(connect: Connect, version: str, destination: str, command: str) -> None:
    wire = connect(version)
    wire.frame(command, [("destination", destination), ("id", "1"), ("receipt", "r")])
    wire.expect_error("bad-destination", frame=command, receipt_id="r")


@pytest.mark.statement(60)
@ALL
@pytest.mark.parametrize("headers", [[("id", "1")], [("id", "1"), ("destination", "")]])
def test_subscribe_without_destination(connect: Connect, version: str, headers: list[tuple[str, str]]) -> None:
    wire = connect(version)
    wire.frame("SUBSCRIBE", [*headers, ("receipt", "r")])
    wire.expect_error("missing-header", frame="SUBSCRIBE", receipt_id="r")


@pytest.mark.statement(60)
@pytest.mark.parametrize(
    ("version", "destination"), [("1.1", "/topic/a\nb"), ("1.2", "/topic/a\nb"), ("1.2", "/topic/a\rb"), ("1.2", "\r")]
)
def test_destinations_have_no_line_breaks(connect: Connect, version: str, destination: str) -> None:
    wire = connect(version)
    wire.frame("SUBSCRIBE", [("id", "1"), ("destination", destination)])
    wire.expect_error("bad-destination", frame="SUBSCRIBE")


@pytest.mark.statement(61)
@ALL
@ACROSS
def test_the_senders_headers_are_passed_on_in_their_order(connect: Connect, version: str, slot: int) -> None:
    receiver, sender = connect(version, slot=slot), connect(version)
    receiver.subscribe("/topic/passed-on")
    own = [
        ("b", "2"),
        ("a", "1"),
        ("b", "3"),
        ("priority", "9"),
        ("persistent", "true"),
        ("content-type", "text/plain"),
    ]
    sender.frame("SEND", [("z", "0"), ("destination", "/topic/passed-on"), *own], b"hello")
    message = receiver.expect("MESSAGE", subscription="0", destination="/topic/passed-on")
    assert message.body == b"hello"
    assert list(message.headers[3:]) == [("z", "0"), *own, ("content-length", "5")]


@pytest.mark.statement(62)
@ALL
@ACROSS
def test_headers_of_the_protocol_and_of_the_broker_are_not_passed_on(connect: Connect, version: str, slot: int) -> None:
    receiver, sender = connect(version, slot=slot), connect(version)
    receiver.subscribe("/topic/not-passed-on", id="mine")
    sender.frame("BEGIN", [("transaction", "t")])
    forged = [(name, "forged") for name in OWN_NAMES]
    sender.frame("SEND", [("destination", "/topic/not-passed-on"), ("transaction", "t"), ("receipt", "r"), *forged])
    sender.frame("COMMIT", [("transaction", "t")])
    sender.publish("/topic/not-passed-on", b"", [("receipt", "r"), *forged])
    for message in receiver.read_many(2):
        assert message.command == "MESSAGE"
        names = [name for name, value in message.headers if name != "content-length"]
        assert names == ["subscription", "message-id", "destination"]
        assert message["subscription"] == "mine" and message["message-id"] != "forged"


@pytest.mark.statement(63, 64)
@NEWER
@pytest.mark.parametrize("headers", [[], [("id", "")]])
def test_subscribe_needs_an_id(connect: Connect, version: str, headers: list[tuple[str, str]]) -> None:
    wire = connect(version)
    wire.frame("SUBSCRIBE", [("destination", "/topic/a"), *headers])
    wire.expect_error("missing-header", frame="SUBSCRIBE")


@pytest.mark.statement(63, 64)
@ALL
@pytest.mark.parametrize("destination", ["/topic/a", "/topic/b"])
def test_an_id_is_taken_only_once(connect: Connect, version: str, destination: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/a", id="same")
    wire.frame("SUBSCRIBE", [("destination", destination), ("id", "same"), ("receipt", "r")])
    wire.expect_error("duplicate-subscription", frame="SUBSCRIBE", receipt_id="r")


@pytest.mark.statement(64)
@ALL
def test_an_id_is_free_again_after_unsubscribe_and_on_other_connections(connect: Connect, version: str) -> None:
    wire, other = connect(version), connect(version)
    wire.subscribe("/topic/a", id="same")
    other.subscribe("/topic/a", id="same")
    wire.request("UNSUBSCRIBE", [("id", "same")])
    wire.subscribe("/topic/b", id="same")
    wire.publish("/topic/b", b"x")
    wire.expect("MESSAGE", subscription="same", destination="/topic/b")


@pytest.mark.statement(65)
@ACROSS
def test_1_0_without_id_gets_messages_without_subscription(connect: Connect, slot: int) -> None:
    wire, sender = connect("1.0", slot=slot), connect("1.2")
    wire.subscribe("/topic/no-id", id=None)
    sender.publish("/topic/no-id", b"x", [("kind", "a")])
    message = wire.expect("MESSAGE")
    assert [name for name, _ in message.headers] == ["message-id", "destination", "content-length", "kind"]


@pytest.mark.statement(65)
def test_1_0_with_and_without_id_on_one_destination(connect: Connect) -> None:
    wire = connect("1.0")
    wire.subscribe("/topic/both", id=None)
    wire.subscribe("/topic/both", id="x")
    wire.publish("/topic/both")
    assert {message.get("subscription") for message in wire.read_many(2)} == {None, "x"}


@pytest.mark.statement(65)
def test_1_0_without_id_twice_is_a_duplicate(connect: Connect) -> None:
    wire = connect("1.0")
    wire.subscribe("/topic/twice", id=None)
    wire.frame("SUBSCRIBE", [("destination", "/topic/twice")])
    wire.expect_error("duplicate-subscription", frame="SUBSCRIBE")


@pytest.mark.statement(66, 72)
@ALL
def test_ack_is_auto_if_absent(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/auto")
    wire.publish("/topic/auto", b"x")
    message = wire.expect("MESSAGE")
    assert "ack" not in message
    headers = [("id", message["message-id"]), ("message-id", message["message-id"]), ("subscription", "0")]
    wire.frame("ACK", headers)
    wire.expect_error("unknown-message", frame="ACK")


@pytest.mark.statement(66)
@ALL
@pytest.mark.parametrize("mode", ["", "Auto", "AUTO", "client_individual", "client-individually", "none", " auto "])
def test_an_unknown_ack_mode_is_refused(connect: Connect, version: str, mode: str) -> None:
    wire = connect(version)
    wire.frame("SUBSCRIBE", [("destination", "/topic/a"), ("id", "0"), ("ack", mode)])
    wire.expect_error("bad-value", frame="SUBSCRIBE")


@pytest.mark.statement(67)
@ALL
@pytest.mark.parametrize("ack", ["auto", "client"])
def test_message_ids_are_unique(connect: Connect, version: str, ack: str) -> None:
    wire, other = connect(version), connect(version, slot=1)
    wire.subscribe("/topic/ids.*", ack=ack)
    # Some in one read, some in reads of their own, some from the other worker.
    wire.send(b"".join(encode("SEND", [("destination", f"/topic/ids.{n % 3}")]) for n in range(300)))
    messages = wire.read_many(300)
    for _ in range(20):
        wire.publish("/topic/ids.0", b"x")
        messages.append(wire.expect("MESSAGE"))
        other.publish("/topic/ids.1", b"x")
        messages.append(wire.expect("MESSAGE"))
    assert len({message["message-id"] for message in messages}) == 340


@pytest.mark.statement(68, 71)
@ALL
@ACROSS
def test_two_subscriptions_to_one_topic_both_get_each_message(connect: Connect, version: str, slot: int) -> None:
    wire, sender = connect(version, slot=slot), connect("1.2")
    wire.subscribe("/topic/shared", id="a")
    wire.subscribe("/topic/shared", id="b", ack="client")
    wire.subscribe("/topic/*", id="c")
    sender.publish("/topic/shared", b"one")
    sender.publish("/topic/shared", b"two")
    messages = wire.read_many(6)
    assert {(m["subscription"], m.body) for m in messages} == set(product("abc", (b"one", b"two")))
    # It is one message, however many subscriptions it is delivered on.
    assert len({message["message-id"] for message in messages}) == 2


@pytest.mark.statement(63, 68)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_ids_that_differ_in_what_the_version_cannot_write(connect: Connect, version: str) -> None:
    # A CR inside a value can come in before 1.2, but has no escape to go out with. Either such an id is refused, or
    # there are two subscriptions that look the same to the client; they are never taken for one.
    wire = connect(version)
    ids = [b"a\rb", b"ab"]
    wire.send(b"".join(b"SUBSCRIBE\nid:%b\ndestination:/topic/cr\nreceipt:s\n\n\0" % id for id in ids))
    first = wire.read()
    if first.command == "ERROR":
        assert first["error-code"] in ("bad-value", "bad-header")
        wire.expect_closed()
        return
    wire.expect("RECEIPT", receipt_id="s")
    wire.send(b"SEND\ndestination:/topic/cr\n\nx\0")
    assert [frame.command for frame in wire.read_many(2)] == ["MESSAGE", "MESSAGE"]
    for id, left in zip(ids, (1, 0), strict=True):
        wire.send(b"UNSUBSCRIBE\nid:%b\nreceipt:u\n\n\0" % id)
        wire.expect("RECEIPT", receipt_id="u")
        wire.send(b"SEND\ndestination:/topic/cr\n\nx\0")
        assert [frame.command for frame in wire.read_many(left)] == ["MESSAGE"] * left
        wire.quiet()


@pytest.mark.statement(69)
@ALL
@ACROSS
@pytest.mark.parametrize(
    "destination",
    [
        "/topic/plain",
        "plain",
        "/",
        ".",
        "a b",
        "/topic/a..b",
        "/topic/",
        "//",
        "/topic/*x",
        "a/b/c.d",
        "/exchange/x#y",
        "ü",
    ],
)
def test_the_destination_comes_back_as_it_was(connect: Connect, version: str, slot: int, destination: str) -> None:
    wire, sender = connect(version, slot=slot), connect(version)
    wire.subscribe(destination)
    sender.publish(destination, b"x")
    wire.expect("MESSAGE", destination=destination)


@pytest.mark.statement(70)
@pytest.mark.parametrize("mode", ["client", "client-individual"])
def test_1_2_has_an_ack_header_that_is_unique(connect: Connect, mode: str) -> None:
    wire = connect("1.2")
    wire.subscribe("/topic/acks", id="a", ack=mode)
    wire.subscribe("/topic/acks", id="b", ack=mode)
    wire.send(encode("SEND", [("destination", "/topic/acks")]) * 50)
    messages = wire.read_many(100)
    assert len({message["ack"] for message in messages}) == 100
    assert [name for name, _ in messages[0].headers] == ["subscription", "message-id", "ack", "destination"]


@pytest.mark.statement(70, 113)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("mode", ["auto", "client"])
def test_older_versions_have_no_ack_header(connect: Connect, version: str, mode: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/acks", ack=mode)
    wire.publish("/topic/acks")
    assert "ack" not in wire.expect("MESSAGE")


@pytest.mark.statement(73)
@ALL
@ACROSS
def test_nothing_comes_after_the_receipt_of_unsubscribe(connect: Connect, version: str, slot: int) -> None:
    wire, sender = connect(version, slot=slot), connect("1.2")
    for turn in range(20):
        wire.subscribe("/topic/left", id=f"a{turn}")
        wire.subscribe("/topic/marker", id="m")
        sender.send(encode("SEND", [("destination", "/topic/left")]) * 20)
        receipt = wire.next_receipt()
        wire.frame("UNSUBSCRIBE", [("id", f"a{turn}"), ("receipt", receipt)])
        while (frame := wire.read()).command == "MESSAGE":
            assert frame["subscription"] == f"a{turn}"
        assert frame["receipt-id"] == receipt
        sender.send(
            encode("SEND", [("destination", "/topic/left")]) + encode("SEND", [("destination", "/topic/marker")])
        )
        wire.expect("MESSAGE", destination="/topic/marker")
        wire.request("UNSUBSCRIBE", [("id", "m")])


@pytest.mark.statement(73)
@ALL
def test_unsubscribe_ends_one_subscription_only(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/left", id="a")
    wire.subscribe("/topic/left", id="b")
    wire.request("UNSUBSCRIBE", [("id", "a")])
    wire.publish("/topic/left")
    wire.expect("MESSAGE", subscription="b")
    wire.quiet()


@pytest.mark.statement(74)
@pytest.mark.parametrize("id", [None, "x"])
def test_1_0_unsubscribes_by_destination(connect: Connect, id: str | None) -> None:
    wire = connect("1.0")
    wire.subscribe("/topic/by-name", id=id)
    wire.request("UNSUBSCRIBE", [("destination", "/topic/by-name")])
    wire.publish("/topic/by-name")
    wire.quiet()
    wire.frame("UNSUBSCRIBE", [("destination", "/topic/by-name")])
    wire.expect_error("unknown-subscription", frame="UNSUBSCRIBE")


@pytest.mark.statement(74)
def test_1_0_unsubscribes_by_id(connect: Connect) -> None:
    wire = connect("1.0")
    wire.subscribe("/topic/by-id", id="x")
    wire.subscribe("/topic/by-id", id=None)
    wire.request("UNSUBSCRIBE", [("id", "x")])
    wire.publish("/topic/by-id")
    assert "subscription" not in wire.expect("MESSAGE")
    wire.quiet()


@pytest.mark.statement(74, 75)
@ALL
@pytest.mark.parametrize("headers", [[("id", "never")], [("id", "/topic/a")]])
def test_unsubscribe_of_an_unknown_id(connect: Connect, version: str, headers: list[tuple[str, str]]) -> None:
    wire = connect(version)
    wire.subscribe("/topic/a", id="known")
    wire.frame("UNSUBSCRIBE", [*headers, ("receipt", "r")])
    wire.expect_error("unknown-subscription", frame="UNSUBSCRIBE", receipt_id="r")


@pytest.mark.statement(75)
@NEWER
def test_unsubscribe_needs_an_id(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/a", id="known")
    wire.frame("UNSUBSCRIBE", [("destination", "/topic/a")])
    wire.expect_error("missing-header", frame="UNSUBSCRIBE")


@pytest.mark.statement(75)
@ALL
def test_unsubscribe_twice(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/a", id="x")
    wire.request("UNSUBSCRIBE", [("id", "x")])
    wire.frame("UNSUBSCRIBE", [("id", "x")])
    wire.expect_error("unknown-subscription", frame="UNSUBSCRIBE")


@pytest.mark.statement(77)
@ALL
def test_no_content_type_is_invented(connect: Connect, version: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/blob")
    wire.send(b"SEND\ndestination:/topic/blob\n\nplain text\0")
    assert "content-type" not in wire.expect("MESSAGE")


@pytest.mark.statement(78)
@ALL
@pytest.mark.parametrize("kind", ["text/plain", "application/xml;charset=utf-16", "", "nonsense"])
def test_content_type_is_handed_on(connect: Connect, version: str, kind: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/typed")
    wire.publish("/topic/typed", b"\xff\xfe", [("content-type", kind)])
    assert wire.expect("MESSAGE").all("content-type") == [kind]


@pytest.mark.statement(108)
@ALL
@ACROSS
def test_messages_keep_their_order(connect: Connect, version: str, slot: int) -> None:
    wire, sender = connect(version, slot=slot), connect(version)
    wire.subscribe("/topic/order")
    # Different header blocks, receipts, transactions and reads: every way through the broker, in one order.
    for n in range(200):
        body = b"%d" % n
        if n % 4 == 0:
            sender.frame("SEND", [("destination", "/topic/order")], body)
        elif n % 4 == 1:
            sender.publish("/topic/order", body, [("n", str(n))])
        elif n % 4 == 2:
            sender.request("SEND", [("destination", "/topic/order")], body)
        else:
            sender.frame("BEGIN", [("transaction", "t")])
            sender.frame("SEND", [("destination", "/topic/order"), ("transaction", "t")], body)
            sender.frame("COMMIT", [("transaction", "t")])
    assert [message.body for message in wire.read_many(200)] == [b"%d" % n for n in range(200)]


@pytest.mark.statement(110)
@NEWER
@pytest.mark.parametrize("mode", ["auto", "client"])
def test_a_message_can_be_sent_again_with_all_its_headers(connect: Connect, version: str, mode: str) -> None:
    wire = connect(version)
    wire.subscribe("/topic/again", ack=mode)
    wire.publish("/topic/again", b"a\0b", [("kind", "a:b\\c\n")])
    first = wire.expect("MESSAGE")
    wire.frame("SEND", first.headers, first.body)
    second = wire.expect("MESSAGE", kind="a:b\\c\n")
    assert second.body == b"a\0b"
    changing = ("message-id", "ack")
    assert [h for h in first.headers if h[0] not in changing] == [h for h in second.headers if h[0] not in changing]
    assert second["message-id"] != first["message-id"]
