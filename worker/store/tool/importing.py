"""What an export wrote, put at the tails of the queues of a data directory that nobody else uses.

Lines are stored in batches, in one commit for each database. Each commit marks the line up to which that database has
what is its own, so that an import that was killed between two of them goes on without a gap and without a repeat. All
databases have a mark before the first line is stored, and lose it after the last one was.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import apsw

from common.codec import escape
from common.layout import Layout, database, write_layout
from common.negotiation import Version
from common.ownership import owner_of
from worker.queues.message import MAX_QUEUES, first_counter, first_key
from worker.queues.owned import VOLATILE
from worker.store.batch import split
from worker.store.interface import (
    Forget,
    Mark,
    Park,
    PutKeys,
    PutQueue,
    Retain,
    SetCount,
    SetExpiry,
    StoreError,
    Unit,
)
from worker.store.schema import configure, failure, first, prepare
from worker.store.statements import Statements
from worker.store.tool.portable import FORMAT, Fields, Malformed, encode_frame, number, read, text
from worker.store.tool.reshard import IMPORT_MARK
from worker.store.tool.snapshot import clear_errors
from worker.store.tool.switch import clear_os_errors, settle
from worker.store.tool.text import count

__all__ = ["Imported", "import_lines"]

_LINES: Final = 2000
_BYTES: Final = 8 << 20
"""A batch is stored when it has so many lines, or so many bytes."""


@dataclass(slots=True)
class Imported:
    """What is in: all lines up to `line`, `messages` of them."""

    line: int = 0
    messages: int = 0


@dataclass(slots=True)
class _Queue:
    """`counter` is the last one used."""

    number: int
    name: str
    counter: int
    delivered: int
    options: bytes


class _Target:
    """The database of one slot, open for writing. Every method raises `StoreError`."""

    def __init__(self, path: Path, now: int) -> None:
        self.path = path
        self._now = now
        self._unit = Unit()
        self._touched: dict[str, _Queue] = {}
        with clear_errors(path):
            self._connection = apsw.Connection(str(path))
        try:
            prepare(self._connection, str(path))
            with clear_errors(path, self._connection):
                configure(self._connection)
                # Nobody else writes the log back here.
                list(self._connection.execute("PRAGMA wal_autocheckpoint = 4000"))
                self._statements = Statements(self._connection)
                self._load()
        except StoreError:
            self._connection.close(True)
            raise

    def _load(self) -> None:
        rows = list(self._connection.execute("SELECT number, name, reserved, delivered, options FROM queue"))
        self._queues = {
            name: _Queue(number, name, reserved, delivered, options)
            for number, name, reserved, delivered, options in rows
            if options != VOLATILE
        }
        self._taken = {row[0] for row in rows}
        self._next = 1
        self._next_parked = (
            first(self._connection, "SELECT max(seq) FROM sqlite_sequence WHERE name = 'parked'")[0] or 0
        ) + 1
        marks = list(self._connection.execute("SELECT sequence FROM mark WHERE origin = ?", (IMPORT_MARK,)))
        self.mark: int | None = marks[0][0] if marks else None

    def close(self) -> None:
        self._connection.close(True)

    def queue(self, name: str) -> _Queue:
        found = self._queues.get(name)
        if found is None:
            while self._next in self._taken:
                self._next += 1
            if self._next >= MAX_QUEUES:
                raise StoreError(f"{self.path} holds {MAX_QUEUES - 1} queues, more do not fit")
            self._taken.add(self._next)
            found = self._queues[name] = _Queue(self._next, name, first_counter(self._now), 0, b"")
        self._touched[name] = found
        return found

    def add(self, name: str, frame: bytes, priority: int, delivered: int, expires: int) -> None:
        queue = self.queue(name)
        queue.counter += 1
        key = first_key(queue.number, priority) + queue.counter
        unit = self._unit
        unit.inserts.append((key, frame))
        unit.depths.append((queue.number, 1, len(frame)))
        if delivered:
            unit.changes.append(SetCount(key, delivered))
        if expires:
            unit.changes.append(SetExpiry(key, expires))

    def park(self, name: str, due: int, frame: bytes) -> None:
        self._unit.changes.append(Park(self._next_parked, due, name, frame))
        self._next_parked += 1

    def put(self, change: PutKeys | Retain) -> None:
        self._unit.changes.append(change)

    def commit(self, mark: int | None) -> None:
        """Store what came since, and that everything up to the line `mark` is in; None ends that."""
        unit, self._unit = self._unit, Unit()
        touched, self._touched = self._touched, {}
        for queue in touched.values():
            unit.changes.append(PutQueue(queue.number, queue.name, queue.counter + 1, queue.delivered, queue.options))
        unit.changes.append(Forget(IMPORT_MARK) if mark is None else Mark(IMPORT_MARK, mark))
        try:
            self._statements.commit(list(split([unit])))
        except apsw.Error as error:
            raise failure(self._connection, error) from error
        self.mark = mark


@dataclass(slots=True)
class _Import:
    directory: Path
    targets: list[_Target]
    imported: Imported
    messages: int = 0
    lines: int = 0
    size: int = 0
    owners: dict[str, int] = field(default_factory=dict)

    def target(self, name: str) -> _Target:
        slot = self.owners.get(name)
        if slot is None:
            if len(self.owners) > 65536:
                self.owners.clear()
            slot = self.owners[name] = owner_of(name.encode(), len(self.targets))
        return self.targets[slot]

    def take(self, line: int, fields: Fields) -> None:
        """Raises `Malformed`."""
        match fields["kind"]:
            case "message":
                self._message(line, fields)
            case "subscription":
                name = text(fields, "queue")
                options = _options(fields)
                target = self.target(name)
                if _is_wanted(target, line):
                    target.queue(name).options = options
            case "key":
                name = text(fields, "queue")
                key, id = escape(text(fields, "key", lines=True), Version.V1_2), text(fields, "id")
                keys = PutKeys(name, [key.encode()], [id.encode()], number(fields, "at"))
                if _is_wanted(self.target(name), line):
                    self.target(name).put(keys)
            case "retained":
                name, frame = text(fields, "destination"), encode_frame(fields)
                if _is_wanted(self.target(name), line):
                    self.target(name).put(Retain(name, frame))
            case other:
                raise Malformed(f"no kind of line is called {other!r:.80}")

    def _message(self, line: int, fields: Fields) -> None:
        name = text(fields, "queue")
        priority, delivered = number(fields, "priority", 4, 9), number(fields, "count", most=1 << 31)
        expires, due = number(fields, "expires"), number(fields, "due")
        frame = encode_frame(fields)
        target = self.target(name)
        if not _is_wanted(target, line):
            return
        if due:
            target.park(name, due, frame)
        else:
            target.add(name, frame, priority, delivered, expires)
        self.messages += 1
        self.size += len(frame)

    def commit(self, line: int) -> None:
        """Everything up to `line` was taken."""
        try:
            for target in self.targets:
                if _is_wanted(target, line):
                    target.commit(line)
        except StoreError as error:
            raise StoreError(
                f"{error}; {_so_far(self.imported)}, and some of what follows: mend it, and run it again with the same "
                "input and --continue",
                full=error.full,
            ) from error
        self.imported.line = line
        self.imported.messages += self.messages
        self.messages = self.lines = self.size = 0


def _is_wanted(target: _Target, line: int) -> bool:
    return target.mark is None or line > target.mark


def _so_far(imported: Imported) -> str:
    return f"the first {count(imported.line, 'line')}, with {count(imported.messages, 'message')}, are imported"


def import_lines(
    directory: Path,
    lines: Iterable[bytes],
    *,
    workers: int,
    now: int,
    skip: int = 0,
    go_on: bool = False,
    progress: Callable[[Imported, int], None],
    is_stopped: Callable[[], bool] = lambda: False,
) -> Imported:
    """Store `lines`, but not the first `skip`, in `directory`, which is laid out for `workers` if it is new. With
    `go_on` they are those of an import that was interrupted. `now` in ms since the epoch; `progress` hears what is
    stored and how many bytes were read.

    Raises `StoreError` with how far it came.
    """
    laid_out = settle(directory)
    if not laid_out:
        laid_out = workers
        with clear_os_errors(f"cannot use {directory}"):
            write_layout(directory, Layout(workers))
    targets: list[_Target] = []
    try:
        for slot in range(laid_out):
            targets.append(_Target(database(directory, slot), now))
        _begin(directory, targets, go_on)
        work = _Import(directory, targets, Imported())
        ended = _run(work, lines, skip, progress, is_stopped)
        for target in targets:
            target.commit(None)
    finally:
        for target in targets:
            target.close()
    if not ended:
        raise StoreError(f"the input ends without its last line, so the export was cut off; {_so_far(work.imported)}")
    return work.imported


def _begin(directory: Path, targets: list[_Target], go_on: bool) -> None:
    """Every database has a mark from here on."""
    marks = [target.mark for target in targets]
    if None in marks and any(marks):
        # It was at its end already, where the marks go.
        for target in targets:
            target.commit(None)
        marks = [None] * len(targets)
        if go_on:
            raise StoreError(f"the import into {directory} that was interrupted was complete: there is nothing left")
    if any(marks) and not go_on:
        raise StoreError(
            f"an import into {directory} was interrupted after line {min(mark or 0 for mark in marks)}: run it again "
            "with the same input and --continue"
        )
    if not any(marks) and go_on:
        raise StoreError(f"no import into {directory} was interrupted: run it without --continue")
    for target in targets:
        if target.mark is None:
            target.commit(0)


def _run(
    work: _Import,
    lines: Iterable[bytes],
    skip: int,
    progress: Callable[[Imported, int], None],
    is_stopped: Callable[[], bool],
) -> bool:
    """Whether the last line says that it is the last."""
    line, bytes_read, ended = 0, 0, False
    for raw in lines:
        if is_stopped():
            _end(work, line, "interrupted")
        line += 1
        bytes_read += len(raw)
        if ended:
            _end(work, line - 1, f"line {line}: there should be none after the one that says it is the last")
        try:
            fields = read(raw)
            if line == 1:
                _check_header(fields)
            elif fields["kind"] == "end":
                ended = True
            elif line > skip:
                work.take(line, fields)
        except Malformed as error:
            _end(work, line - 1, f"line {line}: {error}")
        work.lines += 1
        if work.lines >= _LINES or work.size >= _BYTES:
            work.commit(line)
            progress(work.imported, bytes_read)
    if is_stopped():
        _end(work, line, "interrupted")
    work.commit(line)
    return ended


def _end(work: _Import, line: int, reason: str) -> None:
    """Store what came before, and say how to go on."""
    if line:
        work.commit(line)
    for target in work.targets:
        target.commit(None)
    raise StoreError(f"{reason}; {_so_far(work.imported)}" + (f": go on with --skip {line}" if line else ""))


def _check_header(fields: Fields) -> None:
    if fields["kind"] != "stampede-export":
        raise Malformed("this is no export of Stampede, whose first line says so")
    if fields.get("version") != FORMAT:
        raise Malformed(f"the export has version {fields.get('version')!r}, this Stampede reads {FORMAT}")


def _options(fields: Fields) -> bytes:
    try:
        return base64.b64decode(text(fields, "options"), validate=True)
    except ValueError as error:
        raise Malformed(f"'options' cannot be read ({error})") from error
