"""When the front has the data directory laid out for another number of workers, and what it makes of the outcome."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.data_dir import DataDir
from broker.errors import CannotStartError
from broker.resharding import lay_out
from common.layout import STAGING, Layout, read_layout, write_layout
from common.log import EventLog

NEVER = ("/nowhere/at/all",)
DONE = {"before": 2, "queues": 5, "messages": 50, "moved": 3, "moved_messages": 30}


def program(text: str) -> tuple[str, ...]:
    """A stand-in for the program that moves the queues."""
    return (sys.executable, "-c", f"import json, os, sys, time\n{text}")


def run(
    directory: Path, workers: int, command: tuple[str, ...], *, stop_at: str = "", interval: float = 30.0
) -> tuple[list[dict[str, Any]], list[str]]:
    """The events that were logged, and what `still_working` was told; `stop_at` is a status at which the broker is told
    to stop."""
    log = io.StringIO()
    said: list[str] = []

    async def main() -> None:
        data_dir = DataDir(directory)
        stop = asyncio.get_running_loop().create_future()

        def still_working(status: str) -> None:
            said.append(status)
            if stop_at and status == stop_at:
                stop.set_result(0)

        try:
            assert data_dir.try_take()
            events = EventLog("front", "info", "json", log)
            await asyncio.wait_for(
                lay_out(
                    data_dir,
                    workers,
                    events,
                    stop=stop,
                    still_working=still_working,
                    command=command,
                    interval=interval,
                ),
                20,
            )
        finally:
            data_dir.close()

    asyncio.run(main())
    return [json.loads(line) for line in log.getvalue().splitlines()], said


def test_a_new_directory_is_laid_out_without_a_program(tmp_path: Path) -> None:
    assert run(tmp_path / "data", 3, NEVER) == ([], [])
    assert read_layout(tmp_path / "data") == Layout(3)
    assert run(tmp_path / "data", 3, NEVER) == ([], [])


@pytest.mark.parametrize("state", ["another number", "in between", "left over", "says nothing"])
def test_the_program_is_run_when_there_is_something_to_do(state: str, tmp_path: Path) -> None:
    (tmp_path / "slot-1.db").touch()
    if state == "left over":
        (tmp_path / STAGING).mkdir()
    if state != "says nothing":
        write_layout(tmp_path, {"another number": Layout(2), "in between": Layout(3, 3)}.get(state, Layout(3)))
    events, _ = run(tmp_path, 3, program(f"print(json.dumps({DONE} | {{'messages': int(sys.argv[2])}}))"))
    assert [event["event"] for event in events] == ["store.resharding", "store.resharded"]
    assert events[1]["path"] == str(tmp_path)
    assert {name: events[1][name] for name in DONE} == DONE | {"messages": 3}
    assert events[1]["workers"] == 3


def test_what_cannot_be_done_keeps_the_broker_from_starting(tmp_path: Path) -> None:
    write_layout(tmp_path, Layout(2))
    with pytest.raises(CannotStartError, match=r"^no room$"):
        run(tmp_path, 3, program("print(json.dumps({'error': 'no room'})); sys.exit(1)"))
    with pytest.raises(CannotStartError, match="ended with SIGKILL"):
        run(tmp_path, 3, program("os.kill(os.getpid(), 9)"))
    with pytest.raises(CannotStartError, match="ended with code 0"):
        run(tmp_path, 3, program(""))
    with pytest.raises(CannotStartError, match="cannot run all: No such file"):
        run(tmp_path, 3, NEVER)
    (tmp_path / "layout").write_text("{")
    with pytest.raises(CannotStartError, match="layout is damaged"):
        run(tmp_path, 3, NEVER)


def test_it_says_how_far_it_is_and_ends_with_the_broker(tmp_path: Path) -> None:
    write_layout(tmp_path, Layout(2))
    endless = program("print(json.dumps({'done': 1500, 'total': 2000}), flush=True); time.sleep(600)")
    status = "moving queues: 1,500 of 2,000 messages"
    events, said = run(tmp_path, 3, endless, stop_at=status, interval=0.05)
    assert said[-1] == status
    assert {"event": "store.resharding", "done": 1500, "total": 2000}.items() <= events[-1].items()
    assert "store.resharded" not in [event["event"] for event in events]


def test_the_program_holds_the_directory_as_long_as_it_runs(tmp_path: Path) -> None:
    """Should the front be killed, the next one waits for it."""
    write_layout(tmp_path, Layout(2))
    held = program(
        "import fcntl\n"
        "lock = os.open(os.path.join(sys.argv[1], 'workers.lock'), os.O_RDWR)\n"
        "opened = [os.path.join('/proc/self/fd', fd) for fd in os.listdir('/proc/self/fd')]\n"
        "path = sys.argv[1] + '/workers.lock'\n"
        "inherited = [fd for fd in opened if os.path.exists(fd) and os.path.samefile(fd, path)]\n"
        f"print(json.dumps({DONE} | {{'queues': len(inherited)}}))"
    )
    events, _ = run(tmp_path, 3, held)
    # Its own descriptor, and the one that is locked.
    assert events[-1]["queues"] == 2
