"""Where the time of Stampede's workers goes: py-spy's samples, each charged to a part of the broker.

A sample belongs to the innermost frame of our own files: what SQLite, ZeroMQ or uvloop do is charged to their caller.
A thread weighs as much as the CPU time it used, so waiting for the disk or for work is not counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from processes import BenchError, thread_seconds

__all__ = ["OTHER", "PARTS", "charged_to", "part_of", "profiled", "shares"]

_ROOT = Path(__file__).resolve().parents[2]
_RATE = 200  # samples a second and process
_PATIENCE = 20.0

OTHER = "other"
_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "parsing",
        (
            "worker/ingest",
            "worker/assembly",
            "worker/routes",
            "worker/forms",
            "common/codec",
            "common/frame",
            "common/destination",
        ),
    ),
    ("queue", ("worker/queues",)),
    ("backplane", ("worker/backplane",)),
    ("store", ("worker/store",)),
    (
        "sessions",
        (
            "worker/commands",
            "worker/committing",
            "worker/handling",
            "worker/acceptance",
            "worker/receipts",
            "worker/transactions",
        ),
    ),
    (
        "routing, writing",
        ("worker/core", "worker/router", "worker/outbox", "worker/connection", "worker/flow", "worker/deadlines"),
    ),
    ("event loop", ("worker/__main__", "worker/process")),
)
PARTS = (*(part for part, _ in _PREFIXES), OTHER)
_ZEROMQ = "ZeroMQ's own threads"
_THREAD = re.compile(r"thread \((\d+)\)")
_FRAME = re.compile(r".* \((?P<path>.+\.py):\d+\)$")


def _own_path(frame: str) -> str | None:
    """`worker/ingest.py` of a frame such as `feed (/srv/x/worker/ingest.py:12)`; None when it is not ours."""
    found = _FRAME.match(frame)
    if found is None or not found["path"].startswith(f"{_ROOT}/"):
        return None
    path = found["path"].removeprefix(f"{_ROOT}/")
    return path if path.startswith(("worker/", "common/")) else None


def charged_to(stack: str) -> str:
    """The file a collapsed stack (outermost frame first, separated by `;`) is charged to; empty when none is ours."""
    return next((path for frame in reversed(stack.split(";")) if (path := _own_path(frame))), "")


def part_of(path: str) -> str:
    """The part of the broker a file such as `worker/ingest.py` belongs to."""
    if path == _ZEROMQ:
        return "backplane"
    return next((part for part, prefixes in _PREFIXES if path.startswith(prefixes)), OTHER)


def shares(lines: Iterable[str], threads: Mapping[int, tuple[str, float]]) -> dict[str, Any]:
    """Share (0 to 1) of every part and file (`files`), and `samples` and `cpu_s`.

    `lines`: py-spy's raw format with threads (`thread (ID): NAME;FRAME;... COUNT`). `threads`: name and CPU
    seconds by id. Samples only divide the time of one thread: sampling wakes those that wait, so some seem at work.
    """
    samples: dict[int, Counter[str]] = {}
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if found := _THREAD.match(stack):
            samples.setdefault(int(found[1]), Counter())[charged_to(stack)] += int(count)
    times: dict[str, float] = {}
    for thread, (name, used) in threads.items():
        counts = samples.get(thread) or Counter({_ZEROMQ if name.startswith("ZMQ") else "": 1})
        for path, number in counts.items():
            times[path] = times.get(path, 0.0) + used * number / counts.total()
    total = sum(times.values()) or 1.0
    parts = dict.fromkeys(PARTS, 0.0)
    for path, used in times.items():
        parts[part_of(path)] += used / total
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return {
        **parts,
        "files": {path or "none of ours": round(used / total, 4) for path, used in ordered if used},
        "samples": sum(counts.total() for counts in samples.values()),
        "cpu_s": round(sum(times.values()), 2),
    }


def _program() -> str:
    path = shutil.which("py-spy", path=f"{_ROOT}/.venv/bin:{os.environ.get('PATH', '')}")
    if path is None:
        raise BenchError("--profile needs py-spy: .venv/bin/pip install py-spy")
    return path


def _await_sampling(recorder: subprocess.Popen[bytes], pid: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    seen = b""
    if recorder.stdout is None:
        raise BenchError("py-spy was started without a pipe")
    while b"Sampling process" not in seen:
        ready, _, _ = select.select([recorder.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(recorder.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            raise BenchError(f"py-spy does not sample process {pid}: {seen.decode(errors='replace').strip()}")
        seen += chunk


@contextlib.contextmanager
def profiled(pids: Sequence[int], result: dict[str, Any]) -> Iterator[None]:
    """Sample the processes while the body runs; fills `result` with what `shares` says of them together."""
    program = _program()
    with tempfile.TemporaryDirectory(prefix="bench-profile-") as folder, contextlib.ExitStack() as stack:
        recorders: list[subprocess.Popen[bytes]] = []
        for pid in pids:
            command = [program, "record", "--format", "raw", "--threads", "--full-filenames", "--rate", str(_RATE)]
            command += ["--pid", str(pid), "--duration", "unlimited", "--output", f"{folder}/{pid}"]
            recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
            stack.enter_context(recorder)
            stack.callback(recorder.kill)
            recorders.append(recorder)
            _await_sampling(recorder, pid)
        before = thread_seconds(pids)
        yield
        after = thread_seconds(pids)
        for recorder in recorders:
            recorder.send_signal(signal.SIGINT)
        for recorder in recorders:
            output, _ = recorder.communicate(timeout=_PATIENCE)
            if recorder.returncode != 0:
                raise BenchError(f"py-spy failed: {output.decode(errors='replace').strip()}")
        texts = [path.read_text() for path in sorted(Path(folder).iterdir())]
    used = {thread: (name, end - before.get(thread, ("", 0.0))[1]) for thread, (name, end) in after.items()}
    result.update(shares((line for text in texts for line in text.splitlines()), used))
