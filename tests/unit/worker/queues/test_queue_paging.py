"""What stays in memory, what is only on disk, and how it comes back."""

from __future__ import annotations

import pytest

from tests.unit.worker.queues.one_queue import (
    NOW,
    consumer,
    counters,
    dispatched,
    got,
    key,
    message,
    messages,
    page,
    queue,
)
from worker.queues.message import Message, first_key


def test_beyond_the_window_messages_are_only_on_disk() -> None:
    one = queue(window_messages=3)
    assert one.extend(messages(1, 2)) == []
    assert one.extend(messages(3, 6)) == []
    assert one.extend(messages(7, 8)) == []
    assert (one.ready, one.spilled, one.messages) == (3, 5, 8)
    assert one.bytes == sum(len(each.frame) for each in messages(1, 8))


def test_the_window_is_bounded_in_bytes_but_takes_one_message_of_any_size() -> None:
    one = queue(window_bytes=100)
    size = len(message(1).frame)
    one.extend(messages(1, 5))
    assert one.ready == 100 // size
    other = queue(window_bytes=10)
    other.extend(messages(1, 2))
    assert other.ready == 1


def test_what_was_not_persistent_and_leaves_memory_is_to_be_written() -> None:
    one = queue(window_messages=2)
    out = one.extend([message(counter, persistent=counter == 3) for counter in range(1, 6)])
    assert counters(out) == [4, 5]
    assert all(each.persistent for each in out)


def test_pages_bring_the_rest_in_order() -> None:
    stored = messages(1, 50)
    one = queue(window_messages=4)
    one.extend(stored)
    here = consumer(one, prefetch=3)
    found = []
    for _ in range(60):
        new = got(one)
        found += new
        one.settle(here, [key(counter) for counter in new])
        page(one, stored)
        assert one.ready <= 4
    assert found == list(range(1, 51))
    assert (one.messages, one.spilled, one.bytes) == (0, 0, 0)
    one.extend(messages(51, 52))
    assert one.spilled == 0


def test_a_page_is_wanted_when_the_window_is_half_empty_and_only_one_at_a_time() -> None:
    one = queue(window_messages=4)
    one.extend(messages(1, 10))
    here = consumer(one, prefetch=1)
    assert got(one) == [1]
    assert one.page_wanted(0, 0) is None
    one.settle(here, [key(1)])
    assert got(one) == [2]
    after, before, count, size = one.page_wanted(0, 1) or (0, 0, 0, 0)
    assert (after, count) == (key(4), 2)
    assert before > key(10)
    assert 0 < size <= one.window_bytes
    assert one.page_wanted(0, 1) is None
    one.paged(messages(5, 6))
    assert one.ready == 4


def test_nothing_is_paged_without_consumers_but_on_demand() -> None:
    one = queue(spilled=3, spilled_bytes=90)
    assert one.page_wanted(0, 0) is None
    assert one.page_wanted(0, 0, anyway=True) is not None


def test_a_page_ends_before_what_is_not_stored_for_certain() -> None:
    one = queue(spilled=2, spilled_bytes=60)
    consumer(one)
    stored = messages(1, 2)
    one.extend([message(3, 9, persistent=False)])
    assert one.spilled == 3
    # 3 goes first, and is stored with unit 1.
    page(one, stored, 1, 0)
    assert got(one) == []
    stored.append(message(3, 9))
    assert page(one, stored, 1, 1) is not None
    assert got(one) == [3, 1, 2]


def test_a_page_is_of_no_use_beyond_what_is_spilled_while_it_is_under_way() -> None:
    one = queue(spilled=2, spilled_bytes=60)
    consumer(one)
    assert one.page_wanted(1, 1) is not None
    one.extend([message(3, 9), message(4)])
    one.paged(messages(1, 2))
    assert got(one) == []
    page(one, messages(1, 2), 2, 1)
    assert got(one) == []
    assert page(one, [message(3, 9), *messages(1, 2), message(4)], 2, 2) is not None
    assert got(one) == [3, 1, 2, 4]


def test_an_empty_page_is_not_the_end_and_not_asked_for_again_before_the_next_commit() -> None:
    one = queue(spilled=2, spilled_bytes=60)
    consumer(one)
    assert page(one, [], 3, 3) is not None
    assert one.spilled == 2
    assert page(one, [], 3, 3) is None
    assert page(one, messages(1, 2), 4, 4) is not None
    assert got(one) == [1, 2]
    assert one.spilled == 0


