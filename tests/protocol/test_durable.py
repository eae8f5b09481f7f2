"""Durable and shared subscriptions to topics: kept while their consumers are away, ended by their word alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.conftest import Connect, StartBroker
from tests.harness.wire import VERSIONS, Frame, Headers, Wire, connect_on
from tests.protocol.site import ENDS, bodies, life, receipted, send

ALL = pytest.mark.parametrize("version", VERSIONS)
_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """The name of a subscription that no other test uses, and the middle of its topics."""
    return f"durable-{next(_numbers)}"


def durable(
    wire: Wire, name: str, topic: str, headers: Headers = (), *, ack: str = "client-individual", count: int = 0
) -> list[Frame]:
    """SUBSCRIBE; returns the first `count` messages, which may come before its RECEIPT."""
    wanted = [("destination", topic), ("id", "0"), ("ack", ack), ("durable", "true"), ("durable-name", name), *headers]
    found = receipted(wire, "SUBSCRIBE", wanted)
    return found + wire.read_many(count - len(found))


def end(wire: Wire, name: str) -> None:
    """The end of the subscription itself, from a connection that has nothing unsettled of it."""
    receipted(wire, "UNSUBSCRIBE", [("id", "0"), ("durable", "true"), ("durable-name", name)])


@ALL
@pytest.mark.parametrize("publisher", [0, 1])
def test_kept_while_its_consumer_is_away(connect: Connect, version: str, publisher: int, name: str) -> None:
    topic = f"/topic/{name}.*"
    wire, sender = connect(version), connect(version, slot=publisher)
    durable(wire, name, topic)
    send(sender, f"/topic/{name}.a", b"0")
    wire.acknowledge(wire.read())
    send(sender, f"/topic/{name}.a", b"1")
    assert wire.read().body == b"1"
    wire.request("UNSUBSCRIBE", [("id", "0")])
    receipt = send(sender, f"/topic/{name}.b", b"2")
    assert receipt["routed"] == "1"
    send(sender, f"/topic/{name}.b.c", b"another topic")
    again = connect(version, slot=1)
    first, second = durable(again, name, topic, ack="auto", count=2)
    assert (first.body, first["redelivered"], first["destination"]) == (b"1", "true", f"/topic/{name}.a")
    assert (second.body, second["message-id"]) == (b"2", receipt["message-id"])
    assert "redelivered" not in second
    end(again, name)
    assert send(sender, f"/topic/{name}.a", b"nobody")["routed"] == "0"
    durable(again, name, topic)
    again.quiet()
    end(again, name)


@ALL
def test_its_name_may_be_that_of_the_client(connect: Connect, version: str, name: str) -> None:
    topic = f"/topic/{name}"
    headers = [("client-id", name)]
    wire = connect(version, headers)
    wire.subscribe(topic, headers=[("durable", "true")])
    wire.request("DISCONNECT")
    send(connect(), topic, b"kept")
    again = connect(version, headers)
    wanted = [("destination", topic), ("id", "0"), ("durable", "true")]
    (message,) = receipted(again, "SUBSCRIBE", wanted) or [again.read()]
    assert message.body == b"kept"
    again.request("UNSUBSCRIBE", [("id", "0"), ("durable", "true")])


def test_a_dot_in_a_client_id_is_none_between_it_and_the_name(connect: Connect, name: str) -> None:
    topics = [f"/topic/{name}.{number}" for number in range(4)]
    pairs = [("a", f"b.{name}"), ("a.b", name), ("a%2Eb", name), ("a%25", name)]
    wires = [connect(headers=[("client-id", client)]) for client, _ in pairs]
    for wire, topic, (_, own) in zip(wires, topics, pairs, strict=True):
        durable(wire, own, topic)
    sender = connect()
    for topic in topics:
        assert send(sender, topic, topic.encode())["routed"] == "1"
    for wire, topic in zip(wires, topics, strict=True):
        assert wire.read().body == topic.encode()
    # Written out it is the same, also for a client that has no client-id.
    end(connect(), f"a%2Eb.{name}")
    wires[1].expect_error("closed-by-operator")
    for wire, (_, own) in zip(wires, pairs, strict=True):
        if wire is not wires[1]:
            end(wire, own)


@ALL
def test_one_consumer_at_a_time(connect: Connect, version: str, name: str) -> None:
    wire, other = connect(version), connect(version, slot=1)
    durable(wire, name, f"/topic/{name}")
    other.frame(
        "SUBSCRIBE",
        [("destination", f"/topic/{name}"), ("id", "0"), ("durable", "true"), ("durable-name", name), ("receipt", "r")],
    )
    other.expect_error("subscription-in-use", frame="SUBSCRIBE")
    end(wire, name)


@ALL
def test_of_one_name_are_all_the_same(connect: Connect, version: str, name: str) -> None:
    wire, other = connect(version), connect(version, slot=1)
    durable(wire, name, f"/topic/{name}")
    other.frame(
        "SUBSCRIBE",
        [("destination", "/topic/other"), ("id", "0"), ("durable", "true"), ("durable-name", name), ("receipt", "r")],
    )
    other.expect_error("subscription-mismatch", frame="SUBSCRIBE")
    end(wire, name)


@ALL
def test_shared_by_several(connect: Connect, version: str, name: str) -> None:
    topic = f"/topic/{name}"
    consumers = [connect(version), connect(version, slot=1)]
    for wire in consumers:
        durable(wire, name, topic, [("shared", "true")])
    sender = connect()
    for number in range(4):
        send(sender, topic, b"%d" % number)
    assert [bodies(wire.read_many(2)) for wire in consumers] == [[b"0", b"2"], [b"1", b"3"]]


@ALL
def test_shared_for_as_long_as_there_is_one(connect: Connect, version: str, name: str) -> None:
    topic = f"/topic/{name}"
    consumers = [connect(version), connect(version, slot=1)]
    for wire in consumers:
        wire.subscribe(topic, ack="client-individual", headers=[("shared", "true"), ("shared-name", name)])
    whole = connect()
    whole.subscribe(topic)
    sender = connect()
    for number in range(4):
        send(sender, topic, b"%d" % number)
    assert [bodies(wire.read_many(2)) for wire in consumers] == [[b"0", b"2"], [b"1", b"3"]]
    assert bodies(whole.read_many(4)) == [b"0", b"1", b"2", b"3"]
    consumers[0].request("UNSUBSCRIBE", [("id", "0")])
    assert sorted(bodies(consumers[1].read_many(2))) == [b"0", b"2"]
    consumers[1].request("UNSUBSCRIBE", [("id", "0")])
    assert send(sender, topic, b"4")["routed"] == "1"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("how", ENDS)
def test_survives_a_restart(start_broker: StartBroker, tmp_path: Path, workers: int, how: str, name: str) -> None:
    topics = [f"/topic/{name}.{number}" for number in range(4)]
    with life(how, workers=workers, data_dir=tmp_path) as broker, connect_on(broker, 0) as wire:
        durable(wire, name, f"/topic/{name}.*")
        wire.request("UNSUBSCRIBE", [("id", "0")])
        for topic in topics:
            send(wire, topic, topic.encode())
    broker = start_broker(workers=workers, data_dir=tmp_path)
    with connect_on(broker, workers - 1) as wire:
        send(wire, topics[0], b"last")
        assert bodies(durable(wire, name, f"/topic/{name}.*", count=5)) == [
            *(topic.encode() for topic in topics),
            b"last",
        ]


@ALL
def test_no_end_by_a_word_that_is_not_understood(connect: Connect, version: str, name: str) -> None:
    wire, topic = connect(version), f"/topic/{name}"
    durable(wire, name, topic)
    wire.frame("UNSUBSCRIBE", [("id", "0"), ("durable", "True"), ("durable-name", name), ("receipt", "r")])
    wire.expect_error("bad-value", frame="UNSUBSCRIBE", receipt_id="r")
    send(connect(), topic, b"kept")
    again = connect(version)
    assert bodies(durable(again, name, topic, count=1)) == [b"kept"]
    end(again, name)
