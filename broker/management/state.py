"""The broker as an operator sees it: one picture of all processes at one moment, from what the front knows anyway."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from broker.management.processes import ProcessUse, process_use
from broker.supervisor import SlotStatus

__all__ = ["BrokerState", "Supervision", "View", "WorkerState", "Workers"]


class _Worker(Protocol):
    @property
    def stats(self) -> dict[str, int]: ...


Workers = Mapping[int, _Worker]
"""The live workers by slot."""


class Supervision(Protocol):
    """What of the supervisor is looked at."""

    @property
    def is_stopping(self) -> bool: ...
    def status(self) -> list[SlotStatus]: ...


@dataclass(frozen=True, slots=True)
class WorkerState:
    """`stats` are the counters of its last sign of life (`worker.core.Core.stats`), none before the first."""

    slot: int
    state: str
    pid: int | None
    restarts: int
    stats: dict[str, int]
    process: ProcessUse | None


@dataclass(frozen=True, slots=True)
class BrokerState:
    """`started` is seconds since 1970, `uptime` seconds."""

    started: float
    uptime: float
    is_stopping: bool
    addresses: tuple[str, ...]
    workers: tuple[WorkerState, ...]
    front: ProcessUse | None

    @property
    def not_ready_because(self) -> str:
        """Why the broker should be sent no clients; empty when it should."""
        if self.is_stopping:
            return "the broker is stopping"
        missing = [worker for worker in self.workers if worker.state != "ready"]
        return ", ".join(f"worker {worker.slot} is {worker.state}" for worker in missing)

    @property
    def degraded_because(self) -> str:
        """What does not work although clients are accepted; empty when all does."""
        failing = [worker for worker in self.workers if worker.stats.get("store_failing")]
        return ", ".join(
            f"worker {worker.slot} cannot store messages, "
            + ("the disk or its quota is full" if worker.stats.get("store_full") else "its log says why")
            for worker in failing
        )

    def total(self, counter: str) -> int:
        """A counter or gauge over all workers."""
        return sum(worker.stats.get(counter, 0) for worker in self.workers)


class View:
    """Makes a `BrokerState` of what is true now."""

    def __init__(self, supervision: Supervision, workers: Workers, addresses: Callable[[], tuple[str, ...]]) -> None:
        self._supervision = supervision
        self._workers = workers
        self._addresses = addresses
        self._started = time.time()
        self._began = time.monotonic()

    def take(self) -> BrokerState:
        return BrokerState(
            started=self._started,
            uptime=time.monotonic() - self._began,
            is_stopping=self._supervision.is_stopping,
            addresses=self._addresses(),
            workers=tuple(self._worker(slot) for slot in self._supervision.status()),
            front=process_use(os.getpid()),
        )

    def _worker(self, slot: SlotStatus) -> WorkerState:
        process = self._workers.get(slot.number)
        return WorkerState(
            slot=slot.number,
            state=slot.state,
            pid=slot.pid,
            restarts=max(0, slot.incarnation - 1),
            stats={} if process is None else process.stats,
            process=None if slot.pid is None else process_use(slot.pid),
        )
