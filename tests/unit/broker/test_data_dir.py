"""The data directory: made, private, and for one broker at a time, its workers included."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.data_dir import DataDir
from broker.errors import CannotStartError
from broker.front import dump
from common.config import Config


@pytest.fixture
def survivor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that outlives its front, until its stdin is closed."""
    front = DataDir(tmp_path / "data")
    assert front.try_take()
    worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(front.workers_lock,))
    front.close()
    yield worker
    worker.communicate()


def test_it_is_made_with_its_parents_and_private(tmp_path: Path) -> None:
    made = DataDir(tmp_path / "a" / "b")
    assert made.path == tmp_path / "a" / "b"
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert made.try_take()
    made.close()
    made.close()
    assert made.path.is_dir()


def test_a_relative_one_counts_from_the_start_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = DataDir(Path("data"))
    assert made.path == tmp_path / "data"
    made.close()


def test_workers_are_told_an_absolute_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for configured in (Path("data"), tmp_path / "data"):
        config = Config.model_validate({"broker": {"data_dir": configured}})
        assert Config.model_validate(dump(config)).broker.data_dir == tmp_path / "data"


def test_what_is_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / "0.db").write_text("years of work")
    tmp_path.chmod(0o750)
    DataDir(tmp_path).close()
    assert (tmp_path / "0.db").read_text() == "years of work"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_two_brokers_never_share_one(tmp_path: Path) -> None:
    first = DataDir(tmp_path)
    with pytest.raises(CannotStartError, match=rf"data directory {tmp_path} is used by another broker") as refused:
        DataDir(tmp_path)
    assert f"(process {os.getpid()})" in str(refused.value) and "set broker.data_dir to another" in str(refused.value)
    first.close()
    second = DataDir(tmp_path)
    assert second.try_take()
    second.close()


def test_no_process_inherits_the_lock_of_the_front(tmp_path: Path) -> None:
    first = DataDir(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        first.close()
        DataDir(tmp_path).close()
        child.communicate()


def test_it_is_not_ours_before_the_workers_of_the_front_before_are_gone(
    tmp_path: Path, survivor: subprocess.Popen[bytes]
) -> None:
    front = DataDir(tmp_path / "data")
    assert not front.try_take()
    survivor.communicate()
    assert front.try_take()
    front.close()


def test_it_is_taken_as_soon_as_they_are_gone(tmp_path: Path, survivor: subprocess.Popen[bytes]) -> None:
    front = DataDir(tmp_path / "data")
    looks = []

    def look() -> bool:
        looks.append(front.try_take())
        if len(looks) == 3:
            survivor.communicate()
        return False

    asyncio.run(front.take(60, unless=look))
    assert looks == [False, False, False]
    front.close()


def test_it_is_not_waited_for_without_end(tmp_path: Path, survivor: subprocess.Popen[bytes]) -> None:
    front = DataDir(tmp_path / "data")
    with pytest.raises(CannotStartError, match=r"still used by workers of a broker that was killed, 0\.1 s after"):
        asyncio.run(front.take(0.1, unless=lambda: False))
    asyncio.run(front.take(0, unless=lambda: True))
    assert not front.try_take()
    front.close()


def test_a_place_that_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below", Path("/proc/nowhere")):
        with pytest.raises(CannotStartError, match=f"cannot use {path} as data directory: .+; set broker.data_dir"):
            DataDir(path)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataDir(tmp_path).close()
    # Not by its mode: root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CannotStartError, match=f"cannot use {tmp_path} as data directory: Permission denied"):
        DataDir(tmp_path)


def test_a_full_disk_does_not_keep_the_broker_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    made = DataDir(tmp_path)
    assert made.try_take()
    made.close()
