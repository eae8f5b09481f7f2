"""What the stores of a data directory hold, from the counters kept with the queues: fast at any depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.store.keys import unpack
from worker.store.tool.snapshot import Snapshot, Snapshots
from worker.store.tool.text import count, printable, size

__all__ = ["stats"]


@dataclass(slots=True)
class _Row:
    queue: str
    slot: int
    messages: int = 0
    bytes: int = 0
    parked: int = 0


def stats(directory: Path, write: Callable[[str], None], *, top: int, as_json: bool) -> None:
    """`write` a line for each of the `top` deepest queues (0 for all), and for each database. Raises `StoreError`."""
    with Snapshots(directory) as snapshots:
        rows = [row for snapshot in snapshots.all for row in _rows(snapshot)]
        databases = [_database(snapshot) for snapshot in snapshots.all]
        workers = snapshots.workers
    rows.sort(key=lambda row: (-row.messages, -row.parked, row.queue))
    shown = rows[:top] if top else rows
    totals = {
        "queues": len(rows),
        **{each: sum(getattr(row, each) for row in rows) for each in ("messages", "bytes", "parked")},
        **{each: sum(database[each] for database in databases) for each in ("transactions", "keys", "retained")},
        "file_bytes": sum(database["file_bytes"] for database in databases),
    }
    if as_json:
        record = {"workers": workers, "queues": [asdict(row) for row in shown], "databases": databases}
        write(json.dumps(record | {"totals": totals}, indent=2))
        return
    if shown:
        cells = [
            [printable(row.queue), str(row.slot), *map(_number, (row.messages, row.bytes, row.parked))] for row in shown
        ]
        _table(("queue", "slot", "messages", "bytes", "parked"), cells, write)
        if len(shown) < len(rows):
            write(f"... and {count(len(rows) - len(shown), 'more queue')}")
        write("")
    columns = ("file_bytes", "queues", "messages", "transactions", "keys", "retained")
    cells = [[each["database"], *(_number(each[column]) for column in columns)] for each in databases]
    _table(("database", *columns), cells, write)
    write("")
    write(
        f"{count(totals['messages'], 'message')} of {size(totals['bytes'])} in {count(totals['queues'], 'queue')},"
        f" {totals['parked']:,} parked; {size(totals['file_bytes'])} on disk; laid out for {count(workers, 'worker')}"
    )


def _rows(snapshot: Snapshot) -> Iterable[_Row]:
    rows = {queue.name: _Row(queue.name, snapshot.slot, queue.messages, queue.bytes) for queue in snapshot.queues()}
    for name, parked in snapshot.rows("SELECT queue, count(*) FROM parked GROUP BY queue"):
        rows.setdefault(name, _Row(name, snapshot.slot)).parked = parked
    return rows.values()


def _database(snapshot: Snapshot) -> dict[str, Any]:
    def rows_of(table: str) -> int:
        return int(snapshot.one(f"SELECT count(*) FROM {table}") or 0)

    queues = snapshot.queues()
    return {
        "database": snapshot.path.name,
        "slot": snapshot.slot,
        "file_bytes": sum(_size_of(Path(f"{snapshot.path}{suffix}")) for suffix in ("", "-wal")),
        "queues": len(queues),
        "messages": sum(queue.messages for queue in queues),
        "transactions": rows_of("committed"),
        "keys": sum(len(unpack(*row).keys) for row in snapshot.rows("SELECT run, at FROM seen")),
        "retained": rows_of("retained"),
    }


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _number(value: int) -> str:
    return f"{value:,}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], write: Callable[[str], None]) -> None:
    """Aligned columns: the first to the left, numbers to the right."""
    names = [name.replace("_", " ") for name in header]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for line in (names, *rows):
        cells = [
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        write("  ".join(cells).rstrip())
