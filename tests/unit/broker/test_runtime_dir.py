"""The runtime directory: private, locked, cleaned, and short enough."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import CannotStartError
from broker.runtime_dir import ENDPOINT_NAME_BYTES, ENDPOINT_PATH_BYTES, RuntimeDir

BOOT = "0123abcd"


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory whose path leaves room for a Unix socket's, which pytest's own does not always."""
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as path:
        yield Path(path)


def endpoint(path: Path) -> Path:
    """A socket file as a worker that was killed leaves it behind."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def test_it_is_made_with_its_parents_and_private(short_tmp: Path) -> None:
    made = RuntimeDir(short_tmp / "a" / "b", BOOT)
    assert made.path.is_relative_to(short_tmp / "a" / "b")
    for path in (made.path, short_tmp / "a" / "b"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    made.close()


def test_a_directory_open_to_others_still_keeps_the_endpoints_private(short_tmp: Path) -> None:
    short_tmp.chmod(0o755)
    made = RuntimeDir(short_tmp, BOOT)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    made.close()


def test_without_a_configured_one_a_temporary_one_is_made_and_removed(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_tmp))
    made = RuntimeDir(None, BOOT)
    endpoint(made.path / "0-1")
    assert made.path.is_relative_to(short_tmp)
    made.close()
    assert list(short_tmp.iterdir()) == []


def test_close_removes_the_endpoints_and_lets_go_of_the_lock(short_tmp: Path) -> None:
    made = RuntimeDir(short_tmp, BOOT)
    endpoint(made.path / "0-1")
    made.close()
    made.close()
    assert [path.name for path in short_tmp.iterdir()] == ["lock"]
    RuntimeDir(short_tmp, BOOT).close()


def test_two_brokers_never_share_one(short_tmp: Path) -> None:
    first = RuntimeDir(short_tmp, BOOT)
    with pytest.raises(CannotStartError, match=rf"used by another broker \(process {os.getpid()}\)"):
        RuntimeDir(short_tmp, "ffffffff")
    assert first.path.is_dir(), "the refused one must not clean up after the other"
    first.close()


def test_what_a_killed_broker_left_is_removed_and_nothing_else(short_tmp: Path) -> None:
    stale = short_tmp / "b00000000"
    stale.mkdir()
    endpoint(stale / "0-1")
    precious = short_tmp / "bffffffff"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for name in ("backup", "b0", "other"):
        (short_tmp / name).mkdir()
    endpoint(short_tmp / "somebody.sock")
    (short_tmp / "b0123456789").mkdir()
    (short_tmp / "b11111111").symlink_to(precious)
    made = RuntimeDir(short_tmp, BOOT)
    names = {path.name for path in short_tmp.iterdir()}
    assert names == {
        *("lock", made.path.name, "bffffffff", "backup", "b0", "other", "somebody.sock", "b11111111", "b0123456789")
    }
    assert (precious / "thesis.txt").exists()
    made.close()


@pytest.mark.parametrize("excess", [0, 1])
def test_the_longest_path_that_fits_fits_exactly(short_tmp: Path, excess: int) -> None:
    longest = ENDPOINT_PATH_BYTES - ENDPOINT_NAME_BYTES - len("/b/") - len(BOOT)
    path = short_tmp / ("x" * (longest + excess - len(str(short_tmp)) - 1))
    if excess:
        with pytest.raises(CannotStartError, match=f"{longest + 1} bytes, at most {longest}"):
            RuntimeDir(path, BOOT)
        return
    made = RuntimeDir(path, BOOT)
    endpoint(made.path / ("e" * ENDPOINT_NAME_BYTES))
    made.close()


def test_the_configuration_reference_promises_eighty_bytes() -> None:
    assert ENDPOINT_PATH_BYTES - ENDPOINT_NAME_BYTES - len("/b/") - len(BOOT) == 80


def test_a_place_that_cannot_be_used_is_refused_with_its_name(short_tmp: Path) -> None:
    file = short_tmp / "file"
    file.touch()
    for path in (file, file / "below", Path("/proc/nowhere")):
        with pytest.raises(CannotStartError, match=f"cannot use {path} as runtime directory: .+; set broker"):
            RuntimeDir(path, BOOT)
