"""For how many workers a data directory is laid out: which slots have a database, and hence which queue is where.

    <data directory>/layout         {"workers": 2}, or while it is changed {"workers": 2, "becomes": 4}
    <data directory>/slot-N.db      what the worker of slot N owns
    <data directory>/resharding/    the databases of another number of workers, as long as they are made

The front compares it with the number of workers it is to start; what moves the queues is the worker's
(`worker.store.tool.reshard`).
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STAGING", "Layout", "LayoutError", "database", "database_slots", "read_layout", "sync", "write_layout"]

STAGING = "resharding"
"""The directory, in the data directory, in which the databases of another number of workers are made."""

_NAME = "layout"
_DATABASE = re.compile(r"slot-(\d{1,5})\.db")
_MOST_BYTES = 4096


class LayoutError(Exception):
    """The layout of a data directory cannot be read or written; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`workers` have databases. `becomes` is another number of workers whose databases are complete, but not all in
    their place yet: None if nothing is under way."""

    workers: int
    becomes: int | None = None


def database(directory: Path, slot: int) -> Path:
    """Where the database of `slot` is."""
    return directory / f"slot-{slot}.db"


def database_slots(directory: Path) -> list[int]:
    """The slots that have a database, in order. Raises `LayoutError`."""
    try:
        found = [_DATABASE.fullmatch(name) for name in os.listdir(directory)]
    except OSError as error:
        raise LayoutError(f"cannot read {directory}: {error.strerror}") from error
    return sorted(int(match[1]) for match in found if match is not None)


def read_layout(directory: Path) -> Layout | None:
    """What the directory says of itself, None if it says nothing. Raises `LayoutError`."""
    path = directory / _NAME
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
        found = json.loads(text)
        layout = Layout(found["workers"], found.get("becomes"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LayoutError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LayoutError(
            f'{path} is damaged; write {{"workers": N}} into it, with N one more than the highest slot of the '
            "databases beside it"
        ) from error
    if not all(isinstance(each, int) and each > 0 for each in (layout.workers, layout.becomes or 1)):
        raise LayoutError(f"{path} is damaged: a number of workers is 1 or more")
    return layout


def write_layout(directory: Path, layout: Layout) -> None:
    """Replace what the directory says of itself; after a loss of power it is either this or what was before. Raises
    `LayoutError`."""
    path = directory / _NAME
    draft = directory / f"{_NAME}.new"
    record = {"workers": layout.workers} | ({} if layout.becomes is None else {"becomes": layout.becomes})
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps(record).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)
        sync(directory)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise LayoutError(f"cannot write {path}: {error.strerror}") from error


def sync(path: Path) -> None:
    """Wait until the file, or the names in the directory, are on disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
