"""The `selector` of SUBSCRIBE: a subscriber gets the messages its condition is TRUE for. Statement 76."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS, Frame, Wire, encode

ALL = pytest.mark.parametrize("version", VERSIONS)
ACROSS = pytest.mark.parametrize("slot", [0, 1], ids=["same-worker", "other-worker"])
MODES = ("auto", "client", "client-individual")


def select(wire: Wire, destination: str, selector: str, *, id: str = "0", ack: str | None = None) -> None:
    wire.subscribe(destination, id=id, ack=ack, headers=[("selector", selector)])


def bodies(frames: list[Frame]) -> list[bytes]:
    return [frame.body for frame in frames]


@ALL
@ACROSS
@pytest.mark.parametrize("ack", MODES)
@pytest.mark.statement(76)
def test_only_what_matches_comes_in_its_order(connect: Connect, version: str, slot: int, ack: str) -> None:
    receiver, sender = connect(version, slot=slot), connect(version)
    select(receiver, "/topic/selected", "color = 'blue' AND number BETWEEN 10 AND 39", ack=ack)
    # In one write, so that what matches is a share of one batch.
    sender.send(
        b"".join(
            encode(
                "SEND",
                [("destination", "/topic/selected"), ("color", "blue" if n % 3 else "red"), ("number", str(n))],
                b"%d" % n,
                version=version,
            )
            for n in range(50)
        )
    )
    wanted = [n for n in range(10, 40) if n % 3]
    messages = receiver.read_many(len(wanted))
    assert bodies(messages) == [b"%d" % n for n in wanted]
    assert all(message["color"] == "blue" for message in messages)
    assert len({message["message-id"] for message in messages}) == len(wanted)
    assert all(("ack" in message) == (version == "1.2" and ack != "auto") for message in messages)
    if ack == "client":
        receiver.acknowledge(messages[-1])
    elif ack == "client-individual":
        for message in reversed(messages):
            receiver.acknowledge(message)
    receiver.quiet()


@ACROSS
def test_messages_that_do_not_match_are_not_pending(connect: Connect, slot: int) -> None:
    receiver, sender = connect(slot=slot), connect()
    select(receiver, "/topic/not-pending", "wanted", ack="client")
    # More than limits.unacknowledged allows to be pending.
    frame = encode("SEND", [("destination", "/topic/not-pending")], b"x")
    for _ in range(7):
        sender.send(frame * 10_000)
    sender.publish("/topic/not-pending", b"y", [("wanted", "true")])
    assert receiver.expect("MESSAGE").body == b"y"


@ALL
@ACROSS
def test_with_a_pattern_and_beside_subscriptions_without(connect: Connect, version: str, slot: int) -> None:
    receiver, sender = connect(version, slot=slot), connect(version)
    select(receiver, "/topic/sel.*", "destination LIKE '%.a' AND kind = 'x'", id="pattern")
    select(receiver, "/topic/sel.a", "kind = 'y'", id="exact")
    select(receiver, "/topic/sel.#", "kind = 'x'", id="again")
    receiver.subscribe("/topic/sel.a", id="all")
    for destination in ("/topic/sel.a", "/topic/sel.b"):
        for kind in "xy":
            sender.publish(destination, destination[-1:].encode() + kind.encode(), [("kind", kind)])
    got: dict[str, list[bytes]] = {}
    for message in receiver.read_many(6):
        got.setdefault(message["subscription"], []).append(message.body)
    assert got == {"pattern": [b"ax"], "exact": [b"ay"], "again": [b"ax", b"bx"], "all": [b"ax", b"ay"]}
    receiver.quiet()


@ACROSS
def test_each_subscription_has_its_own_selector(connect: Connect, slot: int) -> None:
    receivers = [connect(slot=slot), connect(slot=slot)]
    sender = connect()
    for number, receiver in enumerate(receivers):
        select(receiver, "/topic/own", f"n = {number}")
        select(receiver, "/topic/own", "n = 2", id="both")
    for n in range(4):
        sender.publish("/topic/own", b"%d" % n, [("n", str(n))])
    for number, receiver in enumerate(receivers):
        # Of two subscriptions, either may come first.
        assert sorted(bodies(receiver.read_many(2))) == [b"%d" % number, b"2"]
        receiver.quiet()
        receiver.request("UNSUBSCRIBE", [("id", "0")])
    sender.publish("/topic/own", b"gone", [("n", "0")])
    sender.publish("/topic/own", b"still", [("n", "2")])
    for receiver in receivers:
        assert receiver.expect("MESSAGE", subscription="both").body == b"still"


@pytest.mark.parametrize("sends", VERSIONS)
@pytest.mark.parametrize("receives", VERSIONS)
def test_headers_are_seen_as_their_sender_meant_them(connect: Connect, sends: str, receives: str) -> None:
    receiver, sender = connect(receives, slot=1), connect(sends)
    value = "a:b\\c" if sends == "1.0" else "a:b\\c\nd" + ("\r" if sends == "1.2" else "")
    # 1.0 escapes nothing, so what a subscriber of it writes in a header has no line break.
    selector = "odd LIKE 'a:b\\c%'" if receives == "1.0" else f"odd = '{value}'".replace("\r", "")
    if receives == "1.1" and sends == "1.2":
        selector = "odd LIKE 'a:b\\c\nd_'"
    elif receives == "1.2":
        selector = f"odd = '{value}'"
    select(receiver, "/topic/escaped", selector)
    sender.publish("/topic/escaped", b"no", [("odd", "a"), ("odd", value)])
    sender.publish("/topic/escaped", b"yes", [("odd", value), ("odd", "a")])
    assert receiver.expect("MESSAGE").body == b"yes"
    receiver.quiet()


def test_destination_and_message_id_can_be_asked_for(connect: Connect) -> None:
    receiver, sender = connect(), connect()
    receiver.subscribe("/topic/named", id="all")
    select(
        receiver, "/topic/named", "JMSDestination = '/topic/named' AND message-id LIKE '0-%' AND subscription IS NULL"
    )
    sender.publish("/topic/named", b"x", [("message-id", "forged"), ("subscription", "forged")])
    assert len({message["message-id"] for message in receiver.read_many(2)}) == 1


def test_of_a_transaction(connect: Connect) -> None:
    receiver, sender = connect(slot=1), connect()
    select(receiver, "/topic/transacted", "n > 1")
    sender.frame("BEGIN", [("transaction", "t")])
    for n in range(4):
        sender.publish("/topic/transacted", b"%d" % n, [("transaction", "t"), ("n", str(n))])
    sender.request("COMMIT", [("transaction", "t")])
    assert bodies(receiver.read_many(2)) == [b"2", b"3"]
    receiver.quiet()


def test_an_empty_selector_is_none(connect: Connect) -> None:
    wire = connect()
    select(wire, "/topic/empty-selector", "")
    wire.publish("/topic/empty-selector", b"x")
    wire.expect("MESSAGE")


@ALL
@pytest.mark.parametrize(
    ("selector", "detail"),
    [
        ("color = ", "character 9: found the end, expected a header, a literal or ("),
        ("color = 'blue' AND", "character 19"),
        ("name < 'x'", "character 8: found a text, expected a number"),
        ("(" * 1000, "at most 32 parentheses"),
        ("a = 1 ".ljust(5000), "5000 characters, the limit is 4096"),
    ],
)
def test_a_bad_selector(connect: Connect, version: str, selector: str, detail: str) -> None:
    wire = connect(version)
    headers = [("destination", "/topic/a"), ("id", "0"), ("receipt", "r"), ("selector", selector)]
    wire.frame("SUBSCRIBE", headers)
    error = wire.expect_error("bad-value", frame="SUBSCRIBE", receipt_id="r", message="bad selector")
    assert detail in error.body.decode()


def test_selectors_of_a_connection_are_bounded_together(connect: Connect) -> None:
    wire = connect()
    chars = 256
    for number in range(15):
        select(wire, "/topic/bounded", f"n = {number}".ljust(chars), id=str(number))
    # A LIKE with both wildcards costs 1024 more; what is unsubscribed costs nothing any more.
    wire.request("UNSUBSCRIBE", [("id", "14")])
    wire.request("UNSUBSCRIBE", [("id", "13")])
    wire.request("UNSUBSCRIBE", [("id", "12")])
    wire.request("UNSUBSCRIBE", [("id", "11")])
    select(wire, "/topic/bounded", "a LIKE 'x_%'".ljust(chars), id="mixed")
    wire.request("UNSUBSCRIBE", [("id", "mixed")])
    for number in range(11, 16):
        select(wire, "/topic/bounded", f"n = {number}".ljust(chars), id=str(number))
    wire.subscribe("/topic/bounded", id="without")
    wire.frame("SUBSCRIBE", [("destination", "/topic/bounded"), ("id", "over"), ("selector", "n")])
    error = wire.expect_error("too-many-subscriptions", frame="SUBSCRIBE", message="too many selectors")
    assert "those of this connection cost 4097, the limit is 4096" in error.body.decode()
