"""A broker inside another program: `Broker`, in the program's own event loop.

The front runs there, the workers are processes as those of `stampede serve`. Installs no signal handler, writes nothing
on stdout or stderr, looks at no environment variable of the service's, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from broker.errors import CannotStartError
from broker.events import EVENTS_KEPT, Events, Reader
from broker.front import Front
from broker.injected_log import InjectedLog, Log, WorkerLines, sink_of
from broker.leftovers import make_temporary
from broker.sessions import Sessions
from broker.workers import WORKER_COMMAND
from common.config import Config, ConfigError, load_config
from common.config.check import check_across, check_keys
from common.exitcodes import ExitCode
from common.log import Event

if TYPE_CHECKING:
    from broker.threaded import ThreadedBroker

__all__ = ["Broker", "Settings"]

Settings = Config | Mapping[str, Any] | Path | str
"""A configuration: as it is, as the TOML file has it, or the path of that file."""


class Broker:
    """One broker, from `start` (or the head of `async with`) to `stop` (or its end).

    `config` is a configuration. What it does not set is what suits a program: `workers` 1, every listener at 127.0.0.1
    with a port of the system's choice, and a temporary data directory that is removed at the end. `workers` and
    `data_dir` count instead of those of `config`. No environment variable does.

    `session_ids` is called for each CONNECT, in the program's event loop, and gives the session id of that client: 1 to
    256 bytes without control characters, and not that of another client that is connected. If it raises or gives
    anything else, that CONNECT is refused. Clients wait for it, so it must not block.

    `log` takes every event of every process, see `broker.injected_log.Sink`, or is a logger of `logging`; by default
    the one named `stampede`. How much there is to log is `log.level` of the configuration.

    Raises `ConfigError`, with every mistake in `config`.
    """

    def __init__(
        self,
        config: Settings | None = None,
        *,
        workers: int | None = None,
        data_dir: Path | str | None = None,
        session_ids: Callable[[], str] | None = None,
        log: Log | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._config, self._keeps_data = _settled(config, workers, data_dir)
        self._command = worker_command
        if session_ids is not None and not callable(session_ids):
            raise TypeError(f"session_ids was {session_ids!r}; it is a function that returns a session id")
        self._sink = sink_of(log)
        self._log = InjectedLog(self._sink, self._config.log.level)
        self._sessions = Sessions(session_ids, self._log)
        self._front: Front | None = None
        self._task: asyncio.Task[ExitCode] | None = None
        self._ready: asyncio.Future[None] | None = None

    @staticmethod
    def in_thread(
        config: Settings | None = None,
        *,
        workers: int | None = None,
        data_dir: Path | str | None = None,
        session_ids: Callable[[], str] | None = None,
        log: Log | None = None,
    ) -> ThreadedBroker:
        """The same with an event loop and a thread of its own, for a program that has none: a context manager.
        `session_ids` and `log` are called in that thread."""
        from broker.threaded import ThreadedBroker

        broker = Broker(config, workers=workers, data_dir=data_dir, session_ids=session_ids, log=log)
        return ThreadedBroker(broker)

    # --- its life

    async def start(self) -> None:
        """Returns when clients can connect. Raises `CannotStartError`, and leaves nothing behind then."""
        if self._task is not None:
            raise RuntimeError("a Broker is started once; make another one")
        config, temporary = self._config, None
        if not self._keeps_data:
            temporary = _temporary_directory()
            data_dir = {"data_dir": temporary}
            config = config.model_copy(update={"broker": config.broker.model_copy(update=data_dir)})
        front = self._front = Front(
            config,
            self._log,
            self,
            worker_command=self._command,
            runtime_dir=config.broker.runtime_dir,
            output=lambda slot: WorkerLines(slot, self._sink),
            watch=self._sessions,
        )
        loop = asyncio.get_running_loop()
        ready = self._ready = loop.create_future()
        task = self._task = loop.create_task(self._run(front, temporary), name="stampede")
        try:
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            front.kill()
            await self._ended(task, front)
            raise
        if not ready.done():
            code = task.result()
            raise CannotStartError(front.gave_up or f"the broker was stopped before it was ready (code {code})")

    async def stop(self) -> None:
        """Stop in order, as SIGTERM has `stampede serve` do it: what is queued is delivered, clients are told, within
        `broker.drain_timeout`. Returns when every process is gone; cancelled meanwhile, it stops at once. May be called
        again, and by several."""
        if self._task is None or self._front is None:
            return
        if not self._front.is_stopping:
            self._front.drain()
        error = await self._ended(self._task, self._front)
        if error is not None and not isinstance(error, CannotStartError):
            raise error

    async def wait_stopped(self) -> ExitCode:
        """Returns when the broker has ended, by `stop` or because it had to give up; with the exit code that
        `stampede serve` would have."""
        if self._task is None:
            raise RuntimeError("the broker was not started")
        return await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- where it is

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        return self.addresses[0]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listener, in their order. Raises `RuntimeError` before the broker is started."""
        return [_split(address) for address in self._started.addresses]

    @property
    def url(self) -> str:
        """`stomp://host:port` of the first listener, for a client on this machine."""
        host, port = self.address
        # What listens everywhere is nowhere one could connect to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"stomp://[{host}]:{port}" if ":" in host else f"stomp://{host}:{port}"

    @property
    def management_address(self) -> tuple[str, int] | None:
        """Host and port of the management interface, None if it is off (`management.bind`)."""
        addresses = self._started.management_addresses
        return _split(addresses[0]) if addresses else None

    @property
    def _started(self) -> Front:
        if self._front is None or not self._front.addresses:
            raise RuntimeError("the broker has no address before it is started")
        return self._front

    # --- what happens in it

    def events(self, kept: int = EVENTS_KEPT) -> Events:
        """What happens from now on, for `async for`; ends after `ServerStopped`. Each caller gets all of it.

        `kept` events wait for a reader that does not read. What comes beyond is counted, and told with `EventsLost`
        when the reader gets there.
        """
        events = Events(kept)
        self.tell(events)
        return events

    def tell(self, reader: Reader) -> None:
        """Have `reader.add` called with every event from now on, in the program's event loop; only as long as somebody
        else holds `reader`."""
        self._sessions.tell(reader)

    # --- what the front tells (`broker.front.Owner`)

    def on_starting(self, status: str, patience: float | None) -> None:
        """Its log has said so."""

    def on_workers(self, ready: int, first: bool) -> None:
        """Clients can connect."""
        if first and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def on_stopping(self) -> None:
        """Its log has said so."""

    # --- steps

    async def _run(self, front: Front, temporary: Path | None) -> ExitCode:
        code = ExitCode.CANNOT_START
        try:
            code = await front.run()
            self._log.info(Event.BROKER_STOPPED, code=int(code))
            return code
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            self._sessions.stopped(int(code))

    async def _ended(self, task: asyncio.Task[ExitCode], front: Front) -> BaseException | None:
        """Wait for the end of the front, however often that is cancelled; returns what ended it, if not itself."""
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
                front.kill()
        failed = None if task.cancelled() else task.exception()
        if cancelled is not None:
            raise cancelled
        return failed


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _temporary_directory() -> Path:
    try:
        return make_temporary("stampede-data-")
    except OSError as error:
        raise CannotStartError(
            f"cannot make a temporary data directory: {error.strerror}; give the broker a data_dir"
        ) from error


def _settled(config: Settings | None, workers: int | None, data_dir: Path | str | None) -> tuple[Config, bool]:
    """The configuration to run, and whether it says where data is kept. Raises `ConfigError`."""
    if isinstance(config, Path | str):
        config = load_config(Path(config), {}, {})
    elif not isinstance(config, Config):
        config = _checked(dict(config or {}), "Broker(config)")
    given: dict[str, object] = {"workers": workers, "data_dir": None if data_dir is None else str(data_dir)}
    given = {key: value for key, value in given.items() if value is not None}
    chosen = _checked({"broker": given}, "Broker(...)").broker if given else config.broker
    is_set = config.broker.model_fields_set | given.keys()
    update: dict[str, object] = {key: getattr(chosen, key) for key in given}
    if "workers" not in is_set:
        update["workers"] = 1
    listeners = [
        each if "bind" in each.model_fields_set else each.model_copy(update={"bind": "127.0.0.1:0"})
        for each in config.listener
    ]
    broker = config.broker.model_copy(update=update)
    return config.model_copy(update={"broker": broker, "listener": type(config.listener)(listeners)}), (
        "data_dir" in is_set
    )


def _checked(data: dict[str, Any], source: str) -> Config:
    """Raises `ConfigError`."""
    config, found = check_keys(data, lambda _: source)
    mistakes = [mistake for _, mistake in found]
    mistakes += check_across(config, data, lambda _: source, [location for location, _ in found])
    if mistakes:
        raise ConfigError(mistakes)
    return config
