"""What a process uses, from /proc (proc_pid_stat(5), proc_pid_statm(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessUse", "process_use"]

_PAGE = os.sysconf("SC_PAGESIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """`cpu_seconds` since its start, user and system together."""

    resident_bytes: int
    cpu_seconds: float


def process_use(pid: int) -> ProcessUse | None:
    """None for a process that is gone."""
    directory = Path("/proc") / str(pid)
    try:
        resident = int((directory / "statm").read_bytes().split()[1])
        # The second field, the name in parentheses, may hold blanks and parentheses itself.
        after_name = (directory / "stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, IndexError):
        return None
    return ProcessUse(resident * _PAGE, (int(after_name[11]) + int(after_name[12])) / _TICKS)
