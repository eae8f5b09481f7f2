"""`stampede store`: that it feels like every other command, and keeps off what is in use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli import main
from broker.data_dir import DataDir
from common.exitcodes import ExitCode
from common.layout import Layout, read_layout
from tests.unit.worker.store.tool.stored import contents, execute, fill

ROOT = Path(__file__).parents[3]


def store(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "broker", "store", *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        timeout=60,
    )


def test_the_help_lists_the_four(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    for name in ("check", "stats", "export", "import"):
        assert f"\n    {name} " in text
        assert main(["store", name, "--help"]) == ExitCode.OK
        assert "broker.data_dir" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["check"],
        ["fly", "."],
        ["stats", ".", "--top", "0"],
        ["stats", ".", "--top", "x"],
        ["import", ".", "--skip", "-1"],
    ],
)
def test_usage_errors_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", *arguments]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("usage: stampede store")


@pytest.mark.parametrize("command", ["check", "stats", "export"])
def test_a_directory_that_is_not_there_is_told(command: str, tmp_path: Path) -> None:
    done = store(command, tmp_path / "absent")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == f"stampede: {tmp_path / 'absent'} is no directory\n".encode()
    assert not (tmp_path / "absent").exists()


def test_check_ends_with_1_when_something_is_wrong(tmp_path: Path) -> None:
    fill(tmp_path, 2, 1)
    done = store("check", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    execute(tmp_path, 1, "UPDATE depth SET messages = messages + 1")
    done = store("check", tmp_path)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"but " in done.stdout


def test_out_and_in_again(tmp_path: Path) -> None:
    origin, target = tmp_path / "origin", tmp_path / "target"
    fill(origin, 2, 1)
    out = store("export", origin)
    assert (out.returncode, out.stderr) == (0, b"")
    done = store("import", target, "--workers", 3, stdin=out.stdout)
    assert (done.returncode, done.stderr) == (0, b"")
    assert read_layout(target) == Layout(3)
    assert json.loads(store("stats", target, "--json", "--top", 1).stdout)["totals"]["messages"] == sum(
        len(each) for name, each in contents(origin).items() if name.startswith("messages")
    )
    again = store("export", target)
    assert sorted(each for each in again.stdout.splitlines()[1:] if b'"key"' in each) == sorted(
        each for each in out.stdout.splitlines()[1:] if b'"key"' in each
    )


def test_import_keeps_off_a_directory_in_use(tmp_path: Path) -> None:
    fill(tmp_path, 1, 1)
    before = contents(tmp_path)
    with_broker = DataDir(tmp_path)
    assert with_broker.try_take()
    done = store("import", tmp_path, stdin=store("export", tmp_path).stdout)
    assert (done.returncode, done.stdout) == (3, b"")
    assert f"is used by another broker (process {os.getpid()}); stop it".encode() in done.stderr
    assert contents(tmp_path) == before
    # Its front was killed, a worker is left.
    worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(with_broker.workers_lock,))
    with_broker.close()
    done = store("import", tmp_path)
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"workers of a broker that was killed" in done.stderr
    worker.communicate()


def test_a_bad_line_is_one_line_on_stderr(tmp_path: Path) -> None:
    done = store("import", tmp_path, stdin=b'{"kind":"stampede-export","version":1}\nnonsense\n')
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"stampede: line 2: no JSON") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("how", ["Ctrl-C, for the whole group", "SIGTERM, for the command alone"])
def test_an_import_that_is_told_to_stop_ends_in_order(how: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", "store", "import", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write(b'{"kind":"stampede-export","version":1}\n')
    process.stdin.flush()
    while not (tmp_path / "layout").exists():
        assert process.poll() is None
    if how.startswith("Ctrl-C"):
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    # Its input stays open meanwhile: its end would be another reason to stop.
    assert process.wait(timeout=30) == 1
    _, errors = process.communicate()
    assert errors.startswith(b"stampede: interrupted; ") and errors.count(b"\n") == 1


def test_an_import_whose_command_is_killed_keeps_the_directory_until_it_ends(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", "store", "import", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    while not (tmp_path / "layout").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    next_one = DataDir(tmp_path)
    assert not next_one.try_take()
    process.stdin.close()
    # Its output ends with it.
    process.stdout.read()
    process.stdout.close()
    asyncio.run(next_one.take(20, unless=lambda: False))
    next_one.close()


def test_a_reader_that_leaves_early_is_no_fault(tmp_path: Path) -> None:
    fill(tmp_path, 1, 1, messages=200)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "broker", "store", "export", str(tmp_path)],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
