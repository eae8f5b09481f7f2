"""What expires goes, however much of it there is, wherever it waits and whatever others hold."""

from __future__ import annotations

import pytest

from tests.unit.worker.queues.lone_owner import NOW, LoneOwner
from worker.traits import Traits

MANY = 2500
"""More than are taken out at once, twice."""


def sent(lone: LoneOwner, queue: str, count: int, *, persistent: bool = True, body: bytes = b"x") -> list[str]:
    """So many that live for 100 ms."""
    ids = [f"{queue}-{number}" for number in range(count)]
    traits = {place: Traits(ttl=100, persistent=persistent) for place in range(count)}
    lone.add(queue, *ids, traits=traits, body=body)
    lone.settled()
    return ids


def test_as_many_as_come() -> None:
    lone = LoneOwner(queue={"window_messages": 256})
    for _ in range(3):
        sent(lone, "/queue/q", MANY)
    assert lone.queue("/queue/q").queue.spilled
    lone.wake(1000)
    lone.settled()
    assert not lone.stored()
    assert not lone.queue_is_used("/queue/q")


def test_in_spite_of_those_that_a_consumer_holds() -> None:
    lone = LoneOwner()
    lone.attach("/queue/held", 1, prefetch=MANY)
    held = sent(lone, "/queue/held", MANY)
    assert lone.ids(1) == held
    lone.time += 1
    sent(lone, "/queue/other", 10)
    lone.wake(1000)
    lone.settled()
    assert not lone.queue_is_used("/queue/other")
    # They are the consumer's own, but no other's.
    assert lone.stored() == held
    lone.detach("/queue/held", 1)
    lone.wake(1000)
    lone.settled()
    assert not lone.stored()


def test_what_is_in_memory_alone() -> None:
    """In the middle of a queue, where nobody comes by."""
    lone = LoneOwner()
    lone.add("/queue/q", "stays", traits={0: Traits(persistent=False)})
    sent(lone, "/queue/q", 10, persistent=False)
    lone.wake(1000)
    assert [each.frame[:5] for each in lone.queue("/queue/q").queue.snapshot()[0]] == [b"stays"]


def test_what_is_in_memory_alone_and_was_held_meanwhile() -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    sent(lone, "/queue/q", 10, persistent=False)
    lone.wake(1000)
    assert lone.queue("/queue/q").queue.unsettled == 10
    lone.detach("/queue/q", 1)
    lone.add("/queue/q", "other", traits={0: Traits(ttl=5000, persistent=False)})
    lone.wake(1000)
    assert lone.queue("/queue/q").queue.messages == 1
    lone.wake(5000)
    assert not lone.queue_is_used("/queue/q")


def test_what_is_in_memory_alone_and_at_rest() -> None:
    lone = LoneOwner()
    lone.attach("/queue/q", 1)
    sent(lone, "/queue/q", 10, persistent=False)
    lone.add("/queue/q", "later", traits={0: Traits(ttl=3000, persistent=False)})
    lone.nack("/queue/q", 1, *lone.ids(1), delay=60_000)
    assert lone.queue("/queue/q").queue.resting == 11
    lone.wake(1000)
    assert lone.queue("/queue/q").queue.messages == 1
    assert lone.queue("/queue/q").fleeting == NOW + 3000
    lone.wake(2000)
    assert not lone.queue_is_used("/queue/q")
    assert (lone.queue("/queue/q").queue.bytes, lone.queue("/queue/q").fleeting) == (0, 0)


def test_although_another_queue_cannot_be_read() -> None:
    """A damaged page is tried again for ever."""
    lone = LoneOwner(queue={"window_messages": 16})
    sent(lone, "/queue/damaged", 40)
    fetch = lone.store.fetch
    lone.store.fetch = lambda keys, done, size=None: None  # type: ignore[method-assign]
    lone.wake(1000)
    lone.settled()
    lone.store.fetch = fetch  # type: ignore[method-assign]
    sent(lone, "/queue/other", 40)
    for _ in range(12):
        lone.wake(1000)
        lone.settled()
    assert not lone.queue_is_used("/queue/other")
    assert lone.queue_is_used("/queue/damaged")


@pytest.mark.parametrize("expired", ["drop", "dead-letter"])
def test_long_ones_are_not_all_in_memory_at_once(expired: str) -> None:
    size = 1 << 20
    rule = {"pattern": "/queue/q", "expired": expired}
    lone = LoneOwner(queue={"window_messages": 16, "window_bytes": "1MiB"}, destination=[rule])
    ids = [id for number in range(20) for id in sent(lone, "/queue/q", 1, body=b"%02d" % number + b"x" * size)]
    lone.wake(1000)
    lone.settled()
    assert max(lone.store.fetched) <= 6 * size
    assert not lone.queue_is_used("/queue/q")
    assert len(lone.stored()) == (len(ids) if expired == "dead-letter" else 0)
