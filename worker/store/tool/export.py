"""Everything that the queues of a data directory hold, as lines that any Stampede, or another program, reads.

One message is in memory at a time. What transactions had committed, but not brought to its queue yet, counts as done:
it comes after what is in the queue.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack

from common.codec import unescape
from common.negotiation import Version
from worker.queues.letters import ADD, RETAIN, SETTLE, TAKE
from worker.queues.message import COUNTER_BITS, first_key, last_key
from worker.store.interface import StoreError
from worker.store.keys import unpack
from worker.store.tool.portable import END, Fields, header, line, portable
from worker.store.tool.snapshot import Queue, Snapshot, Snapshots
from worker.traits import Traits

__all__ = ["export"]

_MESSAGES: Final = (
    "SELECT m.key, m.frame, coalesce(d.count, 0), coalesce(e.at, 0) FROM message m"
    " LEFT JOIN delivery d ON d.key = m.key LEFT JOIN expiry e ON e.key = m.key"
    " WHERE m.key BETWEEN ? AND ? ORDER BY m.key"
)
_COUNTER: Final = (1 << COUNTER_BITS) - 1


class _Pending:
    """What committed transactions still have to do: `added` by queue, the keys of each slot that are settled, and
    what is `retained` by topic: None for nothing any more."""

    def __init__(self) -> None:
        self.added: dict[str, list[Fields]] = {}
        self.settled: dict[int, set[int]] = {}
        self.retained: dict[str, bytes | None] = {}


def export(directory: Path, write: Callable[[bytes], None], names: Sequence[str], now: int) -> None:
    """`write` the lines of the queues `names`, all without any. `now` in ms since the epoch. Raises `StoreError`."""
    with Snapshots(directory) as snapshots:
        wanted = set(names)
        pending = _pending(snapshots, now)
        known = {*pending.added, *pending.retained}
        write(line(header(snapshots.workers)))
        for snapshot in snapshots.all:
            for queue in snapshot.queues():
                known.add(queue.name)
                if not wanted or queue.name in wanted:
                    if queue.options:
                        options = base64.b64encode(queue.options).decode()
                        write(line({"kind": "subscription", "queue": queue.name, "options": options}))
                    for fields in _messages(snapshot, queue, pending.settled.get(snapshot.slot, set())):
                        write(line(fields))
        for name, added in pending.added.items():
            if not wanted or name in wanted:
                for fields in added:
                    write(line(fields))
        for snapshot in snapshots.all:
            for fields in _beside(snapshot, pending):
                name = fields.get("queue") or fields["destination"]
                known.add(name)
                if not wanted or name in wanted:
                    write(line(fields))
        for destination, frame in pending.retained.items():
            if frame is not None and (not wanted or destination in wanted):
                write(line(_retained(destination, frame)))
        if missing := sorted(wanted - known):
            raise StoreError(f"{directory} has no queue {', '.join(map(repr, missing))}")
        write(line(END))


def _message(queue: str, frame: bytes, **more: int) -> Fields:
    fields = {"kind": "message", "queue": queue, **portable(frame)}
    fields.update({name: value for name, value in more.items() if value or name == "priority"})
    return fields


def _messages(snapshot: Snapshot, queue: Queue, settled: set[int]) -> Iterator[Fields]:
    low, high = first_key(queue.number), last_key(queue.number)
    for key, frame, count, expires in snapshot.rows(_MESSAGES, (low, high)):
        if key in settled:
            continue
        if not count and key & _COUNTER <= queue.delivered:
            # It may have been delivered: see `OwnedQueue.stored`.
            count = 1
        priority = 9 - (key - low >> COUNTER_BITS)
        yield _message(queue.name, frame, priority=priority, count=count, expires=expires)


def _beside(snapshot: Snapshot, pending: _Pending) -> Iterator[Fields]:
    for queue, due, frame in snapshot.rows("SELECT queue, due, frame FROM parked ORDER BY due, id"):
        yield _message(queue, frame, due=due)
    for row in snapshot.rows("SELECT run, at FROM seen ORDER BY place"):
        run = unpack(*row)
        for key, id in zip(run.keys, run.message_ids, strict=True):
            name = unescape(key.decode(), Version.V1_2)
            yield {"kind": "key", "queue": run.destination, "key": name, "id": id.decode(), "at": run.at}
    for destination, frame in snapshot.rows("SELECT destination, frame FROM retained"):
        if destination not in pending.retained:
            yield _retained(destination, frame)


def _retained(destination: str, frame: bytes) -> Fields:
    return {"kind": "retained", "destination": destination, **portable(frame)}


def _pending(snapshots: Snapshots, now: int) -> _Pending:
    pending = _Pending()
    applied = {
        (snapshot.slot, origin)
        for snapshot in snapshots.all
        for (origin,) in snapshot.rows("SELECT origin FROM mark WHERE origin LIKE 'transaction %'")
    }
    for snapshot in snapshots.all:
        for id, record in snapshot.rows("SELECT id, record FROM committed ORDER BY place"):
            parts: dict[int, list[list[Any]]] = msgpack.unpackb(record, strict_map_key=False)
            for slot, operations in parts.items():
                done = (slot, f"transaction {id}") in applied
                for operation in operations:
                    if operation[0] == ADD and not done:
                        _added(pending, operation, now)
                    elif operation[0] == RETAIN and not done:
                        pending.retained[operation[1].decode()] = operation[2]
                    elif operation[0] == SETTLE:
                        pending.settled.setdefault(slot, set()).update(operation[3])
                    elif operation[0] == TAKE:
                        pending.settled.setdefault(slot, set()).update(operation[2])
    return pending


def _added(pending: _Pending, operation: list[Any], now: int) -> None:
    _, name, prefix, items, packed, *_ = operation
    queue = name.decode()
    for place, item in enumerate(items):
        traits = Traits.unpack(packed[place]) if packed and place in packed else Traits()
        due = traits.deliver_at or (now + traits.delay if traits.delay else 0)
        expires = now + traits.ttl if traits.ttl else traits.expires
        fields = _message(queue, prefix + item, priority=traits.priority, expires=expires, due=due)
        pending.added.setdefault(queue, []).append(fields)
