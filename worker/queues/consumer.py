"""A consumer of a queue, as the queue's owner knows it."""

from __future__ import annotations

from common.selector import Selector
from worker.queues.message import Message

__all__ = ["Consumer"]


class Consumer:
    """Consumer `id` of the worker in `slot`, unique together. At most `prefetch` messages are unsettled at once;
    `credit` is how many more it may have now, below 0 where it came to hold more. `exclusive` asks for everything
    the queue has. What is dispatched to one that is `instant` is settled by that. One that is `paced` does not
    acknowledge: its prefetch is the broker's own matter. `asked` is the prefetch it came with; it has less
    while it holds too many bytes. `unsettled` is in the order of delivery, by key;
    `weight` are the bytes of its messages, counted from the first time on that somebody asks.

    Everything but `slot` and `id` is changed by its queue only.
    """

    __slots__ = (
        "asked",
        "credit",
        "eligible",
        "exclusive",
        "id",
        "instant",
        "listed",
        "paced",
        "prefetch",
        "selector",
        "slot",
        "turn",
        "unsettled",
        "weight",
    )

    def __init__(
        self,
        slot: int,
        id: int,
        prefetch: int,
        selector: Selector | None = None,
        exclusive: bool = False,
        instant: bool = False,
        paced: bool = False,
    ) -> None:
        self.slot = slot
        self.id = id
        self.asked = prefetch
        self.prefetch = prefetch
        self.credit = prefetch
        self.selector = selector
        self.exclusive = exclusive
        self.instant = instant
        self.paced = paced
        self.unsettled: dict[int, Message] = {}
        self.eligible = False
        """Attached, and not kept waiting by an exclusive one."""
        self.listed = False
        """Whether it stands in a ring, waiting for its turn."""
        self.weight: int | None = None
        self.turn = 0

    def __repr__(self) -> str:
        return f"Consumer({self.slot}, {self.id}, credit={self.credit})"
