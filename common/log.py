"""One log line per event: a closed list of event names, then fields, as text for people or JSON for machines.

Owns the names, the two formats and the rule that a line is written with a single `write`, so that the lines
of several processes sharing one stderr never mix. Knows nothing of what the events mean. Nothing is ever
logged per message.

    2026-11-23T15:31:02.123Z info  worker.ready slot=0 incarnation=1 pid=4242 process=front
    {"time":"2026-11-23T15:31:02.123Z","level":"info","event":"worker.ready","process":"front","slot":0,...}
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from enum import IntEnum, StrEnum
from typing import IO

__all__ = ["VALUE_LIMIT", "Event", "EventLog", "Level", "format_console", "format_json"]

VALUE_LIMIT = 4000
"""Characters of one value that are logged; what a client sent can be longer than any log wants to hold."""


class Level(IntEnum):
    """How much an operator should care."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @classmethod
    def named(cls, name: str) -> Level:
        """The level called `name` in the configuration (`log.level`); raises `KeyError` for another name."""
        return cls[name.upper()]


class Event(StrEnum):
    """Everything the broker logs. Part of the public contract: names are added, never changed."""

    BROKER_STARTING = "broker.starting"
    """The front begins: version, number of workers, data and runtime directory."""
    BROKER_WAITING = "broker.waiting"
    """The front cannot begin yet: `why`, and for how many seconds it waits."""
    BROKER_READY = "broker.ready"
    """Every worker of the first generation accepts clients."""
    BROKER_DRAINING = "broker.draining"
    """The broker stops in order: no new connections, what is queued is still delivered."""
    BROKER_STOPPED = "broker.stopped"
    """The last line: every worker is gone; `code` is the exit code."""
    BROKER_CANNOT_START = "broker.cannot-start"
    """The broker gives up; `reason` says what to mend. Exit code 3."""
    BROKER_SIGNAL = "broker.signal"
    """The front received a signal, and what it does about it."""
    LISTENER_BOUND = "listener.bound"
    """A listener has its address (the real port where the configuration says 0); `by` says who made it."""
    MANAGEMENT_BOUND = "management.bound"
    """The management interface has its `address` (the real port where the configuration says 0)."""
    WORKER_SPAWNED = "worker.spawned"
    WORKER_READY = "worker.ready"
    """A worker routes for all of its siblings and accepts clients."""
    WORKER_EXITED = "worker.exited"
    """A worker is gone; `exit` is its exit code or the name of the signal that ended it."""
    WORKER_HUNG = "worker.hung"
    """A worker did not answer, or did not become ready, in time: its stacks are dumped and it is replaced."""
    WORKER_BACKOFF = "worker.backoff"
    """A dead worker is replaced after `delay` seconds."""
    WORKER_KILLED = "worker.killed"
    """A worker that did not go by itself was sent SIGKILL."""
    CONTROL_ERROR = "control.error"
    """The control channel between the front and a worker carried something that does not fit."""
    WORKER_OUTPUT = "worker.output"
    """A worker of an embedded broker wrote a `line` that is no event, of a stack dump for instance."""
    SESSION_REFUSED = "session.refused"
    """The program that embeds the broker gave a client no session id that can be used; `reason` says why."""
    CONNECTION_OPENED = "connection.opened"
    CONNECTION_CLOSED = "connection.closed"
    """A client is gone; `reason` is one of the close reasons."""
    SUBSCRIBER_SLOW = "subscriber.slow"
    """A subscriber's outbox is full and its publishers are paused."""
    SUBSCRIBER_DROPPING = "subscriber.dropping"
    """Messages to a slow subscriber are dropped, as its destination's policy says."""
    PUBLISHER_PAUSED = "publisher.paused"
    PUBLISHER_RESUMED = "publisher.resumed"
    BACKPLANE_BLOCKED = "backplane.blocked"
    """A link to a sibling is full; the clients that publish to it are paused."""
    BACKPLANE_UNBLOCKED = "backplane.unblocked"
    BACKPLANE_JOINED = "backplane.joined"
    """A worker's links to all of its siblings are up."""
    BACKPLANE_LOST = "backplane.lost"
    """A sibling left."""
    QUEUE_DEAD_LETTERED = "queue.dead-lettered"
    """Messages were dead-lettered: from `queue`, how many, for what `reason`, and where `to`."""
    RETAINED_EVICTED = "retained.evicted"
    """Last messages of topics had to go, since there are too many: how many since the last such line."""
    DRAIN_FINISHED = "drain.finished"
    """A worker has said goodbye to all of its clients."""
    STORE_OPENED = "store.opened"
    """A worker's store is open: what it holds."""
    STORE_FAILING = "store.failing"
    """What is to be stored or read is refused, by the disk or by the quota; it is tried again."""
    STORE_RECOVERED = "store.recovered"
    """The store works as before."""
    STORE_RESHARDING = "store.resharding"
    """What is stored is laid out for another number of workers, before they start; later lines say how far it is."""
    STORE_RESHARDED = "store.resharded"
    """It is: how many queues and messages there are, and how many of them moved to another worker."""
    CONFIG_RELOADED = "config.reloaded"
    """A process goes by a new configuration; `changed` names the keys, in the front."""
    CONFIG_REFUSED = "config.refused"
    """A new configuration is not taken, the running one stays. A line for each `reason`."""
    INTERNAL_ERROR = "internal.error"
    """A bug: please report it with this line."""


