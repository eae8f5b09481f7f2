"""The load generators: built on demand with gcc, halted at the edges of the part that is measured."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from brokers import Broker
from processes import BenchError

__all__ = ["build_generators", "compiler_version", "natsbench", "run_generator", "stompbench"]

_HERE = Path(__file__).resolve().parent
_BUILD = _HERE / "build"
_FLAGS = ("-O2",)
_NATS_BATCH = 500  # natsbench sends whole batches of this many messages


def build_generators() -> None:
    """Compile both generators into build/ when their source is newer."""
    if shutil.which("gcc") is None:
        raise BenchError("gcc is not installed: apt-get install gcc libc6-dev")
    _BUILD.mkdir(exist_ok=True)
    for name in ("stompbench", "natsbench"):
        source, target = _HERE / f"{name}.c", _BUILD / name
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", *_FLAGS, "-o", str(target), str(source)], check=True, timeout=120)


def compiler_version() -> str:
    """First line of `gcc --version`, with the flags used."""
    result = subprocess.run(["gcc", "--version"], capture_output=True, text=True, timeout=30, check=True)
    return f"{result.stdout.splitlines()[0]} {' '.join(_FLAGS)}"


def stompbench(broker: Broker, mode: str, *options: object) -> list[str]:
    """A stompbench command line against a running broker."""
    command = ["build/stompbench", mode, "--port", str(broker.port), "--steps"]
    if broker.login:
        command += ["--login", broker.login[0], "--passcode", broker.login[1]]
    return command + [str(option) for option in options]


def natsbench(broker: Broker, pubs: int, subs: int, topics: int, msgs: int, dests: int) -> list[str]:
    """A natsbench command line; `msgs` is rounded up to whole batches."""
    unit = _NATS_BATCH * pubs
    whole = -(-msgs // unit) * unit
    command = [
        "build/natsbench",
        str(broker.port),
        str(pubs),
        str(subs),
        str(dests or topics),
        str(whole),
        "100",
    ]
    return [*command, *(["--dests"] if dests else []), "--steps"]


def run_generator(command: Sequence[str], seconds: float, at: Callable[[str], None]) -> dict[str, Any]:
    """Run a generator, calling `at(step)` at each of its steps while it waits; returns the JSON it printed.

    Raises BenchError when it fails, prints no result, or has not ended after `seconds`.
    """
    result: dict[str, Any] | None = None
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            list(command),
            cwd=_HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            bufsize=0,
        )
        try:
            for message in _messages(process, time.monotonic() + seconds):
                if (step := message.get("step")) is None:
                    result = message
                    continue
                at(step)
                os.write(_fileno(process.stdin), b"x")
            code = process.wait(timeout=10)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        complaints.seek(0)
        text = complaints.read(500).decode(errors="replace").strip()
    if code != 0 or result is None:
        raise BenchError(f"{' '.join(command)}: code {code}: {text}")
    if text:
        result["stderr"] = text
    return result


def _fileno(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise BenchError("the generator was started without pipes")
    return stream.fileno()


def _messages(process: subprocess.Popen[bytes], deadline: float) -> Iterator[dict[str, Any]]:
    """The JSON objects a generator prints, one a line, as they come. BenchError at the deadline."""
    source = _fileno(process.stdout)
    pending = b""
    while True:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise BenchError(f"{process.args!r}: not done in time")
        chunk = os.read(source, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise BenchError(f"the generator printed {line!r}") from error
