"""The totals of all queues, at a bounded price, and the deepest by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from common.destination import QUEUE
from worker.queues.gauges import DEEPEST, SCAN, Gauges


class Looked:
    """A queue that counts how often it was looked at."""

    looks = 0

    def __init__(self, number: int, messages: int) -> None:
        self.name = QUEUE + b"%d" % number
        self.queue = self
        self._messages = messages
        self.bytes = 10 * messages
        self.unsettled = messages // 2
        self.consumers = range(2)

    @property
    def messages(self) -> int:
        Looked.looks += 1
        return self._messages


def gauges(queues: list[Looked], links: list[int] | None = None) -> Gauges:
    class Registry(list[Looked]): ...

    owner = SimpleNamespace(
        registry=Registry(queues),
        departures=SimpleNamespace(dead_lettered=7),
        retention=type("Kept", (), {"__len__": lambda self: 3, "bytes": 30})(),
    )
    failing = SimpleNamespace(full=True)
    store = SimpleNamespace(stats=lambda: {"commits": 5, "bytes": 9}, failing=failing, pending_bytes=4)
    found = [SimpleNamespace(unconfirmed_bytes=each) for each in links or []]
    return Gauges(cast(Any, owner), cast(Any, found), cast(Any, store))


def test_totals_are_right_at_once_where_there_are_few() -> None:
    found = gauges([Looked(number, number) for number in range(10)], [1, 2]).read()
    assert (found["queues"], found["queue_messages"], found["queue_bytes"]) == (10, 45, 450)
    assert (found["queue_unsettled"], found["queue_consumers"], found["dead_lettered"]) == (20, 20, 7)
    assert (found["unconfirmed_bytes"], found["store_commits"], found["store_pending_bytes"]) == (3, 5, 4)
    assert (found["store_failing"], found["store_full"], found["retained_messages"]) == (1, 1, 3)


def test_a_look_is_bounded_and_all_are_counted_in_the_end() -> None:
    queues = [Looked(number, 1) for number in range(2 * SCAN + 5)]
    one = gauges(queues)
    for expected in (0, 0, len(queues), len(queues)):
        Looked.looks = 0
        assert one.read()["queue_messages"] == expected
        assert Looked.looks <= SCAN


def test_the_deepest_are_told_by_name() -> None:
    one = gauges([Looked(number, number % 1000) for number in range(1999)])
    one.read()
    found = one.deepest()
    assert len(found) == DEEPEST
    assert [each.messages for each in found] == sorted((number % 1000 for number in range(1999)), reverse=True)[
        :DEEPEST
    ]
    assert found[0].name.startswith("/queue/") and found[0].unsettled == 499
    few = gauges([Looked(0, 0), Looked(1, 3)])
    few.read()
    assert [each.name for each in few.deepest()] == ["/queue/1"]
