"""How much may be on its way to a consumer that does not acknowledge."""

from __future__ import annotations

from worker.queues.consumer import Consumer
from worker.queues.message import Message
from worker.queues.queue import Queue

__all__ = ["PACE_MOST", "pace"]

PACE_MOST = 4096
"""Messages on their way to a client that does not acknowledge: a few milliseconds' worth, for that is how long it takes
until its worker says that they were written."""
_PACE_LEAST = 4
_PACE_BYTES = 8 << 20


def pace(queue: Queue, consumer: Consumer, messages: list[Message]) -> None:
    """Let as many messages be on their way to a consumer that does not acknowledge as keep it busy, and no more bytes
    than its worker should hold for it."""
    size = max(len(messages[0].frame), len(messages[-1].frame))
    prefetch = min(max(_PACE_BYTES // size, _PACE_LEAST), PACE_MOST)
    if not prefetch // 2 <= consumer.prefetch <= prefetch * 2:
        queue.adjust(consumer, prefetch=prefetch)
