"""RECEIPTs leave in the order they were asked for, each once, and no later than the last effect they wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.worker.clocked import Worker
from worker.receipts import Ticket, hold


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=40))
def test_in_order_and_once(releases: list[int]) -> None:
    line: deque[Ticket] = deque()
    sent: list[int] = []
    tickets: list[Ticket] = []
    released: set[int] = set()
    for number in releases:
        if number >= len(tickets):
            place = len(tickets)
            tickets.append(hold(line, lambda place=place: sent.append(place)))  # type: ignore[misc]
        else:
            tickets[number].release()
            released.add(number)
        ready = next((place for place in range(len(tickets)) if place not in released), len(tickets))
        assert sent == list(range(ready))
        assert len(line) == len(tickets) - ready


def test_a_send_that_releases_the_next_keeps_the_order() -> None:
    line: deque[Ticket] = deque()
    sent: list[str] = []
    later: list[Ticket] = []

    def first() -> None:
        sent.append("first")
        later[0].release()

    ticket = hold(line, first)
    later.append(hold(line, lambda: sent.append("second")))
    later.append(hold(line, lambda: sent.append("third")))
    later[1].release()
    assert sent == []
    ticket.release()
    assert sent == ["first", "second", "third"]
    assert not line


def test_a_client_that_waits_for_many_answers_is_read_from_again_whatever_they_are() -> None:
    worker = Worker()
    client = worker.login()
    routed: list[Callable[[], None]] = []
    worker.core.backplane.barrier = routed.append  # type: ignore[method-assign]
    client.read(b"SUBSCRIBE\nid:a\ndestination:/topic/a\nreceipt:first\n\n\0")
    sent = 0
    while client.transport.reading:
        # Each is a read of its own, whose RECEIPTs wait behind that of the SUBSCRIBE.
        client.read(b"SEND\ndestination:/topic/b\nreceipt:%d\n\nx\0" % sent)
        sent += 1
    assert sent > 1000
    for done in routed:
        done()
    worker.loop.settle()
    assert sum(data.count(b"RECEIPT\n") for _, data in client.transport.written) == sent + 1
    assert client.transport.reading
