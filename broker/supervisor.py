"""The lives of the workers: who is to be spawned, asked, dumped, killed, replaced; and the broker's end.

A state machine without I/O: it is told the time (seconds of any monotonic clock) and what happened, and
returns the actions to carry out, in order. Knows no process, socket or signal. Per slot:

    WAITING --(back-off over)--> STARTING --Ready--> READY
       ^                            |                  |
       |                 start timeout, ping unanswered for hang_timeout
       |                            v                  v
       +--exited-- KILLING <--(1 s)-- ABORTING <-------+       any --exited--> WAITING, or GONE when stopping
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from broker.actions import (
    Abort,
    Action,
    Announce,
    Finish,
    Kill,
    Report,
    SendDrain,
    SendPing,
    SendRoster,
    Spawn,
)
from common.exitcodes import ExitCode
from common.log import Event, Level

__all__ = [
    "ABORT_GRACE",
    "DRAIN_GRACE",
    "GIVE_UP_AFTER",
    "STABLE_AFTER",
    "SlotStatus",
    "Supervisor",
    "Timing",
]

STABLE_AFTER = 10.0
"""Seconds of ready life after which a worker's earlier deaths are forgotten."""
ABORT_GRACE = 1.0
"""Seconds a worker has to write its stacks after SIGABRT, or to exit after it closed its control channel."""
DRAIN_GRACE = 2.0
"""Seconds beyond the drain timeout before a worker that is still there is killed."""
GIVE_UP_AFTER = 5
"""Deaths in a row, without ever being ready, after which a broker that never was ready gives up."""


class Timing(Protocol):
    """The `supervision` settings, in seconds."""

    @property
    def ping_interval(self) -> float: ...
    @property
    def hang_timeout(self) -> float: ...
    @property
    def start_timeout(self) -> float: ...
    @property
    def backoff_initial(self) -> float: ...
    @property
    def backoff_max(self) -> float: ...


class _State(Enum):
    WAITING = auto()
    STARTING = auto()
    READY = auto()
    ABORTING = auto()
    KILLING = auto()
    GONE = auto()

    @property
    def is_alive(self) -> bool:
        return self not in (_State.WAITING, _State.GONE)


class _Phase(Enum):
    RUNNING = auto()
    DRAINING = auto()
    STOPPING = auto()
    FINISHED = auto()


