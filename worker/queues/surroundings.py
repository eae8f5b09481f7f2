"""What the owner of queues needs of the rest of its worker: `worker.queues.service` has it, and tests pretend it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from worker.queues.consumer import Consumer
from worker.queues.feeds import Feed
from worker.queues.letters import Operation
from worker.queues.message import Message
from worker.queues.work import Work

__all__ = ["Surroundings"]


class Surroundings(Protocol):
    slot: int

    def deliver(self, consumer: Consumer, messages: list[Message]) -> None:
        """Bring `messages` to the consumer's worker."""

    def ended(self, consumer: Consumer) -> None:
        """Its queue is no more, and its client is to hear of that."""

    def across(self, parts: dict[int, list[Operation]], own: Work, recorded: Callable[[], None]) -> None:
        """See `worker.queues.commits`."""

    def flush_soon(self) -> None:
        """Call `Owner.flush` in the next turn, and send on what comes of it."""

    def announce(self, feeds: list[Feed | bytes], done: Callable[[], None]) -> None:
        """Tell all workers of these feeds, or, by the name of the queue, of their end; `done` when all go by it."""

    def wake_at(self, when: int) -> None:
        """Call `Owner.upkeep.wake` then (ms since the epoch)."""

    def owner_of(self, queue: bytes) -> int: ...

    def hold_up(self, queue: bytes, held_up: bool) -> None:
        """The producers of `queue`, on all workers, are to pause, or may go on."""

    def now(self) -> int:
        """Milliseconds since the epoch."""
