"""The log of an embedded broker: every event of every process goes to what the program gave for it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping

from common.log import VALUE_LIMIT, Event, EventLog, Level, format_json

__all__ = ["InjectedLog", "Log", "Sink", "WorkerLines", "sink_of"]

Sink = Callable[[Level, str, Mapping[str, object]], None]
"""Takes one event: its level, its name (`common.log.Event`) and its fields, `process` among them."""

Log = Sink | logging.Logger

_LINE_BYTES = 1 << 20
"""What is kept of a line that does not end; a line of ours is far shorter."""


def sink_of(log: Log | None) -> Sink:
    """`log` as something to call; None is the logger `stampede` of `logging`.

    A logger gets `event key=value ...` as the message, and records with the attributes `event` and `fields`. What a
    sink raises goes to the exception handler of the event loop. Raises TypeError.
    """
    if log is None:
        log = logging.getLogger("stampede")
    if not isinstance(log, logging.Logger) and not callable(log):
        raise TypeError(f"log was {log!r}; it is a logging.Logger, or a function of level, event and fields")
    write = _log_to(log) if isinstance(log, logging.Logger) else log

    def guarded(level: Level, event: str, fields: Mapping[str, object]) -> None:
        try:
            write(level, event, fields)
        except Exception as error:  # noqa: BLE001 - it is told on; the broker's own work is not to stop halfway
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the log given to the broker failed at {event}", "exception": error}
            )

    return guarded


def _log_to(logger: logging.Logger) -> Sink:
    def write(level: Level, event: str, fields: Mapping[str, object]) -> None:
        if logger.isEnabledFor(level):
            pairs = "".join(f" {key}={json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
            logger.log(level, "%s%s", event, pairs, extra={"event": event, "fields": fields})

    return write


def _pass_on(record: dict[str, object], sink: Sink) -> None:
    """`record` is a line of JSON, as `format_json` writes it."""
    del record["time"]
    level = Level.named(str(record.pop("level")))
    sink(level, str(record.pop("event")), record)


class InjectedLog(EventLog):
    """What the front logs."""

    def __init__(self, sink: Sink, level: str) -> None:
        super().__init__("front", level)
        self._sink = sink

    def write(self, level: Level, event: Event, fields: Mapping[str, object]) -> None:
        if level >= self.level:
            # By way of the text, so that the values are as plain as those that come from the workers.
            _pass_on(json.loads(format_json(time.time(), level, event, self.process, fields)), self._sink)


class WorkerLines:
    """What one worker after the other writes from `slot`: JSON lines are its events, others are `worker.output`."""

    def __init__(self, slot: int, sink: Sink) -> None:
        self._process = f"worker-{slot}"
        self._sink = sink
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._take(line.decode(errors="backslashreplace"))

    def _take(self, line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and {"time", "level", "event"} <= record.keys():
            _pass_on(record, self._sink)
        elif line:
            self._sink(Level.WARNING, Event.WORKER_OUTPUT.value, {"process": self._process, "line": line[:VALUE_LIMIT]})
