"""A disk that is full, a quota that is reached, files that are torn: refused in clear words, nothing stored is harmed,
and what can go on does so by itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.exitcodes import ExitCode
from tests.chaos.mortal import PATIENCE, Mortal
from tests.chaos.steps import connect, drained, number, put, queue_owned_by, settle, subscribe
from tests.harness.broker import Broker
from tests.harness.wire import Frame, Wire

MIB = 1 << 20
BODY = 64 * 1024
STORE = {"store": {"wal_bytes": "1MiB", "retry_interval": "50ms"}}
QUOTA = {"store": {"quota_bytes": "4MiB", "wal_bytes": "1MiB", "retry_interval": "50ms"}}


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """The mount point of a file system of 40 MiB."""
    directory = Path(tempfile.mkdtemp(prefix="stampede-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        why = mounted.stderr.strip() if mounted.returncode else ""
    except OSError as error:
        why = str(error)
    if why:
        directory.rmdir()
        pytest.skip(f"a small file system needs the right to mount one: {why}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)
    directory.rmdir()


def send(wire: Wire, queue: str, each: int, *, size: int = BODY) -> Frame:
    """One persistent message of about `size` bytes; its RECEIPT or ERROR."""
    receipt = wire.next_receipt()
    wire.frame("SEND", [("destination", queue), ("number", str(each)), ("receipt", receipt)], b"x" * size)
    return wire.read(PATIENCE)


def fill(mortal: Mortal, queue: str, first: int = 0, *, size: int = BODY) -> int:
    """Send until that is refused as it must be; the number of the first that was."""
    with connect(mortal) as wire:
        for each in range(first, first + 2000):
            answer = send(wire, queue, each, size=size)
            if answer.command == "ERROR":
                assert answer["error-code"] == "store-full" and answer["receipt-id"]
                assert answer["message"] and answer.body
                return each
    raise AssertionError("2000 messages were taken by a disk that holds far less")


def numbers(messages: list[Frame]) -> list[int]:
    """The `number`s of whole messages."""
    assert all(message.body == b"x" * BODY for message in messages)
    return [int(message["number"]) for message in messages]


def has_room(mortal: Mortal, queue: str, each: int) -> None:
    """Send until it is taken again: room is found by a retry, which nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with connect(mortal) as wire:
            answer = send(wire, queue, each)
            if answer.command == "RECEIPT":
                return
            assert answer["error-code"] == "store-full", answer
    raise AssertionError("no message was taken any more, though there is room")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_quota(workers: int) -> None:
    queue = queue_owned_by(workers - 1, workers)
    with Mortal(workers, QUOTA) as mortal:
        count = fill(mortal, queue)
        assert count * BODY >= 2 * MIB
        # What is there can be taken, and makes room.
        with connect(mortal) as wire:
            subscribe(wire, queue, 1)
            message = wire.read(PATIENCE)
            taken = 0
            while taken < count // 2:
                before = settle(wire, message)
                taken += 1
                message = before[0] if before else wire.read(PATIENCE)
        has_room(mortal, queue, count)
        mortal.restart()
        assert numbers(drained(mortal, queue)) == list(range(taken, count + 1))


def test_a_full_disk(small_disk: Path) -> None:
    queue = queue_owned_by(0, 1)
    with Mortal(1, STORE, data_dir=small_disk / "data") as mortal:
        count = fill(mortal, queue)
        assert count * BODY > 10 * MIB
        # To the last byte, and still everything can be taken, also after the end of everything.
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"\0" * 4096)
        with connect(mortal) as wire:
            subscribe(wire, queue, 1)
            message = wire.read(PATIENCE)
            for each in range(10):
                assert int(message["number"]) == each
                before = settle(wire, message)
                message = before[0] if before else wire.read(PATIENCE)
        mortal.restart()
        (small_disk / "filler").unlink()
        has_room(mortal, queue, count)
        assert numbers(drained(mortal, queue)) == list(range(10, count + 1))


