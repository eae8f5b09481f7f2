"""The log of an embedded broker goes to what the program gave for it, and nothing it does there harms the broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from broker.injected_log import InjectedLog, WorkerLines, sink_of
from common.log import VALUE_LIMIT, Event, Level, format_json


class Sink(list[tuple[Level, str, Mapping[str, object]]]):
    def __call__(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        self.append((level, event, fields))


def test_the_front_s_events_come_with_level_name_and_plain_fields() -> None:
    sink = Sink()
    log = InjectedLog(sink, "info")
    log.debug(Event.WORKER_READY)
    log.info(Event.BROKER_STARTING, data_dir=Path("/x"), workers=2)
    assert sink == [(Level.INFO, "broker.starting", {"process": "front", "data_dir": "/x", "workers": 2})]
    log.level = Level.DEBUG
    log.debug(Event.WORKER_READY)
    assert len(sink) == 2


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_worker_s_lines_are_events_however_they_are_read(size: int) -> None:
    sink = Sink()
    lines = WorkerLines(3, sink)
    first = format_json(0, Level.ERROR, Event.STORE_FAILING, "worker-3", {"why": "ä\n"})
    second = format_json(0, Level.DEBUG, Event.CONNECTION_CLOSED, "worker-3", {"session": "s"})
    data = f"{first}\n{second}\n".encode()
    for at in range(0, len(data), size):
        lines(data[at : at + size])
    assert sink == [
        (Level.ERROR, "store.failing", {"process": "worker-3", "why": "ä\n"}),
        (Level.DEBUG, "connection.closed", {"process": "worker-3", "session": "s"}),
    ]


@pytest.mark.parametrize("line", ["Fatal Python error: Aborted", "7", "[]", '{"event": "x"}', "{", "\\xff"])
def test_what_is_no_event_is_told_as_it_is(line: str) -> None:
    sink = Sink()
    WorkerLines(0, sink)(line.encode() + b"\n\n")
    assert sink == [(Level.WARNING, "worker.output", {"process": "worker-0", "line": line})]


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    sink = Sink()
    lines = WorkerLines(0, sink)
    for _ in range(40):
        lines(b"x" * (64 << 10))
    assert len(sink) == 2
    assert len(str(sink[0][2]["line"])) == VALUE_LIMIT
    assert len(lines._rest) < 1 << 20


def test_a_logger_gets_level_message_and_attributes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        sink_of(logging.getLogger("mine"))(Level.WARNING, "worker.killed", {"slot": 1, "why": "a b"})

    asyncio.run(main())
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mine", logging.WARNING)
    assert record.getMessage() == 'worker.killed slot=1 why="a b"'
    assert record.__dict__["event"] == "worker.killed"
    assert record.__dict__["fields"] == {"slot": 1, "why": "a b"}


def test_the_default_is_the_logger_stampede(caplog: pytest.LogCaptureFixture) -> None:
    sink_of(None)(Level.ERROR, "broker.cannot-start", {})
    assert [record.name for record in caplog.records] == ["stampede"]


def test_a_logger_is_not_bothered_with_what_it_does_not_want(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "mine")
    sink_of(logging.getLogger("mine"))(Level.INFO, "worker.ready", {"slot": object()})
    assert caplog.records == []


def test_a_sink_that_raises_is_told_to_the_program() -> None:
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        sink_of(lambda level, event, fields: 1 / 0)(Level.INFO, "worker.ready", {})

    asyncio.run(main())
    assert isinstance(told[0]["exception"], ZeroDivisionError)
    assert "worker.ready" in told[0]["message"]