def _timestamp(now: float) -> str:
    seconds, millis = divmod(int(now * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{millis:03d}Z"


def _plain(value: object) -> str | int | float | bool | None:
    """`value` as something both formats can show, cut to `VALUE_LIMIT`."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        text = bytes(value[: VALUE_LIMIT + 1]).decode("utf-8", "backslashreplace")
    else:
        text = str(value)
    return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}..."


def _console_value(value: object) -> str:
    plain = _plain(value)
    match plain:
        case None:
            return "-"
        case bool():
            return "true" if plain else "false"
        case float():
            return format(plain, ".6g")
        case int():
            return str(plain)
    if not plain.isprintable():
        return json.dumps(plain)
    if not plain or plain == "-" or any(character in ' "=\\' for character in plain):
        return json.dumps(plain, ensure_ascii=False)
    return plain


def format_console(now: float, level: Level, event: Event, process: str, fields: Mapping[str, object]) -> str:
    """One line for people, without a line end: time, level, event, `key=value`. `now` is seconds since 1970.

    A value is quoted as a JSON string when it is empty or holds a blank, a quote, `=`, a backslash or
    anything unprintable, so that no value can forge a field or a line.
    """
    pairs = "".join(f" {key}={_console_value(value)}" for key, value in fields.items())
    return f"{_timestamp(now)} {level.name.lower():<5} {event}{pairs} process={process}"


def format_json(now: float, level: Level, event: Event, process: str, fields: Mapping[str, object]) -> str:
    """One JSON object, without a line end. `now` is seconds since 1970."""
    record: dict[str, object] = {
        "time": _timestamp(now),
        "level": level.name.lower(),
        "event": str(event),
        "process": process,
    }
    record.update((key, _plain(value)) for key, value in fields.items())
    return json.dumps(record, separators=(",", ":"))


class EventLog:
    """Writes events of one process to `stream` (default: stderr).

    `level` and `format` take the configuration's words. A log that cannot be written to is never an error:
    the line is lost.
    """

    def __init__(
        self,
        process: str,
        level: str = "info",
        format: str = "console",
        stream: IO[str] | int | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.process = process
        self.level = Level.named(level)
        self._format = {"console": format_console, "json": format_json}[format]
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock

    def is_enabled(self, level: Level) -> bool:
        """Whether an event of `level` would be written: saves the cost of fields nobody will see."""
        return level >= self.level

    def debug(self, event: Event, **fields: object) -> None:
        self.write(Level.DEBUG, event, fields)

    def info(self, event: Event, **fields: object) -> None:
        self.write(Level.INFO, event, fields)

    def warning(self, event: Event, **fields: object) -> None:
        self.write(Level.WARNING, event, fields)

    def error(self, event: Event, **fields: object) -> None:
        self.write(Level.ERROR, event, fields)

    def write(self, level: Level, event: Event, fields: Mapping[str, object]) -> None:
        """Write one event, if `level` is enabled."""
        if level < self.level:
            return
        line = self._format(self._clock(), level, event, self.process, fields) + "\n"
        try:
            if isinstance(self._stream, int):
                os.write(self._stream, line.encode())
                return
            try:
                descriptor = self._stream.fileno()
            except io.UnsupportedOperation:
                self._stream.write(line)
            else:
                os.write(descriptor, line.encode())
        except (OSError, ValueError):
            # A closed pipe (OSError) or stream (ValueError) must not take the broker down with it.
            return
