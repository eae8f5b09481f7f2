"""What an operator does with the messages of a queue: send dead letters back to where they came from, or anything
elsewhere, and throw away what nobody wants.

Works in slices, one for each question, so that a queue of a million messages holds up nobody; between two slices
anything may happen to the queue. A slice is moved whole or not at all, whatever dies meanwhile. What consumers hold is
theirs and stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.codec import escape
from common.destination import QUEUE
from common.negotiation import Version
from worker.queues.deadletters import redirected, revived
from worker.queues.feeds import FED
from worker.queues.letters import ADD, TAKE, Operation
from worker.queues.message import Message
from worker.queues.withdrawal import discard_waiting
from worker.queues.work import Work
from worker.store.interface import StoreError
from worker.traits import traits_of

if TYPE_CHECKING:
    from worker.queues.owned import OwnedQueue
    from worker.queues.owner import Owner
    from worker.queues.queue import Queue

__all__ = ["SLICE", "Reply", "Requeueing"]

SLICE = 500
"""Messages of a slice, at the most."""
_SLICE_BYTES = 1 << 20
"""And about how many bytes."""

Reply = Callable[[dict[str, Any] | None], None]
"""Called with how a slice ended: `moved`, `left` in the queue for another slice, and `why` nothing more can be done,
which is empty while something can. None if there is no such queue."""


class Requeueing:
    """`exists` tells whether the queue of a subscription to topics is still there, on whatever worker."""

    def __init__(self, owner: Owner, exists: Callable[[bytes], bool]) -> None:
        self._owner = owner
        self._exists = exists

    def requeue(self, name: bytes, to: bytes | None, limit: int, reply: Reply) -> None:
        """Move up to `limit` messages of the queue `name` to the queue `to`, or each to the one it came from."""

        def work(owned: OwnedQueue) -> None:
            chosen, stays = self._choose(owned, to, min(limit, SLICE))
            if chosen:
                self._move(owned, chosen, lambda error: _answer(owned, len(chosen), reply, error))
            elif owned.queue.spilled and _has_room(owned.queue):
                self._owner.page_in(owned, lambda: work(owned))
            elif self._owner.upkeep.bring_back(owned, lambda: work(owned), anyway=True):
                return
            else:
                _answer(owned, 0, reply, None, why=_left_because(stays))

        self._begin(name, work, reply, helps=False)

    def purge(self, name: bytes, reply: Reply) -> None:
        """Throw away what waits in the queue `name`."""

        def work(owned: OwnedQueue) -> None:
            unit = Work(must=True)
            messages = owned.queue.purge()
            if not messages and owned.queue.spilled:
                self._owner.page_in(owned, lambda: work(owned))
                return
            if not messages and self._owner.upkeep.bring_back(owned, lambda: work(owned), anyway=True):
                return
            owned.remove(unit, messages)
            self._owner.write(unit, lambda error: _answer(owned, len(messages), reply, error))
            self._owner.eased(owned)
            self._owner.flush()

        self._begin(name, work, reply, helps=True)

    def _begin(self, name: bytes, work: Callable[[OwnedQueue], None], reply: Reply, *, helps: bool) -> None:
        """`work` on the queue unless the store cannot; where it is full that `helps`, or not."""
        owned = self._owner.registry.get(name)
        if owned is None:
            reply(None)
        elif not self._owner.open:
            _answer(owned, 0, reply, None, why="this worker waits for the others to say what they were delivered")
        elif (error := self._owner.failing) is not None and not (helps and error.full):
            _answer(owned, 0, reply, error)
        else:
            work(owned)

    def _choose(
        self, owned: OwnedQueue, to: bytes | None, limit: int
    ) -> tuple[list[tuple[Message, bytes, bytes]], int]:
        """The first messages in memory that can be moved, each with where to and its frame there, and how many before
        the last of them, or in all, cannot."""
        held = {key for consumer in owned.queue.consumers.values() for key in consumer.unsettled}
        chosen: list[tuple[Message, bytes, bytes]] = []
        stays = size = 0
        for message in owned.queue.snapshot()[0]:
            if message.key in held:
                continue
            if len(chosen) >= limit or size > _SLICE_BYTES:
                break
            moved = self._target(message.frame, to)
            if moved is None:
                stays += 1
                continue
            chosen.append((message, *moved))
            size += len(message.frame)
        return chosen, stays

    def _target(self, frame: bytes, to: bytes | None) -> tuple[bytes, bytes] | None:
        found = revived(frame)
        if to is not None:
            line = escape(to.decode(), Version.V1_2).encode()
            return to, redirected(frame if found is None else found[1], line)
        if found is None:
            return None
        queue = found[0]
        if queue.startswith(FED):
            return found if self._exists(queue) else None
        return found if queue.startswith(QUEUE) and queue != QUEUE else None

    def _move(
        self, owned: OwnedQueue, chosen: list[tuple[Message, bytes, bytes]], done: Callable[[StoreError | None], None]
    ) -> None:
        owner = self._owner
        by_target: dict[bytes, list[bytes]] = {}
        for _, target, frame in chosen:
            by_target.setdefault(target, []).append(frame)
        parts: dict[int, list[Operation]] = {}
        for target, frames in by_target.items():
            packed = {place: traits.pack() for place, each in enumerate(frames) if (traits := traits_of(each))}
            parts.setdefault(owner.surroundings.owner_of(target), []).append([ADD, target, b"", frames, packed or None])
        here = parts.pop(owner.slot, [])
        for operation in here:
            if not operation[1].startswith(FED) and owner.registry.find(operation[1], owner.now()) is None:
                refused = owner.registry.refusal().refused
                done(StoreError("too many queues" if refused is None else refused[2]))
                return
        unit = Work(must=True)
        messages = discard_waiting(owned.queue, [message.key for message, _, _ in chosen])
        owned.remove(unit, messages)
        for operation in here:
            owner.arrivals.add(unit, operation, limited=False)
        if parts:
            keys = [message.key for message in messages if message.persistent]
            owner.surroundings.across({owner.slot: [[TAKE, owned.name, keys]], **parts}, unit, lambda: done(None))
        else:
            owner.write(unit, done)
        owner.eased(owned)
        owner.flush()


def _answer(owned: OwnedQueue, moved: int, reply: Reply, error: StoreError | None, why: str = "") -> None:
    queue = owned.queue
    left = queue.messages - queue.unsettled
    reply({"moved": 0 if error else moved, "left": left, "why": str(error) if error else why})


def _has_room(queue: Queue) -> bool:
    """Whether a page is asked for in spite of what is in memory."""
    return queue.ready * 2 <= queue.window_messages and queue.ready_bytes * 2 <= queue.window_bytes


def _left_because(stays: int) -> str:
    if not stays:
        return ""
    return (
        f"{stays} messages do not say which queue they came from, or it is gone: only dead letters go back by"
        " themselves, others need to be told where to"
    )
