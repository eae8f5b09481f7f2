"""Messages that consumers refused and that wait for the time of their redelivery: in memory as far as there is room,
beyond that only on disk, with what the disk does not know of them kept here."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush, nsmallest
from typing import NamedTuple

from worker.queues.consumer import Consumer
from worker.queues.message import Message

__all__ = ["Resting", "pause"]

_MAX_DOUBLINGS = 40


class _Away(NamedTuple):
    """What is kept of a message that rests on disk."""

    delivered: int
    forgiven: int
    size: int


class Resting:
    """Messages by key, each with the time it is due (ms). `size` and `away_size` are the bytes of those in memory and
    of those away. `avoided` are the consumers that are to get them only while nobody else can. Of those that are
    `away`, no key is below `lowest`, and the `woken` have rested long enough and only need to be read."""

    __slots__ = ("_asked", "_due", "avoided", "away", "away_size", "lowest", "messages", "size", "woken")

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.size = 0
        self.avoided: dict[int, Consumer] = {}
        self.away: dict[int, _Away] = {}
        self.away_size = 0
        self.lowest = 0
        self.woken: set[int] = set()
        self._due: list[tuple[int, int]] = []
        self._asked: list[int] = []

    def __len__(self) -> int:
        return len(self.messages) + len(self.away)

    def add(self, message: Message, due: int, avoided: Consumer | None, *, away: bool = False) -> None:
        """It rests until then, in memory or, if it is on disk, `away`."""
        key, size = message.key, len(message.frame)
        if away:
            self.lowest = min(self.lowest, key) if self.away else key
            self.away[key] = _Away(message.count, message.forgiven, size)
            self.away_size += size
        else:
            self.messages[key] = message
            self.size += size
        if avoided is not None:
            self.avoided[key] = avoided
        heappush(self._due, (due, key))

    def wake(self, now: int) -> tuple[list[Message], dict[int, Consumer], int | None]:
        """Take out those in memory that are due, with whom they avoid; and when the next one is, None if none is
        left."""
        keys = []
        while self._due and (self._due[0][0] <= now or not self._rests(self._due[0][1])):
            keys.append(heappop(self._due)[1])
        self.woken.update(self.away.keys() & keys)
        avoided = {key: self.avoided[key] for key in keys if key in self.avoided and key in self.messages}
        return self.take(keys), avoided, self._due[0][0] if self._due else None

    def _rests(self, key: int) -> bool:
        return key in self.messages or key in self.away

    def take(self, keys: Iterable[int]) -> list[Message]:
        """Take out those of `keys` that rest here in memory."""
        if not self.messages:
            return []
        found = []
        for key in keys:
            message = self.messages.pop(key, None)
            if message is not None:
                found.append(message)
                self.size -= len(message.frame)
                self.avoided.pop(key, None)
        return found

    # --- what is away

    def ask(self, count: int, size: int, *, anyway: bool) -> list[int]:
        """The keys of so many that have woken, or, `anyway`, of any, to be read: at least one, in order. They are away
        until they are `read`."""
        self._asked = []
        for key in sorted(self.away)[:count] if anyway else nsmallest(count, self.woken):
            size -= self.away[key].size
            if self._asked and size < 0:
                break
            self._asked.append(key)
        return self._asked

    def read(self, messages: list[Message]) -> tuple[list[Message], dict[int, Consumer], int]:
        """What the store had of those that were asked for. Returns those that have woken, with whom they avoid; the
        others rest on in memory. And the bytes of those that the store did not have."""
        found = {message.key: message for message in messages}
        asked, self._asked = self._asked, []
        woken: list[Message] = []
        avoided: dict[int, Consumer] = {}
        lost = 0
        for key in asked:
            message = found.get(key)
            if message is None:
                # Taken out meanwhile, or else something is wrong with the disk, and it must not be waited for.
                lost += self.away[key].size if key in self.away else 0
                self.restore(key, None)
            elif self.restore(key, message):
                woken.append(message)
                if key in self.avoided:
                    avoided[key] = self.avoided.pop(key)
        return woken, avoided, lost

    def forgive(self, key: int) -> None:
        """If it is away: its last delivery did not fail."""
        away = self.away.get(key)
        if away is not None:
            self.away[key] = away._replace(forgiven=min(away.forgiven + 1, away.delivered))

    def restore(self, key: int, message: Message | None) -> bool:
        """It is not away any more, if it was: `message` gets what was kept of it, and rests on in memory. True if it
        does not rest any more, because it has woken."""
        away = self.away.pop(key, None)
        if away is None:
            return False
        self.away_size -= away.size
        has_woken = key in self.woken
        self.woken.discard(key)
        if message is None:
            self.avoided.pop(key, None)
            return False
        message.count, message.forgiven = away.delivered, away.forgiven
        if not has_woken:
            self.messages[key] = message
            self.size += away.size
        return has_woken

    def fetch(self, key: int, message: Message) -> bool:
        """Take out what is away, for which the store had `message`; False if it is not."""
        if key not in self.away:
            return False
        if not self.restore(key, message):
            self.take([key])
        self.avoided.pop(key, None)
        return True


def pause(count: int, initial: int, longest: int) -> int:
    """How long (ms) a message that was delivered `count` times rests: not the first time, then twice as long each
    time."""
    return 0 if count < 2 else min(initial << min(count - 2, _MAX_DOUBLINGS), longest)
