"""What the workers tell each other about queues, see `worker.queues.letters`: who consumes whose when one of them is
new, hand-offs to this worker's own queues, deliveries from them, and which of them are fed by topics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worker.queues.feeds import Feed
from worker.queues.letters import ANNOUNCE, BROWSE, CONFIRM, DELIVER, ENDED, GREET, HAND_OFF, HEARD, PAGE, Outcome
from worker.queues.links import Link

if TYPE_CHECKING:
    from worker.queues.service import Queues

__all__ = ["Siblings"]


class Siblings:
    """`origin` is this life of this worker, `links` are those to the owners in all other slots. `send(slot, letter)`
    brings a letter to another worker."""

    def __init__(
        self, queues: Queues, origin: str, links: Mapping[int, Link], send: Callable[[int, Any], None]
    ) -> None:
        self._queues = queues
        self._owner = queues.owner
        self._origin = origin
        self._links = links
        self._send = send
        self._deliveries: dict[int, list[Any]] = {}
        self._confirms: dict[int, list[Any]] = {}
        self._origins: dict[int, str] = {}
        self._greeted_slots: set[int] = set()
        self._held: dict[int, list[Any]] = {}
        self._expected: set[int] | None = None
        self._announcements: dict[int, tuple[set[int], Callable[[], None]]] = {}
        self._announced = 0
        self._when_ready: Callable[[], None] | None = None

    # --- their lives

    def expect(self, slots: Sequence[int]) -> None:
        """The siblings of the first roster: what they still have out is theirs, and nothing is delivered before they
        have said what."""
        if self._expected is None:
            self._expected = set(slots)
            self._start_when_all_said()

    def when_ready(self, done: Callable[[], None]) -> None:
        """Call `done` once what clients do here reaches every queue: in this call, if that is so already."""
        if self._owner.open:
            done()
        else:
            self._when_ready = done

    def greet(self, slot: int) -> None:
        """A sibling is new, or in a new life."""
        consumers = self._queues.clients.consumers_at(slot)
        self._send(slot, [GREET, self._origin, consumers, self._queues.feeds.of(self._queues.slot)])
        self._greeted_slots.add(slot)
        self._links[slot].open()
        self._queues.browsing.greet(slot)

    def _greeted(self, slot: int, origin: str, consumers: list[Any]) -> None:
        self._origins[slot] = origin
        self._owner.forget_origins(slot, origin)
        waiting = 0
        held = self._held[slot] = []

        def claimed() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting or self._held.get(slot) is not held:
                return
            del self._held[slot]
            for letter in held:
                self._apply(slot, letter)
            if self._expected is not None:
                self._expected.discard(slot)
                self._start_when_all_said()
            self._queues.flush_soon()

        waiting = 1
        for queue, number, options, keys in consumers:
            waiting += 1
            self._owner.consumers.reattach(queue, (slot, number), options, keys, claimed)
        claimed()

    def lost(self, slot: int) -> None:
        """A sibling is dead."""
        self._links[slot].lost()
        self._deliveries.pop(slot, None)
        self._confirms.pop(slot, None)
        self._held.pop(slot, None)
        self._origins.pop(slot, None)
        self._greeted_slots.discard(slot)
        self._owner.consumers.lost(slot)
        self._heard(slot)
        if self._expected is not None:
            self._expected.discard(slot)
            self._start_when_all_said()
        self._queues.flush_soon()

    def _start_when_all_said(self) -> None:
        if not self._expected and not self._owner.open:
            self._owner.start()
            self._queues.flush_soon()
            if self._when_ready is not None:
                self._when_ready()

    # --- letters

    def on_letter(self, slot: int, letter: list[Any]) -> bool:
        """Take a letter of a sibling; False if it is not about queues."""
        kind = letter[0]
        if kind == DELIVER:
            for delivery in letter[1]:
                self._queues.clients.delivered(*delivery)
        elif kind == ENDED:
            self._queues.clients.ended(letter[1])
        elif kind == HAND_OFF:
            held = self._held.get(slot)
            if held is not None:
                held.append(letter)
            else:
                self._apply(slot, letter)
        elif kind in (BROWSE, PAGE):
            self._queues.browsing.on_letter(slot, letter)
        elif kind == CONFIRM:
            self._links[slot].confirmed(letter[1])
        elif kind == GREET:
            self._queues.feeds.replace(slot, [Feed(*each) for each in letter[3]])
            self._greeted(slot, letter[1], letter[2])
        elif kind == ANNOUNCE:
            for feed in letter[2]:
                self._follow(slot, feed if isinstance(feed, bytes) else Feed(*feed))
            self._send(slot, [HEARD, letter[1]])
        elif kind == HEARD:
            self._heard(slot, letter[1])
        else:
            return False
        self._queues.flush_soon()
        return True

    def _apply(self, slot: int, letter: list[Any]) -> None:
        _, sequence, operations, transaction = letter

        def done(outcome: Outcome) -> None:
            if self._origins.get(slot) == origin:
                self._confirms.setdefault(slot, []).append([sequence, outcome.pack()])
                self._queues.flush_soon()

        origin = self._origins[slot]
        self._owner.apply(origin, slot, sequence, operations, transaction, done)

    def deliver(self, slot: int, delivery: list[Any]) -> None:
        """Bring messages to a consumer of another worker: consumer, frames, keys, counts or None."""
        if not self._deliveries:
            # The owner also delivers when the store has answered, and then nobody else flushes.
            self._queues.flush_soon()
        self._deliveries.setdefault(slot, []).append(delivery)

    def flush(self) -> None:
        """Send what was confirmed and delivered."""
        if self._confirms:
            confirms, self._confirms = self._confirms, {}
            for slot, each in confirms.items():
                self._send(slot, [CONFIRM, each])
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, {}
            for slot, each in deliveries.items():
                self._send(slot, [DELIVER, each])

    # --- feeds

    def announce(self, feeds: list[Feed | bytes], done: Callable[[], None]) -> None:
        """Tell all workers of these feeds, or, by the name of the queue, of their end; `done` when all go by it."""
        for feed in feeds:
            self._follow(self._queues.slot, feed)
        # Also those that have not said who they are yet: what they were greeted with is old already.
        waiting = set(self._greeted_slots)
        if not waiting:
            done()
            return
        self._announced += 1
        self._announcements[self._announced] = waiting, done
        for slot in waiting:
            self._send(slot, [ANNOUNCE, self._announced, feeds])

    def _follow(self, slot: int, feed: Feed | bytes) -> None:
        if isinstance(feed, bytes):
            self._queues.feeds.remove(feed)
        else:
            self._queues.feeds.add(slot, feed)

    def _heard(self, slot: int, number: int | None = None) -> None:
        """Worker `slot` goes by that announcement, or, being dead, by none."""
        for each in list(self._announcements) if number is None else (number,):
            waiting, done = self._announcements.get(each, (None, None))
            if waiting is not None and done is not None:
                waiting.discard(slot)
                if not waiting:
                    del self._announcements[each]
                    done()
