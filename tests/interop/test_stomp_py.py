"""stomp.py, the client of most Python programs, against several workers, in every version it speaks."""

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
from tests.harness.wire import VERSIONS
from tests.interop.conftest import BEAT_MS, BEATING, MAIN
from tests.interop.stomp_py import StompPy, connect_stomp_py

Join = Callable[..., StompPy]
Topic = Callable[[], str]


@pytest.fixture
def join(cluster: Broker) -> Iterator[Join]:
    """Connects to a worker of the cluster; disconnects after the test."""
    with ExitStack() as stack:

        def joined(slot: int | None = None, version: str = "1.2", *, listener: int = MAIN, **options: Any) -> StompPy:
            client = connect_stomp_py(cluster.addresses[listener], slot, version, **options)
            stack.callback(client.close)
            return client

        yield joined


@pytest.mark.parametrize("version", VERSIONS)
def test_every_worker_reaches_every_worker_in_order(version: str, cluster: Broker, join: Join, topic: Topic) -> None:
    name = topic()
    clients = [join(slot, version) for slot in range(cluster.workers)]
    for client in clients:
        client.subscribe(name)
    for number in range(50):
        for slot, client in enumerate(clients):
            client.connection.send(name, f"{slot} {number}")
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
    publisher.send(name, "one")
    subscriber.bodies(1)
    subscriber.unsubscribe("a")
    publisher.send(name, "two")
    subscriber.subscribe(name, "b")
    publisher.send(name, "three")
    assert subscriber.bodies(2) == [b"one", b"three"]
    assert subscriber.wait("message", 2).headers["subscription"] == "b"


@pytest.mark.parametrize("version", VERSIONS)
def test_disconnect_with_receipt(version: str, cluster: Broker, topic: Topic) -> None:
    client = connect_stomp_py(cluster.address, None, version)
    client.connection.disconnect(receipt="good:bye")
    client.settled("good:bye")
    client.wait("disconnected")
    assert not client.told("error")


def acknowledge(client: StompPy, command: str, message: Any, **options: Any) -> None:
    """ACK or NACK the way stomp.py does it for the version."""
    call = getattr(client.connection, command)
    if client.version == "1.0":
        call(message.headers["message-id"], **options)
    elif client.version == "1.1":
        call(message.headers["message-id"], message.headers["subscription"], **options)
    else:
        call(message.headers["ack"], **options)


@pytest.mark.parametrize("mode", ["client", "client-individual"])
@pytest.mark.parametrize("version", VERSIONS)
def test_acknowledgements(version: str, mode: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0, version), join(1, version)
    subscriber.subscribe(name, ack=mode)
    for number in range(6):
        publisher.connection.send(name, str(number))
    subscriber.wait("message", 6)
    messages = subscriber.told("message")
    # Cumulative in mode `client`: the third settles the first two as well.
    chosen = [messages[2], messages[5]] if mode == "client" else messages
    for position, message in enumerate(chosen):
        command = "nack" if position % 2 and version != "1.0" else "ack"
        receipt = subscriber.receipt()
        acknowledge(subscriber, command, message, receipt=receipt)
        subscriber.settled(receipt)
    assert not subscriber.told("error")
    # All six are settled: naming any of them once more is an error.
    acknowledge(subscriber, "ack", messages[0], receipt="again")
    error = subscriber.wait("error")
    assert error.headers["error-code"] == "unknown-message"
    assert error.headers["receipt-id"] == "again"
    subscriber.wait("disconnected")


@pytest.mark.parametrize("version", VERSIONS)
def test_transactions(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0, version), join(1, version)
    subscriber.subscribe(name)
    kept = publisher.connection.begin()
    dropped = publisher.connection.begin()
    for number in range(3):
        publisher.send(name, f"kept {number}", transaction=kept)
        publisher.send(name, f"dropped {number}", transaction=dropped)
    publisher.send(name, "outside")
    assert subscriber.bodies(1) == [b"outside"]
    publisher.connection.abort(dropped, receipt="aborted")
    publisher.connection.commit(kept, receipt="committed")
    publisher.settled("committed")
    publisher.send(name, "last")
    assert subscriber.bodies(5) == [b"outside", b"kept 0", b"kept 1", b"kept 2", b"last"]


