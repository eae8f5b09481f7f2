"""One line per event, from a closed list, that no value can forge."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CloseReason
from common.log import VALUE_LIMIT, Event, EventLog, Level, format_console, format_json

NOW = 1795447862.1239
STAMP = "2026-11-23T15:31:02.123Z"
NAMES = [
    *["broker.starting", "broker.ready", "broker.draining", "broker.stopped", "broker.cannot-start", "broker.signal"],
    *["broker.waiting", "listener.bound", "management.bound"],
    *["worker.spawned", "worker.ready", "worker.exited", "worker.hung", "worker.backoff"],
    *["worker.output", "session.refused"],
    *["worker.killed", "control.error", "connection.opened", "connection.closed"],
    *["subscriber.slow", "subscriber.dropping", "publisher.paused"],
    *["publisher.resumed", "backplane.blocked", "backplane.unblocked", "backplane.joined", "backplane.lost"],
    *["store.opened", "store.failing", "store.recovered", "store.resharding", "store.resharded", "queue.dead-lettered"],
    *["retained.evicted", "drain.finished", "config.reloaded", "config.refused", "internal.error"],
]

AWKWARD = st.text(alphabet=st.sampled_from(' "=\\-\n\r\t\0\x1b\x85\u2028\u202eaä€\U0001f40e\ud800'), max_size=12)


def console(**fields: object) -> str:
    """What a console line says after the event and before the process."""
    line = format_console(NOW, Level.INFO, Event.WORKER_READY, "front", fields)
    return line.removeprefix(f"{STAMP} info  worker.ready").removesuffix(" process=front").strip()


@pytest.mark.parametrize("name", NAMES)
def test_no_promised_event_is_missing(name: str) -> None:
    assert Event(name).value == name


@pytest.mark.parametrize("event", Event)
def test_an_event_is_logged_under_its_name_in_both_formats(event: Event) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", event)
    assert event in NAMES, "a new event belongs into the list above: it is a promise"
    assert format_console(NOW, Level.WARNING, event, "worker-0", {}) == (f"{STAMP} warning {event} process=worker-0")
    assert json.loads(format_json(NOW, Level.WARNING, event, "worker-0", {})) == {
        "time": STAMP,
        "level": "warning",
        "event": event.value,
        "process": "worker-0",
    }


def test_console_is_the_documented_line() -> None:
    line = format_console(NOW, Level.INFO, Event.WORKER_READY, "front", {"slot": 0, "pid": 4242})
    assert line == f"{STAMP} info  worker.ready slot=0 pid=4242 process=front"


def test_json_keeps_types() -> None:
    fields = {"slot": 0, "delay": 0.1, "first": True, "peer": None, "reason": "a b"}
    record = json.loads(format_json(NOW, Level.ERROR, Event.WORKER_READY, "front", fields))
    assert {key: record[key] for key in fields} == fields


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("127.0.0.1:61613", "127.0.0.1:61613"),
        ("größe", "größe"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', r'"say \"hi\""'),
        ("a=b", '"a=b"'),
        ("back\\slash", r'"back\\slash"'),
        ("a\nb", r'"a\nb"'),
        ("\x1b[2J", r'"\u001b[2J"'),
        ("\u2028", r'"\u2028"'),
        ("-", '"-"'),
        (None, "-"),
        (True, "true"),
        (False, "false"),
        (12, "12"),
        (0.1, "0.1"),
        (1 / 3, "0.333333"),
        (b"\xff\x00ok", '"\\\\xff\\u0000ok"'),
        (CloseReason.DISCONNECT, "disconnect"),
        (Path("/tmp/x"), "/tmp/x"),
    ],
)
def test_console_quotes_what_needs_it(value: object, shown: str) -> None:
    assert console(key=value) == f"key={shown}"


@given(AWKWARD, AWKWARD)
def test_no_value_forges_a_line_or_a_field(first: str, second: str) -> None:
    for line in (
        format_console(NOW, Level.INFO, Event.CONNECTION_CLOSED, "front", {"a": first, "b": second}),
        format_json(NOW, Level.INFO, Event.CONNECTION_CLOSED, "front", {"a": first, "b": second}),
    ):
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        line.encode()
    pairs = re.fullmatch(r'a=("(?:[^"\\]|\\.)*"|[^" =]+) b=("(?:[^"\\]|\\.)*"|[^" =]+)', console(a=first, b=second))
    assert pairs is not None
    read = [json.loads(text) if text.startswith('"') else text for text in pairs.groups()]
    assert read == [first, second]


def test_a_value_is_cut_at_its_limit() -> None:
    assert console(key="x" * VALUE_LIMIT) == f"key={'x' * VALUE_LIMIT}"
    assert console(key="x" * (VALUE_LIMIT + 1)) == f"key={'x' * VALUE_LIMIT}..."
    assert console(key=b"x" * (10 * VALUE_LIMIT)) == f"key={'x' * VALUE_LIMIT}..."


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_a_line_is_one_write(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(data) or len(data))
    EventLog("front", stream=pipe[1], clock=lambda: NOW).info(Event.WORKER_READY, slot=0)
    assert written == [f"{STAMP} info  worker.ready slot=0 process=front\n".encode()]


def test_a_line_bypasses_the_buffer_of_its_stream(pipe: tuple[int, int]) -> None:
    with os.fdopen(os.dup(pipe[1]), "w") as stream:
        EventLog("front", stream=stream, clock=lambda: NOW).info(Event.WORKER_READY)
        assert os.read(pipe[0], 1000) == f"{STAMP} info  worker.ready process=front\n".encode()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_only_events_of_the_level_and_above_are_written(level: str) -> None:
    stream = io.StringIO()
    log = EventLog("front", level, "json", stream)
    for write in (log.debug, log.info, log.warning, log.error):
        write(Event.WORKER_READY)
    order = ["debug", "info", "warning", "error"]
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == order[order.index(level) :]
    assert [name for name in order if log.is_enabled(Level.named(name))] == order[order.index(level) :]


def test_unknown_words_are_refused() -> None:
    with pytest.raises(KeyError):
        EventLog("front", "loud")
    with pytest.raises(KeyError):
        EventLog("front", format="xml")


def test_a_log_nobody_can_read_is_no_error(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    EventLog("front", stream=pipe[1]).info(Event.WORKER_READY)
    closed = io.StringIO()
    closed.close()
    EventLog("front", stream=closed).info(Event.WORKER_READY)
