"""A whole queue can be put off by NACKs: what rests is in memory only as far as the window goes."""

from __future__ import annotations

from typing import Any

from tests.unit.worker.queues.lone_owner import LoneOwner
from worker.queues.browsing import Pages
from worker.queues.requeueing import Requeueing

SIZE = 100_000
COUNT = 40
WINDOW = {"window_messages": 16, "window_bytes": "1MiB"}
IDS = [f"m{number:02}" for number in range(COUNT)]


def put_off(delay: int = 60_000) -> LoneOwner:
    """An owner with a queue all of whose messages rest."""
    lone = LoneOwner(queue=WINDOW)
    for id in IDS:
        lone.add("/queue/q", id, body=b"x" * SIZE)
        lone.settled()
    lone.attach("/queue/q", 1, prefetch=2)
    while len(lone.ids(1)) < COUNT:
        lone.settled()
        lone.nack("/queue/q", 1, *lone.ids(1)[-2:], delay=delay)
    lone.nack("/queue/q", 1, *lone.ids(1)[-2:], delay=delay)
    lone.settled()
    assert lone.queue("/queue/q").queue.resting == COUNT
    return lone


def in_memory(lone: LoneOwner) -> int:
    return sum(len(each.frame) for each in lone.queue("/queue/q").queue.snapshot()[0])


def test_what_rests_is_bounded_and_comes_in_its_order() -> None:
    lone = put_off()
    assert in_memory(lone) <= 1 << 20
    assert lone.queue("/queue/q").queue.bytes > COUNT * SIZE
    lone.delivered.clear()
    lone.wake(59_999)
    lone.settled()
    assert not lone.delivered
    lone.wake(1)
    while len(lone.ids(1)) < COUNT:
        assert in_memory(lone) <= 2 << 20
        lone.settled()
        assert lone.delivered[1][-1][1] == 2
        lone.settle("/queue/q", 1, lone.ids(1)[-1])
    assert lone.ids(1) == IDS
    lone.settle("/queue/q", 1, *lone.ids(1))
    lone.settled()
    assert (lone.queue("/queue/q").queue.messages, lone.queue("/queue/q").queue.bytes) == (0, 0)
    assert not lone.stored()


def test_nothing_is_read_for_nobody() -> None:
    """Beyond the window it waits on disk until somebody takes what is in memory."""
    lone = put_off()
    lone.detach("/queue/q", 1)
    lone.wake(60_000)
    lone.settled()
    assert in_memory(lone) <= 2 << 20
    lone.attach("/queue/q", 2, prefetch=COUNT)
    lone.settled()
    lone.wake()
    assert sorted(lone.ids(2)) == IDS


def test_the_operator_reaches_it() -> None:
    for to in (b"/queue/other", None):
        lone = put_off()
        requeueing = Requeueing(lone.owner, lambda queue: True)
        answers: list[Any] = [{"left": COUNT}]
        for _ in range(COUNT):
            if to is None:
                requeueing.purge(b"/queue/q", answers.append)
            else:
                requeueing.requeue(b"/queue/q", to, COUNT, answers.append)
            lone.settled()
        assert answers[-1]["left"] == 0
        assert sum(each.get("moved", 0) for each in answers) == COUNT
        assert lone.stored() == ([] if to is None else IDS)


def test_a_browser_sees_it() -> None:
    lone = put_off()
    seen: list[str] = []
    pages: list[tuple[list[bytes], int | None]] = []
    after: int | None = 0
    while after is not None:
        Pages(lone.owner, lone.store).read(b"/queue/q", after, lambda frames, last: pages.append((frames, last)))
        lone.settled()
        frames, after = pages[-1]
        seen += [frame.split(b"\n", 1)[0].decode() for frame in frames]
    assert seen == IDS
