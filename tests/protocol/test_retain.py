"""The last message of a topic, for whoever subscribes later: `retain:true`, and what clears it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.conftest import SHARED_CONFIG, Connect, StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Frame, Wire, connect_on

_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared_broker() -> Iterator[Broker]:
    """One for this module alone: what is retained would come to everybody who subscribes to all topics."""
    with Broker(workers=2, config=SHARED_CONFIG, log_level="debug") as broker:
        yield broker


def topic() -> str:
    return f"/topic/retain.{next(_numbers)}.x"


def retain(wire: Wire, name: str, body: bytes, headers: list[tuple[str, str]] | None = None) -> None:
    """Have it kept; the RECEIPT says that it is."""
    wire.request("SEND", [("destination", name), ("retain", "true"), *(headers or [])], body)


def subscribe(wire: Wire, name: str, *, id: str = "0", headers: list[tuple[str, str]] | None = None) -> list[Frame]:
    """What comes of a SUBSCRIBE before its RECEIPT."""
    receipt = wire.next_receipt()
    wire.frame("SUBSCRIBE", [("destination", name), ("id", id), ("receipt", receipt), *(headers or [])])
    frames = []
    while (frame := wire.read()).command == "MESSAGE":
        frames.append(frame)
    assert frame["receipt-id"] == receipt
    return frames


def bodies(frames: list[Frame]) -> list[bytes]:
    assert all(frame["retained"] == "true" for frame in frames)
    return [frame.body for frame in frames]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_new_subscriber_gets_the_last_one_marked(connect: Connect, version: str) -> None:
    name, sender = topic(), connect()
    for number in range(3):
        retain(sender, name, b"%d" % number, [("colour", "b:l\\ue")])
    sender.publish(name, b"passing")
    wire = connect(version)
    (frame,) = subscribe(wire, name)
    assert (frame["destination"], frame.body, frame["retained"]) == (name, b"2", "true")
    assert (frame["colour"], frame["subscription"], frame["content-length"]) == ("b:l\\ue", "0", "1")
    # Who is there when it is sent gets it as any other.
    retain(sender, name, b"3")
    live = wire.expect("MESSAGE")
    assert live.body == b"3" and "retained" not in live
    wire.quiet()


def test_patterns_and_selectors_choose_among_them(connect: Connect) -> None:
    base, sender, wire = topic(), connect(), connect()
    for number in range(5):
        retain(sender, f"{base}.{number}", b"%d" % number, [("odd", str(number % 2))])
    assert sorted(bodies(subscribe(wire, f"{base}.*"))) == [b"0", b"1", b"2", b"3", b"4"]
    assert sorted(bodies(subscribe(wire, f"{base}.>", id="1", headers=[("selector", "odd = 1")]))) == [b"1", b"3"]
    assert subscribe(wire, f"{base}.*.x", id="2") == []
    assert subscribe(wire, base, id="3", headers=[("selector", "odd = 1")]) == []


def test_an_empty_one_clears_it(connect: Connect) -> None:
    name, sender = topic(), connect()
    retain(sender, name, b"x")
    sender.request("SEND", [("destination", name)], b"")
    assert bodies(subscribe(connect(), name)) == [b"x"]
    retain(sender, name, b"")
    assert subscribe(connect(), name) == []
    # Without a content-length, too.
    retain(sender, name, b"y")
    sender.request("SEND", [("destination", name), ("retain", "true"), ("content-length", "0")], b"")
    assert subscribe(connect(), name) == []


def test_of_one_write_the_last_counts(connect: Connect) -> None:
    name, sender = topic(), connect()
    for number in range(50):
        sender.publish(name, b"%d" % number, [("retain", "true")] if number % 10 == 3 else [])
    sender.quiet()
    retain(sender, topic(), b"elsewhere")
    # The receipt of the same topic: everything before it is kept by then.
    sender.request("SEND", [("destination", name)], b"")
    assert bodies(subscribe(connect(), name)) == [b"43"]


@pytest.mark.parametrize("ack", ["client", "client-individual"])
def test_it_can_be_acknowledged(connect: Connect, ack: str) -> None:
    name, sender, wire = topic(), connect(), connect()
    retain(sender, name, b"x")
    (frame,) = subscribe(wire, name, headers=[("ack", ack)])
    wire.acknowledge(frame)
    wire.frame("ACK", wire.acknowledgement(frame))
    wire.expect_error("unknown-message")


def test_one_of_a_transaction_is_kept_by_its_commit(connect: Connect) -> None:
    name, other, sender = topic(), topic(), connect()
    queue = f"/queue/{name.rpartition('/')[2]}"
    for transaction, end in (("1", "ABORT"), ("2", "COMMIT")):
        sender.request("BEGIN", [("transaction", transaction)])
        for destination in (name, other):
            headers = [("destination", destination), ("retain", "true"), ("transaction", transaction)]
            sender.request("SEND", headers, end.encode())
        sender.request("SEND", [("destination", queue), ("transaction", transaction)], end.encode())
        assert subscribe(connect(), name) == []
        sender.request(end, [("transaction", transaction)])
    for slot in (0, 1):
        wire = connect(slot=slot)
        assert bodies(subscribe(wire, name)) == bodies(subscribe(wire, other, id="1")) == [b"COMMIT"]
    sender.subscribe(queue)
    assert sender.expect("MESSAGE").body == b"COMMIT"


def test_a_transaction_of_nothing_else(connect: Connect) -> None:
    name, sender = topic(), connect()
    sender.request("BEGIN", [("transaction", "t")])
    sender.request("SEND", [("destination", name), ("retain", "true"), ("transaction", "t")], b"x")
    sender.request("COMMIT", [("transaction", "t")])
    assert bodies(subscribe(connect(), name)) == [b"x"]


@pytest.mark.parametrize("destination", ["/queue/retain", "/temp-queue/retain", "/temp-topic/retain"])
def test_it_is_for_topics(connect: Connect, destination: str) -> None:
    wire = connect()
    wire.frame("SEND", [("destination", destination), ("retain", "true"), ("receipt", "1")], b"x")
    error = wire.expect_error("bad-value", receipt_id="1")
    assert destination in error.body.decode()


def test_what_has_expired_is_kept_from_new_subscribers(connect: Connect) -> None:
    name, sender = topic(), connect()
    retain(sender, name, b"x", [("expires", "1")])
    assert subscribe(connect(), name) == []
    retain(sender, name, b"y", [("ttl", "600000")])
    (frame,) = subscribe(connect(), name)
    assert int(frame["expires"]) > 10**12


def test_a_policy_keeps_the_last_of_every_topic_it_is_for(start_broker: StartBroker) -> None:
    rules = [
        {"pattern": "/topic/state.#", "retain": "last"},
        {"pattern": "/topic/brief.#", "retain": "last", "persistent": False},
    ]
    broker = start_broker(config={"destination": rules, "retained": {"max_messages": 3}})
    sender, wire = connect_on(broker, 0), connect_on(broker, 0)
    for name in ("/topic/state.a", "/topic/brief.a", "/topic/other.a"):
        sender.publish(name, b"1")
        sender.request("SEND", [("destination", name)], b"")
    assert sorted(frame["destination"] for frame in subscribe(wire, "/topic/>")) == ["/topic/brief.a", "/topic/state.a"]
    wire.request("UNSUBSCRIBE", [("id", "0")])
    for number in range(4):
        sender.request("SEND", [("destination", f"/topic/state.{number}")], b"%d" % number)
    # More than may be: the oldest have gone.
    assert bodies(subscribe(wire, "/topic/>")) == [b"1", b"2", b"3"]
    broker.wait_event("retained.evicted")
    sender.close()
    wire.close()
