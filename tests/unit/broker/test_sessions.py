"""What workers report, as events; and which session ids are fit."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker.events import (
    ClientConnected,
    ClientDisconnected,
    Event,
    ServerStopped,
    SubscriptionEnded,
    SubscriptionStarted,
)
from broker.sessions import SESSION_BYTES, Sessions
from common.errors import CloseReason
from common.log import EventLog


class Heard(list[Event]):
    """A reader."""

    __hash__ = object.__hash__

    def add(self, event: Event) -> None:
        self.append(event)


class Watched:
    def __init__(self, provide: Callable[[], Any] | None = None) -> None:
        self.stream = io.StringIO()
        self.sessions = Sessions(provide, EventLog("front", "debug", "json", self.stream))
        self.heard = Heard()
        self.sessions.tell(self.heard)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def connect(self, slot: int, number: int, session: str) -> None:
        self.sessions.happened(slot, [["connected", number, session, "127.0.0.1", 5000, "1.2", None]])


def test_a_life_in_order() -> None:
    watched = Watched()
    watched.sessions.happened(
        1,
        [
            ["connected", 7, "s", "::1", 5000, "1.1", "jane"],
            ["subscribed", 7, 8, "a", "/topic/a", "auto"],
            ["subscribed", 7, 9, None, "/topic/b", "client"],
            ["unsubscribed", 7, 8],
            ["left", 7, "disconnect"],
        ],
    )
    assert watched.heard == [
        ClientConnected("s", ("::1", 5000), "1.1", "jane"),
        SubscriptionStarted("s", "a", "/topic/a", "auto"),
        SubscriptionStarted("s", None, "/topic/b", "client"),
        SubscriptionEnded("s", "a", "/topic/a"),
        SubscriptionEnded("s", None, "/topic/b"),
        ClientDisconnected("s", CloseReason.DISCONNECT),
    ]
    assert watched.log == []


def test_workers_number_their_connections_each_for_itself() -> None:
    watched = Watched()
    watched.connect(0, 1, "zero")
    watched.connect(1, 1, "one")
    watched.sessions.happened(1, [["left", 1, "disconnect"]])
    watched.sessions.happened(0, [["left", 1, "client-closed"]])
    assert watched.heard[2:] == [
        ClientDisconnected("one", CloseReason.DISCONNECT),
        ClientDisconnected("zero", CloseReason.CLIENT_CLOSED),
    ]


def test_what_a_dead_worker_cannot_say_is_made_up() -> None:
    watched = Watched()
    watched.connect(0, 1, "zero")
    watched.connect(1, 1, "one")
    watched.sessions.happened(1, [["subscribed", 1, 2, "a", "/topic/a", "auto"]])
    watched.heard.clear()
    watched.sessions.lost(1)
    assert watched.heard == [
        SubscriptionEnded("one", "a", "/topic/a"),
        ClientDisconnected("one", CloseReason.CONNECTION_LOST),
    ]
    watched.sessions.lost(1)
    assert len(watched.heard) == 2


def test_of_one_that_never_was_connected_nothing_is_told() -> None:
    watched = Watched(iter(["a", "b"]).__next__)
    assert watched.sessions.name(0, 1, "0-x-1") == "a"
    watched.sessions.happened(0, [["left", 1, "client-closed"]])
    assert watched.sessions.name(0, 2, "0-x-2") == "b"
    watched.sessions.lost(0)
    assert watched.heard == []


def test_every_reader_is_told_from_its_start_and_the_late_one_of_the_end() -> None:
    watched = Watched()
    watched.connect(0, 1, "a")
    second = Heard()
    watched.sessions.tell(second)
    watched.connect(0, 2, "b")
    watched.sessions.stopped(3)
    late = Heard()
    watched.sessions.tell(late)
    assert len(watched.heard) == 3
    assert second == watched.heard[1:]
    assert late == [ServerStopped(3)]


def test_a_reader_that_nobody_holds_is_forgotten() -> None:
    watched = Watched()
    watched.sessions.tell(Heard())
    gc.collect()
    assert len(watched.sessions._readers) == 1


def test_a_report_that_does_not_fit_is_logged_and_no_more() -> None:
    watched = Watched()
    watched.sessions.happened(0, [["danced", 1], ["subscribed", 5, 6, "a", "/topic/a", "auto"]])
    watched.connect(0, 1, "a")
    assert len(watched.heard) == 1
    assert [line["event"] for line in watched.log] == ["control.error", "control.error"]


# --- names


def test_without_a_provider_nothing_is_asked_for() -> None:
    assert not Watched().sessions.names
    assert Watched(str).sessions.names


@pytest.mark.parametrize("session", ["a", "ä:b c\\d", "x" * SESSION_BYTES, "ä" * (SESSION_BYTES // 2)])
def test_a_fit_name_is_taken(session: str) -> None:
    watched = Watched(lambda: session)
    assert watched.sessions.name(0, 1, "0-x-1") == session
    assert watched.sessions.locate(session) == "0-x-1"
    assert watched.log == []


@pytest.mark.parametrize(
    ("session", "said"),
    [
        (None, "NoneType"),
        (b"a", "bytes"),
        ("", "gave 0"),
        ("x" * (SESSION_BYTES + 1), "gave 257"),
        ("ä" * (SESSION_BYTES // 2 + 1), "gave 258"),
        ("a\nb", "control characters"),
        ("a\rb", "control characters"),
        ("a\0b", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\x9fb", "control characters"),
        (" a", "blank"),
        ("a ", "blank"),
        ("\ud800", "UTF-8"),
    ],
)
def test_an_unfit_name_is_refused_and_logged(session: object, said: str) -> None:
    watched = Watched(lambda: session)
    assert watched.sessions.name(0, 1, "0-x-1") is None
    assert [line["event"] for line in watched.log] == ["session.refused"]
    assert said in watched.log[0]["reason"]


def test_a_provider_that_raises_is_refused_and_logged_with_its_stack() -> None:
    watched = Watched(lambda: 1 / 0)
    assert watched.sessions.name(2, 1, "0-x-1") is None
    (line,) = watched.log
    assert line["reason"] == "the session id provider raised ZeroDivisionError: division by zero"
    assert "in name" in line["traceback"]
    assert line["slot"] == 2


def test_a_name_is_for_one_at_a_time() -> None:
    names: Iterator[str] = iter(["a", "a", "a", "a"])
    watched = Watched(names.__next__)
    assert watched.sessions.name(0, 1, "0-x-1") == "a"
    assert watched.sessions.name(1, 1, "1-x-1") is None, "it is taken, if only on another worker"
    assert "another client" in watched.log[0]["reason"]
    watched.sessions.happened(0, [["left", 1, "disconnect"]])
    assert watched.sessions.locate("a") == "a"
    assert watched.sessions.name(1, 2, "1-x-2") == "a"
    watched.sessions.lost(1)
    assert watched.sessions.name(0, 3, "0-x-3") == "a"