def test_what_arrives_while_the_rest_is_on_disk_waits_behind_it() -> None:
    stored = messages(1, 6)
    one = queue(window_messages=2)
    one.extend(stored[:4])
    consumer(one)
    assert got(one) == [1, 2]
    one.extend(stored[4:])
    assert got(one) == []
    assert one.spilled == 4


def test_urgent_messages_are_kept_and_push_the_last_out() -> None:
    one = queue(window_messages=3)
    one.extend(messages(1, 5))
    out = one.extend([message(6, 9, persistent=False), message(7, 9)])
    assert (out, one.ready, one.spilled) == ([], 5, 2)
    # More than twice the window: back to it.
    out = one.extend([message(8, 9, persistent=False), message(9, 9)])
    assert (out, one.ready, one.spilled) == ([], 3, 6)
    consumer(one)
    assert got(one) == [6, 7, 8]
    stored = [message(9, 9), *messages(1, 5)]
    found = []
    for _ in range(4):
        page(one, stored)
        found += got(one)
    assert found == [9, 1, 2, 3, 4, 5]


def test_evicted_messages_that_were_not_persistent_are_to_be_written() -> None:
    one = queue(window_messages=2)
    one.extend([message(1, persistent=False), message(2, persistent=False)])
    out = one.extend([message(counter, 9) for counter in range(3, 6)])
    assert counters(out) == [1, 2]


def test_what_consumers_have_does_not_come_in_with_a_page() -> None:
    one = queue(window_messages=2)
    here = consumer(one, prefetch=2)
    stored = messages(1, 2)
    one.extend(stored)
    assert got(one) == [1, 2]
    urgent = [message(counter, 9) for counter in range(3, 12)]
    one.extend(messages(12, 13))
    one.extend(urgent)
    assert one.spilled == 2 + 9 - 2
    one.settle(here, [key(1)])
    found = []
    for unit in range(2, 20):
        found += got(one)
        one.settle(here, [key(counter, 9) for counter in found[-1:] if key(counter, 9) in here.unsettled])
        one.settle(here, [key(counter) for counter in (12, 13)])
        page(one, [*stored[1:], *urgent, *messages(12, 13)], unit, unit)
    assert found == [*range(3, 12), 12, 13]
    assert list(here.unsettled) == [key(2)]


def test_what_is_settled_while_a_page_is_under_way_does_not_come_back() -> None:
    one = queue(spilled=3, spilled_bytes=99)
    here = consumer(one)
    assert counters(one.claim(here, messages(2, 2))) == [2]
    assert one.page_wanted(0, 0) is not None
    one.settle(here, [key(2)])
    one.paged(messages(1, 3))
    assert got(one) == [1, 3]
    assert one.spilled == 0


def test_no_page_is_read_before_a_settlement_beyond_the_edge_is_stored() -> None:
    one = queue(spilled=3, spilled_bytes=99)
    here = consumer(one)
    one.claim(here, messages(2, 2))
    one.settle(here, [key(2)])
    assert one.page_wanted(5, 4) is None
    assert one.page_wanted(6, 5) is not None


def test_after_a_restart_all_is_on_disk_and_claims_are_outstanding() -> None:
    stored = messages(1, 4)
    one = queue(spilled=4, spilled_bytes=sum(len(each.frame) for each in stored))
    assert (one.messages, one.spilled, one.ready) == (4, 4, 0)
    here, other = consumer(one, 1, 1), consumer(one, 2, 10)
    assert counters(one.claim(here, stored[1:3])) == [2, 3]
    assert (here.credit, one.unsettled, one.spilled) == (-1, 2, 2)
    assert one.claim(other, stored[1:2]) == []
    page(one, stored)
    assert dispatched(one) == {2: [1, 4]}
    # One that came in before it was claimed.
    one.detach(other, NOW)
    assert counters(one.claim(here, stored[3:])) == [4]
    assert counters(one.settle(here, [key(2), key(3), key(4)])) == [2, 3, 4]
    assert (one.messages, one.ready) == (1, 1)


def test_what_is_known_to_be_gone_cannot_be_claimed() -> None:
    stored = messages(1, 4)
    one = queue(window_messages=2, spilled=4, spilled_bytes=sum(len(each.frame) for each in stored))
    here = consumer(one)
    page(one, stored)
    assert got(one) == [1, 2]
    one.settle(here, [key(1)])
    assert one.claim(here, stored[:2]) == []
    assert (one.spilled, one.unsettled) == (2, 1)


def test_returned_messages_stay_in_memory_because_the_disk_may_not_know_their_count() -> None:
    one = queue(window_messages=1)
    here = consumer(one, prefetch=10)
    one.extend([message(1, 0)])
    one.dispatch(NOW)
    one.detach(here, NOW)
    one.extend([message(counter, 9) for counter in range(2, 9)])
    assert [each.count for each in one.snapshot()[0] if each.key == key(1, 0)] == [1]


