"""Before the workers start: the data directory is laid out for as many as there will be.

Compares only; the databases are the workers' business, so a program of their package does what is to be done.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from broker.data_dir import DataDir
from broker.errors import CannotStartError
from broker.workers import describe_exit, worker_environment
from common.layout import STAGING, Layout, LayoutError, database_slots, read_layout, write_layout
from common.log import Event, EventLog

__all__ = ["PROGRESS_INTERVAL", "RESHARD_COMMAND", "lay_out"]

RESHARD_COMMAND = (sys.executable, "-P", "-m", "worker.store", "reshard")
"""What is run, followed by the directory and the number of workers."""
PROGRESS_INTERVAL = 5.0
"""Seconds between lines that say how far it is."""


async def lay_out(
    data_dir: DataDir,
    workers: int,
    log: EventLog,
    *,
    stop: asyncio.Future[Any],
    still_working: Callable[[str], None],
    command: Sequence[str] = RESHARD_COMMAND,
    interval: float = PROGRESS_INTERVAL,
) -> None:
    """Returns when `data_dir`, which is taken, is laid out for `workers`, or when `stop` is done: then the next start
    goes on with it. `still_working` is called every `interval` seconds with how far it is.

    Raises `CannotStartError`.
    """
    try:
        layout = read_layout(data_dir.path)
        if layout is None and not database_slots(data_dir.path):
            layout = Layout(workers)
            write_layout(data_dir.path, layout)
    except LayoutError as error:
        raise CannotStartError(str(error)) from error
    if layout == Layout(workers) and not (data_dir.path / STAGING).exists():
        return
    before = None if layout is None else layout.workers
    log.info(Event.STORE_RESHARDING, path=data_dir.path, workers=workers, before=before)
    began = time.monotonic()
    said = await _run(data_dir, workers, log, stop, still_working, command, interval)
    if said is not None:
        seconds = round(time.monotonic() - began, 3)
        log.info(Event.STORE_RESHARDED, path=data_dir.path, workers=workers, **said, seconds=seconds)


async def _run(
    data_dir: DataDir,
    workers: int,
    log: EventLog,
    stop: asyncio.Future[Any],
    still_working: Callable[[str], None],
    command: Sequence[str],
    interval: float,
) -> dict[str, Any] | None:
    """What the program said in the end, None if it was stopped."""
    process = await _spawn(command, data_dir, workers)
    said: dict[str, Any] = {}

    async def listen() -> None:
        if process.stdout is not None:
            async for line in process.stdout:
                said.clear()
                said.update(json.loads(line))
        await process.wait()

    listening = asyncio.ensure_future(listen())
    is_stopped = False
    try:
        while not listening.done() and not stop.done():
            await asyncio.wait({listening, stop}, timeout=interval, return_when=asyncio.FIRST_COMPLETED)
            if "total" in said and not listening.done():
                log.info(Event.STORE_RESHARDING, path=data_dir.path, workers=workers, **said)
            still_working(_progress(said))
        is_stopped = not listening.done()
    finally:
        # Whatever moment that is, nothing is lost by it.
        with suppress(ProcessLookupError):
            process.kill()
    await listening
    if is_stopped:
        return None
    if "error" in said:
        raise CannotStartError(said["error"])
    if process.returncode or "before" not in said:
        raise CannotStartError(
            f"laying {data_dir.path} out for {workers} workers ended with {describe_exit(process.returncode or 0)}"
        )
    return said


async def _spawn(command: Sequence[str], data_dir: DataDir, workers: int) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            str(data_dir.path),
            str(workers),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            # Should the front be killed: the next one has to wait until this process is gone, too.
            pass_fds=(data_dir.workers_lock,),
            env=worker_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise CannotStartError(f"cannot run {Path(command[0]).name}: {error.strerror or error}") from error


def _progress(said: dict[str, Any]) -> str:
    if said.get("total"):
        return f"moving queues: {said['done']:,} of {said['total']:,} messages"
    return "moving queues"
