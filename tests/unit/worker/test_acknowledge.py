"""ACKs in a row are settled together, and just as they would be one by one."""

from __future__ import annotations

import re

import pytest

from tests.unit.worker.clocked import Client, Worker, send

DESTINATIONS = pytest.mark.parametrize("destination", [b"/topic/a", b"/queue/a"])


def delivered(client: Client) -> list[bytes]:
    """The `ack` values of what it was sent."""
    return re.findall(rb"\nack:(\S+)\n", b"".join(data for _, data in client.transport.written))


def consumer(worker: Worker, destination: bytes, mode: bytes, count: int) -> tuple[Client, list[bytes]]:
    client = worker.login()
    client.read(b"SUBSCRIBE\nid:1\ndestination:%b\nack:%b\n\n\0" % (destination, mode))
    worker.login().read(b"".join(send(destination, b"%d" % each) for each in range(count)))
    worker.loop.settle()
    acks = delivered(client)
    assert len(acks) == count
    return client, acks


def ack(*values: bytes) -> bytes:
    return b"".join(b"ACK\nid:%b\n\n\0" % value for value in values)


@DESTINATIONS
@pytest.mark.parametrize("mode", [b"client", b"client-individual"])
def test_in_a_row(destination: bytes, mode: bytes) -> None:
    client, acks = consumer(Worker(), destination, mode, 5)
    client.read(ack(*acks))
    assert client.error is None


@DESTINATIONS
@pytest.mark.parametrize("mode", [b"client", b"client-individual"])
def test_the_same_twice_is_a_fault_of_the_second(destination: bytes, mode: bytes) -> None:
    worker = Worker()
    client, acks = consumer(worker, destination, mode, 3)
    client.read(ack(acks[0], acks[1], acks[1], acks[2]))
    assert client.error is not None and client.error[1] == "unknown-message"


@DESTINATIONS
def test_cumulative_ones_take_those_before_them_along(destination: bytes) -> None:
    client, acks = consumer(Worker(), destination, b"client", 5)
    client.read(ack(acks[2], acks[4]))
    assert client.error is None
    client.read(ack(acks[3]))
    assert client.error is not None and client.error[1] == "unknown-message"


def test_what_came_before_a_fault_counts() -> None:
    worker = Worker()
    client, acks = consumer(worker, b"/queue/a", b"client-individual", 3)
    client.read(ack(acks[0], acks[1], b"1-nothing", acks[2]))
    assert client.error is not None
    worker.loop.settle()
    other = worker.login()
    other.read(b"SUBSCRIBE\nid:1\ndestination:/queue/a\nack:client\n\n\0")
    worker.loop.settle()
    assert [each.split(b"-", 1)[1] for each in delivered(other)] == [acks[2].split(b"-", 1)[1]]
