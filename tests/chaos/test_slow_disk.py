"""A disk that is slow, or does not answer at all for a while: only those who wait for it feel that.

Its calls are held up by a library that is preloaded into the broker (`slow_disk.c`).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.mortal import PATIENCE, Mortal
from tests.chaos.steps import connect, drained, number, put, queue_owned_by, subscribe
from tests.cluster.actors import Publisher, Subscriber, wait_standstill
from tests.harness.wire import Wire, encode

MIB = 1 << 20
PENDING = {
    "store": {"pending_bytes": "1MiB"},
    "queue": {"handoff_bytes": "1MiB", "window_bytes": "1MiB", "window_messages": 1000},
}
COMMIT_MS = 300


class Disk:
    """What brokers with this `environment` store on; holding begins and ends at once, in all of them."""

    def __init__(self, library: Path, flag: Path, most: int | None) -> None:
        self._flag = flag
        self.environment = {"LD_PRELOAD": str(library), "HELD_DISK": str(flag)}
        if most is not None:
            self.environment["HELD_DISK_MS"] = str(most)

    def hold(self) -> None:
        self._flag.touch()

    def release(self) -> None:
        self._flag.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a slow disk needs a C compiler (apt-get install gcc)")
    built = tmp_path_factory.mktemp("disk") / "slow_disk.so"
    source = Path(__file__).with_name("slow_disk.c")
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", built, source, "-ldl"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a slow disk needs a C compiler that works: {made.stderr.strip()}")
    return built


@pytest.fixture
def make_disk(library: Path, tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    disks: list[Disk] = []

    def make(most: int | None = None) -> Disk:
        disks.append(Disk(library, tmp_path / f"held-{len(disks)}", most))
        return disks[-1]

    yield make
    for disk in disks:
        disk.release()


def told(mortal: Mortal, count: int) -> None:
    """So many messages of a topic go from worker to worker, one after the other."""
    with connect(mortal, 0) as publisher, connect(mortal, 1) as subscriber:
        subscriber.subscribe("/topic/news")
        for each in range(count):
            publisher.publish("/topic/news", b"%d" % each)
            assert number(subscriber.read(PATIENCE)) == each


def given(mortal: Mortal, count: int) -> None:
    """The same with a queue that is kept in memory."""
    queue = queue_owned_by(0, mortal.workers, number=5)
    with connect(mortal, 0) as producer, connect(mortal, 1) as consumer:
        consumer.subscribe(queue)
        for each in range(count):
            producer.request("SEND", [("destination", queue), ("persistent", "false")], b"%d" % each)
            assert number(consumer.read(PATIENCE)) == each


def test_a_receipt_waits_for_the_disk_and_nobody_else_does(make_disk: Callable[..., Disk]) -> None:
    disk = make_disk()
    watched: dict[str, Any] = {"supervision": {"ping_interval": "100ms", "hang_timeout": "2s"}}
    queues = [queue_owned_by(slot, 2) for slot in range(2)]
    with Mortal(2, watched, environment=disk.environment) as mortal:
        wires = [connect(mortal, slot) for slot in range(2)]
        try:
            taken = []
            for wire, queue in zip(wires, queues, strict=True):
                put(wire, queue, [1, 2])
                subscribe(wire, queue, 1)
                taken.append(wire.read(PATIENCE))
            disk.hold()
            held = time.monotonic()
            # To the queue of its own worker, to that of the other, and the ACK of what is there.
            for wire, message in zip(wires, taken, strict=True):
                for each in queues:
                    wire.frame("SEND", [("destination", each), ("receipt", "sent")], b"3")
                wire.frame("ACK", [*wire.acknowledgement(message), ("receipt", "taken")])
            given(mortal, 100)
            while time.monotonic() - held < 3.0:
                told(mortal, 20)
            for wire in wires:
                assert "RECEIPT" not in {frame.command for frame in answers(wire)}
            disk.release()
            for wire in wires:
                receipts: list[str] = []
                while len(receipts) < 3:
                    frame = wire.read(PATIENCE)
                    receipts += [frame["receipt-id"]] if frame.command == "RECEIPT" else []
                assert receipts == ["sent", "sent", "taken"]
        finally:
            for wire in wires:
                wire.close()
        assert not mortal.broker.events("worker.hung") and not mortal.broker.events("worker.exited")
        for queue in queues:
            assert [number(each) for each in drained(mortal, queue)] == [2, 3, 3]


def answers(wire: Wire) -> list[Any]:
    """What has come so far."""
    found = []
    while wire.readable():
        found.append(wire.read(PATIENCE))
    return found


def test_memory_is_bounded_while_the_disk_does_not_answer(make_disk: Callable[..., Disk]) -> None:
    """Who sends to a queue is paused, on the worker of the queue and on another, and goes on when the disk does."""
    disk = make_disk()
    queue, other = queue_owned_by(0, 2), queue_owned_by(0, 2, number=1)
    with Mortal(2, PENDING, environment=disk.environment) as mortal:
        with connect(mortal) as wire:
            put(wire, queue, [])
        before = resident(mortal)
        disk.hold()
        wires = [connect(mortal, slot) for slot in range(2)]
        # Even the half of that would be far too much.
        publishers = [
            Publisher(wire, f"p{slot}", to, count=6000, padding=10_000)
            for slot, (wire, to) in enumerate(zip(wires, (queue, other), strict=True))
        ]
        for publisher in publishers:
            publisher.start()
        wait_standstill(publishers, [])
        assert all(publisher.sent < 3000 for publisher in publishers), publishers
        told(mortal, 100)
        grown = [now - then for now, then in zip(resident(mortal), before, strict=True)]
        assert max(grown) < 40 * MIB, f"grown by {grown} bytes"
        disk.release()
        subscribers = []
        for slot, to in enumerate((queue, other)):
            wires.append(connect(mortal, slot))
            wires[-1].subscribe(to, ack="auto")
            subscribers.append(Subscriber(wires[-1], f"s{slot}", [f"p{slot}"]))
            subscribers[-1].start()
        for actor in (*publishers, *subscribers):
            actor.finish()
        for wire in wires:
            wire.close()
        grown = [now - then for now, then in zip(resident(mortal), before, strict=True)]
        assert max(grown) < 60 * MIB, f"grown by {grown} bytes"
        assert not mortal.broker.events("worker.exited")


def resident(mortal: Mortal) -> list[int]:
    """Bytes of each worker."""
    return [psutil.Process(mortal.pid(slot)).memory_info().rss for slot in range(mortal.workers)]


def test_slow_commits_take_more_each(make_disk: Callable[..., Disk]) -> None:
    """Commits of 300 ms: all that waits goes in the next one, and what is receipted outlives a kill of everything."""
    disk = make_disk(COMMIT_MS)
    queues = [queue_owned_by(slot, 2, number=each) for slot in range(2) for each in range(2)]
    with Mortal(2, environment=disk.environment) as mortal:
        disk.hold()
        wires = [connect(mortal, each % 2) for each in range(8)]
        for count, wire in enumerate(wires):
            headers = [("destination", queues[count % 4])]
            frames = [encode("SEND", [*headers, ("receipt", str(each))], b"%d" % each) for each in range(100)]
            wire.send(b"".join(frames))
        # 800 messages; one a commit would be four minutes.
        receipts = [[wire.expect("RECEIPT", timeout=PATIENCE)["receipt-id"] for _ in range(100)] for wire in wires]
        assert receipts == [[str(each) for each in range(100)]] * 8
        mortal.kill_all()
        for wire in wires:
            wire.close()
        disk.release()
        mortal.start_again()
        for queue in queues:
            assert sorted(number(each) for each in drained(mortal, queue)) == sorted([*range(100)] * 2)
