"""The broker under test: the real front as a child process, its ready line, its log and its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from tests.harness.toml import dump_toml

__all__ = ["ROOT", "Broker", "BrokerFailed", "Event"]

ROOT = Path(__file__).resolve().parents[2]

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0

_READY = re.compile(r"^stampede (?P<version>\S+) ready on (?P<addresses>.+) with (?P<workers>\d+) workers?$")
# A developer's own environment must not configure the broker under test, nor systemd's hand over its sockets.
_FOREIGN_ENVIRONMENT = re.compile(
    r"^(STAMPEDE_.*|LISTEN_(FDS|PID|FDNAMES)|NOTIFY_SOCKET|WATCHDOG_(USEC|PID)|RUNTIME_DIRECTORY)$"
)

Event = dict[str, Any]
"""One line of the broker's JSON log."""


class BrokerFailed(AssertionError):
    """The broker did not start, did not stop, did not log what it should, or logged what it must not."""


class Broker:
    """`stampede serve` with `config`, on ports of the system's choice, its files in a directory of its own.

    A context manager: entering starts it and waits for the ready line, leaving stops it and raises
    `BrokerFailed` when its log holds an `internal.error` or a traceback. `log_level=None` leaves that to `config`.
    `data_dir` is for brokers that find what one before them stored; it is not removed.
    Times are in seconds.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        config: Mapping[str, object] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log_level: str | None = "info",
        bind: Sequence[str] | None = None,
        data_dir: Path | None = None,
    ) -> None:
        self.workers = workers
        self._config = dict(config or {})
        self._arguments = list(arguments)
        self._environment = dict(environment or {})
        self._log_level = log_level
        # `--bind` replaces the listeners of the file, so it is given only where the file has none.
        self._bind = list(bind) if bind is not None else ([] if "listener" in self._config else ["127.0.0.1:0"])
        self.directory = Path(tempfile.mkdtemp(prefix="stampede-test-"))
        self.data_dir = data_dir if data_dir is not None else self.directory / "data"
        self.addresses: list[tuple[str, int]] = []
        self.ready_line = ""
        self.process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._noise: list[str] = []
        self._stdout: list[str] = []
        self._readers: list[threading.Thread] = []
        self._excused: set[int] = set()
        self._told_to_stop = False
        self._guard: subprocess.Popen[bytes] | None = None

    # --- life

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
                self.check_log()
        finally:
            self.discard()

    def spawn(self) -> None:
        """Start the process and return at once."""
        command = [
            sys.executable,
            "-m",
            "broker",
            "serve",
            "--workers",
            str(self.workers),
            "--log-format",
            "json",
        ]
        if self._log_level is not None:
            command += ["--log-level", self._log_level]
        for address in self._bind:
            command += ["--bind", address]
        if self._config:
            self.write_config(self._config)
            command += ["--config", str(self.config_path)]
        command += ["--data-dir", str(self.data_dir), *self._arguments]
        environment = {k: v for k, v in os.environ.items() if not _FOREIGN_ENVIRONMENT.match(k)}
        # The private runtime directory of a broker that is killed goes with ours.
        environment |= {"TMPDIR": str(self.directory), **self._environment}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
        # A test run that is killed runs no teardown. The end of this pipe tells the guard, and without their front the
        # workers end by themselves.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -KILL {self.process.pid}; rm -rf '{self.directory}'"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        for stream, take in ((self.process.stdout, self._take_stdout), (self.process.stderr, self._take_log)):
            reader = threading.Thread(target=self._read, args=(stream, take), daemon=True)
            reader.start()
            self._readers.append(reader)

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Start the process and wait for its ready line; `BrokerFailed` when that does not come."""
        self.spawn()
        self._wait(lambda: bool(self._stdout) or self.returncode is not None, timeout, "its ready line")
        found = _READY.match(self._stdout[0]) if self._stdout else None
        if found is None:
            raise self.failure(f"no ready line on stdout (exit code {self.returncode}, stdout {self._stdout})")
        self.ready_line = self._stdout[0]
        self.addresses = [_address(text) for text in found["addresses"].split(", ")]
        if int(found["workers"]) != self.workers:
            raise self.failure(f"{self.workers} workers were asked for: {self.ready_line}")
        if self._log_level in ("debug", "info", None):
            # The log comes by another pipe, and may be read later than the ready line.
            self._wait(lambda: len(self.worker_pids()) == self.workers, timeout, "the workers' process ids")

    def write_config(self, config: Mapping[str, object]) -> None:
        """Replace the configuration file; it is read only if the broker was made with a `config`."""
        self.config_path.write_text(dump_toml(config), encoding="utf-8")

    def terminate(self) -> None:
        """SIGTERM, once: a second one would mean to stop at once."""
        assert self.process is not None
        if not self._told_to_stop and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self._told_to_stop = True

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """`terminate`, and the exit code; `BrokerFailed` when it has not ended after `timeout`."""
        self.terminate()
        code = self.wait(timeout)
        if code != 0:
            raise self.failure(f"exit code {code} after SIGTERM")
        return code

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """The exit code, once the process has ended and its log has been read to its end."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.failure(f"still running {timeout} s after it was told to stop") from None
        for reader in self._readers:
            # The workers hold the same stderr: its end is also the proof that none of them is left.
            reader.join(timeout)
            if reader.is_alive():
                raise self.failure("the front has ended, but another process still holds its output")
        return code

    def discard(self) -> None:
        """Kill what still runs and remove every file; never raises for a broker that is gone already."""
        if self._guard is not None:
            # First of all: once the front is reaped its process id may become another's.
            self._guard.kill()
            self._guard.communicate()
        if self.process is not None:
            self._kill_family()
            self.process.wait()
            for reader in self._readers:
                reader.join(5)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _kill_family(self) -> None:
        assert self.process is not None
        family: list[psutil.Process] = []
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = [p for pid in self.worker_pids().values() if (p := _worker_process(pid))]
        if self.process.poll() is None:
            self.process.kill()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    # --- where it is

    @property
    def address(self) -> tuple[str, int]:
        """The first listener's address."""
        return self.addresses[0]

    @property
    def config_path(self) -> Path:
        """The configuration file."""
        return self.directory / "stampede.toml"

    @property
    def pid(self) -> int:
        """The front's process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The front's exit code, None while it runs."""
        return None if self.process is None else self.process.poll()

    def worker_pids(self) -> dict[int, int]:
        """The process id of each slot's newest worker that reported ready."""
        return {event["slot"]: event["pid"] for event in self.events("worker.ready")}

    # --- its log

    @property
    def position(self) -> int:
        """How many events there are: as `since` it leaves those out. Addresses of clients do repeat."""
        with self._changed:
            return len(self._events)

    def events(self, name: str | None = None, *, since: int = 0, **fields: object) -> list[Event]:
        """The log's events with this name and these fields, oldest first, without the first `since` of all."""
        with self._changed:
            return [event for event in self._events[since:] if _fits(event, name, fields)]

    def wait_event(
        self, name: str, *, timeout: float = 10.0, count: int = 1, since: int = 0, **fields: object
    ) -> Event:
        """The `count`th event that `events` would give, waiting for it at most `timeout`."""
        self._wait(lambda: len(self.events(name, since=since, **fields)) >= count, timeout, f"{name} {fields} x{count}")
        return self.events(name, since=since, **fields)[count - 1]

    @property
    def stderr_noise(self) -> list[str]:
        """Lines on stderr that are no JSON: stack dumps, warnings of the interpreter."""
        with self._changed:
            return list(self._noise)

    def check_log(self) -> None:
        """`BrokerFailed` when the log holds an internal error or a traceback not reported before."""
        with self._changed:
            found = [e for e in self._events if e.get("event") == "internal.error" or "Traceback" in json.dumps(e)]
            bad: list[object] = [event for event in found if id(event) not in self._excused]
            self._excused |= {id(event) for event in found}
            traces = [i for i, line in enumerate(self._noise) if "Traceback" in line and -i - 1 not in self._excused]
            self._excused |= {-i - 1 for i in traces}
            bad += ["\n".join(self._noise[i : i + 40]) for i in traces]
        if bad:
            raise BrokerFailed("the broker logged a fault of its own:\n" + "\n".join(map(str, bad)))

    def failure(self, what: str) -> BrokerFailed:
        """An error that says `what` and shows the end of the log."""
        with self._changed:
            log = [json.dumps(event) for event in self._events[-30:]] + self._noise[-40:]
        return BrokerFailed(f"{what}; the end of its log:\n" + "\n".join(log))

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self.failure(f"waited {timeout} s in vain for {what}")
                # The end of the process wakes nobody, hence the short steps.
                self._changed.wait(min(left, 0.1))

    def _read(self, stream: IO[str], take: Callable[[str], None]) -> None:
        for line in stream:
            with self._changed:
                take(line.rstrip("\n"))
                self._changed.notify_all()

    def _take_stdout(self, line: str) -> None:
        self._stdout.append(line)

    def _take_log(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self._noise.append(line)
            return
        if isinstance(event, dict):
            self._events.append(event)
        else:
            self._noise.append(line)


def _fits(event: Event, name: str | None, fields: Mapping[str, object]) -> bool:
    return (name is None or event.get("event") == name) and all(event.get(k) == v for k, v in fields.items())


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _worker_process(pid: int) -> psutil.Process | None:
    """The process, if that id still belongs to a worker of ours and not to a stranger that got it since."""
    try:
        process = psutil.Process(pid)
        return process if "worker" in process.cmdline() else None
    except psutil.Error:
        return None