@pytest.mark.parametrize("version", VERSIONS)
def test_acknowledgement_in_a_transaction_is_undone_by_abort(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    client = join(0, version)
    client.subscribe(name, ack="client-individual")
    client.send(name, "one")
    message = client.wait("message")
    transaction = client.connection.begin()
    acknowledge(client, "ack", message, transaction=transaction)
    client.connection.abort(transaction)
    acknowledge(client, "ack", message, receipt="for good")
    client.settled("for good")
    assert not client.told("error")


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_heart_beats_keep_an_idle_connection(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    client = join(0, version, listener=BEATING, heartbeats=(BEAT_MS, BEAT_MS))
    client.subscribe(name)
    # Five beats in a row: far longer than either side tolerates silence (1.5 and 2 intervals).
    client.wait("beat", 5)
    assert not client.told("beat-missed") and not client.told("disconnected") and not client.told("error")
    client.send(name, "still here")
    assert client.bodies(1) == [b"still here"]


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_client_that_stops_beating_is_told_and_closed(version: str, join: Join) -> None:
    client = join(0, version, listener=BEATING, heartbeats=(BEAT_MS, 0))
    client.connection.heartbeat_terminate_event.set()
    error = client.wait("error")
    assert error.headers["error-code"] == "heart-beat-timeout"
    client.wait("disconnected")


@pytest.mark.parametrize("version", VERSIONS)
def test_errors_reach_the_listener_before_the_end(version: str, join: Join) -> None:
    client = join(1, version)
    client.connection.send_frame("SEND", {"receipt": "7"}, "no destination")
    error = client.wait("error")
    assert error.headers["error-code"] == "missing-header"
    assert error.headers["receipt-id"] == "7"
    assert "destination" in error.headers["message"]
    assert b"destination" in error.body
    client.wait("disconnected")


AWKWARD = {
    "colons": "http://a:b@c:1/::",
    "backslashes": "C:\\new\\c\\\\d",
    "breaks": "one\ntwo\n\nthree",
    "emoji": "🐂🐎 stampede 💨",
    "blanks": "  around  ",
    "😀": "in a name",
}


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_awkward_headers_survive(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(1, version), join(0, version)
    subscriber.subscribe(name, "a:\\b😀")
    sent = dict(AWKWARD)
    if version == "1.2":
        sent["returns"] = "\r\n:\r"
    publisher.send(name, "x", headers=dict(sent))
    message = subscriber.wait("message")
    assert {key: message.headers.get(key) for key in sent} == sent
    assert message.headers["subscription"] == "a:\\b😀"


@pytest.mark.parametrize("version", VERSIONS)
def test_binary_bodies(version: str, join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0, version), join(1, version)
    subscriber.subscribe(name)
    bodies = [bytes(range(256)), b"\0", b"\0\0\n\n\0", b"\n\nMESSAGE\n\n\0", b"\xff\xfe\xfd"]
    for body in bodies:
        publisher.send(name, body)
    assert subscriber.bodies(len(bodies)) == bodies


def test_large_bodies(join: Join, topic: Topic) -> None:
    name = topic()
    subscriber, publisher = join(0), join(1)
    subscriber.subscribe(name)
    # Up to the default limit of 16 MiB, which is allowed.
    bodies = [random.Random(size).randbytes(size) for size in (1 << 16, 3 << 20, 16 << 20)]
    for body in bodies:
        publisher.send(name, body)
    assert subscriber.bodies(len(bodies)) == bodies


def test_reconnect_after_the_worker_was_killed(start_broker: StartBroker, topic: Topic) -> None:
    broker = start_broker(workers=2)
    name = topic()
    subscriber, witness = connect_stomp_py(broker.address, 1), connect_stomp_py(broker.address, 0)
    witness.subscribe(name)
    subscriber.subscribe(name)
    os.kill(broker.worker_pids()[1], signal.SIGKILL)
    subscriber.wait("disconnected")
    # At once, while the worker is gone: the connection waits for its successor, or is given to the other.
    again = StompPy(broker.address)
    again.subscribe(name)
    broker.wait_event("worker.ready", slot=1, incarnation=2)
    successor = connect_stomp_py(broker.address, 1)
    successor.subscribe(name)
    witness.send(name, "from the survivor")
    successor.send(name, "from the successor")
    for client in (witness, again, successor):
        assert sorted(client.bodies(2)) == [b"from the successor", b"from the survivor"]
        client.close()
