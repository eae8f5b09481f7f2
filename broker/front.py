"""The front process: wires listeners, runtime directory, workers, supervisor and service manager together.

Decides nothing itself: signals and what the workers do go to the supervisor, its actions are carried out
here. No client's byte ever passes through this process.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

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
from broker.data_dir import DataDir
from broker.errors import CannotStartError
from broker.listeners import Listener, inherit_listeners, open_listeners
from broker.notify import Notifier
from broker.resharding import PROGRESS_INTERVAL, lay_out
from broker.runtime_dir import RuntimeDir
from broker.supervisor import DRAIN_GRACE, Supervisor
from broker.workers import WORKER_COMMAND, WorkerProcess
from common.config import Config, ConfigError, changes, check_reload
from common.exitcodes import ExitCode
from common.log import Event, EventLog, Level
from common.messages import (
    Answer,
    Bound,
    CannotStart,
    Configure,
    Drain,
    Drained,
    Message,
    Ping,
    Pong,
    Ready,
    Roster,
    Start,
)
from common.release import VERSION

if TYPE_CHECKING:
    from broker.management import Management

__all__ = ["SAME_SIGNAL", "Front", "run"]

SAME_SIGNAL = 0.1
"""Seconds within which a second signal is the first one again: some senders signal the process and its group."""


def run(config: Config, reload: Callable[[], Config], *, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Serve until told to stop; returns the exit code (`common.exitcodes`).

    `reload` reads the configuration again, from wherever `config` came from, or raises `ConfigError`. Never raises
    for what an operator can mend: that is one line on stderr and `ExitCode.CANNOT_START`.
    """
    log = EventLog("front", config.log.level, config.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Front(config, log, reload, worker_command=worker_command).serve())


def print_line(line: str) -> None:
    """Write `line` to stdout at once; nobody reading it is no reason to stop."""
    with suppress(OSError):
        print(line, flush=True)  # noqa: T201


