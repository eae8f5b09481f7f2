"""Messages that consumers refused and that wait for the time of their redelivery."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from worker.queues.consumer import Consumer
from worker.queues.message import Message

__all__ = ["Resting", "pause"]

_MAX_DOUBLINGS = 40


class Resting:
    """Messages by key, each with the time it is due (ms). `avoided` are the consumers that are to get them only while
    nobody else may."""

    __slots__ = ("_due", "avoided", "messages")

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.avoided: dict[int, Consumer] = {}
        self._due: list[tuple[int, int]] = []

    def add(self, message: Message, due: int, avoided: Consumer | None) -> None:
        self.messages[message.key] = message
        if avoided is not None:
            self.avoided[message.key] = avoided
        heappush(self._due, (due, message.key))

    def wake(self, now: int) -> tuple[list[Message], dict[int, Consumer], int | None]:
        """Take out those that are due, with whom they avoid; and when the next one is, None if none is left."""
        keys = []
        while self._due and (self._due[0][0] <= now or self._due[0][1] not in self.messages):
            keys.append(heappop(self._due)[1])
        avoided = {key: self.avoided[key] for key in keys if key in self.avoided}
        return self.take(keys), avoided, self._due[0][0] if self._due else None

    def take(self, keys: Iterable[int]) -> list[Message]:
        """Take out those of `keys` that rest here."""
        if not self.messages:
            return []
        found = []
        for key in keys:
            message = self.messages.pop(key, None)
            if message is not None:
                found.append(message)
                self.avoided.pop(key, None)
        return found


def pause(count: int, initial: int, longest: int) -> int:
    """How long (ms) a message that was delivered `count` times rests: not the first time, then twice as long each
    time."""
    return 0 if count < 2 else min(initial << min(count - 2, _MAX_DOUBLINGS), longest)
