"""From one set of databases to another, so that whatever ends the process in between, one of the two is there whole.

The new ones are made in a directory of their own. What decides is one line in the file `layout`: before it names the
new number of workers, the old databases are what counts and the new ones may be thrown away; from then on the new ones
are, and `complete`, which may be repeated, brings them to their places.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.layout import STAGING, Layout, LayoutError, database, database_slots, read_layout, sync, write_layout
from worker.store.interface import StoreError

__all__ = ["clear_os_errors", "complete", "decide", "discard", "settle"]


@contextmanager
def clear_os_errors(what: str) -> Iterator[None]:
    """What the operating system refuses within becomes a `StoreError`: that it was `what` that failed, and why."""
    try:
        yield
    except LayoutError as error:
        raise StoreError(str(error)) from error
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}") from error


def settle(directory: Path) -> int:
    """Complete or throw away what an earlier attempt left, and return for how many workers the directory is laid out:
    0 if there is nothing in it. Raises `StoreError`."""
    with clear_os_errors(f"cannot lay out {directory}"):
        layout = read_layout(directory)
        if layout is not None and layout.becomes is not None:
            complete(directory, layout.becomes)
            return layout.becomes
        discard(directory)
        if layout is not None:
            return layout.workers
        slots = database_slots(directory)
        return slots[-1] + 1 if slots else 0


def discard(directory: Path) -> None:
    """Remove the databases that were being made. Raises `OSError`."""
    staging = directory / STAGING
    if staging.exists():
        shutil.rmtree(staging)


def decide(directory: Path, workers: int, becomes: int) -> None:
    """The new databases are complete, and are what counts from now on. Raises `OSError` and `LayoutError`."""
    staging = directory / STAGING
    for path in sorted(staging.iterdir()):
        sync(path)
    sync(staging)
    sync(directory)
    write_layout(directory, Layout(workers, becomes))


def complete(directory: Path, workers: int) -> None:
    """Put the new databases in their places, and remove the old ones. Raises `OSError` and `LayoutError`."""
    staging = directory / STAGING
    for slot in database_slots(staging) if staging.exists() else ():
        place = database(directory, slot)
        # A log of the old database beside the new one would be taken for its own.
        for suffix in ("-wal", "-shm"):
            Path(f"{place}{suffix}").unlink(missing_ok=True)
        sync(directory)
        os.replace(database(staging, slot), place)
    for slot in database_slots(directory):
        if slot >= workers:
            # The database last: as long as it is there, this is repeated.
            for suffix in ("-wal", "-shm", ".lock", ".reserve", ""):
                Path(f"{database(directory, slot)}{suffix}").unlink(missing_ok=True)
    sync(directory)
    discard(directory)
    write_layout(directory, Layout(workers))
