"""How many bytes may be with one consumer at once. Prefetch counts messages, of whatever size, so it is adjusted."""

from __future__ import annotations

from worker.queues.consumer import Consumer
from worker.queues.message import Message
from worker.queues.queue import Queue

__all__ = ["PACE_BYTES", "PACE_MOST", "bound", "pace"]

PACE_BYTES = 8 << 20
PACE_MOST = 4096
"""Messages on their way to a client that does not acknowledge: a few milliseconds' worth, for that is how long it takes
until its worker says that they were written."""
_PACE_LEAST = 4


def pace(queue: Queue, consumer: Consumer, messages: list[Message]) -> None:
    """Let as many messages be on their way to a consumer that does not acknowledge as keep it busy, and no more bytes
    than its worker should hold for it."""
    size = max(len(messages[0].frame), len(messages[-1].frame))
    prefetch = min(max(PACE_BYTES // size, _PACE_LEAST), PACE_MOST)
    if not prefetch // 2 <= consumer.prefetch <= prefetch * 2:
        queue.adjust(consumer, prefetch=prefetch)


def bound(queue: Queue, consumer: Consumer, least: int) -> None:
    """Of a consumer that asked for more than `least` messages and holds too many bytes: let it have no more until it
    settles some. `least` messages it gets in any case, because a client may acknowledge a number of them at a time, and
    would wait for the last one for ever."""
    size = queue.weigh(consumer)
    if size > PACE_BYTES:
        prefetch = max(PACE_BYTES * len(consumer.unsettled) // size, least)
    elif size * 2 <= PACE_BYTES:
        prefetch = consumer.asked
    else:
        return
    if prefetch != consumer.prefetch:
        queue.adjust(consumer, prefetch=min(prefetch, consumer.asked))
