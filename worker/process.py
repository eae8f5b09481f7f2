"""The life of a worker process: started by the front, joined to its siblings, accepting, draining, gone.

Follows the control channel (`common.messages`): Start, Bound, Roster, Ready; then pings and rosters; then Drain, or
the loss of the front, which drains too.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any

from common.config import Config
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
    Query,
    Ready,
    Roster,
    SessionNamed,
    Start,
)
from common.release import VERSION
from worker.assembly import MessageIds
from worker.backplane.interface import Member
from worker.backplane.zeromq import ZmqBackplane
from worker.connection import Connection
from worker.control import ControlChannel
from worker.core import Core
from worker.queues.service import Queues
from worker.reports import Naming, Reports
from worker.settings import ListenerSettings, Settings
from worker.store.interface import Store, StoreError
from worker.store.sqlite import SqliteStore

__all__ = ["WorkerProcess"]

_MARGIN = 0.5
"""Seconds kept back from the time to drain, for the end itself."""


class WorkerProcess:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stopped: asyncio.Future[int] = loop.create_future()
        self._control: ControlChannel | None = None
        self._start: Start | None = None
        self._core: Core | None = None
        self._store: Store | None = None
        self._config: Config | None = None
        self._listeners: dict[int, ListenerSettings] = {}
        self._siblings: set[tuple[int, int]] = set()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._joining = False
        self._draining = False
        self._log = EventLog("worker")

    async def run(self, control_fd: int) -> int:
        """Work until told to stop; returns the exit code."""
        self._loop.set_exception_handler(self._unexpected)
        # The front tells when to stop: a Ctrl-C reaches the whole process group and must not beat it to it.
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, lambda: None)
        channel = socket.socket(fileno=control_fd)
        control = self._control = ControlChannel(self._on_message, self._on_lost, self._on_full)
        await self._loop.create_connection(lambda: control, sock=channel)
        code = await self._stopped
        for server in self._servers:
            server.close()
        if self._core is not None:
            self._core.backplane.close()
        if self._store is not None and self._core is not None:
            self._core.queues.stop()
            written = self._loop.create_future()
            self._store.close(lambda: written.set_result(None))
            await written
        control.close()
        return code

    # --- the control channel

    def _on_message(self, message: Message) -> None:
        match message:
            case Ping(number):
                self._send(Pong(number, {} if self._core is None else self._core.journal.stats()))
            case Query(number, what, arguments):
                self._inspect(number, what, arguments)
            case Start():
                self._begin(message)
            case Roster(members) if self._core is not None:
                self._follow(self._core, [Member(*member) for member in members])
                if not self._joining:
                    self._joining = True
                    self._core.backplane.when_joined(self._joined)
            case Configure(config) if self._core is not None:
                self._configure(self._core, Config.model_validate(config))
            case SessionNamed(number, session) if self._core is not None and self._core.naming is not None:
                self._core.naming.named(number, session)
            case Drain(seconds):
                self._drain(seconds)
            case _:
                self._log.error(Event.CONTROL_ERROR, what="unexpected message", message=type(message).__name__)

    def _inspect(self, number: int, what: str, arguments: dict[str, Any]) -> None:
        def reply(result: dict[str, Any] | None) -> None:
            self._send(Answer(number, result))

        if self._core is None:
            reply(None)
            return
        try:
            self._core.inspector.ask(what, arguments, reply)
        except (KeyError, TypeError, ValueError) as error:
            # The clients' worker must not end with a question it does not understand.
            self._log.error(
                Event.CONTROL_ERROR, what="a question that cannot be answered", question=what, why=repr(error)
            )
            reply(None)

    def _follow(self, core: Core, members: list[Member]) -> None:
        known, self._siblings = self._siblings, {(member.slot, member.incarnation) for member in members}
        core.backplane.set_roster(members)
        for slot, _ in self._siblings - known:
            if self._start is not None and slot != self._start.slot:
                # In a next turn, when the loss of its last life is dealt with.
                self._loop.call_soon(core.greet, slot)
        if self._start is not None:
            core.queues.siblings.expect([member.slot for member in members if member.slot != self._start.slot])

    def _on_lost(self, why: str) -> None:
        if self._stopped.done() or self._draining:
            return
        if self._config is None:
            self._stop(ExitCode.FAILED)
            return
        self._log.warning(Event.CONTROL_ERROR, what="the front is gone", why=why)
        self._drain(self._config.broker.drain_timeout)

    def _on_full(self, full: bool) -> None:
        if self._core is not None and self._core.reports is not None:
            self._core.reports.hold_up(full)

    def _send(self, message: Message) -> None:
        if self._control is not None:
            self._control.send(message)

    # --- start

    def _begin(self, start: Start) -> None:
        self._start = start
        config = self._config = Config.model_validate(start.config)
        self._log = EventLog(f"worker-{start.slot}", config.log.level, config.log.format)

        def make_backplane(core: Core) -> ZmqBackplane:
            return ZmqBackplane(
                self._loop,
                start.slot,
                start.incarnation,
                start.runtime_dir,
                core,
                high_water_mark=config.backplane.high_water_mark,
                retry_interval=config.backplane.retry_interval,
                kept_bytes=config.backplane.kept_bytes,
                kept_total_bytes=config.backplane.kept_total_bytes,
            )

        settings = self._settings(config)
        queue = settings.queue
        store = SqliteStore(
            queue.data_dir / f"slot-{start.slot}.db",
            self._loop,
            self._log,
            quota_bytes=queue.quota_bytes,
            wal_bytes=queue.wal_bytes,
            retry_interval=queue.retry_interval,
            # Whoever takes this worker's place finds everything that is stored.
            on_broken=self._broken,
        )
        session = f"{start.slot}-{start.boot}.{start.incarnation:x}"

        def make_queues(core: Core) -> Queues:
            return Queues(core, start.slot, start.workers, session, store, self._log)

        self._store = store
        self._core = Core(
            self._loop,
            settings,
            self._log,
            MessageIds(start.slot, start.boot, start.incarnation),
            f"{session}-",
            make_backplane,
            make_queues,
        )
        self._core.on_broken = self._broken
        if start.reports:
            self._core.reports = Reports(self._core, self._send)
            if start.names:
                self._core.naming = Naming(self._core, self._core.reports, self._send)
        try:
            self._core.queues.recover(store.open())
        except StoreError as error:
            self._send(CannotStart(str(error)))
            self._stop(ExitCode.CANNOT_START)
            return
        try:
            endpoint = self._core.backplane.bind()
        except OSError as error:
            self._send(CannotStart(f"the backplane cannot listen in {start.runtime_dir}: {error}"))
            self._stop(ExitCode.CANNOT_START)
            return
        self._send(Bound(endpoint))

    def _settings(self, config: Config) -> Settings:
        """The settings of the whole worker; those of its listeners are put in their place."""
        if self._start is not None:
            self._listeners = {
                index: Settings.listener(config, index, name) for _, index, name in self._start.listeners
            }
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return Settings.of(config, VERSION, open_files)

    def _configure(self, core: Core, config: Config) -> None:
        self._config = config
        self._log.level = Level.named(config.log.level)
        core.configure(self._settings(config))
        self._log.info(Event.CONFIG_RELOADED)

    def _joined(self) -> None:
        if not self._draining and self._core is not None:
            self._core.queues.siblings.when_ready(lambda: self._spawn(self._accept()))

    async def _accept(self) -> None:
        start, config, core = self._start, self._config, self._core
        if start is None or config is None or core is None:
            return
        for descriptor, index, _name in start.listeners:
            server = await self._loop.create_server(
                self._factory(core, index),
                sock=socket.socket(fileno=descriptor),
                backlog=config.listener[index].backlog,
            )
            self._servers.append(server)
        if self._draining:
            self._stop_accepting()
            return
        self._log.debug(Event.BACKPLANE_JOINED)
        self._send(Ready())

    def _factory(self, core: Core, index: int) -> Callable[[], Connection]:
        # Looked up anew for each connection, because a reload replaces them.
        return lambda: Connection(core, self._listeners[index])

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._unexpected(self._loop, {"message": "a worker task failed", "exception": error})
            self._stop(ExitCode.FAILED)

    # --- end

    def _stop_accepting(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _drain(self, seconds: float) -> None:
        """Stop accepting and reading, let what was read reach every sibling's clients, tell them, close, exit."""
        if self._draining:
            return
        self._draining = True
        self._stop_accepting()
        if self._core is None:
            self._stop(ExitCode.OK)
            return
        core = self._core
        seconds = max(2 * _MARGIN, seconds) - _MARGIN
        core.stop_taking(self._loop.time() + seconds)
        core.backplane.finish(lambda: self._say_goodbye(core))
        # A sibling that is stuck must not keep ours from hearing why they are closed.
        self._loop.call_later(seconds / 2, self._say_goodbye, core)
        self._loop.call_later(seconds, self._drained, core)

    def _say_goodbye(self, core: Core) -> None:
        if core.on_idle is not None or self._stopped.done():
            return
        core.on_idle = lambda: self._drained(core)
        core.say_goodbye()
        if not core.connections:
            self._drained(core)

    def _drained(self, core: Core) -> None:
        if self._stopped.done():
            return
        self._log.info(Event.DRAIN_FINISHED, connections_cut=len(core.connections))
        for connection in list(core.connections):
            connection.transport.abort()
        self._send(Drained())
        self._stop(ExitCode.OK)

    def _broken(self) -> None:
        self._stop(ExitCode.FAILED)

    def _stop(self, code: int) -> None:
        if not self._stopped.done():
            self._stopped.set_result(code)

    # --- the unexpected

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception nobody handled: one line, with its stack, and the connection it came from ends."""
        error = context.get("exception")
        transport = context.get("transport")
        if isinstance(error, OSError) and transport is not None:
            # What the network does to a connection is no fault of the broker's; the connection's own end is logged.
            return
        stack = "" if error is None else "".join(traceback.format_exception(error))
        self._log.error(Event.INTERNAL_ERROR, what=context.get("message", ""), stack=stack)
