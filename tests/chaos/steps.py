"""What the step by step tests have in common: queues of a chosen owner, messages by number, and what a queue holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from common.ownership import owner_of
from tests.chaos.mortal import PATIENCE, Mortal
from tests.harness.wire import Frame, Wire, connect_on

__all__ = ["connect", "drained", "number", "put", "queue_owned_by", "settle", "subscribe"]


def queue_owned_by(slot: int, workers: int, *, number: int = 0) -> str:
    """The `number`th destination whose owner is that slot."""
    names = (f"/queue/step.{each}" for each in itertools.count())
    return next(itertools.islice((each for each in names if owner_of(each.encode(), workers) == slot), number, None))


def connect(mortal: Mortal, slot: int | None = None) -> Wire:
    return connect_on(mortal.broker, slot)


def put(wire: Wire, queue: str, numbers: Iterable[int]) -> None:
    """Messages whose body is their number, with a receipt each; until all have come."""
    receipts = []
    for each in numbers:
        receipts.append(wire.next_receipt())
        wire.frame("SEND", [("destination", queue), ("receipt", receipts[-1])], b"%d" % each)
    got = [wire.expect("RECEIPT", timeout=PATIENCE)["receipt-id"] for _ in receipts]
    assert sorted(got) == sorted(receipts)


def subscribe(wire: Wire, queue: str, prefetch: int, *, mode: str = "client-individual", id: str = "0") -> None:
    """Without a receipt: messages may come before it."""
    headers = [("destination", queue), ("id", id), ("ack", mode), ("prefetch-count", str(prefetch))]
    wire.frame("SUBSCRIBE", headers)


def number(message: Frame) -> int:
    assert message.command == "MESSAGE", message
    return int(message.body)


def settle(wire: Wire, message: Frame, command: str = "ACK", headers: Iterable[tuple[str, str]] = ()) -> list[Frame]:
    """ACK or NACK with a receipt; the messages that came before that did."""
    receipt = wire.next_receipt()
    wire.frame(command, [*wire.acknowledgement(message), ("receipt", receipt), *headers])
    return until_receipt(wire, receipt)


def until_receipt(wire: Wire, receipt: str) -> list[Frame]:
    """The messages that came before this RECEIPT."""
    frames: list[Frame] = []
    while True:
        frame = wire.read(PATIENCE)
        if frame.command == "RECEIPT" and frame["receipt-id"] == receipt:
            return frames
        assert frame.command == "MESSAGE", frame
        frames.append(frame)


def drained(mortal: Mortal, queue: str) -> list[Frame]:
    """Everything in `queue`, acknowledged, in its order; found complete by a last message of this one's own."""
    with connect(mortal) as wire:
        wire.frame("SEND", [("destination", queue)], b"-1")
        subscribe(wire, queue, 1000)
        found: list[Frame] = []
        while True:
            message = wire.read(PATIENCE)
            assert message.command == "MESSAGE", message
            receipt = wire.next_receipt()
            wire.frame("ACK", [*wire.acknowledgement(message), ("receipt", receipt)])
            rest = until_receipt(wire, receipt)
            for each in rest:
                receipt = wire.next_receipt()
                wire.frame("ACK", [*wire.acknowledgement(each), ("receipt", receipt)])
                rest += until_receipt(wire, receipt)
            found += [message, *rest]
            if any(each.body == b"-1" for each in found):
                return [each for each in found if each.body != b"-1"]
