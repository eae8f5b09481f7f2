"""@stomp/stompjs over TCP against several workers, in every version it speaks."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, connect_on
from tests.interop.conftest import BEAT_MS, BEATING, MAIN
from tests.interop.stompjs import Node, StompJs, require_node

Join = Callable[..., StompJs]
Topic = Callable[[], str]


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    require_node()
    with Node() as node:
        yield node


@pytest.fixture
def join(node: Node, cluster: Broker) -> Iterator[Join]:
    """Connects to a worker of the cluster; disconnects after the test."""
    with ExitStack() as stack:

        def joined(slot: int, version: str | None = "1.2", *, listener: int = MAIN, **options: Any) -> StompJs:
            client = StompJs.on(node, cluster.addresses[listener], slot, version, **options)
            stack.callback(client.close)
            return client

        yield joined


def test_the_highest_version_is_agreed_on(join: Join) -> None:
    assert join(0, None).connected.version == "1.2"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_worker_reaches_every_worker_in_order(version: str, cluster: Broker, join: Join, topic: Topic) -> None:
    name = topic()
    clients = [join(slot, version) for slot in range(cluster.workers)]
    for client in clients:
        client.subscribe(name)
    for number in range(50):
        for slot, client in enumerate(clients):
            client.publish(name, b"%d %d" % (slot, number))
    for client in clients:
        bodies = client.bodies(50 * len(clients))
        for slot in range(len(clients)):
            mine = [body for body in bodies if body.startswith(b"%d " % slot)]
            assert mine == [b"%d %d" % (slot, number) for number in range(50)]


@pytest.mark.parametrize("version", VERSIONS)
def test_unsubscribe_with_receipt_ends_the_subscription(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0, version), join(1, version)
    subscriber.subscribe(name, "a")
    publisher.send(name, b"one")
    subscriber.bodies(1)
    subscriber.unsubscribe("a")
    publisher.send(name, b"two")
    subscriber.subscribe(name, "b")
    publisher.send(name, b"three")
    assert subscriber.bodies(2) == [b"one", b"three"]
    # What comes without a subscription goes to another callback.
    assert not subscriber.told("unhandled")


@pytest.mark.parametrize("mode", ["client", "client-individual"])
@pytest.mark.parametrize("version", VERSIONS)
def test_acknowledgements(version: str, mode: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0, version), join(1, version)
    subscriber.subscribe(name, ack=mode)
    for number in range(6):
        publisher.publish(name, b"%d" % number)
    subscriber.wait("message", 6)
    # Cumulative in mode `client`: the third settles the first two as well.
    for position, message in enumerate([2, 5] if mode == "client" else range(6)):
        subscriber.settle("nack" if position % 2 and version != "1.0" else "ack", message)
    assert not subscriber.told("error")
    # All six are settled: naming any of them once more is an error.
    subscriber.order("ack", message=0, headers={"receipt": "again"})
    error = subscriber.wait("error")
    assert error.headers["error-code"] == "unknown-message"
    assert error.headers["receipt-id"] == "again"
    subscriber.wait("closed")


@pytest.mark.parametrize("version", VERSIONS)
def test_transactions(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0, version), join(1, version)
    subscriber.subscribe(name, ack="client")
    for transaction in ("kept", "dropped"):
        publisher.order("begin", transaction=transaction)
    for number in range(3):
        for transaction in ("kept", "dropped"):
            publisher.send(name, b"%s %d" % (transaction.encode(), number), {"transaction": transaction})
    publisher.send(name, b"outside")
    assert subscriber.bodies(1) == [b"outside"]
    publisher.order("abort", transaction="dropped")
    publisher.order("commit", transaction="kept")
    publisher.send(name, b"last")
    assert subscriber.bodies(5) == [b"outside", b"kept 0", b"kept 1", b"kept 2", b"last"]
    # An acknowledgement undone by ABORT can be made again.
    subscriber.order("begin", transaction="acks")
    subscriber.settle("ack", 4, {"transaction": "acks"})
    subscriber.order("abort", transaction="acks")
    subscriber.settle("ack", 4)
    assert not subscriber.told("error")


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_heart_beats_keep_an_idle_connection(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    client = join(0, version, listener=BEATING, heartbeats=(BEAT_MS, BEAT_MS))
    client.subscribe(name)
    # Five beats in a row: far longer than either side tolerates silence (two intervals).
    client.wait("beat", 5)
    assert not client.told("beat-missed") and not client.told("closed") and not client.told("error")
    client.send(name, b"still here")
    assert client.bodies(1) == [b"still here"]


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_reach_the_client_before_the_end(version: str, join: Join) -> None:
    client = join(1, version)
    client.publish("", b"no destination", {"receipt": "7"})
    error = client.wait("error")
    assert error.headers["error-code"] == "missing-header"
    assert error.headers["receipt-id"] == "7"
    assert b"destination" in error.body
    client.wait("closed")


# stompjs trims values, and reads a backslash before `n`, `r` or `c` wrongly: neither is here.
AWKWARD = {
    "colons": "http://a:b@c:1/::",
    "backslashes": "C:\\Dir\\\\Data\\",
    "breaks": "one\ntwo\r\nthree",
    "emoji": "🐂🐎 stampede 💨",
    "😀": "in a name",
}


def test_awkward_headers_survive(join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(1), join(0)
    subscriber.subscribe(name, "a:😀")
    publisher.send(name, "🐂".encode(), AWKWARD)
    message = subscriber.wait("message")
    assert {key: message.headers.get(key) for key in AWKWARD} == AWKWARD
    assert message.headers["subscription"] == "a:😀"
    assert message.body.decode() == "🐂"


@pytest.mark.parametrize("version", VERSIONS)
def test_binary_bodies(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0, version), join(1, version)
    subscriber.subscribe(name)
    bodies = [bytes(range(256)), b"\0", b"\0\0\n\n\0", b"\n\nMESSAGE\n\n\0", b"\xff\xfe\xfd"]
    for body in bodies:
        publisher.send(name, body, binary=True)
    assert subscriber.bodies(len(bodies)) == bodies


def test_large_bodies(join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0), join(1)
    subscriber.subscribe(name)
    bodies = [random.Random(size).randbytes(size) for size in (1 << 16, 4 << 20)]
    for body in bodies:
        publisher.send(name, body, binary=True)
    assert subscriber.bodies(len(bodies)) == bodies


def test_reconnects_by_itself_after_the_worker_was_killed(start_broker: StartBroker, node: Node, topic: Topic) -> None:
    broker = start_broker(workers=2)
    name = topic()
    with connect_on(broker, 0) as witness:
        witness.subscribe(name)
        client = StompJs.on(node, broker.address, 1, reconnect_ms=20)
        os.kill(broker.worker_pids()[1], signal.SIGKILL)
        client.wait("closed")
        client.wait("connected", 2)
        client.subscribe(name)
        client.send(name, b"back")
        assert client.bodies(1) == [b"back"]
        assert witness.expect("MESSAGE").body == b"back"
    client.close()
