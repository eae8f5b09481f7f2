"""What the workers tell each other about queues: the names of the letters, of the operations in a hand-off, and how
one ended. Everything in them is a msgpack value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.traits import Traits

__all__ = [
    "ADD",
    "ANNOUNCE",
    "ATTACH",
    "BROWSE",
    "CONFIRM",
    "DELIVER",
    "DETACH",
    "DONE",
    "END",
    "ENDED",
    "FORGET",
    "GONE",
    "GREET",
    "HAND_OFF",
    "HEARD",
    "NACK",
    "PAGE",
    "RETAIN",
    "ROOM",
    "SETTLE",
    "TAKE",
    "Confirmed",
    "Operation",
    "Outcome",
    "due",
    "room_for",
]

# Letters, by their first element.
HAND_OFF = "queue>"
"""From an origin to an owner: sequence, operations, name of the transaction or None. Stored whole or not at all."""
CONFIRM = "queue<"
"""From an owner to an origin: a list of sequence and outcome."""
DELIVER = "queue!"
"""From an owner to a consumer's worker: a list of consumer, frames, keys, counts or None."""
ENDED = "queue-"
"""From an owner to a consumer's worker: the consumer, whose queue is no more."""
GREET = "queue="
"""From each worker to a new sibling, before anything else: the consumers it has at queues that the
sibling owns, and the feeds of its own queues."""

ANNOUNCE = "queue+"
"""From an owner to all workers: number, feeds and names of queues that are fed no more. Answered with HEARD."""
HEARD = "queue%"
"""number"""
BROWSE = "queue?"
"""From a browser's worker to an owner: queue, browser, the key that the page asked for comes after."""
PAGE = "queue*"
"""The answer: browser, that key, frames, the last key looked at or None at the end of the queue."""

# Operations, by their first element.
ADD = "+"
"""queue, start of the message-ids, items, traits by place or None; and idempotency keys by place, if there are any"""
SETTLE = "-"
"""queue, consumer, keys"""
NACK = "~"
"""queue, consumer, keys, delay in ms or None, whether to requeue, reason"""
ATTACH = "a"
"""queue, consumer, options"""
DETACH = "d"
"""queue, consumer, whether it said so or broke off"""
TAKE = "x"
"""queue, keys that go elsewhere in the same transaction"""
END = "e"
"""queue that is fed by topics, and is to be no more"""
RETAIN = "r"
"""topic, frame of its last message or None for none, whether it is to survive a restart"""
ROOM = "?"
"""queues that are to get messages, each with how many and their bytes: comes first, and if one has no room for all of
its own, the whole hand-off is refused; an ADD without it is taken as far as it fits"""
FORGET = "f"
"""name of a transaction that will not come again"""

Operation = list[Any]


def room_for(operations: list[Operation], now: int) -> Operation:
    """The ROOM that the ADDs among `operations` need together at `now`: what is put off needs none, but its queue."""
    wanted: dict[bytes, tuple[int, int]] = {}
    for operation in operations:
        if operation[0] == ADD:
            _, queue, prefix, items, traits, *_ = operation
            if traits is not None:
                later = {place for place, each in traits.items() if due(Traits.unpack(each), now) > now}
                items = [item for place, item in enumerate(items) if place not in later]
            messages, size = wanted.get(queue, (0, 0))
            wanted[queue] = messages + len(items), size + len(items) * len(prefix) + sum(map(len, items))
    return [ROOM, wanted]


def due(traits: Traits, now: int) -> int:
    """When a message that comes at `now` is to be delivered."""
    return traits.deliver_at or (now + traits.delay if traits.delay else 0)


class Outcome:
    """How a hand-off ended. `refused` is (code, message, detail) of what could not be accepted, from the message at
    `place` of its ADD on; `duplicates` are the message-ids that were there before, by place. `gone` if there is no such
    queue any more, and the messages are dropped."""

    __slots__ = ("duplicates", "gone", "place", "refused")

    def __init__(
        self,
        refused: tuple[str, str, str] | None = None,
        place: int = 0,
        duplicates: dict[int, bytes] | None = None,
        gone: bool = False,
    ) -> None:
        self.refused = refused
        self.place = place
        self.duplicates = duplicates
        self.gone = gone

    def pack(self) -> list[Any] | None:
        return None if self is DONE else [self.refused, self.place, self.duplicates, self.gone]

    @classmethod
    def unpack(cls, packed: list[Any] | None) -> Outcome:
        return DONE if packed is None else cls(*packed)


DONE = Outcome()
GONE = Outcome(gone=True)

Confirmed = Callable[[Outcome], None]
