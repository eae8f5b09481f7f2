"""Result files: what machine and which versions the numbers are from, without naming the machine."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from brokers import make_broker
from generator import compiler_version

__all__ = ["describe_machine", "describe_versions", "load_records", "new_record", "save_record"]

FORMAT = 1


def describe_machine() -> dict[str, Any]:
    """Cores, processor, memory and kernel."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.machine(),
        "memory_gib": round(memory / 1024**3),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def describe_versions(brokers: Iterable[str]) -> dict[str, str]:
    """Version of every broker, and of the compiler of the generators."""
    return {**{name: make_broker(name).version() for name in brokers}, "gcc": compiler_version()}


def new_record(name: str, brokers: Iterable[str], rounds: int, seconds: float, command: str) -> dict[str, Any]:
    """The head of a result file, with no scenarios yet."""
    return {
        "format": FORMAT,
        "name": name,
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "rounds": rounds,
        "seconds_per_run": seconds,
        "machine": describe_machine(),
        "versions": describe_versions(brokers),
        "scenarios": [],
    }


def save_record(record: dict[str, Any], folder: Path) -> Path:
    """Write `FOLDER/results/DATE-NAME.json`; returns its path."""
    path = folder / "results" / f"{record['date']}-{record['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def load_records(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(file name, record) of every result file in `FOLDER/results`, oldest first."""
    # The name starts with the date; the time of writing decides between files of one day.
    paths = sorted((folder / "results").glob("*.json"), key=lambda path: (path.name[:10], path.stat().st_mtime))
    return [(path.name, json.loads(path.read_text())) for path in paths]