class Front:
    """One broker. `reload` is asked for the configuration at each SIGHUP, `worker_command` is what runs as a worker,
    `announce` takes the ready line."""

    def __init__(
        self,
        config: Config,
        log: EventLog,
        reload: Callable[[], Config],
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
        announce: Callable[[str], None] = print_line,
    ) -> None:
        self._config = config
        self._log = log
        self._reload = reload
        self._signalled = 0.0
        self._command = worker_command
        self._announce = announce
        self._size = config.broker.worker_count()
        self._boot = secrets.token_hex(4)
        self._supervisor = Supervisor(self._size, config.supervision, config.broker.drain_timeout)
        self._workers: dict[int, WorkerProcess] = {}
        self._listeners: list[Listener] = []
        self._data_dir: DataDir | None = None
        self._runtime_dir: RuntimeDir | None = None
        self._management: Management | None = None
        self._notifier = Notifier()
        self._actions: deque[Action] = deque()
        self._is_acting = False
        self._timer: asyncio.TimerHandle | None = None
        self._dumped_config = dump(config)

    async def serve(self) -> ExitCode:
        """Start, run until the last worker is gone, clean up."""
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[ExitCode] = self._loop.create_future()
        self._loop.set_exception_handler(self._on_bug)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._on_signal, number)
        try:
            self._keep_watchdog_calm()
            data_dir = await self._open_data_dir()
            if not self._supervisor.is_stopping:
                await self._lay_out(data_dir)
            if not self._supervisor.is_stopping:
                self._open()
                await self._open_management()
                self._act(self._supervisor.start(self._loop.time()))
            code = await self._finished
        except CannotStartError as error:
            self._log.error(Event.BROKER_CANNOT_START, reason=str(error))
            code = ExitCode.CANNOT_START
        finally:
            if self._management is not None:
                await self._management.close()
            self._close_listeners()
            if self._runtime_dir is not None:
                self._runtime_dir.close()
            if self._data_dir is not None:
                self._data_dir.close()
        self._log.info(Event.BROKER_STOPPED, code=int(code))
        return code

    async def _open_data_dir(self) -> DataDir:
        """Returns early if told to stop."""
        data_dir = self._data_dir = DataDir(self._config.broker.data_dir)
        if data_dir.try_take():
            return data_dir
        # They were told by the end of their front to drain.
        patience = self._config.broker.drain_timeout + DRAIN_GRACE
        self._log.warning(Event.BROKER_WAITING, why="workers of a killed broker are still there", patience=patience)
        self._notifier.status("waiting for the workers of a killed broker to end")
        await data_dir.take(patience, unless=lambda: self._supervisor.is_stopping)
        return data_dir

    async def _lay_out(self, data_dir: DataDir) -> None:
        """Returns early if told to stop."""

        def still_working(status: str) -> None:
            self._notifier.starting(status, 4 * PROGRESS_INTERVAL)

        await lay_out(data_dir, self._size, self._log, stop=self._finished, still_working=still_working)

    def _open(self) -> None:
        raise_open_files_limit()
        settings = self._config.listener
        self._listeners = inherit_listeners(os.environ, len(settings))
        if not self._listeners:
            self._listeners = open_listeners(settings, self._size)
        self._runtime_dir = RuntimeDir(runtime_dir(self._config), self._boot)
        self._log.info(
            Event.BROKER_STARTING,
            version=VERSION,
            pid=os.getpid(),
            workers=self._size,
            data_dir=self._data_dir.path if self._data_dir is not None else "",
            runtime_dir=self._runtime_dir.path,
        )
        for listener in self._listeners:
            by = "systemd" if listener.is_shared else "broker"
            self._log.info(Event.LISTENER_BOUND, address=listener.address, by=by)

    async def _open_management(self) -> None:
        if not self._config.management.bind:
            return
        # Imported only where it is wanted: aiohttp costs the front 0.2 s and 15 MB.
        from broker.management import Management

        self._management = Management(
            self._config.management,
            self._log,
            self._supervisor,
            self._workers,
            addresses=lambda: tuple(listener.address for listener in self._listeners),
            send=self._send,
        )
        await self._management.start()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # --- what happens

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            does = "nothing while stopping" if self._supervisor.is_stopping else "reload the configuration"
            self._log.info(Event.BROKER_SIGNAL, signal=number.name, does=does)
            if not self._supervisor.is_stopping:
                self._reconfigure()
            return
        now = self._loop.time()
        is_second = self._supervisor.is_stopping
        if is_second and now - self._signalled < SAME_SIGNAL:
            return
        self._signalled = now
        does = "stop at once" if is_second else "drain and stop; a second signal stops at once"
        self._log.info(Event.BROKER_SIGNAL, signal=number.name, does=does)
        self._act(self._supervisor.stop(now) if is_second else self._supervisor.drain(now))

    def _reconfigure(self) -> None:
        """Take a new configuration whole, or leave everything as it is."""
        if self._supervisor.is_announced:
            self._notifier.reloading("reloading the configuration")
        outcome = ""
        try:
            config = self._reload()
            check_reload(self._config, config)
        except ConfigError as error:
            for mistake in error.mistakes:
                self._log.error(Event.CONFIG_REFUSED, reason=str(mistake))
            outcome = "; the last reload was refused, see the log"
        else:
            self._apply(config)
        if self._supervisor.is_announced:
            self._notifier.ready(self._status(self._supervisor.ready) + outcome)

    def _apply(self, config: Config) -> None:
        changed = ", ".join(changes(self._config, config)) or "nothing"
        self._config = config
        self._dumped_config = dump(config)
        self._log.level = Level.named(config.log.level)
        self._log.info(Event.CONFIG_RELOADED, changed=changed)
        for slot in list(self._workers):
            self._send(slot, Configure(self._dumped_config))
        now = self._loop.time()
        self._act(self._supervisor.configure(config.supervision, config.broker.drain_timeout, now))

    def on_message(self, worker: WorkerProcess, message: Message) -> None:
        now = self._loop.time()
        match message:
            case Bound(endpoint):
                self._act(self._supervisor.bound(worker.slot, endpoint, now))
            case Ready():
                self._act(self._supervisor.became_ready(worker.slot, now))
            case Pong(number, stats):
                worker.stats = stats
                self._act(self._supervisor.answered(worker.slot, number, now))
            case Answer(number, result):
                if self._management is not None:
                    self._management.answered(worker.slot, number, result)
            case CannotStart(reason):
                self._act(self._supervisor.cannot_start(worker.slot, reason, now))
            case Drained():
                pass  # Its exit follows.
            case _:
                self._log.error(Event.CONTROL_ERROR, slot=worker.slot, reason=f"unexpected {type(message).__name__}")

    def on_control_lost(self, worker: WorkerProcess, error: str) -> None:
        self._act(self._supervisor.control_lost(worker.slot, error, self._loop.time()))

    def on_exit(self, worker: WorkerProcess, how: str) -> None:
        del self._workers[worker.slot]
        if self._management is not None:
            self._management.lost(worker.slot)
        self._act(self._supervisor.exited(worker.slot, how, self._loop.time()))

    def _on_tick(self) -> None:
        self._act(self._supervisor.tick(self._loop.time()))

    def _on_bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        self._log.error(Event.INTERNAL_ERROR, message=context.get("message"), traceback=trace)

    def _keep_watchdog_calm(self) -> None:
        if self._notifier.watchdog_interval is not None:
            self._notifier.watchdog()
            self._loop.call_later(self._notifier.watchdog_interval, self._keep_watchdog_calm)

    # --- what follows

    def _act(self, actions: Iterable[Action]) -> None:
        self._actions.extend(actions)
        if self._is_acting:
            # An action had consequences: they come after those already waiting.
            return
        self._is_acting = True
        try:
            while self._actions:
                self._carry_out(self._actions.popleft())
        finally:
            self._is_acting = False
        if self._supervisor.is_stopping and self._listeners:
            self._close_listeners()
            self._notifier.stopping("draining")
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self._supervisor.next_tick()
        self._timer = None if due is None else self._loop.call_at(due, self._on_tick)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Spawn(slot, incarnation):
                self._spawn(slot, incarnation)
            case SendRoster(slots, members):
                for slot in slots:
                    self._send(slot, Roster(list(members)))
            case SendPing(slot, number):
                self._send(slot, Ping(number))
            case SendDrain(slot, seconds):
                self._send(slot, Drain(seconds))
            case Abort(slot):
                if (worker := self._workers.get(slot)) is not None:
                    worker.abort()
            case Kill(slot):
                if (worker := self._workers.get(slot)) is not None:
                    worker.kill()
            case Announce(ready, first):
                self._tell(ready, first)
            case Report(level, event, fields):
                self._log.write(level, event, fields)
            case Finish(code):
                if not self._finished.done():
                    self._finished.set_result(code)

    def _send(self, slot: int, message: Message) -> bool:
        worker = self._workers.get(slot)
        if worker is not None:
            worker.send(message)
        return worker is not None

    def _spawn(self, slot: int, incarnation: int) -> None:
        descriptors = [listener.socket_of(slot).fileno() for listener in self._listeners]
        now = self._loop.time()
        try:
            inherited = descriptors if self._data_dir is None else [*descriptors, self._data_dir.workers_lock]
            worker = WorkerProcess(slot, incarnation, self, command=self._command, inherited=inherited)
        except OSError as error:
            reason = f"could not be spawned: {self._command[0]}: {error.strerror or error}"
            self._act(self._supervisor.exited(slot, reason, now))
            return
        self._workers[slot] = worker
        worker.send(
            Start(
                slot=slot,
                workers=self._size,
                incarnation=incarnation,
                boot=self._boot,
                runtime_dir=str(self._runtime_dir.path) if self._runtime_dir is not None else "",
                listeners=[
                    (descriptor, listener.index, listener.address)
                    for descriptor, listener in zip(descriptors, self._listeners, strict=True)
                ],
                config=self._dumped_config,
            )
        )
        self._act(self._supervisor.spawned(slot, worker.pid, now))

    def _tell(self, ready: int, first: bool) -> None:
        if first:
            self._log.info(Event.BROKER_READY, addresses=self._addresses(), workers=self._size)
            self._announce(f"stampede {VERSION} ready on {self._addresses()} with {self._noun()}")
            self._notifier.ready(self._status(ready))
        else:
            self._notifier.status(self._status(ready))

    def _status(self, ready: int) -> str:
        return f"{ready} of {self._noun()} ready on {self._addresses()}"

    def _noun(self) -> str:
        return f"{self._size} {'worker' if self._size == 1 else 'workers'}"

    def _addresses(self) -> str:
        return ", ".join(listener.address for listener in self._listeners)


def dump(config: Config) -> dict[str, Any]:
    """`config` for the workers, who may be elsewhere: with an absolute data directory."""
    dumped = config.model_dump(mode="json")
    dumped["broker"]["data_dir"] = str(config.broker.data_dir.absolute())
    return dumped


def runtime_dir(config: Config) -> Path | None:
    """`broker.runtime_dir`, else what systemd's RuntimeDirectory= made, else None."""
    if config.broker.runtime_dir is not None:
        return config.broker.runtime_dir
    # systemd.exec(5): several directories are separated by colons.
    first = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(first) if first else None


def raise_open_files_limit() -> None:
    """Make the soft limit the hard one: every client is an open file, and the workers inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
