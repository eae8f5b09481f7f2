"""Lanes: messages in memory that wait for a consumer, in the order of their keys."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter

from worker.queues.message import Message

__all__ = ["Lane", "frame_of", "key_of", "merge", "total_size"]

Lane = deque[Message]

key_of: Callable[[Message], int] = attrgetter("key")
frame_of: Callable[[Message], bytes] = attrgetter("frame")

_FEW = 16


def total_size(messages: Iterable[Message]) -> int:
    return sum(map(len, map(frame_of, messages)))


def merge(lane: Lane, messages: list[Message]) -> None:
    """Add `messages`, which are in the order of their keys."""
    if not messages:
        return
    if not lane or lane[-1].key < messages[0].key:
        lane.extend(messages)
    elif messages[-1].key < lane[0].key:
        lane.extendleft(reversed(messages))
    elif len(messages) < _FEW:
        for message in messages:
            lane.insert(bisect_left(lane, message.key, key=key_of), message)
    else:
        merged = sorted([*lane, *messages], key=key_of)
        lane.clear()
        lane.extend(merged)
