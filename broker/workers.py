"""One worker process as the front sees it: spawned, spoken to over a control channel, signalled, missed.

Owns the process, its end of the control channel and the pidfd that tells of its death; decides nothing (that
is the supervisor's). Workers are fresh interpreters: a forked event loop would share its epoll set with its
parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import site
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from broker import notify
from common.messages import MAX_MESSAGE_BYTES, ControlDecoder, ControlError, Message, encode

__all__ = ["WORKER_COMMAND", "WorkerEvents", "WorkerProcess", "describe_exit", "worker_environment"]

# -P: the current directory of the operator must not provide a `worker` or `common` of its own.
# faulthandler: so that a worker that hangs before it reaches its own code dumps its stacks, too.
WORKER_COMMAND = (sys.executable, "-P", "-X", "faulthandler", "-m", "worker")
"""What is run as a worker, followed by `--control-fd N`."""

_READ_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20


class WorkerEvents(Protocol):
    """What a worker process calls on its owner, always from the event loop."""

    def on_message(self, worker: WorkerProcess, message: Message) -> None: ...

    def on_control_lost(self, worker: WorkerProcess, error: str) -> None:
        """Nothing more will be heard from the worker; `error` is empty when it simply closed the channel."""

    def on_exit(self, worker: WorkerProcess, how: str) -> None:
        """The process is gone. Called last, after every message it left behind."""


class WorkerProcess:
    """Spawns on construction; raises `OSError` when there is no process to be had.

    `inherited` are file descriptors the worker gets under their own numbers. `output` takes what it writes on stdout
    and stderr; without, that goes to stderr of this process.
    """

    def __init__(
        self,
        slot: int,
        incarnation: int,
        events: WorkerEvents,
        *,
        command: Sequence[str] = WORKER_COMMAND,
        inherited: Sequence[int] = (),
        output: Callable[[bytes], None] | None = None,
    ) -> None:
        self.slot = slot
        self.incarnation = incarnation
        self.stats: dict[str, int] = {}
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._decoder = ControlDecoder()
        self._unsent = bytearray()
        self._output = output
        self._pipe: int | None = None
        control, theirs = socket.socketpair()
        self._control: socket.socket | None = control
        written = None if output is None else self._open_pipe()
        try:
            self._process = subprocess.Popen(
                [*command, "--control-fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *inherited),
                stdin=subprocess.DEVNULL,
                # The front's stdout carries the ready line and nothing else.
                stdout=2 if written is None else written,
                stderr=written,
                env=worker_environment(),
                # Ctrl-C in a terminal signals the whole foreground group; only the front is to act on it.
                process_group=0,
            )
        except OSError:
            control.close()
            self._close_pipe()
            raise
        finally:
            theirs.close()
            if written is not None:
                os.close(written)
        self.pid = self._process.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._process.kill()
            self._process.wait()
            control.close()
            self._close_pipe()
            raise
        _raise_open_files_limit(self.pid)
        control.setblocking(False)
        if self._pipe is not None:
            self._loop.add_reader(self._pipe, self._on_output)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(control, self._on_readable)

    def send(self, message: Message) -> None:
        """Queue `message`; lost silently when the channel is gone, for then the exit is on its way."""
        if self._control is None:
            return
        self._unsent += encode(message)
        if len(self._unsent) > MAX_MESSAGE_BYTES:
            self._lose_control("the worker does not read its control channel")
            return
        self._flush()

    def abort(self) -> None:
        """SIGABRT: faulthandler in the worker writes all stacks to stderr, then it dies."""
        self._process.send_signal(signal.SIGABRT)
        # A stopped process acts on nothing but SIGKILL until it is continued.
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()

    # --- what it writes

    def _open_pipe(self) -> int:
        """The end that is written to."""
        self._pipe, written = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # A program that holds up this loop must not hold up the worker with a full pipe: it loses lines, after this
        # many bytes of them.
        with contextlib.suppress(OSError):
            fcntl.fcntl(written, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return written

    def _on_output(self) -> None:
        while self._pipe is not None and self._output is not None:
            try:
                data = os.read(self._pipe, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_pipe()
                return
            self._output(data)

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = None

    # --- the control channel

    def _flush(self) -> None:
        if self._control is None:
            return
        try:
            sent = self._control.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The reader finds out in its own time, after what the worker still had to say.
            self._unsent.clear()
            self._loop.remove_writer(self._control)
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._control, self._flush)
        else:
            self._loop.remove_writer(self._control)

    def _on_readable(self) -> None:
        while self._control is not None:
            try:
                data = self._control.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lose_control("")
                return
            try:
                for message in self._decoder.feed(data):
                    self._events.on_message(self, message)
            except ControlError as error:
                self._lose_control(str(error))

    def _lose_control(self, error: str) -> None:
        self._close_control()
        self._events.on_control_lost(self, error)

    def _close_control(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()
            self._control = None

    def _on_exit(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        # What it wrote before it died comes first: why it cannot start, for one.
        self._on_readable()
        self._close_control()
        self._on_output()
        self._close_pipe()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._events.on_exit(self, describe_exit(status))


def _raise_open_files_limit(pid: int) -> None:
    """Make its soft limit its hard one, since every client is an open file. That of this process, which is somebody
    else's program perhaps, stays."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


def describe_exit(status: int) -> str:
    """`subprocess`'s return code for people: `code 1`, or the name of the signal."""
    if status >= 0:
        return f"code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def worker_environment() -> dict[str, str]:
    """What a program of the workers' package is to find in its environment."""
    environment = dict(os.environ)
    notify.forget(environment)
    root = str(Path(__file__).resolve().parent.parent)
    if root not in site.getsitepackages():
        # Run from a checkout: the workers must be of the same one.
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{path}" if path else root
    return environment
