"""Transactions that had been committed, but not applied to all of their queues, when their queues move.

A record holds operations by the slot of the owner, and each owner marks in its own database that it has applied its
part. Here every message not added or retained yet goes to the new owner of its destination, and what was is taken out
of the record: so no marks are needed any more. The other operations can be repeated, and keep to their messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from worker.queues.letters import ADD, NACK, RETAIN, SETTLE, TAKE
from worker.queues.message import first_key, queue_number
from worker.store.interface import StoreError
from worker.store.tool.generation import Move
from worker.store.tool.snapshot import Snapshot

__all__ = ["rewritten"]

_ONCE = (ADD, RETAIN)
_PLACE_OF_KEYS = {SETTLE: 3, NACK: 3, TAKE: 2}
_IN_QUEUE = first_key(1) - 1


def rewritten(
    sources: Sequence[Snapshot], moves: Mapping[tuple[int, int], Move], workers: int, owner: Callable[[bytes], int]
) -> dict[int, list[tuple[str, bytes]]]:
    """The records of all `sources`, by the slot that is to have them, oldest first. `moves` is by slot and number of
    before. Raises `StoreError`."""
    applied = {
        (source.slot, origin)
        for source in sources
        for (origin,) in source.rows("SELECT origin FROM mark WHERE origin LIKE 'transaction %'")
    }
    records: dict[int, list[tuple[str, bytes]]] = {}
    for source in sources:
        for id, record in source.rows("SELECT id, record FROM committed ORDER BY place"):
            parts: dict[int, list[list[Any]]] = {}
            for slot, operations in _unpack(source, id, record).items():
                done = (slot, f"transaction {id}") in applied
                for operation in operations:
                    moved = None if done and operation[0] in _ONCE else _moved(operation, slot, moves)
                    if moved is not None:
                        parts.setdefault(owner(operation[1]), []).append(moved)
            if parts:
                records.setdefault(source.slot % workers, []).append((id, msgpack.packb(parts)))
    return records


def _moved(operation: list[Any], slot: int, moves: Mapping[tuple[int, int], Move]) -> list[Any] | None:
    """The operation with the keys that its messages have now; None if it has none left."""
    place = _PLACE_OF_KEYS.get(operation[0])
    if place is None:
        return operation
    name = operation[1].decode()
    keys = []
    for key in operation[place]:
        move = moves.get((slot, queue_number(key)))
        # Otherwise it was a message that is not stored, and the key may be another's now.
        if move is not None and move.queue.name == name:
            keys.append(first_key(move.number) | key & _IN_QUEUE)
    return [*operation[:place], keys, *operation[place + 1 :]] if keys else None


def _unpack(source: Snapshot, id: str, record: bytes) -> dict[int, list[list[Any]]]:
    try:
        parts = msgpack.unpackb(record, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise StoreError(f"{source.path}: the record of transaction {id} cannot be read ({error})") from error
    if not isinstance(parts, dict):
        raise StoreError(f"{source.path}: the record of transaction {id} is not one")
    return parts
