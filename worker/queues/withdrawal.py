"""Taking messages out of a queue by their keys, wherever they are, when it is not their consumer who settles them."""

from __future__ import annotations

from collections.abc import Iterable

from worker.queues.consumer import Consumer
from worker.queues.message import Message
from worker.queues.queue import Queue

__all__ = ["discard", "discard_stored", "discard_waiting"]


def discard(queue: Queue, keys: Iterable[int]) -> list[Message]:
    """Take those of `keys` out of `queue` that are in memory, waiting or with a consumer."""
    wanted = set(keys)
    taken: list[Message] = []
    for consumer in list(queue.consumers.values()):
        taken += queue.settle(consumer, wanted.intersection(consumer.unsettled))
    return taken + discard_waiting(queue, wanted)


def discard_waiting(queue: Queue, keys: Iterable[int]) -> list[Message]:
    """The same for those alone that no consumer has."""
    wanted = set(keys)
    for consumer in queue.consumers.values():
        wanted.difference_update(consumer.unsettled)
    return discard_stored(queue, [message for message in queue.snapshot()[0] if message.key in wanted])


def discard_stored(queue: Queue, messages: list[Message]) -> list[Message]:
    """Take `messages` out, which the store or the queue has, unless a consumer has them."""
    nobody = Consumer(-1, 0, 0)
    taken = queue.claim(nobody, messages)
    return queue.settle(nobody, [message.key for message in taken])
