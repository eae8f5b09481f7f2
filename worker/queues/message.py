"""A message in a queue, and its key.

A key is a positive 63-bit integer made of the queue's number (19 bits), nine less its priority (4 bits) and a
counter of the queue (40 bits): the order of the keys of a queue is the order in which it delivers, in memory and
on disk, and one range of keys is one queue.
"""

from __future__ import annotations

import re

from common.codec import unescape
from common.negotiation import Version

__all__ = [
    "COUNTER_BITS",
    "MAX_QUEUES",
    "Message",
    "first_counter",
    "first_key",
    "last_key",
    "message_id",
    "queue_number",
]

COUNTER_BITS = 40
_PRIORITY_BITS = 4
_QUEUE_SHIFT = COUNTER_BITS + _PRIORITY_BITS
MAX_QUEUES = 1 << 19
_EPOCH = 1_767_225_600
"""2026-01-01 in seconds."""

_TRAITS = re.compile(rb"\n(expires|group-id|persistent):([^\n]*)")


class Message:
    """`frame` is everything of the MESSAGE from the message-id on, in 1.2 form: `<id>LF<headers>LF LF<body>NUL`.
    `count` is how often it was delivered; above 0 it is a redelivery. `forgiven` of those deliveries are no sign that
    it cannot be handled: nobody had begun with it. `expires` in ms since the epoch, 0 for never. `persistent` if it is,
    or is to be, in the store. `group` is its `group-id`."""

    __slots__ = ("count", "expires", "forgiven", "frame", "group", "key", "persistent")

    def __init__(
        self,
        key: int,
        frame: bytes,
        persistent: bool = True,
        count: int = 0,
        expires: int = 0,
        group: bytes | None = None,
    ) -> None:
        self.key = key
        self.frame = frame
        self.persistent = persistent
        self.count = count
        self.forgiven = 0
        self.expires = expires
        self.group = group

    @property
    def attempts(self) -> int:
        """How often it may have failed: what its queue's limit of redeliveries counts."""
        return self.count - self.forgiven

    def forgive(self) -> None:
        """The last delivery did not fail; if it was forgiven already, the one before."""
        self.forgiven = min(self.forgiven + 1, self.count)

    @classmethod
    def stored(cls, key: int, frame: bytes, count: int) -> Message:
        """A message as the store had it: what its headers say, the broker wrote or checked."""
        message = cls(key, frame, True, count)
        head = frame[: frame.find(b"\n\n")]
        if b"\nexpires:" in head or b"\ngroup-id:" in head:
            for name, value in reversed(_TRAITS.findall(head)):
                if name == b"expires" and value.isdigit():
                    message.expires = int(value)
                elif name == b"group-id":
                    # As `worker.traits` has it: a group is one wherever its messages are.
                    message.group = unescape(value.decode(), Version.V1_2).encode() or None
        return message


def first_key(number: int, priority: int = 9) -> int:
    """The lowest key of that priority in queue `number`, not used itself: counters start at 1."""
    return number << _QUEUE_SHIFT | (9 - priority) << COUNTER_BITS


def first_counter(now: int) -> int:
    """The counter after which a queue that is made at `now` (ms since the epoch) starts: by the time, so that none is
    used again when a queue of the same number comes back."""
    return (now // 1000 - _EPOCH) << 8


def last_key(number: int) -> int:
    """No key of queue `number` is higher."""
    return (number + 1 << _QUEUE_SHIFT) - 1


def queue_number(key: int) -> int:
    return key >> _QUEUE_SHIFT


def message_id(frame: bytes) -> bytes:
    return frame[: frame.index(b"\n")]
