"""The last messages of topics on several workers: known to all, in one order, and still there whatever dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.ownership import owner_of
from tests.cluster.actors import wait_until
from tests.cluster.conftest import Clusters, ConnectOn
from tests.harness.broker import Broker
from tests.harness.wire import Wire
from tests.protocol.test_retain import bodies, retain, subscribe

Topic = Callable[[], str]


def last_of(wire: Wire, name: str, id: str = "0") -> bytes | None:
    """What a subscriber ends with: a newer one that its worker hears of before the RECEIPT follows an older one."""
    found = bodies(subscribe(wire, name, id=id))
    wire.request("UNSUBSCRIBE", [("id", id)])
    return found[-1] if found else None


def owned_by(slot: int, workers: int = 2) -> str:
    return next(
        name
        for name in (f"/topic/owned.{slot}.{number}" for number in range(1000))
        if owner_of(name.encode(), workers) == slot
    )


@pytest.mark.parametrize("workers", [2, 4])
def test_every_worker_answers_with_the_last(cluster_of: Clusters, on: ConnectOn, topic: Topic, workers: int) -> None:
    broker = cluster_of(workers)
    wires = [on(broker, slot) for slot in range(workers)]
    for number in range(12):
        name = topic()
        retain(wires[number % workers], name, b"%d" % number)
        for wire in wires:
            # What its worker has not heard of yet follows the RECEIPT.
            frames = subscribe(wire, name, id="n")
            frame = frames[0] if frames else wire.expect("MESSAGE")
            assert (frame.body, frame["retained"]) == (b"%d" % number, "true")
            wire.request("UNSUBSCRIBE", [("id", "n")])


def test_they_survive_a_restart_and_what_was_cleared_stays_so(
    mortal: Callable[..., Broker], on: ConnectOn, tmp_path: Path
) -> None:
    names = [f"/topic/kept.{number}" for number in range(40)]
    broker = mortal(workers=2, data_dir=tmp_path)
    wire = on(broker, 0)
    for name in names:
        retain(wire, name, b"old")
        retain(wire, name, name.encode())
    retain(wire, names[0], b"")
    retain(wire, names[1], b"memory", [("persistent", "false")])
    wire.close()
    for end in ("stop", "kill"):
        if end == "stop":
            broker.stop()
        else:
            for pid in (broker.pid, *broker.worker_pids().values()):
                os.kill(pid, signal.SIGKILL)
            broker.wait()
        broker.discard()
        broker = mortal(workers=2, data_dir=tmp_path)
        for slot in (0, 1):
            found = subscribe(on(broker, slot), "/topic/kept.*")
            assert {frame["destination"]: frame.body for frame in found} == {name: name.encode() for name in names[2:]}
    broker.stop()
    broker.check_log()


@pytest.mark.parametrize("slot", [0, 1])
def test_a_new_worker_knows_them_before_it_takes_clients(
    mortal: Callable[..., Broker], on: ConnectOn, slot: int
) -> None:
    """Those it owns and those of the others; and what is sent while it is away is there when it is back."""
    broker = mortal(workers=2)
    survivor = on(broker, 1 - slot)
    mine, other = owned_by(slot), owned_by(1 - slot)
    large = b"x" * 100_000
    for number in range(30):
        retain(survivor, f"{other}.{number}", large)
    for name in (mine, other):
        retain(survivor, name, b"before")
    os.kill(broker.worker_pids()[slot], signal.SIGKILL)
    broker.wait_event("worker.exited", slot=slot)
    # Its owner is dead: the RECEIPT comes when the next life has it.
    survivor.frame("SEND", [("destination", mine), ("retain", "true"), ("receipt", "late")], b"meanwhile")
    survivor.expect("RECEIPT", receipt_id="late")
    broker.wait_event("worker.ready", slot=slot, incarnation=2)
    for wire in (on(broker, slot), on(broker, slot)):
        assert last_of(wire, mine) == b"meanwhile"
        assert last_of(wire, other) == b"before"
        # Of a pattern more may follow the RECEIPT, as the client can take it.
        frames = subscribe(wire, f"{other}.*")
        frames += [wire.expect("MESSAGE") for _ in range(30 - len(frames))]
        assert {frame["destination"] for frame in frames} == {f"{other}.{number}" for number in range(30)}
    broker.stop()
    broker.check_log()


def test_what_is_receipted_survives_kills_at_any_moment(
    mortal: Callable[..., Broker], on: ConnectOn, tmp_path: Path
) -> None:
    """Numbers go up on every topic; after a kill each has the last receipted, or a later one."""
    names = [f"/topic/count.{number}" for number in range(6)]
    receipted = dict.fromkeys(names, 0)
    for life in range(4):
        broker = mortal(workers=2, data_dir=tmp_path)
        wire = on(broker, life % 2)
        found = {frame["destination"]: int(frame.body) for frame in subscribe(wire, "/topic/count.*")}
        for name in names:
            assert found.get(name, 0) >= receipted[name], (name, found, receipted)
        wire.request("UNSUBSCRIBE", [("id", "0")])
        receipted.update(found)
        stop = threading.Event()

        def send(wire: Wire = wire, stop: threading.Event = stop) -> None:
            try:
                while not stop.is_set():
                    for name in names:
                        retain(wire, name, b"%d" % (receipted[name] + 1))
                        receipted[name] += 1
            except (OSError, AssertionError):
                return

        thread = threading.Thread(target=send)
        before = dict(receipted)
        thread.start()
        wait_until(lambda before=before: receipted[names[-1]] > before[names[-1]] + 5, "some receipts")
        for pid in (broker.pid, *broker.worker_pids().values()):
            os.kill(pid, signal.SIGKILL)
        thread.join()
        stop.set()
        broker.wait()
        broker.discard()


def test_all_workers_end_with_the_same_of_many_at_once(cluster_of: Clusters, on: ConnectOn, topic: Topic) -> None:
    broker, name = cluster_of(4), topic()
    senders = [on(broker, slot) for slot in range(4)]
    for number in range(200):
        for slot, wire in enumerate(senders):
            wire.publish(name, b"%d of %d" % (number, slot), [("retain", "true")])
    for slot, wire in enumerate(senders):
        retain(wire, name, b"last of %d" % slot)
        wire.request("SEND", [("destination", name)], b"passing")
    # All are receipted: their owner has put them in order, and knows the last.
    last = last_of(senders[owner_of(name.encode(), 4)], name)
    assert last in [b"last of %d" % slot for slot in range(4)]
    for wire in senders:
        wait_until(lambda wire=wire: last_of(wire, name) == last, "the last message")
        assert bodies(subscribe(wire, name)) == [last]


def test_a_subscriber_is_never_left_with_an_old_one(cluster_of: Clusters, on: ConnectOn, topic: Topic) -> None:
    """While one publishes on one worker, subscribers come and stay on another: each ends with the last."""
    broker, name = cluster_of(2), topic()
    sender = on(broker, 0)
    retain(sender, name, b"0")
    wires = []
    for number in range(1, 101):
        sender.publish(name, b"%d" % number, [("retain", "true")])
        if number % 4 == 0:
            wire = on(broker, 1)
            wire.frame("SUBSCRIBE", [("destination", name), ("id", "0")])
            wires.append(wire)
    for wire in wires:
        while (frame := wire.expect("MESSAGE")).body != b"100":
            assert int(frame.body) < 100
