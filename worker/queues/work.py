"""A unit of the store with what it means for the queues in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.queues.message import Message
from worker.store.interface import Unit

if TYPE_CHECKING:
    from worker.queues.owned import OwnedQueue

__all__ = ["Work"]


@dataclass(slots=True)
class Work(Unit):
    """`arrivals` come into their queues, to be delivered, once the unit is stored. Each of `awaited` is called with
    what it is to call when it is done: something else that has to be on disk before this counts as done. `departures`
    have left their queues, and come back if the unit is refused; `returns` were given back to theirs, which is forgiven
    then. Both are noted only where it can be."""

    arrivals: list[tuple[OwnedQueue, list[Message]]] = field(default_factory=list)
    departures: list[tuple[OwnedQueue, list[Message]]] = field(default_factory=list)
    returns: list[tuple[OwnedQueue, list[Message]]] = field(default_factory=list)
    awaited: list[Callable[[Callable[[], None]], None]] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to store, and nothing to wait for."""
        return not (self.inserts or self.deletes or self.depths or self.changes or self.arrivals or self.awaited)
