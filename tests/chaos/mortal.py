"""A broker that is killed and started again: always the same port, the same data directory."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.harness.broker import Broker, Event

__all__ = ["CONFIG", "Mortal", "free_port"]

PATIENCE = 60.0
"""Seconds; only a failing test waits so long."""

CONFIG: dict[str, Any] = {
    # The clients of a broker whose front is gone are told so, not served for long.
    "broker": {"drain_timeout": "300ms"},
    # A worker that dies over and over is what these tests are about.
    "supervision": {"backoff_initial": "1ms", "backoff_max": "10ms"},
    # Every kill delivers again, and nothing is to go to another queue for that.
    "destination": [{"pattern": "/queue/>", "redelivery_limit": 0, "redelivery_delay": "1ms"}],
    # So small that most queues are longer than what is kept in memory of them.
    "queue": {"window_messages": 64},
}


def free_port() -> int:
    """A port nobody listens at, and none that the kernel gives to a connection while the broker is away."""
    with _reserved_port() as held:
        return int(held.getsockname()[1])


def _reserved_port() -> socket.socket:
    """Bound to such a port: until it is closed no other test finds that free, and a broker may listen there."""
    pick = random.Random(os.getpid() ^ int.from_bytes(os.urandom(4)))
    while True:
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", pick.randrange(20_000, 32_000)))
        except OSError:
            held.close()
            continue
        # Not before: it would go along with that of another.
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            held.setsockopt(socket.SOL_SOCKET, option, 1)
        return held


class Mortal:
    """A context manager: starts the broker, and in the end kills it and removes its data. Killing is by the process
    ids of the broker's own log; a log with a fault in it fails the test, however the broker ended."""

    def __init__(
        self,
        workers: int,
        config: Mapping[str, Any] | None = None,
        *,
        data_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.workers = workers
        self._environment = environment
        self.config: dict[str, Any] = CONFIG | dict(config or {})
        self._port = _reserved_port()
        self.address = ("127.0.0.1", int(self._port.getsockname()[1]))
        self._own = None if data_dir is not None else Path(tempfile.mkdtemp(prefix="stampede-chaos-"))
        self.data_dir = data_dir if data_dir is not None else self._own / "data"  # type: ignore[operator]
        self.broker = self._make()
        self._graves: list[Broker] = []

    def _make(self) -> Broker:
        bind = [f"{self.address[0]}:{self.address[1]}"]
        return Broker(
            workers=self.workers,
            config=self.config,
            bind=bind,
            data_dir=self.data_dir,
            environment=self._environment,
        )

    def __enter__(self) -> Self:
        try:
            self.broker.start(PATIENCE)
        except BaseException:
            self.__exit__(BaseException, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.broker.check_log()
                self.bury()
        finally:
            for broker in [self.broker, *self._graves]:
                broker.discard()
            self._port.close()
            if self._own is not None:
                shutil.rmtree(self._own, ignore_errors=True)

    # --- killing

    def pid(self, slot: int) -> int:
        """Of the slot's newest worker, be it ready or not."""
        return int(self._newest(slot)["pid"])

    def incarnation(self, slot: int) -> int:
        return int(self._newest(slot)["incarnation"])

    def _newest(self, slot: int) -> Event:
        return self.broker.events("worker.spawned", slot=slot)[-1]

    def kill_worker(self, slot: int) -> int:
        """kill -9; the incarnation of what was killed."""
        event = self._newest(slot)
        _kill(event["pid"])
        return int(event["incarnation"])

    def wait_worker(self, slot: int, after: int) -> None:
        """Until the slot has a worker that is ready and later than incarnation `after`."""
        self.broker.wait_event("worker.ready", slot=slot, incarnation=after + 1, timeout=PATIENCE)

    def replace_worker(self, slot: int) -> None:
        """Kill it and wait for its successor."""
        self.wait_worker(slot, self.kill_worker(slot))

    def kill_front(self) -> None:
        """kill -9 of the front alone: its workers notice, and go."""
        _kill(self.broker.pid)

    def kill_all(self, *, front_first: bool = True) -> None:
        """kill -9 of every process, one after the other."""
        pids = [self.pid(slot) for slot in range(self.workers)]
        for pid in [self.broker.pid, *pids] if front_first else [*pids, self.broker.pid]:
            _kill(pid)

    def start_again(self) -> None:
        """Another broker in the place of one that was killed; it has to wait itself for workers that are left."""
        self._graves.append(self.broker)
        self.broker = self._make()
        self.broker.start(PATIENCE)
        self.bury()

    def restart(self) -> None:
        """`kill_all`, and start again."""
        self.kill_all()
        self.start_again()

    def bury(self) -> None:
        """Read the logs of the killed to their ends, and judge them."""
        while self._graves:
            dead = self._graves[0]
            dead.wait(PATIENCE)
            dead.check_log()
            self._graves.pop(0).discard()


def _kill(pid: int) -> None:
    """A process that is gone already was killed a moment ago; one that is a stranger's by now has no such name."""
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        command = psutil.Process(pid).cmdline()
        if "worker" in command or "broker" in command:
            os.kill(pid, signal.SIGKILL)
