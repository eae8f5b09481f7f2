"""Data directories for the tests: filled as workers fill them, and read back as what they mean, wherever it lies."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import apsw
import msgpack

from common.layout import Layout, database, write_layout
from common.ownership import owner_of
from worker.queues.message import COUNTER_BITS, first_key, last_key
from worker.store.batch import split
from worker.store.interface import Park, PutKeys, PutQueue, Retain, SetCount, SetExpiry, Unit
from worker.store.keys import unpack
from worker.store.schema import prepare
from worker.store.statements import Statements

_COUNTER = (1 << COUNTER_BITS) - 1


def frame(id: str, body: bytes = b"x", destination: str = "/queue/a") -> bytes:
    return b"%b\ndestination:%b\ncontent-length:%d\n\n%b\0" % (id.encode(), destination.encode(), len(body), body)


def put(directory: Path, slot: int, *units: Unit) -> None:
    """Store `units` in the database of `slot`."""
    directory.mkdir(exist_ok=True)
    path = database(directory, slot)
    connection = apsw.Connection(str(path))
    prepare(connection, str(path))
    statements = Statements(connection)
    statements.commit(list(split(list(units))))
    connection.close()


def execute(directory: Path, slot: int, *statements: str) -> None:
    connection = apsw.Connection(str(database(directory, slot)))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def queue_unit(
    number: int, name: str, messages: list[tuple[int, int, bytes]], *, delivered: int = 0, options: bytes = b""
) -> Unit:
    """Queue `name` with messages of (priority, counter, frame)."""
    inserts = [(first_key(number, priority) + counter, content) for priority, counter, content in messages]
    highest = max([counter for _, counter, _ in messages], default=0)
    depth = (number, len(messages), sum(len(content) for _, _, content in messages))
    return Unit(
        inserts=inserts,
        depths=[depth],
        changes=[PutQueue(number, name, highest + 100, delivered, options)],
    )


def fill(directory: Path, workers: int, seed: int, queues: int = 12, messages: int = 30) -> None:
    """A directory laid out for `workers`, with everything in it that a broker stores, and no two things the same."""
    chance = random.Random(seed)
    units: dict[int, list[Unit]] = {slot: [] for slot in range(workers)}
    serial = 0
    for name in [f"/queue/n{seed}.{place}" for place in range(queues)]:
        slot = owner_of(name.encode(), workers)
        number = len(units[slot]) + 1 + chance.randrange(2)
        while any(
            change.number == number for unit in units[slot] for change in unit.changes if type(change) is PutQueue
        ):
            number += 1
        content = []
        for counter in range(1, chance.randrange(messages) + 1):
            serial += 1
            body = chance.randbytes(chance.choice((0, 10, 5000)))
            content.append((chance.choice((4, 4, 4, 0, 9)), counter, frame(f"m{seed}-{serial}", body, name)))
        options = b"" if chance.random() < 0.8 else msgpack.packb([name, "pattern"])
        unit = queue_unit(number, name, content, delivered=chance.randrange(10), options=options)
        for key, _ in unit.inserts:
            if chance.random() < 0.2:
                unit.changes.append(SetCount(key, chance.randrange(1, 9)))
            if chance.random() < 0.2:
                unit.changes.append(SetExpiry(key, chance.randrange(10**12, 2 * 10**12)))
        for _ in range(chance.randrange(3)):
            serial += 1
            due = chance.randrange(10**12, 2 * 10**12)
            unit.changes.append(Park(serial, due, name, frame(f"p{seed}-{serial}", b"later", name)))
        unit.changes += [
            PutKeys(name, [b"k%d" % n, b"l%d" % n], [b"i%d" % n, b"j%d" % n], chance.randrange(10**12))
            for n in range(chance.randrange(4))
        ]
        units[slot].append(unit)
    for place in range(5):
        topic = f"/topic/{place}"
        units[owner_of(topic.encode(), workers)].append(Unit(changes=[Retain(topic, frame("r", b"last", topic))]))
    for slot, each in units.items():
        put(directory, slot, *each)
    write_layout(directory, Layout(workers))


def contents(directory: Path) -> dict[str, Any]:
    """What the directory holds, by queue and destination; numbers of queues and slots left out."""
    found: dict[str, Any] = {}
    for path in sorted(directory.glob("slot-*.db")):
        connection = apsw.Connection(f"file:{path}?mode=ro", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)

        def add(kind: str, name: str, value: object) -> None:
            assert (kind, name) not in found or kind != "queue", f"{name} is there twice"
            found.setdefault(f"{kind} {name}", []).append(value)

        for number, name, *rest in list(
            connection.execute("SELECT number, name, reserved, delivered, options FROM queue")
        ):
            add("queue", name, rest)
            rows = connection.execute(
                "SELECT m.key, m.frame, d.count, e.at FROM message m LEFT JOIN delivery d ON d.key = m.key"
                " LEFT JOIN expiry e ON e.key = m.key WHERE m.key BETWEEN ? AND ? ORDER BY m.key",
                (first_key(number), last_key(number)),
            )
            for key, *content in rows:
                add("messages", name, (key - first_key(number), *content))
            depth = list(connection.execute("SELECT messages, bytes FROM depth WHERE number = ?", (number,)))
            add("depth", name, depth or [(0, 0)])
        for name, *rest in connection.execute("SELECT queue, due, frame FROM parked ORDER BY due, id"):
            add("parked", name, rest)
        for run, at in connection.execute("SELECT run, at FROM seen ORDER BY at, run"):
            keys = unpack(run, at)
            for pair in zip(keys.keys, keys.message_ids, strict=True):
                add("keys", keys.destination, (pair, at))
        for name, content in connection.execute("SELECT destination, frame FROM retained"):
            add("retained", name, content)
        connection.close()
    return found


def records(directory: Path) -> dict[str, dict[int, list[Any]]]:
    """The transactions under way, of all slots."""
    found = {}
    for path in sorted(directory.glob("slot-*.db")):
        connection = apsw.Connection(str(path))
        for id, record in connection.execute("SELECT id, record FROM committed"):
            assert id not in found
            found[id] = msgpack.unpackb(record, strict_map_key=False)
        connection.close()
    return found


def files(directory: Path) -> dict[str, bytes]:
    """What is in the directory itself, byte by byte, without what SQLite and locks leave beside the databases."""
    return {
        name: (directory / name).read_bytes()
        for name in os.listdir(directory)
        if not name.endswith(("-wal", "-shm", ".lock")) and (directory / name).is_file()
    }
