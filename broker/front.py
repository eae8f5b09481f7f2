"""The front: wires listeners, directories, workers and supervisor together, for whoever runs a broker.

Decides nothing itself: what the workers do goes to the supervisor, whose actions are carried out here. Knows nothing of
signals, service managers and standard output (that is `broker.service`'s), nor of the program around it. No client's
byte ever passes through here.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from broker.listeners import Listener, open_when_free
from broker.owner import Owner, Watch
from broker.resharding import PROGRESS_INTERVAL, lay_out
from broker.runtime_dir import RuntimeDir
from broker.supervisor import DRAIN_GRACE, Supervisor
from broker.workers import WORKER_COMMAND, WorkerProcess
from common.config import Config, changes, check_reload
from common.exitcodes import ExitCode
from common.log import Event, EventLog, Level
from common.messages import (
    Answer,
    Bound,
    CannotStart,
    Configure,
    Drain,
    Drained,
    Happened,
    Message,
    NameSession,
    Ping,
    Pong,
    Ready,
    Roster,
    SessionNamed,
    Start,
)
from common.release import VERSION

if TYPE_CHECKING:
    from broker.management import Management

__all__ = ["Front", "dump"]


class Front:
    """One broker, in the running event loop. `worker_command` is what runs as a worker.

    `inherit` gives listening sockets that exist already; where there are none, those of the configuration are opened.
    `runtime_dir` None: a private temporary one. `output` gives what takes the bytes that the worker of a slot writes on
    its stderr; None leaves them the one of this process. With `watch` the workers report what their clients do.
    """

    def __init__(
        self,
        config: Config,
        log: EventLog,
        owner: Owner,
        *,
        worker_command: Sequence[str] = WORKER_COMMAND,
        inherit: Callable[[], list[Listener]] = list,
        runtime_dir: Path | None = None,
        output: Callable[[int], Callable[[bytes], None]] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._log = log
        self._owner = owner
        self._command = worker_command
        self._inherit = inherit
        self._wanted_runtime_dir = runtime_dir
        self._output = output
        self._watch = watch
        self._size = config.broker.worker_count()
        self._boot = secrets.token_hex(4)
        self._supervisor = Supervisor(self._size, config.supervision, config.broker.drain_timeout)
        self._workers: dict[int, WorkerProcess] = {}
        self._listeners: list[Listener] = []
        self._data_dir: DataDir | None = None
        self._runtime_dir: RuntimeDir | None = None
        self._management: Management | None = None
        self._actions: deque[Action] = deque()
        self._is_acting = False
        self._timer: asyncio.TimerHandle | None = None
        self._finished: asyncio.Future[ExitCode] = self._loop.create_future()
        self._dumped_config = self._dump(config)
        self.addresses: tuple[str, ...] = ()
        """Where clients connect, with the real ports; kept when the listeners are closed."""
        self.management_addresses: tuple[str, ...] = ()
        self.gave_up: str | None = None
        """Why it ended by itself, one line for the operator."""

    @property
    def is_announced(self) -> bool:
        """Whether all workers accepted clients, if only for a moment."""
        return self._supervisor.is_announced

    @property
    def is_stopping(self) -> bool:
        return self._supervisor.is_stopping

    @property
    def status(self) -> str:
        """How many workers accept clients, and where, in words."""
        return f"{self._supervisor.ready} of {self.size} ready on {', '.join(self.addresses)}"

    @property
    def size(self) -> str:
        """The number of workers, in words."""
        return f"{self._size} {'worker' if self._size == 1 else 'workers'}"

    # --- what its owner wants

    async def run(self) -> ExitCode:
        """Start, work until the last worker is gone, clean up. Cancelled, it kills the workers first.

        Raises `CannotStartError` for what the machine refuses. A worker that cannot start is `ExitCode.CANNOT_START`,
        and `gave_up` says why.
        """
        try:
            data_dir = await self._open_data_dir()
            if not self.is_stopping:
                await self._lay_out(data_dir)
            if not self.is_stopping:
                await self._open()
                await self._open_management()
                self._act(self._supervisor.start(self._loop.time()))
            try:
                return await asyncio.shield(self._finished)
            except asyncio.CancelledError:
                self.kill()
                await self._finished
                raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._management is not None:
                await self._management.close()
            self._close_listeners()
            if self._runtime_dir is not None:
                self._runtime_dir.close()
            if self._data_dir is not None:
                self._data_dir.close()

    def drain(self) -> None:
        """Stop in order: deliver what is queued, tell the clients, within the drain timeout."""
        self._act(self._supervisor.drain(self._loop.time()))

    def kill(self) -> None:
        """Stop at once."""
        self._act(self._supervisor.stop(self._loop.time()))

    def reconfigure(self, config: Config) -> None:
        """Go by `config` from now on. Raises `ConfigError` if it differs in more than what may change; then nothing
        has."""
        check_reload(self._config, config)
        changed = ", ".join(changes(self._config, config)) or "nothing"
        self._config = config
        self._dumped_config = self._dump(config)
        self._log.level = Level.named(config.log.level)
        self._log.info(Event.CONFIG_RELOADED, changed=changed)
        for slot in list(self._workers):
            self._send(slot, Configure(self._dumped_config))
        now = self._loop.time()
        self._act(self._supervisor.configure(config.supervision, config.broker.drain_timeout, now))

    def _dump(self, config: Config) -> dict[str, Any]:
        dumped = dump(config)
        if self._output is not None:
            # It is read by a program.
            dumped["log"]["format"] = "json"
        return dumped

    # --- start

    async def _open_data_dir(self) -> DataDir:
        """Returns early if told to stop."""
        data_dir = self._data_dir = DataDir(self._config.broker.data_dir)
        if data_dir.try_take():
            return data_dir
        # They were told by the end of their front to drain.
        patience = self._config.broker.drain_timeout + DRAIN_GRACE
        self._log.warning(Event.BROKER_WAITING, why="workers of a killed broker are still there", patience=patience)
        self._owner.on_starting("waiting for the workers of a killed broker to end", None)
        await data_dir.take(patience, unless=lambda: self.is_stopping)
        return data_dir

    async def _lay_out(self, data_dir: DataDir) -> None:
        """Returns early if told to stop."""

        def still_working(status: str) -> None:
            self._owner.on_starting(status, 4 * PROGRESS_INTERVAL)

        await lay_out(data_dir, self._size, self._log, stop=self._finished, still_working=still_working)

    async def _open(self) -> None:
        """Returns early if told to stop."""
        self._listeners = self._inherit()
        if not self._listeners:
            self._listeners = await open_when_free(self._config.listener, self._size, unless=lambda: self.is_stopping)
        if self.is_stopping:
            return
        self.addresses = tuple(listener.address for listener in self._listeners)
        self._runtime_dir = RuntimeDir(self._wanted_runtime_dir, self._boot)
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
        if not self._config.management.bind or self.is_stopping:
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
            locate=str if self._watch is None else self._watch.locate,
        )
        self.management_addresses = self._management.addresses
        await self._management.start()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # --- what happens

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
            case Happened(events) if self._watch is not None:
                self._watch.happened(worker.slot, events)
            case NameSession(number, locator) if self._watch is not None:
                worker.send(SessionNamed(number, self._watch.name(worker.slot, number, locator)))
            case _:
                self._log.error(Event.CONTROL_ERROR, slot=worker.slot, reason=f"unexpected {type(message).__name__}")

    def on_control_lost(self, worker: WorkerProcess, error: str) -> None:
        self._act(self._supervisor.control_lost(worker.slot, error, self._loop.time()))

    def on_exit(self, worker: WorkerProcess, how: str) -> None:
        del self._workers[worker.slot]
        if self._management is not None:
            self._management.lost(worker.slot)
        if self._watch is not None:
            self._watch.lost(worker.slot)
        self._act(self._supervisor.exited(worker.slot, how, self._loop.time()))

    def _on_tick(self) -> None:
        self._act(self._supervisor.tick(self._loop.time()))

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
            self._owner.on_stopping()
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
                if first:
                    self._log.info(Event.BROKER_READY, addresses=", ".join(self.addresses), workers=self._size)
                self._owner.on_workers(ready, first)
            case Report(level, event, fields):
                if event is Event.BROKER_CANNOT_START:
                    self.gave_up = str(fields.get("reason"))
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
            output = None if self._output is None else self._output(slot)
            worker = WorkerProcess(slot, incarnation, self, command=self._command, inherited=inherited, output=output)
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
                reports=self._watch is not None,
                names=self._watch is not None and self._watch.names,
            )
        )
        self._act(self._supervisor.spawned(slot, worker.pid, now))


def dump(config: Config) -> dict[str, Any]:
    """`config` for the workers, who may be elsewhere: with an absolute data directory."""
    dumped = config.model_dump(mode="json")
    dumped["broker"]["data_dir"] = str(config.broker.data_dir.absolute())
    return dumped