def test_room_is_found_without_a_restart(small_disk: Path) -> None:
    """Full by the fault of another; topics and messages that need no disk go on meanwhile."""
    queue = queue_owned_by(0, 1)
    with Mortal(1, STORE, data_dir=small_disk / "data") as mortal:
        with connect(mortal) as wire:
            for each in range(20):
                assert send(wire, queue, each).command == "RECEIPT"
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"\0" * 4096)
        first = fill(mortal, queue, 20)
        with connect(mortal) as wire:
            wire.subscribe("/topic/news", id="t")
            wire.publish("/topic/news", b"all is well")
            assert wire.expect("MESSAGE").body == b"all is well"
            wire.request("SEND", [("destination", "/queue/memory"), ("persistent", "false")], b"5")
        assert [number(each) for each in drained_without_a_disk(mortal)] == [5]
        (small_disk / "filler").unlink()
        has_room(mortal, queue, first)
        assert numbers(drained(mortal, queue)) == list(range(first + 1))


def drained_without_a_disk(mortal: Mortal) -> list[Frame]:
    with connect(mortal) as wire:
        subscribe(wire, "/queue/memory", 1)
        return [wire.read(PATIENCE)]


def test_a_transaction_that_finds_no_room_leaves_nothing() -> None:
    queues = [queue_owned_by(slot, 2) for slot in range(2)]
    with Mortal(2, QUOTA) as mortal:
        count = fill(mortal, queues[0])
        with connect(mortal, 1) as wire:
            put(wire, queues[1], [1])
            subscribe(wire, queues[1], 1)
            message = wire.read(PATIENCE)
            wire.frame("BEGIN", [("transaction", "t")])
            for queue in queues:
                wire.frame("SEND", [("destination", queue), ("transaction", "t")], b"x" * 2 * MIB)
            wire.frame("ACK", [*wire.acknowledgement(message), ("transaction", "t")])
            wire.frame("COMMIT", [("transaction", "t"), ("receipt", "r")])
            answer = wire.read(PATIENCE)
        if answer.command == "ERROR":
            assert answer["error-code"] == "store-full" and answer["receipt-id"] == "r"
            assert [number(each) for each in drained(mortal, queues[1])] == [1]
            assert numbers(drained(mortal, queues[0])) == list(range(count))
        else:
            # The room of the committing worker is what counts: then all of it is there.
            assert [len(each.body) for each in drained(mortal, queues[1])] == [2 * MIB]
            assert [len(each.body) for each in drained(mortal, queues[0])] == [BODY] * count + [2 * MIB]


# --- files


def test_where_the_data_is() -> None:
    """One database for each slot in data_dir, for nobody else's eyes; a clean stop leaves no log beside it."""
    with Mortal(2) as mortal:
        with connect(mortal) as wire:
            for slot in range(2):
                put(wire, queue_owned_by(slot, 2), [slot])
        for slot in range(2):
            file = mortal.data_dir / f"slot-{slot}.db"
            assert file.read_bytes()[:15] == b"SQLite format 3"
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(mortal.data_dir.stat().st_mode) == 0o700
        assert mortal.broker.stop() == 0
        assert not list(mortal.data_dir.glob("*-wal"))
        mortal.start_again()
        assert [[number(each) for each in drained(mortal, queue_owned_by(slot, 2))] for slot in range(2)] == [[0], [1]]


@pytest.mark.parametrize("torn", [1, 100, 5000, 20_000])
def test_the_last_write_was_torn(torn: int) -> None:
    """The end of the log is missing, as after a loss of power on a disk that lied: the broker starts with all that was
    committed before."""
    queue = queue_owned_by(0, 1)
    with Mortal(1) as mortal:
        with connect(mortal) as wire:
            for each in range(40):
                put(wire, queue, [each])
        mortal.kill_all()
        log = mortal.data_dir / "slot-0.db-wal"
        size = log.stat().st_size
        used = size - len(log.read_bytes()) + len(log.read_bytes().rstrip(b"\0"))
        os.truncate(log, used - torn)
        mortal.start_again()
        found = [number(each) for each in drained(mortal, queue)]
        # No message of 4 KiB pages costs more than a few of them.
        assert found == list(range(len(found))) and len(found) >= 39 - torn // 1000
        with connect(mortal) as wire:
            put(wire, queue, [100])
        mortal.restart()
        assert [number(each) for each in drained(mortal, queue)] == [100]


