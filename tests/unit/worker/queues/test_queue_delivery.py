"""Who gets which message, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.queues.one_queue import NOW, consumer, counters, dispatched, got, key, message, messages, queue
from worker.queues.withdrawal import discard


def test_messages_wait_until_somebody_listens_and_come_in_order() -> None:
    one = queue()
    one.extend(messages(1, 3))
    assert one.dispatch(NOW) == []
    consumer(one)
    assert got(one) == [1, 2, 3]
    assert one.dispatch(NOW) == []


def test_a_consumer_gets_no_more_than_its_prefetch_and_more_as_it_settles() -> None:
    one = queue()
    here = consumer(one, prefetch=2)
    one.extend(messages(1, 5))
    assert got(one) == [1, 2]
    assert got(one) == []
    assert counters(one.settle(here, [key(1), key(99)])) == [1]
    assert got(one) == [3]
    assert here.credit == 0
    assert list(here.unsettled) == [key(2), key(3)]


def test_consumers_take_turns_message_by_message() -> None:
    one = queue()
    for id, prefetch in ((1, 10), (2, 1), (3, 10)):
        consumer(one, id, prefetch)
    one.extend(messages(1, 7))
    assert dispatched(one) == {1: [1, 4, 6], 2: [2], 3: [3, 5, 7]}


def test_the_turn_goes_on_where_it_stopped() -> None:
    one = queue()
    for id in (1, 2, 3):
        consumer(one, id)
    found = []
    for counter in range(1, 7):
        one.extend(messages(counter, counter))
        found += list(dispatched(one))
    assert found == [1, 2, 3, 1, 2, 3]


def test_whoever_got_one_more_is_behind_the_others() -> None:
    one = queue()
    for id in (1, 2, 3):
        consumer(one, id)
    one.extend(messages(1, 4))
    assert dispatched(one) == {1: [1, 4], 2: [2], 3: [3]}
    one.extend(messages(5, 6))
    assert dispatched(one) == {2: [5], 3: [6]}


def test_who_was_left_out_because_messages_expired_is_next() -> None:
    one = queue()
    for id in (1, 2, 3):
        consumer(one, id)
    one.extend([message(1, expires=NOW), message(2), message(3)])
    assert dispatched(one) == {1: [2], 2: [3]}
    one.extend(messages(4, 5))
    assert dispatched(one) == {3: [4], 1: [5]}


def test_one_that_settles_stands_behind_those_who_waited() -> None:
    one = queue()
    first, second = consumer(one, 1, 1), consumer(one, 2, 1)
    one.extend(messages(1, 4))
    assert dispatched(one) == {1: [1], 2: [2]}
    one.settle(second, [key(2)])
    one.settle(first, [key(1)])
    assert dispatched(one) == {2: [3], 1: [4]}


def test_higher_priorities_go_first_and_keep_their_order() -> None:
    one = queue()
    one.extend([message(1), message(2, 9), message(3, 0), message(4, 9)])
    one.extend([message(5, 5), message(6, 4)])
    consumer(one)
    assert got(one) == [2, 4, 5, 1, 6, 3]


def test_what_goes_to_an_instant_consumer_is_settled() -> None:
    one = queue()
    here = consumer(one, prefetch=1, instant=True)
    one.extend(messages(1, 5))
    ((_, found),) = one.dispatch(NOW)
    assert counters(found) == [1, 2, 3, 4, 5]
    assert [each.count for each in found] == [1] * 5
    assert (here.credit, here.unsettled, one.messages, one.bytes) == (1, {}, 0, 0)
    one.adjust(here, instant=False)
    one.extend(messages(6, 7))
    assert got(one) == [6]
    assert one.unsettled == 1


def test_more_prefetch_is_more_credit() -> None:
    one = queue()
    here = consumer(one, prefetch=1)
    one.extend(messages(1, 5))
    assert got(one) == [1]
    one.adjust(here, prefetch=3)
    assert got(one) == [2, 3]
    one.adjust(here, prefetch=1)
    one.settle(here, [key(1)])
    assert here.credit == -1
    assert got(one) == []


def test_expired_messages_are_taken_out_where_they_are_met() -> None:
    one = queue()
    one.extend([message(1, expires=NOW), message(2, expires=NOW + 1), message(3, expires=NOW - 1), message(4)])
    here = consumer(one, prefetch=1)
    assert got(one) == [2]
    assert counters(one.expired) == [1]
    one.settle(here, [key(2)])
    assert got(one) == [4]
    assert counters(one.expired) == [1, 3]
    assert (one.messages, one.ready) == (1, 0)


def test_expired_messages_are_found_in_the_middle_when_asked_for() -> None:
    one = queue()
    kept = [message(4, expires=NOW)]
    one.extend([message(1), *[message(n, persistent=False, expires=NOW + n - 2) for n in (2, 3)], *kept])
    one.expire(NOW)
    # The store tells of what it has.
    assert counters(one.expired) == [2]
    assert one.messages == 3


def test_an_exclusive_consumer_gets_everything_until_it_goes() -> None:
    one = queue()
    consumer(one, 1)
    first = consumer(one, 2, exclusive=True)
    second = consumer(one, 3, exclusive=True)
    one.extend(messages(1, 3))
    assert dispatched(one) == {2: [1, 2, 3]}
    one.settle(first, [key(1), key(2), key(3)])
    one.detach(first, NOW)
    one.extend(messages(4, 5))
    assert dispatched(one) == {3: [4, 5]}
    one.settle(second, [key(4), key(5)])
    one.detach(second, NOW)
    one.extend(messages(6, 6))
    assert dispatched(one) == {1: [6]}


def test_an_exclusive_consumer_without_credit_lets_the_others_wait() -> None:
    one = queue()
    consumer(one, 1)
    consumer(one, 2, 1, exclusive=True)
    one.extend(messages(1, 2))
    assert dispatched(one) == {2: [1]}


def test_counters() -> None:
    one = queue()
    here = consumer(one, prefetch=3)
    sent = messages(1, 6)
    one.extend(sent)
    one.dispatch(NOW)
    one.give_back(here, [key(1)], NOW, delay=10)
    size = len(sent[0].frame)
    assert (one.messages, one.ready, one.unsettled, one.resting, one.spilled) == (6, 3, 2, 1, 0)
    assert (one.bytes, one.ready_bytes) == (6 * size, 3 * size)
    one.settle(here, [key(2)])
    assert (one.messages, one.bytes) == (5, 5 * size)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["", "red", "green"])), max_size=30),
    st.integers(0, 30),
    st.booleans(),
)
def test_the_least_is_dropped_first(sent: list[tuple[int, str]], count: int, selecting: bool) -> None:
    one = queue()
    if selecting:
        consumer(one, 1, 1, selector="colour = 'green'")
    one.extend([message(number, priority, colour=colour) for number, (priority, colour) in enumerate(sent, 1)])
    held = one.dispatch(NOW)
    given = [each.key for _, messages in held for each in messages]
    keys = [key(number, priority) for number, (priority, _) in enumerate(sent, 1)]
    waiting = [key(number, priority) for priority, number in sorted((p, n) for n, (p, _) in enumerate(sent, 1))]
    waiting = [each for each in waiting if each not in given]
    taken = [each.key for each in one.take_head(count)]
    assert sorted(taken) == sorted(waiting[:count])
    assert one.ready == len(waiting) - len(taken)
    assert sorted(each.key for each in one.purge()) == sorted(set(keys).difference(taken, given))


def test_the_head_is_dropped_in_order_and_purging_leaves_what_consumers_have() -> None:
    one = queue()
    here = consumer(one, prefetch=1)
    one.extend([*messages(1, 3), message(4, 9)])
    assert got(one) == [4]
    assert counters(one.take_head(2)) == [1, 2]
    one.give_back(here, [key(4, 9)], NOW, delay=5)
    one.extend(messages(5, 6))
    assert got(one) == [3]
    assert counters(one.purge()) == [5, 6, 4]
    assert (one.messages, one.unsettled) == (1, 1)
    assert one.wake(NOW + 10) is None
    assert got(one) == []


def test_messages_are_discarded_whoever_has_them() -> None:
    one = queue()
    here = consumer(one, prefetch=2)
    one.extend(messages(1, 4))
    one.dispatch(NOW)
    one.give_back(here, [key(1)], NOW, delay=5)
    assert sorted(counters(discard(one, [key(1), key(2), key(3), key(9)]))) == [1, 2, 3]
    assert here.credit == 2
    assert got(one) == [4]


def test_a_browser_sees_all_that_is_in_memory_in_order() -> None:
    one = queue(window_messages=3)
    here = consumer(one, prefetch=2)
    one.extend(messages(1, 4))
    one.dispatch(NOW)
    one.give_back(here, [key(1)], NOW, delay=5)
    found, start = one.snapshot()
    assert counters(found) == [1, 2, 3]
    assert start == key(4)
    assert queue().snapshot() == ([], None)
