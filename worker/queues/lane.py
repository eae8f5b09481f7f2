"""Lanes: messages in memory that wait for the same consumers, in the order of their keys."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import attrgetter

from common.codec import unescape
from common.negotiation import Version
from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.message import COUNTER_BITS, Message

__all__ = [
    "Lane",
    "SideLane",
    "frame_of",
    "headers_of",
    "key_of",
    "made_persistent",
    "merge",
    "take_least",
    "total_size",
]

Lane = deque[Message]

key_of: Callable[[Message], int] = attrgetter("key")
frame_of: Callable[[Message], bytes] = attrgetter("frame")

_FEW = 16


class SideLane:
    """What waits for consumers with one of `selectors`, for nobody where there are none; `keeper` if only for that
    one, because its groups stick to it.

    From the key `cut` on, what belongs here was dropped from memory and is only on disk, see `Waiting.make_room`; if
    nothing was, that is `end`, which is beyond all keys.
    """

    __slots__ = ("cut", "end", "keeper", "messages", "selectors")

    def __init__(
        self,
        selectors: tuple[Selector | None, ...],
        end: int,
        *,
        keeper: Consumer | None = None,
    ) -> None:
        self.messages: Lane = deque()
        self.selectors = selectors
        self.end = end
        self.cut = end
        self.keeper = keeper

    @property
    def is_cut(self) -> bool:
        return self.cut < self.end


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


def take_least(lane: Lane, count: int) -> list[Message]:
    """Take out so many: those of the lowest priority first, of these the oldest."""
    out: list[Message] = []
    while lane and len(out) < count:
        level = lane[-1].key >> COUNTER_BITS
        # Mostly all are of one priority, and the first is next.
        start = 0 if lane[0].key >> COUNTER_BITS == level else bisect_left(lane, level << COUNTER_BITS, key=key_of)
        lane.rotate(-start)
        out += [lane.popleft() for _ in range(min(count - len(out), len(lane) - start))]
        lane.rotate(start)
    return out


def made_persistent(messages: list[Message]) -> list[Message]:
    """Those that were not persistent; they are now."""
    left = [message for message in messages if not message.persistent]
    for message in left:
        message.persistent = True
    return left


def headers_of(frame: bytes) -> dict[str, str]:
    """The headers of a message as its sender meant them, with its message-id, for a selector to look at; good until
    the next call. Of a repeated header the first entry (1.2 section Repeated Header Entries)."""
    id, _, block = frame[: frame.find(b"\n\n")].partition(b"\n")
    headers = _read(block)
    headers["message-id"] = id.decode()
    return headers


# Messages that one publisher sends mostly have the same headers.
@lru_cache(maxsize=256)
def _read(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(":")
        headers.setdefault(unescape(name, Version.V1_2), unescape(value, Version.V1_2))
    return headers
