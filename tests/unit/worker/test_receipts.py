"""RECEIPTs leave in the order they were asked for, each once, and no later than the last effect they wait for."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

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