def red_and_green(last: int) -> list[Message]:
    return [message(counter, colour="green" if counter > last - 2 else "red") for counter in range(1, last + 1)]


def test_paging_goes_on_past_what_nobody_wants_and_comes_back_for_who_does() -> None:
    stored = red_and_green(40)
    one = queue(window_messages=4)
    one.extend(stored)
    consumer(one, 2, selector="colour = 'green'")
    found = []
    for _ in range(60):
        found += dispatched(one).get(2, [])
        page(one, stored)
        assert one.ready <= 5
    assert found == [39, 40]
    assert (one.messages, one.unsettled) == (40, 2)
    consumer(one, 1)
    found = []
    for _ in range(60):
        found += got(one)
        page(one, stored)
    assert found == list(range(1, 39))
    assert one.spilled == 0


def test_a_full_consumer_does_not_keep_another_from_what_is_behind_and_misses_nothing() -> None:
    stored = red_and_green(40)
    one = queue(window_messages=4)
    one.extend(stored)
    red = consumer(one, 1, 1, "colour = 'red'")
    consumer(one, 2, 10, "colour = 'green'")
    found: dict[int, list[int]] = {1: [], 2: []}

    def run() -> None:
        for id, more in dispatched(one).items():
            found[id] += more
        page(one, stored)

    for _ in range(60):
        run()
        assert one.ready <= 5
    assert found == {1: [1], 2: [39, 40]}
    for _ in range(200):
        one.settle(red, list(red.unsettled))
        run()
    assert found == {1: list(range(1, 39)), 2: [39, 40]}


def test_who_is_far_behind_does_not_wait_for_who_takes_what_was_passed_over() -> None:
    stored = red_and_green(60)
    one = queue(window_messages=4)
    one.extend(stored)
    red = consumer(one, 1, 1, "colour = 'red'")
    consumer(one, 2, 10, "colour = 'green'")
    found: dict[int, list[int]] = {1: [], 2: []}
    while len(found[2]) < 2:
        for id, more in dispatched(one).items():
            found[id] += more
        if page(one, stored) is not None:
            one.settle(red, list(red.unsettled))
    assert found[1] == list(range(1, len(found[1]) + 1))
    assert 10 < len(found[1]) < 50


def test_a_page_has_to_leave_room_for_urgent_messages_that_came_meanwhile() -> None:
    one = queue(window_messages=3)
    one.extend(messages(1, 9))
    here = consumer(one, prefetch=3)
    assert got(one) == [1, 2, 3]
    assert one.page_wanted(1, 0) is None
    assert one.page_wanted(1, 1) is not None
    one.extend([message(counter, 9) for counter in range(10, 16)])
    one.paged(messages(4, 6))
    assert (one.ready, one.spilled) == (7, 5)
    one.settle(here, [key(1), key(2), key(3)])
    assert got(one) == [10, 11, 12]


def test_what_is_passed_over_and_was_not_persistent_is_to_be_written_before_the_next_page() -> None:
    stored = red_and_green(8)
    for each in stored:
        each.persistent = False
    one = queue(window_messages=4)
    assert counters(one.extend(stored)) == [5, 6, 7, 8]
    consumer(one, selector="colour = 'green'")
    one.dispatch(NOW)
    assert one.page_wanted(1, 1) is None
    assert one.page_wanted(1, 1) is None
    assert counters(one.take_evicted()) == [1, 2, 3, 4]
    assert one.page_wanted(2, 1) is None
    assert one.page_wanted(2, 2) is not None


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_new_consumer_gets_what_was_passed_over_before_what_is_in_memory(exclusive: bool) -> None:
    stored = red_and_green(8)
    one = queue(window_messages=2)
    one.extend(stored)
    green = consumer(one, 2, 1, "colour = 'green'")
    for _ in range(20):
        one.dispatch(NOW)
        page(one, stored)
    assert list(green.unsettled) == [key(7)]
    consumer(one, 1, exclusive=exclusive)
    found = []
    for _ in range(20):
        found += got(one)
        page(one, stored)
    assert found == [1, 2, 3, 4, 5, 6, 8]


def test_keys_of_other_queues_are_never_asked_for() -> None:
    one = queue(spilled=1, spilled_bytes=1)
    consumer(one)
    after, before, _, _ = one.page_wanted(0, 0) or (0, 0, 0, 0)
    assert first_key(3) <= after < before <= first_key(4)
