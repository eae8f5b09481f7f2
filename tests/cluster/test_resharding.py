"""Another number of workers at the next start: real brokers, real clients, and processes killed while queues move."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.layout import STAGING, Layout, read_layout
from common.ownership import owner_of
from tests.chaos.run import rounds
from tests.cluster.actors import wait_until
from tests.harness.broker import ROOT, Broker
from tests.harness.wire import Frame, Wire, connect_on, encode
from tests.unit.worker.store.tool.stored import contents, frame, put, queue_unit, records

QUEUES = [f"/queue/moving.{number}" for number in range(8)]
FAR = 4_000_000_000_000
"""A time in ms since the epoch that no test lives to see."""


def fill(broker: Broker, chance: random.Random) -> dict[str, list[bytes]]:
    """Send everything there is to send; returns what has to come, by queue, in order."""
    expected: dict[str, list[tuple[int, int, bytes]]] = {name: [] for name in QUEUES}
    with connect_on(broker, None) as wire:
        for serial in range(40 * len(QUEUES)):
            name = chance.choice(QUEUES)
            body = b"%d " % serial + chance.randbytes(chance.choice((0, 3, 300)))
            priority = chance.choice((4, 4, 4, 1, 8))
            headers = [("priority", str(priority))] if priority != 4 else []
            what = chance.randrange(8)
            if what == 0:
                # Gone before anybody comes.
                wire.publish(name, body, [*headers, ("ttl", "1")])
                continue
            if what == 1:
                headers.append(("expires", str(FAR)))
            elif what == 2:
                headers.append(("idempotency-key", f"key {serial}"))
            elif what == 3:
                wire.publish(name, body, [("deliver-at", str(FAR))])
                continue
            wire.publish(name, body, headers)
            expected[name].append((-priority, serial, body))
        for name in QUEUES:
            wire.request("SEND", [("destination", name)], b"last")
            expected[name].append((-4, 1 << 30, b"last"))
    return {name: [body for _, _, body in sorted(each)] for name, each in expected.items()}


def take(wire: Wire, name: str, count: int) -> list[Frame]:
    """Subscribe to `name` and read `count` messages, which are not acknowledged."""
    wire.frame(
        "SUBSCRIBE",
        [("destination", name), ("id", name), ("ack", "client-individual"), ("prefetch-count", str(max(count, 1)))],
    )
    messages = [wire.read() for _ in range(count)]
    assert {message.command for message in messages} <= {"MESSAGE"}, messages
    return messages


def settle(wire: Wire, messages: list[Frame]) -> list[Frame]:
    """Acknowledge `messages`; returns what came instead of them."""
    others: list[Frame] = []
    for message in messages:
        receipt = wire.next_receipt()
        wire.frame("ACK", [*wire.acknowledgement(message), ("receipt", receipt)])
        while (frame := wire.read()).command != "RECEIPT":
            others.append(frame)
        assert frame["receipt-id"] == receipt
    return others


def drain(
    broker: Broker, expected: dict[str, list[bytes]], redelivered: dict[str, set[bytes]], *, rather_all: bool
) -> None:
    """Everything comes once, in its order, marked where it was delivered before; then there is nothing left.

    With `rather_all`, all messages of a queue in `redelivered` may be marked instead of those that were delivered.
    """
    with connect_on(broker, None) as wire:
        for name, bodies in expected.items():
            messages = take(wire, name, len(bodies))
            assert [message.body for message in messages] == bodies
            again = {message.body for message in messages if message.get("redelivered") == "true"}
            if not (rather_all and name in redelivered and again == set(bodies)):
                assert again == redelivered.get(name, set())
            assert not settle(wire, messages)
            wire.quiet()


@pytest.mark.parametrize(
    ("path", "stop"), [((1, 2, 4), "clean"), ((4, 3), "clean"), ((2, 1), "killed"), ((2, 4, 2), "killed")]
)
def test_everything_is_there_once_and_in_order(path: tuple[int, ...], stop: str, tmp_path: Path) -> None:
    directory = tmp_path / "data"
    chance = random.Random(repr(path))
    first, *others = path
    redelivered: dict[str, set[bytes]] = {}
    broker = Broker(workers=first, data_dir=directory)
    try:
        broker.start()
        expected = fill(broker, chance)
        with connect_on(broker, None) as wire:
            for name in QUEUES[:4]:
                # These leave without an ACK, and are delivered again.
                redelivered[name] = {message.body for message in take(wire, name, 3)}
            settled = take(wire, QUEUES[5], 2)
            redelivered[QUEUES[5]] = {message.body for message in settle(wire, settled)}
            expected[QUEUES[5]] = expected[QUEUES[5]][2:]
        if stop == "clean":
            broker.stop()
            broker.check_log()
    finally:
        broker.discard()
    for workers in others:
        with Broker(workers=workers, data_dir=directory) as broker:
            done_event = broker.wait_event("store.resharded", workers=workers)
            assert done_event["moved"] == len(
                [
                    1
                    for name in QUEUES
                    if owner_of(name.encode(), workers) != owner_of(name.encode(), done_event["before"])
                ]
            )
            if workers == others[-1]:
                # A broker killed before it stored that the consumer of a queue is gone marks all that was in the queue.
                drain(broker, expected, redelivered, rather_all=stop == "killed")
    assert read_layout(directory) == Layout(others[-1])
    left = contents(directory)
    assert not [name for name in left if name.startswith("messages")]
    assert sum(len(each) for name, each in left.items() if name.startswith("parked")) > 5


def test_delayed_messages_come_and_repeats_are_known_after_the_move(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Broker(workers=2, data_dir=directory) as broker, connect_on(broker, None) as wire:
        ids = {}
        soon = str(round(time.time() * 1000) + 1500)
        for name in QUEUES:
            wire.frame("SEND", [("destination", name), ("idempotency-key", "k"), ("receipt", name)], b"once")
            ids[name] = wire.expect("RECEIPT", receipt_id=name)["message-id"]
            wire.request("SEND", [("destination", name), ("deliver-at", soon)], b"late")
    with Broker(workers=5, data_dir=directory) as broker, connect_on(broker, None) as wire:
        for name in QUEUES:
            wire.frame("SEND", [("destination", name), ("idempotency-key", "k"), ("receipt", name)], b"again")
            receipt = wire.expect("RECEIPT", receipt_id=name)
            assert (receipt.get("duplicate"), receipt["message-id"]) == ("true", ids[name])
        for name in QUEUES:
            assert [message.body for message in take(wire, name, 2)] == [b"once", b"late"]


def test_the_same_number_of_workers_moves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with Broker(workers=2, data_dir=tmp_path / "data") as broker:
            assert not broker.events("store.resharding")


def test_what_cannot_be_moved_is_one_line_and_the_old_number_still_works(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Broker(workers=2, data_dir=directory) as broker, connect_on(broker, None) as wire:
        wire.request("SEND", [("destination", "/queue/a")], b"kept")
    put(directory, 1, queue_unit(400, "/queue/a", []), queue_unit(401, "/queue/a", []))
    broker = Broker(workers=3, data_dir=directory)
    try:
        broker.spawn()
        assert broker.wait() == 3
        [event] = broker.events("broker.cannot-start")
        assert "/queue/a" in event["reason"] and "slot-1.db" in event["reason"]
        assert not broker.stderr_noise
    finally:
        broker.discard()
    assert not (directory / STAGING).exists()
    assert read_layout(directory) == Layout(2)


# --- killed


@pytest.mark.parametrize(("before", "after"), [(2, 3), (4, 1), (3, 2)])
def test_transactions_across_owners_are_all_or_nothing_after_the_move(before: int, after: int, tmp_path: Path) -> None:
    chance = random.Random(f"{before} {after}")
    directory = tmp_path / "data"
    # One queue of each owner, for all transactions.
    names = [next(n for n in QUEUES * 9 + MORE if owner_of(n.encode(), before) == slot) for slot in range(before)]
    committed: set[str] = set()
    for life in range(3):
        broker = Broker(workers=before, data_dir=directory)
        try:
            broker.start()
            with connect_on(broker, None) as wire:
                frames = [transaction(f"{life}.{number}", names) for number in range(400)]
                wire.send(b"".join(frames))
                for _ in range(chance.randrange(20, 300)):
                    committed.add(wire.read()["receipt-id"])
        finally:
            broker.discard()
    with Broker(workers=after, data_dir=directory):
        # What was under way is brought to its queues by its new owners, without anybody asking for it.
        wait_until(lambda: not records(directory), "the end of the last transaction")
    found = contents(directory)
    bodies = [[body(content) for _, content, _, _ in found[f"messages {name}"]] for name in names]
    assert [len(set(each)) for each in bodies] == [len(each) for each in bodies], "something is there twice"
    assert len({frozenset(each) for each in bodies}) == 1, "a transaction is there in part"
    assert committed <= set(bodies[0])


MORE = [f"/queue/more.{number}" for number in range(50)]


def transaction(id: str, names: list[str]) -> bytes:
    inside = [("transaction", id)]
    return b"".join(
        [
            encode("BEGIN", inside),
            *[encode("SEND", [("destination", name), *inside], id.encode()) for name in names],
            encode("COMMIT", [*inside, ("receipt", id)]),
        ]
    )


def body(content: bytes) -> str:
    return content.split(b"\n\n", 1)[1].removesuffix(b"\0").decode()


def big(directory: Path, workers: int, messages: int) -> None:
    """Queues that take a while to move."""
    for slot in range(workers):
        names = [name for name in QUEUES if owner_of(name.encode(), workers) == slot]
        put(
            directory,
            slot,
            *[
                queue_unit(
                    place, name, [(4, n, frame(f"{name}-{n}", b"x" * 100, name)) for n in range(1, messages + 1)]
                )
                for place, name in enumerate(names, 1)
            ],
        )


def test_killed_at_random_moments_the_program_loses_and_repeats_nothing(tmp_path: Path) -> None:
    big(tmp_path, 2, 4000)
    held = contents(tmp_path)
    chance = random.Random(7)

    def command(workers: int) -> list[str]:
        return [sys.executable, "-m", "worker.store", "reshard", str(tmp_path), str(workers)]

    began = time.monotonic()
    subprocess.run(command(4), cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - began
    killed = 0
    for _ in range(rounds(12)):
        workers = chance.choice((1, 2, 3, 4))
        with subprocess.Popen(command(workers), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(chance.uniform(whole * 0.3, whole * 1.1))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
    assert killed
    subprocess.run(command(3), cwd=ROOT, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert contents(tmp_path) == held
    assert read_layout(tmp_path) == Layout(3)
    assert not (tmp_path / STAGING).exists()


def test_a_front_killed_meanwhile_leaves_nobody_behind_and_the_next_one_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    big(directory, 2, 4000)
    held = contents(directory)
    for workers in (4, 1):
        broker = Broker(workers=workers, data_dir=directory)
        try:
            broker.spawn()
            broker.wait_event("store.resharding")
            assert broker.process is not None
            broker.process.kill()
            # Its output ends with the last process that holds it.
            broker.wait()
        finally:
            broker.discard()
    # A stop in order meanwhile is an end in order.
    broker = Broker(workers=3, data_dir=directory)
    try:
        broker.spawn()
        broker.wait_event("store.resharding")
        broker.terminate()
        assert broker.wait() == 0
        broker.check_log()
    finally:
        broker.discard()
    with Broker(workers=2, data_dir=directory) as broker, connect_on(broker, None) as wire:
        first = take(wire, QUEUES[0], 1)[0]
        assert first["message-id"] == f"{QUEUES[0]}-1"
    after = contents(directory)
    assert {name: each for name, each in after.items() if name.startswith("messages") and not name.endswith(".0")} == {
        name: each for name, each in held.items() if name.startswith("messages") and not name.endswith(".0")
    }
