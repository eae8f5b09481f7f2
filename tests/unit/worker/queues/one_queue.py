"""Short words for the tests of one queue."""

from __future__ import annotations

from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.message import Message, first_key
from worker.queues.paging import Page
from worker.queues.queue import Queue

NOW = 1_000_000
EVERYTHING = 1_000_000


def key(counter: int, priority: int = 4) -> int:
    return first_key(3, priority) + counter


def message(
    counter: int,
    priority: int = 4,
    *,
    persistent: bool = True,
    expires: int = 0,
    group: bytes | None = None,
    colour: str = "red",
) -> Message:
    frame = f"m-{counter}\ndestination:/queue/q\ncolour:{colour}\n\nbody\0".encode()
    return Message(key(counter, priority), frame, persistent, expires=expires, group=group)


def messages(first: int, last: int) -> list[Message]:
    return [message(counter) for counter in range(first, last + 1)]


def queue(**settings: int) -> Queue:
    return Queue(3, "q", **settings)


def consumer(
    queue: Queue,
    id: int = 1,
    prefetch: int = EVERYTHING,
    selector: str | None = None,
    *,
    exclusive: bool = False,
    instant: bool = False,
) -> Consumer:
    found = Consumer(0, id, prefetch, Selector.parse(selector) if selector else None, exclusive, instant)
    queue.attach(found)
    return found


def counters(messages: list[Message]) -> list[int]:
    return [each.key & (1 << 40) - 1 for each in messages]


def dispatched(queue: Queue, now: int = NOW) -> dict[int, list[int]]:
    """By consumer's id, the counters of what it got."""
    return {each.id: counters(found) for each, found in queue.dispatch(now)}


def got(queue: Queue, now: int = NOW) -> list[int]:
    """What the only consumer got."""
    return dispatched(queue, now).get(1, [])


def page(queue: Queue, stored: list[Message], unit: int = 1, done: int = 1) -> Page | None:
    """Let it have one page, if it wants one, of `stored`."""
    wanted = queue.page_wanted(unit, done)
    if wanted is not None:
        after, before, count, _ = wanted
        found = sorted((each for each in stored if after < each.key < before), key=lambda each: each.key)
        queue.paged([Message(each.key, each.frame, group=each.group) for each in found[:count]])
    return wanted
