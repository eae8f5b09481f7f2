"""A data directory laid out for another number of workers: every queue goes to the slot that owns it then.

Nobody else may use the directory meanwhile. All databases are made anew (see `generation`), which takes the room of the
messages once more, and replace the old ones at one stroke (see `switch`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from common.layout import STAGING, Layout, LayoutError, database, database_slots, write_layout
from common.ownership import owner_of
from worker.queues.message import MAX_QUEUES
from worker.queues.owned import VOLATILE
from worker.store.interface import StoreError
from worker.store.schema import prepare
from worker.store.tool.generation import Move, make
from worker.store.tool.records import rewritten
from worker.store.tool.snapshot import Snapshot, clear_errors
from worker.store.tool.switch import clear_os_errors, complete, decide, discard, settle
from worker.store.tool.text import count, size

__all__ = ["IMPORT_MARK", "Resharded", "reshard"]

IMPORT_MARK: Final = "import"
"""The mark by which an import that was interrupted knows how far it came."""

_SPARE: Final = 16 << 20
"""Bytes of the disk that are not used."""


@dataclass(frozen=True, slots=True)
class Resharded:
    """What was done. `moved` are the queues whose owner is another one now, with `moved_messages`."""

    before: int
    queues: int = 0
    messages: int = 0
    moved: int = 0
    moved_messages: int = 0


def reshard(directory: Path, workers: int, progress: Callable[[int, int], None]) -> Resharded:
    """Lay `directory` out for `workers`. `progress` is told how many messages are copied, and of how many.

    Raises `StoreError`: then everything is as it was, or if the new layout was decided on, the next call completes it.
    """
    before = settle(directory)
    if before in (0, workers):
        with clear_os_errors(f"cannot lay out {directory}"):
            write_layout(directory, Layout(workers))
        return Resharded(before or workers)
    try:
        done = _make_all(directory, before, workers, progress)
        with clear_os_errors(f"cannot lay out {directory}"):
            decide(directory, before, workers)
    except StoreError as error:
        _discard(directory, error)
        raise
    with clear_os_errors(f"cannot lay out {directory}"):
        complete(directory, workers)
    return done


def _discard(directory: Path, reason: StoreError) -> None:
    try:
        discard(directory)
    except OSError as error:
        raise StoreError(f"{reason}; and cannot remove {directory / STAGING}: {error.strerror}") from error


def _make_all(directory: Path, before: int, workers: int, progress: Callable[[int, int], None]) -> Resharded:
    slots = _slots(directory)
    for slot in slots:
        _bring_up_to_date(database(directory, slot))
    with ExitStack() as stack:
        sources = [stack.enter_context(Snapshot(database(directory, slot), slot)) for slot in slots]
        moves = _plan(sources, workers)
        marks = _marks(sources)
        by_origin = {(move.slot, move.queue.number): move for each in moves for move in each}
        records = rewritten(sources, by_origin, workers, lambda name: owner_of(name, workers))
        _check_room(directory, sources)
        total = sum(move.queue.messages for each in moves for move in each)
        copied = 0

        def advance(number: int) -> None:
            nonlocal copied
            copied += number
            progress(copied, max(total, copied))

        staging = directory / STAGING
        with clear_os_errors(f"cannot make {staging}"):
            staging.mkdir(mode=0o700)
        for slot, each in enumerate(moves):
            path = database(staging, slot)
            try:
                with clear_os_errors(f"cannot make {path}"):
                    make(path, slot, workers, sources, each, records.get(slot, ()), marks, advance)
            except StoreError as error:
                raise StoreError(
                    f"cannot lay out {directory} for {count(workers, 'worker')} instead of {before}, nothing was "
                    f"changed: {error}",
                    full=error.full,
                ) from error
    moved = [move for slot, each in enumerate(moves) for move in each if move.slot != slot]
    return Resharded(
        before,
        queues=len(by_origin),
        messages=copied,
        moved=len(moved),
        moved_messages=sum(move.queue.messages for move in moved),
    )


def _slots(directory: Path) -> list[int]:
    try:
        return database_slots(directory)
    except LayoutError as error:
        raise StoreError(str(error)) from error


def _bring_up_to_date(path: Path) -> None:
    """An older Stampede may have written it, or have been killed while it did."""
    with clear_errors(path):
        connection = apsw.Connection(str(path))
    try:
        prepare(connection, str(path))
    finally:
        connection.close(True)


def _plan(sources: Sequence[Snapshot], workers: int) -> list[list[Move]]:
    """For each new slot its queues, in the order of their sources. Raises `StoreError` for what no slot can take."""
    moves: list[list[Move]] = [[] for _ in range(workers)]
    where: dict[str, Snapshot] = {}
    for source in sources:
        queues = source.queues()
        known = {queue.number for queue in queues}
        known.update(number for (number,) in source.rows("SELECT number FROM queue WHERE options = ?", (VOLATILE,)))
        strays = sum(source.counted(number)[0] for number in source.numbers_in_use() if number not in known)
        if strays:
            raise StoreError(
                f"{source.path} holds {count(strays, 'message')} of no known queue, which would be lost with another "
                "number of workers: see stampede store check"
            )
        for queue in queues:
            if (other := where.setdefault(queue.name, source)) is not source:
                raise StoreError(
                    f"the queue {queue.name!r} is both in {other.path.name} and in {source.path.name}, and only one "
                    "can be right: carry everything to a new directory with stampede store export and import"
                )
            mine = moves[owner_of(queue.name.encode(), workers)]
            mine.append(Move(source.slot, queue, len(mine) + 1))
    for slot, each in enumerate(moves):
        if len(each) >= MAX_QUEUES:
            raise StoreError(
                f"worker {slot} of {workers} would own {count(len(each), 'queue')}, one can own {MAX_QUEUES - 1}: "
                "start with more workers"
            )
    return moves


def _marks(sources: Sequence[Snapshot]) -> list[tuple[str, int]]:
    """The marks that still mean something: those of workers that are gone do not."""
    found = {source.one("SELECT sequence FROM mark WHERE origin = ?", (IMPORT_MARK,)) for source in sources}
    if found <= {None}:
        return []
    if len(found) > 1:
        raise StoreError(
            "an import into this directory was interrupted: complete it with stampede store import --continue before "
            "the number of workers is changed"
        )
    return [(IMPORT_MARK, mark) for mark in found]


def _check_room(directory: Path, sources: Sequence[Snapshot]) -> None:
    needed = _SPARE + sum(
        (source.one("PRAGMA page_count") - source.one("PRAGMA freelist_count")) * source.one("PRAGMA page_size")
        for source in sources
        if not source.is_empty
    )
    with clear_os_errors(f"cannot look at {directory}"):
        found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise StoreError(
            f"there is too little room in {directory} to lay it out for another number of workers: {size(needed)} are "
            f"needed, {size(free)} are free; nothing was changed",
            full=True,
        )
