"""When a client reads, and when it does not."""

from __future__ import annotations

from typing import cast

from common.client.incoming import Incoming
from common.client.session import Session


class Reading:
    """A session as far as `Incoming` sees it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


class Desk:
    """An `Incoming` of 100 bytes, counted as its users do."""

    def __init__(self) -> None:
        self.awaited = 0
        self.alarms = 0
        self.incoming = Incoming(100, lambda: self.awaited, self.alarm)
        self.reading = Reading()
        self.connect()

    def connect(self) -> None:
        self.reading = Reading()
        self.incoming.connected(cast(Session, self.reading))

    def alarm(self) -> None:
        self.alarms += 1

    def receive(self, size: int) -> None:
        self.incoming.held += size
        if self.incoming.held > self.incoming.most:
            self.incoming.over()

    def take(self, size: int) -> None:
        self.incoming.held -= size
        self.incoming.look()


def test_over_the_bound_it_stops_and_at_half_of_it_goes_on() -> None:
    desk = Desk()
    desk.receive(100)
    assert desk.reading.calls == []
    desk.receive(1)
    desk.receive(10)
    assert desk.reading.calls == ["pause"]
    desk.take(60)
    assert desk.reading.calls == ["pause"]
    desk.take(1)
    assert desk.reading.calls == ["pause", "resume"]
    desk.take(50)
    assert desk.reading.calls == ["pause", "resume"]


def test_whoever_begins_to_wait_for_an_answer_has_it_read() -> None:
    desk = Desk()
    desk.receive(200)
    desk.awaited = 1
    desk.incoming.go_on()
    assert desk.reading.calls == ["pause", "resume"]
    desk.receive(200)
    assert desk.reading.calls == ["pause", "resume"]
    # With the answer there the bound counts again.
    desk.awaited = 0
    desk.receive(1)
    assert desk.reading.calls == ["pause", "resume", "pause"]


def test_another_connection_is_read_until_there_is_more_again() -> None:
    desk = Desk()
    desk.receive(200)
    old = desk.reading
    desk.incoming.connected(None)
    desk.receive(1)
    desk.incoming.go_on()
    desk.take(1)
    assert old.calls == ["pause"]
    desk.connect()
    desk.receive(1)
    assert (old.calls, desk.reading.calls) == (["pause"], ["pause"])


def test_at_sixteen_times_the_bound_and_each_further_one_it_says_so() -> None:
    desk = Desk()
    desk.awaited = 1
    desk.receive(1600)
    assert desk.alarms == 0
    desk.receive(1)
    desk.receive(100)
    assert desk.alarms == 1
    desk.receive(1)
    assert desk.alarms == 2
    desk.take(1500)
    desk.receive(1)
    desk.receive(1397)
    assert desk.alarms == 2
    desk.receive(1)
    assert desk.alarms == 3