@dataclass(slots=True)
class _Slot:
    number: int
    state: _State = _State.WAITING
    incarnation: int = 0
    pid: int | None = None
    endpoint: str | None = None
    due: float = 0.0
    """WAITING: spawn; STARTING: too late; READY: ping, or hung when one is unanswered; ABORTING: kill."""
    ping: int = 0
    ping_sent: float | None = None
    ready_since: float | None = None
    deaths: int = 0
    """In a row, for the back-off."""
    unready_deaths: int = 0
    """In a row without any Ready in between, for giving up."""

    def describe(self, **more: object) -> dict[str, object]:
        return {"slot": self.number, "incarnation": self.incarnation, "pid": self.pid, **more}


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One worker for the operator; `state` is waiting (to be spawned), starting, ready, aborting, killing or gone."""

    number: int
    state: str
    incarnation: int
    pid: int | None


class Supervisor:
    """Every method takes `now` and returns the actions that follow, to be carried out before the next call.

    The caller calls `tick` no later than `next_tick()`.
    """

    def __init__(self, workers: int, timing: Timing, drain_timeout: float) -> None:
        self._slots = [_Slot(number) for number in range(workers)]
        self._timing = timing
        self._drain_timeout = drain_timeout
        self._phase = _Phase.RUNNING
        self._code = ExitCode.OK
        self._announced = False
        self._stop_by = 0.0
        self._last_tick: float | None = None
        self._actions: list[Action] = []

    @property
    def ready(self) -> int:
        """Workers that accept clients now."""
        return sum(slot.state is _State.READY for slot in self._slots)

    def status(self) -> list[SlotStatus]:
        """Every worker, in the order of the slots."""
        return [SlotStatus(slot.number, slot.state.name.lower(), slot.incarnation, slot.pid) for slot in self._slots]

    @property
    def is_announced(self) -> bool:
        """Whether every worker of the first generation accepted clients, if only for a moment."""
        return self._announced

    @property
    def is_stopping(self) -> bool:
        return self._phase is not _Phase.RUNNING

    # --- time

    def start(self, now: float) -> list[Action]:
        """The first call; of no effect once it was told to stop."""
        if self.is_stopping:
            return []
        self._last_tick = now
        for slot in self._slots:
            self._spawn(slot, now)
        return self._take()

    def next_tick(self) -> float | None:
        """When `tick` is due; None when it is all over."""
        if self._phase is _Phase.FINISHED or self._last_tick is None:
            return None
        due = [slot.due for slot in self._slots if self._due_counts(slot)]
        if self._phase is _Phase.DRAINING:
            due.append(self._stop_by)
        # Never later than one interval, so that a long gap between two ticks means this process did not run.
        return min([*due, self._last_tick + self._timing.ping_interval])

    def tick(self, now: float) -> list[Action]:
        """Do what has become due by `now`."""
        last, self._last_tick = self._last_tick, now
        gap = now - last - self._timing.ping_interval if last is not None else 0.0
        if gap > self._timing.hang_timeout / 2:
            # This process was stopped or starved: answers may be waiting unread, so nobody is blamed for that
            # time.
            for slot in self._slots:
                slot.due += gap
        for slot in self._slots:
            if self._due_counts(slot) and now >= slot.due:
                self._become_due(slot, now)
        if self._phase is _Phase.DRAINING and now >= self._stop_by:
            self._kill_all(waited=self._drain_timeout + DRAIN_GRACE)
        return self._take()

    def _due_counts(self, slot: _Slot) -> bool:
        if self._phase is _Phase.RUNNING:
            return slot.state not in (_State.KILLING, _State.GONE)
        return slot.state is _State.ABORTING

    def _become_due(self, slot: _Slot, now: float) -> None:
        match slot.state:
            case _State.WAITING:
                self._spawn(slot, now)
            case _State.STARTING:
                self._hung(slot, now, f"not ready after {self._timing.start_timeout:g} s")
            case _State.READY if slot.ping_sent is not None:
                self._hung(slot, now, f"no answer to a ping for {self._timing.hang_timeout:g} s")
            case _State.READY:
                slot.ping += 1
                slot.ping_sent = now
                slot.due = now + self._timing.hang_timeout
                self._actions.append(SendPing(slot.number, slot.ping))
            case _State.ABORTING:
                self._kill(slot, waited=ABORT_GRACE)

    # --- what the workers do

    def spawned(self, number: int, pid: int, now: float) -> list[Action]:
        """The process that `Spawn` asked for exists."""
        slot = self._slots[number]
        slot.pid = pid
        self._report(Level.INFO, Event.WORKER_SPAWNED, slot)
        return self._take()

    def bound(self, number: int, endpoint: str, now: float) -> list[Action]:
        """The worker's backplane listens at `endpoint`: its siblings and it are told of each other."""
        slot = self._slots[number]
        if slot.state.is_alive:
            slot.endpoint = endpoint
            self._send_roster()
        return self._take()

    def became_ready(self, number: int, now: float) -> list[Action]:
        """The worker accepts clients."""
        slot = self._slots[number]
        if slot.state is not _State.STARTING:
            return []
        slot.state = _State.READY
        slot.ready_since = now
        slot.unready_deaths = 0
        slot.ping_sent = None
        slot.due = now + self._timing.ping_interval
        self._report(Level.INFO, Event.WORKER_READY, slot)
        if self._phase is _Phase.RUNNING:
            first = not self._announced and self.ready == len(self._slots)
            self._announced = self._announced or first
            self._actions.append(Announce(self.ready, first))
        return self._take()

    def answered(self, number: int, ping: int, now: float) -> list[Action]:
        """The worker answered a ping."""
        slot = self._slots[number]
        if slot.state is _State.READY and slot.ping_sent is not None and ping == slot.ping:
            slot.due = max(now, slot.ping_sent + self._timing.ping_interval)
            slot.ping_sent = None
        return self._take()

    def cannot_start(self, number: int, message: str, now: float) -> list[Action]:
        """The worker says that it cannot start and that trying again will not help: the broker gives up.

        Siblings that serve clients are drained, for a broker that is short of a worker leaves the connections
        in that worker's accept queue unanswered for ever.
        """
        if self._phase is _Phase.RUNNING:
            self._give_up(f"worker {number}: {message}", now)
        return self._take()

    def control_lost(self, number: int, error: str, now: float) -> list[Action]:
        """The control channel is closed, or carried what does not fit (`error`): the worker has to go."""
        slot = self._slots[number]
        if error:
            self._report(Level.ERROR, Event.CONTROL_ERROR, slot, reason=error)
        if slot.state in (_State.STARTING, _State.READY):
            # It may just be exiting; if not it must be killed, since it can no longer be asked anything.
            slot.state = _State.ABORTING
            slot.due = now + ABORT_GRACE
        return self._take()

    def exited(self, number: int, how: str, now: float) -> list[Action]:
        """The process is gone; `how`: an exit code, the name of a signal, or why it could not be spawned."""
        slot = self._slots[number]
        if not slot.state.is_alive:
            return []
        was_bound = slot.endpoint is not None
        was_ready = slot.ready_since is not None
        stable = slot.ready_since is not None and now - slot.ready_since >= STABLE_AFTER
        slot.endpoint = slot.ready_since = slot.ping_sent = None
        slot.state = _State.GONE if self.is_stopping else _State.WAITING
        self._report(Level.INFO if self.is_stopping else Level.ERROR, Event.WORKER_EXITED, slot, exit=how)
        slot.pid = None
        if was_bound:
            self._send_roster()
        if self.is_stopping:
            self._finish_if_done()
            return self._take()
        if was_ready:
            self._actions.append(Announce(self.ready, first=False))
        slot.deaths = 1 if stable else slot.deaths + 1
        slot.unready_deaths = 0 if was_ready else slot.unready_deaths + 1
        if not self._announced and not was_ready and slot.unready_deaths >= GIVE_UP_AFTER:
            self._give_up(
                f"worker {number} died {slot.unready_deaths} times in a row before it was ready "
                f"(last: {how}); "
                "its own lines above say why",
                now,
            )
            return self._take()
        # The exponent is bounded: a slot that died thousands of times must not overflow a float.
        delay = min(self._timing.backoff_max, self._timing.backoff_initial * 2.0 ** min(slot.deaths - 1, 32))
        slot.due = now + delay
        self._report(Level.WARNING, Event.WORKER_BACKOFF, slot, delay=delay, deaths=slot.deaths)
        return self._take()

    # --- what the operator wants

    def configure(self, timing: Timing, drain_timeout: float, now: float) -> list[Action]:
        """Go by these from now on. Whatever is being waited for is waited for anew, but a back-off never longer."""
        self._drain_timeout = drain_timeout
        if timing != self._timing:
            self._timing = timing
            self._last_tick = now
            for slot in self._slots:
                match slot.state:
                    case _State.WAITING:
                        slot.due = min(slot.due, now + timing.backoff_max)
                    case _State.STARTING:
                        slot.due = now + timing.start_timeout
                    case _State.READY if slot.ping_sent is not None:
                        slot.due = now + timing.hang_timeout
                    case _State.READY:
                        slot.due = now + timing.ping_interval
        return self._take()

    def drain(self, now: float, code: ExitCode = ExitCode.OK) -> list[Action]:
        """Let every worker finish and exit, bounded by the drain timeout."""
        if self._phase is _Phase.RUNNING:
            self._drain(now, code)
        return self._take()

    def stop(self, now: float, code: ExitCode = ExitCode.FAILED) -> list[Action]:
        """Kill every worker at once."""
        if self._phase in (_Phase.RUNNING, _Phase.DRAINING):
            self._code = code
            self._kill_all()
        return self._take()

    # --- steps

    def _drain(self, now: float, code: ExitCode) -> None:
        self._phase = _Phase.DRAINING
        self._code = code
        self._stop_by = now + self._drain_timeout + DRAIN_GRACE
        self._report(Level.INFO, Event.BROKER_DRAINING, timeout=self._drain_timeout)
        for slot in self._slots:
            if slot.state is _State.WAITING:
                slot.state = _State.GONE
            elif slot.state in (_State.STARTING, _State.READY):
                self._actions.append(SendDrain(slot.number, self._drain_timeout))
        self._finish_if_done()

    def _spawn(self, slot: _Slot, now: float) -> None:
        slot.state = _State.STARTING
        slot.incarnation += 1
        slot.due = now + self._timing.start_timeout
        self._actions.append(Spawn(slot.number, slot.incarnation))

    def _hung(self, slot: _Slot, now: float, reason: str) -> None:
        self._report(Level.ERROR, Event.WORKER_HUNG, slot, reason=reason)
        was_ready = slot.state is _State.READY
        slot.state = _State.ABORTING
        slot.due = now + ABORT_GRACE
        self._actions.append(Abort(slot.number))
        if was_ready:
            self._actions.append(Announce(self.ready, first=False))

    def _kill(self, slot: _Slot, **why: object) -> None:
        slot.state = _State.KILLING
        self._report(Level.WARNING, Event.WORKER_KILLED, slot, **why)
        self._actions.append(Kill(slot.number))

    def _kill_all(self, **why: object) -> None:
        self._phase = _Phase.STOPPING
        for slot in self._slots:
            if slot.state is _State.WAITING:
                slot.state = _State.GONE
            elif slot.state.is_alive and slot.state is not _State.KILLING:
                self._kill(slot, **why)
        self._finish_if_done()

    def _give_up(self, reason: str, now: float) -> None:
        self._report(Level.ERROR, Event.BROKER_CANNOT_START, reason=reason)
        if self._announced:
            self._drain(now, ExitCode.CANNOT_START)
        else:
            self._code = ExitCode.CANNOT_START
            self._kill_all()

    def _finish_if_done(self) -> None:
        if self._phase is not _Phase.FINISHED and all(slot.state is _State.GONE for slot in self._slots):
            self._phase = _Phase.FINISHED
            self._actions.append(Finish(self._code))

    def _send_roster(self) -> None:
        members = tuple(
            (slot.number, slot.incarnation, slot.endpoint) for slot in self._slots if slot.endpoint is not None
        )
        if members:
            self._actions.append(SendRoster(tuple(member[0] for member in members), members))

    def _report(self, level: Level, event: Event, slot: _Slot | None = None, **fields: object) -> None:
        self._actions.append(Report(level, event, slot.describe(**fields) if slot else fields))

    def _take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions
