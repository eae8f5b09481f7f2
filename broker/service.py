"""`stampede serve`: a front in a process of its own, as a service manager or a terminal runs it.

Owns what concerns the process and not the broker: signals, sd_notify, the ready line on stdout, the limit of open
files, sockets and directories that systemd made, the end of the loop. Decides nothing about workers.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from broker.errors import CannotStartError
from broker.front import Front
from broker.listeners import Listener, inherit_listeners
from broker.notify import Notifier
from broker.workers import WORKER_COMMAND
from common.config import Config, ConfigError
from common.exitcodes import ExitCode
from common.log import Event, EventLog
from common.release import VERSION

__all__ = ["SAME_SIGNAL", "run"]

SAME_SIGNAL = 0.1
"""Seconds within which a second signal is the first one again: some senders signal the process and its group."""


def run(config: Config, reload: Callable[[], Config], *, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Serve until told to stop; returns the exit code (`common.exitcodes`).

    `reload` reads the configuration again, from wherever `config` came from, or raises `ConfigError`. Never raises
    for what an operator can mend: that is one line on stderr and `ExitCode.CANNOT_START`.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, reload, worker_command))


async def _serve(config: Config, reload: Callable[[], Config], worker_command: Sequence[str]) -> ExitCode:
    return await Service(config, reload, worker_command).serve()


def print_line(line: str) -> None:
    """Write `line` to stdout at once; nobody reading it is no reason to stop."""
    with suppress(OSError):
        print(line, flush=True)  # noqa: T201


class Service:
    """Runs one front in the running loop, which is its own."""

    def __init__(self, config: Config, reload: Callable[[], Config], worker_command: Sequence[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = EventLog("front", config.log.level, config.log.format)
        self._reload = reload
        self._signalled = 0.0
        self._notifier = Notifier()

        def inherit() -> list[Listener]:
            raise_open_files_limit()
            return inherit_listeners(os.environ, len(config.listener))

        self._front = Front(
            config,
            self._log,
            self,
            worker_command=worker_command,
            inherit=inherit,
            runtime_dir=runtime_dir(config),
        )

    async def serve(self) -> ExitCode:
        """Until the last worker is gone."""
        self._loop.set_exception_handler(self._on_bug)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._on_signal, number)
        self._keep_watchdog_calm()
        try:
            code = await self._front.run()
        except CannotStartError as error:
            self._log.error(Event.BROKER_CANNOT_START, reason=str(error))
            code = ExitCode.CANNOT_START
        self._log.info(Event.BROKER_STOPPED, code=int(code))
        return code

    # --- what the front tells

    def on_starting(self, status: str, patience: float | None) -> None:
        if patience is None:
            self._notifier.status(status)
        else:
            self._notifier.starting(status, patience)

    def on_workers(self, ready: int, first: bool) -> None:
        if first:
            print_line(f"stampede {VERSION} ready on {', '.join(self._front.addresses)} with {self._front.size}")
            self._notifier.ready(self._front.status)
        else:
            self._notifier.status(self._front.status)

    def on_stopping(self) -> None:
        self._notifier.stopping("draining")

    # --- what else happens

    def _on_signal(self, number: signal.Signals) -> None:
        is_stopping = self._front.is_stopping
        if number is signal.SIGHUP:
            does = "nothing while stopping" if is_stopping else "reload the configuration"
            self._log.info(Event.BROKER_SIGNAL, signal=number.name, does=does)
            if not is_stopping:
                self._reconfigure()
            return
        now = self._loop.time()
        if is_stopping and now - self._signalled < SAME_SIGNAL:
            return
        self._signalled = now
        does = "stop at once" if is_stopping else "drain and stop; a second signal stops at once"
        self._log.info(Event.BROKER_SIGNAL, signal=number.name, does=does)
        if is_stopping:
            self._front.kill()
        else:
            self._front.drain()

    def _reconfigure(self) -> None:
        """Take a new configuration whole, or leave everything as it is."""
        if self._front.is_announced:
            self._notifier.reloading("reloading the configuration")
        outcome = ""
        try:
            self._front.reconfigure(self._reload())
        except ConfigError as error:
            for mistake in error.mistakes:
                self._log.error(Event.CONFIG_REFUSED, reason=str(mistake))
            outcome = "; the last reload was refused, see the log"
        if self._front.is_announced:
            self._notifier.ready(self._front.status + outcome)

    def _on_bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        self._log.error(Event.INTERNAL_ERROR, message=context.get("message"), traceback=trace)

    def _keep_watchdog_calm(self) -> None:
        if self._notifier.watchdog_interval is not None:
            self._notifier.watchdog()
            self._loop.call_later(self._notifier.watchdog_interval, self._keep_watchdog_calm)


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
