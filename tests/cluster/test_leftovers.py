"""What a program that was killed with its broker leaves on disk: removed by the next one, and nothing else with it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from common.client import connect_sync
from tests.harness.broker import ROOT

SECONDS = 20.0
PROGRAM = """
import asyncio, sys
from broker import Broker
async def main():
    async with Broker() as broker:
        print(broker.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


class Program:
    """One with a broker in it, whose temporary directories are in `place`: `left` are its own."""

    def __init__(self, place: Path) -> None:
        before = set(place.iterdir())
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(place)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.workers = psutil.Process(self.process.pid).children(recursive=True)
        self.left = set(place.iterdir()) - before

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(self.workers, SECONDS)
        assert not alive

    def serves(self) -> None:
        with connect_sync(self.url) as client:
            client.send("/queue/a", b"x")
            with client.subscribe("/queue/a", ack="client-individual") as subscription:
                subscription.get(timeout=SECONDS).ack(receipt=True)

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        if self.process.poll() is None:
            self.process.communicate("", timeout=SECONDS)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def place() -> Iterator[Path]:
    # Short, for the sockets in it.
    with tempfile.TemporaryDirectory(prefix="lo-", dir="/tmp") as directory:
        yield Path(directory)


def age(directory: Path) -> None:
    """An hour has passed."""
    then = time.time() - 3600
    for path in [*directory.iterdir(), directory]:
        os.utime(path, (then, then))


def test_what_killed_programs_left_is_removed_and_the_living_keep_theirs(place: Path) -> None:
    with ExitStack() as stack:

        def program() -> Program:
            made = Program(place)
            stack.callback(made.close)
            assert len(made.left) == 2
            return made

        killed, living, stopped, young = (program() for _ in range(4))
        killed.kill()
        young.kill()
        stopped.process.send_signal(signal.SIGSTOP)
        for each in (killed, living, stopped):
            for directory in each.left:
                age(directory)
        another = program()
        assert not [path for path in killed.left if path.exists()]
        for each in (living, stopped, young, another):
            assert all(path.is_dir() for path in each.left)
        stopped.process.send_signal(signal.SIGCONT)
        for each in (living, stopped, another):
            each.serves()
    # In order they leave nothing themselves.
    assert set(place.iterdir()) == young.left


@pytest.mark.parametrize("name", ["lock", "workers.lock"])
def test_either_lock_keeps_the_data_of_a_killed_program(place: Path, name: str) -> None:
    """Workers outlive it for a moment, and hold the second one."""
    with ExitStack() as stack:
        killed = Program(place)
        stack.callback(killed.close)
        killed.kill()
        (data,) = (path for path in killed.left if path.name.startswith("stampede-data-"))
        age(data)
        with (data / name).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Program(place).close()
            assert (data / "slot-0.db").exists()
        Program(place).close()
        assert not data.exists()


def test_what_only_looks_like_it_is_left_alone(place: Path) -> None:
    outside = place / "outside"
    outside.mkdir()
    for name in ("stampede-database", "stampede-data-database", "stampede-mine"):
        directory = place / name
        directory.mkdir()
        for file in ("lock", "workers.lock", "slot-0.db"):
            (directory / file).write_bytes(b"")
        age(directory)
    (place / "stampede-data-somewhe1").symlink_to(outside)
    for file in ("lock", "temporary"):
        (outside / file).write_bytes(b"")
    (place / "stampede-data-someone1").write_bytes(b"")
    (place / "stampede-data-nothing1").mkdir()
    for path in (outside, place / "stampede-data-nothing1"):
        age(path)
    before = sorted(place.rglob("*"))
    program = Program(place)
    program.close()
    assert sorted(place.rglob("*")) == before
