"""One worker process and its control channel, with small programs in the place of a worker."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from broker.workers import WORKER_COMMAND, WorkerProcess, describe_exit
from common.messages import MAX_MESSAGE_BYTES, Bound, CannotStart, Message, Ping, encode

PRELUDE = """
import argparse, os, socket, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--control-fd", type=int)
control = socket.socket(fileno=parser.parse_args().control_fd)
"""


class Recorder:
    """What a worker process told its owner, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self._changed = asyncio.Event()

    def on_message(self, worker: WorkerProcess, message: Message) -> None:
        self._tell(message)

    def on_control_lost(self, worker: WorkerProcess, error: str) -> None:
        self._tell(("lost", error))

    def on_exit(self, worker: WorkerProcess, how: str) -> None:
        self._tell(("exit", how))

    def _tell(self, what: object) -> None:
        self.told.append(what)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_exit(self) -> None:
        await self.until(lambda: any(isinstance(t, tuple) and t[0] == "exit" for t in self.told))


def run(test: Callable[[Recorder], Coroutine[Any, Any, None]]) -> None:
    async def with_recorder() -> None:
        await test(Recorder())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(with_recorder())


def spawn(recorder: Recorder, program: str) -> WorkerProcess:
    return WorkerProcess(0, 1, recorder, command=[sys.executable, "-c", PRELUDE + program])


def test_messages_go_both_ways() -> None:
    async def test(recorder: Recorder) -> None:
        wire = encode(Ping(7)) * 2
        program = f"""
assert control.recv({len(wire)}, socket.MSG_WAITALL) == {wire!r}
control.sendall({encode(Bound("x"))!r})
"""
        worker = spawn(recorder, program)
        worker.send(Ping(7))
        worker.send(Ping(7))
        await recorder.until_exit()
        assert recorder.told == [Bound("x"), ("lost", ""), ("exit", "code 0")]

    run(test)


def test_what_a_worker_said_before_it_died_is_told_before_its_death() -> None:
    async def test(recorder: Recorder) -> None:
        worker = spawn(recorder, f"control.sendall({encode(CannotStart('no room'))!r})\nsys.exit(3)")
        # Both are waiting before the loop has looked at either: then the death may well be seen first.
        pidfd = os.pidfd_open(worker.pid)
        assert select.select([pidfd], [], [], 20)[0]
        os.close(pidfd)
        worker._on_exit()
        assert recorder.told == [CannotStart("no room"), ("lost", ""), ("exit", "code 3")]

    run(test)


def test_what_a_worker_writes_is_told_before_its_death_and_goes_nowhere_else(capfd: pytest.CaptureFixture[str]) -> None:
    async def test(recorder: Recorder) -> None:
        program = PRELUDE + "print('to stdout', flush=True); sys.stderr.write('to stderr' + '!' * 100_000); sys.exit(3)"
        written = bytearray()
        worker = WorkerProcess(0, 1, recorder, command=[sys.executable, "-c", program], output=written.extend)
        pidfd = os.pidfd_open(worker.pid)
        assert select.select([pidfd], [], [], 20)[0]
        os.close(pidfd)
        worker._on_exit()
        assert bytes(written) == b"to stdout\nto stderr" + b"!" * 100_000
        assert recorder.told == [("lost", ""), ("exit", "code 3")]

    run(test)
    assert capfd.readouterr() == ("", "")


def test_a_worker_whose_output_nobody_reads_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    async def test(recorder: Recorder) -> None:
        program = f"""
try:
    for _ in range(100):
        os.write(2, b"x" * 65536)
except BlockingIOError:
    control.sendall({encode(Bound("full"))!r})
"""
        worker = WorkerProcess(
            0, 1, recorder, command=[sys.executable, "-c", PRELUDE + program], output=lambda data: None
        )
        # The loop that would read it stands still.
        pidfd = os.pidfd_open(worker.pid)
        assert select.select([pidfd], [], [], 20)[0]
        os.close(pidfd)
        worker._on_exit()
        assert recorder.told[0] == Bound("full")

    run(test)


def test_a_worker_that_cannot_be_spawned_leaves_nothing_open() -> None:
    async def test(recorder: Recorder) -> None:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(FileNotFoundError):
            WorkerProcess(0, 1, recorder, command=["/nowhere/python"], output=lambda data: None)
        assert os.listdir("/proc/self/fd") == before

    run(test)


def test_a_worker_that_does_not_read_is_given_up_instead_of_holding_memory() -> None:
    async def test(recorder: Recorder) -> None:
        worker = spawn(recorder, "time.sleep(60)")
        for _ in range(MAX_MESSAGE_BYTES // 100_000 + 20):
            worker.send(Bound("x" * 100_000))
        assert recorder.told == [("lost", "the worker does not read its control channel")]
        worker.send(Ping(1))
        worker.kill()
        await recorder.until_exit()
        assert recorder.told[1:] == [("exit", "SIGKILL")]

    run(test)


def test_much_is_sent_in_pieces_as_the_worker_reads() -> None:
    async def test(recorder: Recorder) -> None:
        size = 2_000_000
        total = len(encode(Bound("x" * size)))
        worker = spawn(
            recorder,
            f"left = {total}\nwhile left: left -= len(control.recv(65536))\ncontrol.sendall({encode(Bound('all'))!r})",
        )
        worker.send(Bound("x" * size))
        await recorder.until_exit()
        assert recorder.told[0] == Bound("all")

    run(test)


def test_messages_to_a_worker_that_is_gone_are_lost_silently() -> None:
    async def test(recorder: Recorder) -> None:
        worker = spawn(recorder, "control.close()\ntime.sleep(60)")
        await recorder.until(lambda: ("lost", "") in recorder.told)
        worker.send(Ping(1))
        worker.kill()
        await recorder.until_exit()
        worker.send(Ping(1))
        worker.kill()
        worker.abort()
        assert recorder.told == [("lost", ""), ("exit", "SIGKILL")]

    run(test)


def test_nothing_is_left_open() -> None:
    async def test(recorder: Recorder) -> None:
        before = set(os.listdir("/proc/self/fd"))
        spawn(recorder, "")
        await recorder.until_exit()
        assert set(os.listdir("/proc/self/fd")) == before
        with pytest.raises(FileNotFoundError):
            WorkerProcess(0, 1, recorder, command=["/nonexistent/program"])
        assert set(os.listdir("/proc/self/fd")) == before

    run(test)


def test_a_worker_comes_from_the_same_checkout_wherever_the_broker_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What would be run instead, if the current directory counted.
    for name in ("worker", "common"):
        (tmp_path / f"{name}.py").write_text("import sys; sys.exit(42)")
    monkeypatch.chdir(tmp_path)

    async def test(recorder: Recorder) -> None:
        worker = WorkerProcess(0, 1, recorder, command=WORKER_COMMAND)
        worker._close_control()
        await recorder.until_exit()
        assert recorder.told != [("exit", "code 42")]

    run(test)


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "code 0"), (3, "code 3"), (-signal.SIGSEGV, "SIGSEGV"), (-63, "signal 63")],
)
def test_exits_are_described(status: int, text: str) -> None:
    assert describe_exit(status) == text
