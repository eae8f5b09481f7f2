"""Producers, consumers and queues of one test, each on the worker that the test is to have it on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from common.ownership import owner_of
from tests.harness.broker import Broker
from tests.harness.wire import Frame, Headers, Wire, connect_on

__all__ = [
    "ENDS",
    "PLACES",
    "Place",
    "Site",
    "bodies",
    "life",
    "now",
    "queue_owned_by",
    "receipted",
    "send",
    "wait_until",
]

_numbers = itertools.count()

ENDS = ("stopped", "killed")
"""How a broker ends before the next one takes over its data."""


@dataclass(frozen=True)
class Place:
    """The slots of producer, consumer and the queue's owner, of so many `workers`."""

    name: str
    workers: int
    producer: int
    consumer: int
    owner: int


PLACES = [
    Place("alone", 1, 0, 0, 0),
    Place("at-the-producer", 2, 0, 1, 0),
    Place("at-the-consumer", 2, 1, 0, 0),
    Place("away", 2, 0, 0, 1),
]


def now() -> int:
    """Milliseconds since the epoch, as the broker counts them."""
    return time.time_ns() // 1_000_000


def wait_until(when: int) -> None:
    """Wait for the broker's clock to be past `when`, in ms since the epoch."""
    while (left := when - now()) >= 0:
        time.sleep((left + 1) / 1000)


@contextmanager
def life(how: str, **settings: Any) -> Iterator[Broker]:
    """A broker with these arguments of `Broker`, whose end is one of `ENDS`; killed, none of its processes says a word
    more."""
    broker = Broker(**settings)
    try:
        broker.start()
        yield broker
        broker.check_log()
        if how == "stopped":
            broker.stop()
            broker.check_log()
    finally:
        broker.discard()


def queue_owned_by(slot: int, workers: int, kind: str = "q") -> str:
    """A queue that no other test uses, and that this slot owns; `kind` is the first word of its name."""
    while True:
        name = f"/queue/{kind}.{next(_numbers)}"
        if owner_of(name.encode(), workers) == slot:
            return name


class Site:
    """A context manager: leaving closes all connections."""

    def __init__(self, broker: Broker, place: Place) -> None:
        self.broker = broker
        self.place = place
        self._connections = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connections.close()

    def producer(self, version: str = "1.2", headers: Headers = ()) -> Wire:
        return self._connections.enter_context(connect_on(self.broker, self.place.producer, version, headers))

    def consumer(self, version: str = "1.2", headers: Headers = ()) -> Wire:
        return self._connections.enter_context(connect_on(self.broker, self.place.consumer, version, headers))

    def stuck_consumer(self) -> Wire:
        """One whose operating system takes little before it reads."""
        return self._connections.enter_context(
            connect_on(self.broker, self.place.consumer, receive_buffer=4096),
        )

    def queue(self, kind: str = "q") -> str:
        """A new queue; which policy is for it goes by `kind`."""
        return queue_owned_by(self.place.owner, self.place.workers, kind)

    def queues(self, count: int = 2) -> list[str]:
        """New queues of different owners in turn, as far as there are several."""
        return [queue_owned_by(number % self.place.workers, self.place.workers) for number in range(count)]

    def fill(self, queue: str, *bodies: bytes, headers: Headers = ()) -> list[str]:
        """SEND these with a receipt each, from a connection of their own; returns their message ids."""
        wire = self.producer()
        return [send(wire, queue, body, headers)["message-id"] for body in bodies]

    def silent(self, wire: Wire) -> None:
        """Prove that nothing is on its way to `wire`: the queue's owner is asked something, and only that answer comes.

        What the owner had delivered before would come first."""
        id = wire.next_receipt()
        wire.subscribe(self.queue("silence"), id=id)
        wire.request("UNSUBSCRIBE", [("id", id)])

    def gone(self, wire: Wire) -> None:
        """Wait until the broker knows that this connection is closed, and so has its unsettled messages back before
        anything that is asked of its worker from now on."""
        self.broker.wait_event("connection.closed", session=wire.session)


def send(wire: Wire, destination: str, body: bytes = b"", headers: Headers = ()) -> Frame:
    """SEND with a receipt; returns the RECEIPT, which must be the very next frame."""
    receipt = wire.next_receipt()
    wire.publish(destination, body, [*headers, ("receipt", receipt)])
    return wire.expect("RECEIPT", receipt_id=receipt)


def receipted(wire: Wire, command: str, headers: Headers) -> list[Frame]:
    """Write a frame with a receipt and wait for that; returns what came before it."""
    receipt = wire.next_receipt()
    wire.frame(command, [*headers, ("receipt", receipt)])
    before: list[Frame] = []
    while True:
        frame = wire.read()
        if frame.get("receipt-id") == receipt:
            assert frame.command == "RECEIPT", frame
            return before
        before.append(frame)


def bodies(frames: list[Frame]) -> list[bytes]:
    """The bodies of MESSAGE frames; AssertionError if there is another frame among them."""
    assert {frame.command for frame in frames} <= {"MESSAGE"}, frames
    return [frame.body for frame in frames]
