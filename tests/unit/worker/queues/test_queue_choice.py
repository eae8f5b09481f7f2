"""Selectors and message groups."""

from __future__ import annotations

import pytest

from common.selector import Selector
from tests.unit.worker.queues.one_queue import NOW, consumer, counters, dispatched, key, message, messages, queue
from worker.queues.message import Message


def test_a_consumer_with_a_selector_gets_what_matches_and_blocks_nobody() -> None:
    one = queue()
    consumer(one, 1, selector="colour = 'green'")
    one.extend([message(1), message(2, colour="green"), message(3)])
    assert dispatched(one) == {1: [2]}
    consumer(one, 2)
    assert dispatched(one) == {2: [1, 3]}


def test_selectors_see_destination_message_id_and_escaped_headers() -> None:
    one = queue()
    consumer(one, 1, selector="destination = '/queue/q' AND JMSMessageID = 'm-7' AND \"a:b\" = 'x\\y'")
    one.extend([Message(key(7), b"m-7\ndestination:/queue/q\na\\cb:x\\\\y\na\\cb:z\n\nbody\0"), message(8)])
    assert dispatched(one) == {1: [7]}


def test_consumers_take_turns_whatever_they_select() -> None:
    one = queue()
    consumer(one, 1, selector="colour = 'red'")
    consumer(one, 2)
    consumer(one, 3, selector="colour <> 'green'")
    one.extend([*messages(1, 5), message(6, colour="green"), *messages(7, 8)])
    assert dispatched(one) == {1: [1, 4, 8], 2: [2, 5, 6], 3: [3, 7]}


def test_one_without_credit_does_not_hold_up_another_selector() -> None:
    one = queue()
    red = consumer(one, 1, 1, selector="colour = 'red'")
    consumer(one, 2, selector="colour = 'green'")
    one.extend([message(1), message(2), message(3, colour="green")])
    assert dispatched(one) == {1: [1], 2: [3]}
    one.settle(red, [key(1)])
    assert dispatched(one) == {1: [2]}


def test_messages_are_examined_once_not_with_every_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    plain = Selector.matches

    def matches(self: Selector, headers: dict[str, str]) -> bool:
        looked.append(headers["message-id"])
        return plain(self, headers)

    monkeypatch.setattr(Selector, "matches", matches)
    one = queue()
    here = consumer(one, 1, 1, selector="colour = 'green'")
    one.extend([message(1), message(2, colour="green"), message(3, colour="green")])
    for counter in (2, 3):
        assert dispatched(one) == {1: [counter]}
        one.dispatch(NOW)
        one.settle(here, [key(counter)])
    consumer(one, 2, selector="colour = 'green'")
    one.dispatch(NOW)
    one.extend(messages(4, 4))
    one.dispatch(NOW)
    assert looked == ["m-1", "m-2", "m-3", "m-4"]


def test_a_group_sticks_to_its_consumer_while_that_lives() -> None:
    one = queue()
    first, second = consumer(one, 1), consumer(one, 2)
    one.extend([message(1, group=b"a"), message(2, group=b"b"), message(3, group=b"a"), message(4, group=b"a")])
    assert dispatched(one) == {1: [1, 3, 4], 2: [2]}
    one.settle(first, [key(1), key(3), key(4)])
    one.extend([message(5, group=b"a"), message(6, group=b"b"), message(7, group=b"a")])
    assert dispatched(one) == {1: [5, 7], 2: [6]}
    one.detach(first, NOW)
    one.extend([message(8, group=b"a")])
    assert dispatched(one) == {2: [5, 7, 8]}
    assert list(second.unsettled) == [key(2), key(6), key(5), key(7), key(8)]


def test_a_group_waits_for_its_consumer_and_others_pass() -> None:
    one = queue()
    first = consumer(one, 1, 1)
    consumer(one, 2)
    one.extend([message(counter, group=b"a") for counter in (1, 2, 3)])
    one.extend([message(4), message(5, group=b"b")])
    assert dispatched(one) == {1: [1], 2: [4, 5]}
    one.settle(first, [key(1)])
    one.extend([message(6, group=b"a")])
    assert dispatched(one) == {1: [2]}
    one.settle(first, [key(2)])
    assert dispatched(one) == {1: [3]}


def test_a_group_is_with_one_consumer_also_when_it_refuses() -> None:
    one = queue()
    first = consumer(one, 1)
    consumer(one, 2)
    one.extend([message(1, group=b"a")])
    assert dispatched(one) == {1: [1]}
    one.give_back(first, [key(1)], NOW)
    assert dispatched(one) == {1: [1]}


def test_what_the_consumer_of_a_group_does_not_select_goes_to_others() -> None:
    one = queue()
    consumer(one, 1, selector="colour = 'red'")
    one.extend([message(1, group=b"a")])
    assert dispatched(one) == {1: [1]}
    consumer(one, 2)
    one.extend([message(2, group=b"a", colour="green"), message(3, group=b"a")])
    assert dispatched(one) == {1: [3], 2: [2]}


def test_groups_are_forgotten_when_they_are_too_many_but_none_with_messages_out() -> None:
    one = queue(max_groups=4)
    first, second = consumer(one, 1), consumer(one, 2)
    one.extend([message(1, group=b"out"), message(2, group=b"gone")])
    assert dispatched(one) == {1: [1], 2: [2]}
    one.settle(second, [key(2)])
    for counter in range(3, 13):
        one.extend([message(counter, group=b"g%d" % counter)])
        ((here, found),) = one.dispatch(NOW)
        one.settle(here, [each.key for each in found])
    assert len(one._waiting.groups._keepers) <= 8
    one.extend([message(20)])
    if 1 in dispatched(one):
        one.extend([message(21)])
        one.dispatch(NOW)
    # It is the first one's turn; the group that was forgotten follows it, the one with a message out follows its own.
    one.extend([message(22, group=b"gone"), message(23, group=b"out")])
    assert dispatched(one) == {1: [22, 23]}
    assert key(1) in first.unsettled


def test_a_group_is_not_split_because_many_come_at_once() -> None:
    one = queue(max_groups=1)
    consumer(one, 1)
    consumer(one, 2)
    one.extend([message(counter, group=b"g%d" % (counter % 5)) for counter in range(20)])
    holders: dict[int, set[int]] = {}
    for id, found in dispatched(one).items():
        for counter in found:
            holders.setdefault(counter % 5, set()).add(id)
    assert all(len(ids) == 1 for ids in holders.values())


def test_dropping_the_head_looks_at_those_that_wait_aside_too() -> None:
    one = queue()
    consumer(one, 1, 1, selector="colour = 'green'")
    one.extend([message(1, colour="green"), message(2), message(3, colour="green")])
    one.dispatch(NOW)
    one.extend(messages(4, 4))
    assert counters(one.take_head(2)) == [2, 3]
    assert (one.ready, one.messages) == (1, 2)