def garbage(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 64)


def text(file: Path) -> None:
    file.write_text("this is no database\n" * 300)


def another_version(file: Path) -> None:
    """`user_version` of the header, big-endian at 60."""
    with file.open("r+b") as opened:
        opened.seek(60)
        opened.write((999_999).to_bytes(4, "big"))


def half_a_page(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 2000)


def bad_schema(file: Path) -> None:
    """The first page, behind its header."""
    with file.open("r+b") as opened:
        opened.seek(100)
        opened.write(b"\xff" * 300)


def test_a_damaged_file_is_refused_and_left_alone() -> None:
    """The front ends with a clear line that names the file, instead of starting empty or trying for ever."""
    queue = queue_owned_by(1, 2)
    with Mortal(2) as mortal:
        with connect(mortal) as wire:
            put(wire, queue, range(50))
        assert mortal.broker.stop() == 0
        file = mortal.data_dir / "slot-1.db"
        whole = file.read_bytes()
        for damage in (garbage, text, another_version, half_a_page, bad_schema):
            damage(file)
            damaged = file.read_bytes()
            reason = refused(mortal)
            assert str(file) in reason and "\n" not in reason, (damage.__name__, reason)
            assert file.read_bytes() == damaged, damage.__name__
            file.write_bytes(whole)
        mortal.start_again()
        assert [number(each) for each in drained(mortal, queue)] == list(range(50))


def refused(mortal: Mortal) -> str:
    """Why a broker does not start with these files."""
    broker = Broker(workers=mortal.workers, config=mortal.config, data_dir=mortal.data_dir)
    try:
        broker.spawn()
        assert broker.wait(PATIENCE) == ExitCode.CANNOT_START
        [event] = broker.events("broker.cannot-start")
        broker.check_log()
    finally:
        broker.discard()
    return str(event["reason"])


def test_damage_in_the_middle_costs_no_other_message() -> None:
    """A page in the middle is garbage: whatever the broker does, it says so, and gives no message that was not sent."""
    queue = queue_owned_by(0, 1)
    with Mortal(1) as mortal:
        with connect(mortal) as wire:
            put(wire, queue, range(2000))
        assert mortal.broker.stop() == 0
        file = mortal.data_dir / "slot-0.db"
        pages = file.stat().st_size // 4096
        with file.open("r+b") as opened:
            opened.seek(pages // 2 * 4096)
            opened.write(b"\xa5" * 4096)
        damaged = Broker(workers=1, config=mortal.config, data_dir=mortal.data_dir, bind=["127.0.0.1:0"])
        try:
            damaged.spawn()
            damaged._wait(
                lambda: damaged.returncode is not None or bool(damaged.events("broker.ready")), PATIENCE, "an outcome"
            )
            if damaged.returncode is not None:
                assert damaged.wait() == ExitCode.CANNOT_START
                return
            with Wire(damaged.addresses[0] if damaged.addresses else _address(damaged)) as wire:
                wire.connect()
                subscribe(wire, queue, 100)
                last = -1
                with contextlib.suppress(TimeoutError):
                    while True:
                        message = wire.read(2.0)
                        if message.command == "ERROR":
                            break
                        assert number(message) > last
                        last = number(message)
                        wire.frame("ACK", wire.acknowledgement(message))
            # Its log comes by another pipe.
            damaged._wait(
                lambda: any(event["level"] == "error" for event in damaged.events()), PATIENCE, "a word on the damage"
            )
            damaged.check_log()
        finally:
            damaged.discard()


def _address(broker: Broker) -> tuple[str, int]:
    host, _, port = broker.events("listener.bound")[0]["address"].rpartition(":")
    return host, int(port)
