"""What comes back, when, and how often."""

from __future__ import annotations

import pytest

from tests.unit.worker.queues.one_queue import NOW, consumer, counters, dispatched, got, key, message, messages, queue


def test_what_a_consumer_leaves_comes_back_to_its_place_and_is_counted() -> None:
    one = queue()
    here = consumer(one, 1, 3)
    one.extend([message(1), message(2), message(3, 9), message(4)])
    assert got(one) == [3, 1, 2]
    one.settle(here, [key(1)])
    assert one.detach(here, NOW) == []
    assert (one.ready, one.unsettled) == (3, 0)
    consumer(one, 2)
    ((_, found),) = one.dispatch(NOW)
    assert counters(found) == [3, 2, 4]
    assert [each.count for each in found] == [2, 2, 1]


def test_settlements_of_a_consumer_that_is_gone_do_nothing() -> None:
    one = queue()
    here = consumer(one)
    one.extend(messages(1, 2))
    one.dispatch(NOW)
    one.detach(here, NOW)
    assert one.settle(here, [key(1)]) == []
    assert one.detach(here, NOW) == []
    assert one.messages == 2


def test_a_refused_message_comes_again_at_once_then_after_pauses_that_double() -> None:
    one = queue(redelivery_delay=100, redelivery_delay_max=350)
    here = consumer(one)
    one.extend(messages(1, 1))
    now = NOW
    for pause in (0, 100, 200, 350, 350):
        assert got(one, now) == [1]
        one.give_back(here, [key(1)], now)
        if pause:
            assert one.wake(now + pause - 1) == now + pause
            assert got(one, now + pause - 1) == []
        assert one.wake(now + pause) is None
        now += pause


def test_a_client_may_say_the_pause() -> None:
    one = queue()
    here = consumer(one)
    one.extend(messages(1, 2))
    assert got(one) == [1, 2]
    one.give_back(here, [key(2)], NOW, delay=10)
    one.give_back(here, [key(1)], NOW, delay=20)
    assert one.wake(NOW + 10) == NOW + 20
    assert got(one) == [2]
    assert one.wake(NOW + 20) is None
    assert got(one) == [1]


def test_a_refused_message_goes_before_the_others() -> None:
    one = queue()
    here = consumer(one, prefetch=2)
    one.extend(messages(1, 3))
    assert got(one) == [1, 2]
    one.give_back(here, [key(1), key(2)], NOW)
    assert got(one) == [1, 2]


@pytest.mark.parametrize("delay", [0, 10])
@pytest.mark.parametrize("selector", [None, "colour = 'red'"])
def test_a_refused_message_goes_to_another_consumer_that_has_room(delay: int, selector: str | None) -> None:
    one = queue()
    first, second = consumer(one, 1, 10, selector), consumer(one, 2, 2, selector)
    one.extend(messages(1, 4))
    assert dispatched(one) == {1: [1, 3], 2: [2, 4]}
    one.settle(second, [key(2), key(4)])
    one.extend(messages(5, 5))
    assert dispatched(one) == {1: [5]}
    one.give_back(first, [key(1), key(3)], NOW, delay=delay)
    one.wake(NOW + delay)
    one.extend(messages(6, 6))
    assert dispatched(one) == {1: [6], 2: [1, 3]}


@pytest.mark.parametrize("delay", [0, 10])
@pytest.mark.parametrize("selector", [None, "colour = 'red'"])
def test_a_refused_message_does_not_wait_for_a_consumer_without_room(delay: int, selector: str | None) -> None:
    """That one may hang, and never settle anything."""
    one = queue()
    first = consumer(one, 1, 10, selector)
    consumer(one, 2, 1, selector)
    one.extend(messages(1, 3))
    assert dispatched(one) == {1: [1, 3], 2: [2]}
    one.give_back(first, [key(1)], NOW, delay=delay)
    one.wake(NOW + delay)
    one.extend(messages(4, 4))
    assert dispatched(one) == {1: [1, 4]}


def test_without_room_anywhere_whoever_has_some_first_gets_what_was_refused() -> None:
    one = queue()
    first, second = consumer(one, 1, 1), consumer(one, 2, 1)
    one.extend(messages(1, 3))
    assert dispatched(one) == {1: [1], 2: [2]}
    one.give_back(first, [key(1)], NOW, delay=10)
    assert dispatched(one) == {1: [3]}
    one.wake(NOW + 10)
    assert dispatched(one) == {}
    one.settle(second, [key(2)])
    assert dispatched(one) == {2: [1]}


def test_without_others_first_the_turn_decides() -> None:
    one = queue()
    first = consumer(one, 1)
    consumer(one, 2, 1)
    one.extend(messages(1, 2))
    one.dispatch(NOW)
    one.give_back(first, [key(1)], NOW, others_first=False)
    assert dispatched(one) == {1: [1]}


def test_too_often_is_dead_lettered() -> None:
    one = queue(redelivery_limit=2)
    here = consumer(one)
    one.extend(messages(1, 2))
    for _ in range(2):
        one.dispatch(NOW)
        assert one.give_back(here, [key(1)], NOW, delay=0) == []
    one.dispatch(NOW)
    assert counters(one.give_back(here, [key(1)], NOW, delay=0)) == [1]
    assert (one.messages, one.unsettled) == (1, 1)
    assert got(one) == []


def test_so_is_what_consumers_leave_too_often() -> None:
    one = queue(redelivery_limit=1)
    one.extend(messages(1, 2))
    for id, limit in ((1, []), (2, [1])):
        here = consumer(one, id, 1)
        one.dispatch(NOW)
        assert counters(one.detach(here, NOW)) == limit
    assert counters(one.snapshot()[0]) == [2]


def test_in_good_order_nothing_fails() -> None:
    """Whoever takes one and leaves the others for later has tried none of those."""
    one = queue(redelivery_limit=1)
    one.extend(messages(1, 2))
    for count in range(1, 6):
        here = consumer(one)
        [(_, found)] = one.dispatch(NOW)
        assert [each.count for each in found] == [count, count]
        assert one.detach(here, NOW, orderly=True) == []
    here = consumer(one)
    for dead in ([], [1]):
        one.dispatch(NOW)
        # And there is no pause for failures that were none.
        assert counters(one.give_back(here, [key(1)], NOW)) == dead


def test_of_what_a_consumer_had_in_advance_nothing_failed() -> None:
    one = queue(redelivery_limit=2)
    one.extend(messages(1, 3))
    for count in range(1, 4):
        here = consumer(one)
        [(_, found)] = one.dispatch(NOW)
        assert [each.count for each in found] == [count] * 3
        assert counters(one.detach(here, NOW)) == ([1] if count == 3 else [])
    assert counters(one.snapshot()[0]) == [2, 3]


def test_no_limit_at_all() -> None:
    one = queue(redelivery_limit=0)
    here = consumer(one)
    one.extend(messages(1, 1))
    for _ in range(200):
        assert got(one) == [1]
        assert one.give_back(here, [key(1)], NOW, delay=0) == []
    assert got(one) == [1]
    one.give_back(here, [key(1)], NOW)
    assert one.wake(NOW) == NOW + one.redelivery_delay_max


def test_what_is_refused_for_good_is_handed_out_and_gives_credit() -> None:
    one = queue()
    here = consumer(one, prefetch=2)
    one.extend(messages(1, 3))
    one.dispatch(NOW)
    assert counters(one.settle(here, [key(2)])) == [2]
    assert got(one) == [3]
    assert one.messages == 2
