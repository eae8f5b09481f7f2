"""Who answered which barrier. Pure bookkeeping: no socket, no loop, no clock.

Why a barrier holds. Everything one worker subscribes and unsubscribes reaches each sibling in the order it
was said, because it travels through one pipe per sibling; a token is a subscription like any other. A
sibling that reads the token has therefore taken in all that came before it, and says so under the token
itself.

Whom a barrier waits for: the siblings connected at the moment the token is subscribed.

* One that leaves before it answered counts as answered: it routes nothing any more, and what takes its
  place is a new incarnation that has to join first.
* One that joins while the token travels need not answer. Connecting to it writes every subscription made so
  far into the new pipe, and the ready token for it after them; it accepts no client, so publishes nothing,
  before it has read the ready token. So whatever the barrier was to prove, it knows before it can break it.
  If it answers all the same (the token is among the subscriptions it was given) the answer is one nobody
  waits for.
* A request made before a sibling connected, whose token is not yet subscribed, does wait for the new
  sibling: it is connected by then.

One round trip is in flight at a time; requests made meanwhile share the next token. A request never shares
a token already subscribed, for what was subscribed after that token is not proved by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from worker.backplane.wire import Peer

__all__ = ["Barriers"]

Done = Callable[[], None]


class Barriers:
    """The requests of one worker."""

    def __init__(self) -> None:
        self._waiting: list[Done] = []
        self._proved_next: list[Done] = []
        self._awaited: set[Peer] = set()
        self._number = 0
        self._in_flight = False

    @property
    def in_flight(self) -> bool:
        """Whether a token is subscribed and not answered by all."""
        return self._in_flight

    @property
    def requested(self) -> bool:
        """Whether requests wait for a token to be subscribed."""
        return bool(self._waiting)

    @property
    def number(self) -> int:
        """Of the token last begun."""
        return self._number

    def request(self, done: Done) -> None:
        self._waiting.append(done)

    def begin(self, siblings: Iterable[Peer]) -> bool:
        """Give the waiting requests a fresh token; False if there is nobody to wait for, then it is already
        over and `take_proved` has them."""
        self._number += 1
        self._proved_next, self._waiting = self._waiting, []
        self._awaited = set(siblings)
        self._in_flight = True
        return bool(self._awaited)

    def answer(self, number: int, peer: Peer) -> bool:
        """`peer` answered token `number`; True if that was the last one awaited."""
        if not self._in_flight or number != self._number or peer not in self._awaited:
            return False
        self._awaited.remove(peer)
        return not self._awaited

    def leave(self, peer: Peer) -> bool:
        """`peer` is gone; True if it was the last one awaited."""
        return self.answer(self._number, peer)

    def take_proved(self) -> list[Done]:
        """The requests of the finished round trip, which is thereby over."""
        self._in_flight = False
        proved, self._proved_next = self._proved_next, []
        return proved
