"""The disk beneath the brokers: which file system holds their data, and what one fdatasync costs there."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from processes import BenchError

__all__ = ["file_system", "percentile", "real_disk", "sync_seconds"]

_IN_MEMORY = ("tmpfs", "ramfs")


def file_system(folder: Path, mounts: str | None = None) -> str:
    """Type of the file system `folder` is on, such as `ext4`. `mounts`: text in the format of /proc/self/mountinfo."""
    if mounts is None:
        mounts = Path("/proc/self/mountinfo").read_text()
    place = folder.resolve()
    best, kind = -1, "unknown"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))  # \040 for a space
        # Of two mounts on one point the later one covers the earlier.
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


def real_disk(folder: Path) -> Path:
    """`folder`, if what is synced there can reach a disk; else BenchError."""
    if not folder.is_dir():
        raise BenchError(f"--data-in {folder}: no such directory")
    if (kind := file_system(folder)) in _IN_MEMORY:
        raise BenchError(f"--data-in {folder} is on {kind}: an fsync there costs nothing; name a folder on a disk")
    return folder


def sync_seconds(folder: Path, count: int, size: int = 200) -> list[float]:
    """Durations of `count` times: append `size` bytes to a file in `folder`, then fdatasync. In seconds."""
    chunk = b"x" * size
    durations: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix="sync-", buffering=0) as stream:
        number = stream.fileno()
        for _ in range(count):
            begin = time.perf_counter()
            os.write(number, chunk)
            os.fdatasync(number)
            durations.append(time.perf_counter() - begin)
    return durations


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    if share == 0.5:
        return statistics.median(ordered)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
