"""The bar: nothing for what is quick, then how far it is, and no trace in the end."""

from __future__ import annotations

import io

from worker.store.tool.progress import Bar, Paced


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_takes_less_than_a_second_shows_nothing() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = Bar(stream, "moving", "messages", clock=clock)
    bar(1, 10)
    clock.now += 0.99
    bar(10, 10)
    bar.clear()
    assert stream.getvalue() == ""


def test_the_bar() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = Bar(stream, "moving", "messages", clock=clock)
    clock.now += 2
    bar(2500, 10_000)
    assert stream.getvalue() == "\rmoving [########                      ]  25%, 2,500 of 10,000 messages, 6 s left"
    bar(2600, 10_000)
    clock.now += 0.2
    bar(10_000, 10_000)
    assert stream.getvalue().split("\r")[2].rstrip() == f"moving [{'#' * 30}] 100%, 10,000 of 10,000 messages, 0 s left"
    bar.clear()
    assert stream.getvalue().split("\r")[-2].isspace()


def test_without_a_total_it_counts() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = Bar(stream, "importing", "messages", clock=clock)
    clock.now += 2
    bar(2500, 0)
    assert stream.getvalue() == "\rimporting 2,500 messages"


def test_it_is_told_in_paces() -> None:
    clock, told = Clock(), []
    paced = Paced(lambda done, total: told.append(done), every=1.0, clock=clock)
    for done in range(30):
        paced(done, 30)
        clock.now += 0.125
    assert told == [0, 8, 16, 24]
