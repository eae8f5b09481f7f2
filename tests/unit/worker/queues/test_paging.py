"""The borders between memory and disk, on their own."""

from __future__ import annotations

from tests.unit.worker.queues.one_queue import key, message, messages
from worker.queues.paging import Paging


def test_a_page_that_came_too_late_is_asked_for_again_without_another_commit() -> None:
    paging = Paging(3, 2, 60)
    assert paging.wish(1, 1, 10, 100) is not None
    # Stored long ago, but spilled before the page came: it is read anew from there.
    paging.passed_over([key(1, 9)], 30)
    assert paging.arrived(messages(1, 2)) is None
    assert paging.wish(1, 1, 10, 100) is not None


def test_what_left_while_the_page_was_under_way_is_not_in_it() -> None:
    paging = Paging(3, 2, 60)
    paging.take(key(2), 30)
    assert paging.wish(1, 1, 10, 100) is None or paging.under_way
    paging.gone([key(2), key(7)])
    page = paging.arrived(messages(1, 3))
    assert page is not None
    assert [each.key for each in page[0]] == [key(1), key(3)]


def test_the_edge_follows_the_pages_and_opens_when_all_is_in_memory() -> None:
    paging = Paging(3, 3, 90)
    paging.wish(0, 0, 2, 100)
    paging.arrived(messages(1, 2))
    assert (paging.edge, paging.messages) == (key(3), 1)
    paging.wish(0, 0, 2, 100)
    paging.arrived(messages(3, 3))
    assert (paging.edge, paging.messages, paging.size) == (paging.end, 0, 0)
    assert message(9, 0).key < paging.end
