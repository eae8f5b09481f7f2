"""Process trees of the brokers under test: start, sample CPU and memory, stop without a trace.

A tree is everything that descends from the processes started here *or* carries their mark in its environment:
Erlang's port helpers and daemons detach themselves from their parent and from its session.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["BenchError", "ProcessTree", "free_port", "machine_busy_seconds", "thread_seconds", "wait_until"]

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MARK = "BENCH_TREE"
_PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """A broker or a load generator did not do what the measurement needs; the text says what."""


def free_port() -> int:
    """A free TCP port of 127.0.0.1, below the ephemeral range so that no client connection can take it."""
    for _ in range(200):
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port between 20000 and 32000 on 127.0.0.1")


def wait_until(condition: Callable[[], bool], seconds: float, what: str, interval: float = 0.05) -> None:
    """Poll `condition` until it is true; BenchError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {seconds:g} s")
        time.sleep(interval)


def machine_busy_seconds() -> float:
    """CPU seconds since boot that processes used, or that the host took away, on all cores together."""
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = (
        int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    # Interrupt time is left out: it is mostly the loopback traffic of the measurement itself.
    return (user + nice + system + steal) / _TICK


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state (field 3) on; None when the process is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields


def thread_seconds(pids: Iterable[int]) -> dict[int, tuple[str, float]]:
    """Name and CPU seconds so far of every thread of the processes, by thread id."""
    found: dict[int, tuple[str, float]] = {}
    for pid in pids:
        for folder in Path(f"/proc/{pid}/task").iterdir():
            try:
                before, _, after = (folder / "stat").read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):  # a thread that just ended
                continue
            fields = after.split()
            found[int(folder.name)] = (before.partition("(")[2], (int(fields[11]) + int(fields[12])) / _TICK)
    return found


class ProcessTree:
    """The processes of one broker: those started with `spawn` and whatever they started in turn."""

    def __init__(self, base: Path) -> None:
        """`base` is the broker's own folder: working directory and logs (`NAME.out`) go there."""
        self.base = base
        self._mark = uuid.uuid4().hex
        self._roots: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Path:
        """Start `command` in a session of its own; returns the file that collects its output."""
        output = self.base / f"{name}.out"
        # Without STAMPEDE_...: every broker is measured in the configuration its adapter gives it.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("STAMPEDE_")}
        environment = {**inherited, **(env or {}), _MARK: self._mark}
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            # A killed harness must not leave brokers behind.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        with output.open("wb") as stream:
            process = subprocess.Popen(
                list(command),
                cwd=self.base,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._roots[name] = process
        return output

    def dead_root(self) -> str | None:
        """Why the broker cannot be running any more (a process of ours has ended), or None."""
        for name, process in self._roots.items():
            if process.poll() is not None:
                return f"{name} ended with code {process.returncode}"
        return None

    def pids(self) -> list[int]:
        """Live processes of the tree."""
        roots = {process.pid for process in self._roots.values()}
        mark = f"{_MARK}={self._mark}".encode()
        parents: dict[int, int] = {}
        found: set[int] = set()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or (fields := _stat(pid := int(entry))) is None:
                continue
            parents[pid] = int(fields[1])
            try:
                marked = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:  # another user's process, or one that just ended
                marked = False
            if pid in roots or marked:
                found.add(pid)
        grown = True
        while grown:
            children = {pid for pid, parent in parents.items() if parent in found} - found
            found |= children
            grown = bool(children)
        return sorted(found)

    def cpu_seconds(self) -> float:
        """User and system CPU seconds of the tree so far, children that were waited for included."""
        ticks = 0
        for pid in self.pids():
            if (fields := _stat(pid)) is not None:
                ticks += sum(int(value) for value in fields[11:15])
        return ticks / _TICK

    def rss_bytes(self) -> int:
        """Resident memory of the tree in bytes; pages two processes share count twice."""
        return sum(int(fields[21]) * _PAGE for pid in self.pids() if (fields := _stat(pid)) is not None)

    def peak_rss_bytes(self) -> list[int]:
        """The most memory each live process has held resident so far, in bytes."""
        peaks: list[int] = []
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            peaks += [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:")]
        return peaks

    def command_lines(self) -> dict[int, list[str]]:
        """The words of the command line of each live process, by process id."""
        found: dict[int, list[str]] = {}
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[pid] = text.rstrip(b"\0").decode(errors="replace").split("\0")
        return found

    def stop(self, seconds: float = 8.0) -> None:
        """SIGTERM to what was started here, SIGKILL to all that is left after `seconds`; waits for the end."""
        for process in self._roots.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while self._alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        deadline = time.monotonic() + 10
        while left := self._alive():
            if time.monotonic() > deadline:
                raise BenchError(f"processes {left} survive SIGKILL")
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        for process in self._roots.values():
            process.wait()

    def _alive(self) -> list[int]:
        for process in self._roots.values():
            process.poll()
        return self.pids()
