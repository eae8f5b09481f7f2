"""What an operator sees of queues, and does with them, on real processes: listings, metrics, dead letters sent back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from common.ownership import owner_of
from tests.cluster.actors import wait_until
from tests.cluster.conftest import ConnectOn
from tests.cluster.test_management import MANAGED, Console
from tests.conftest import StartBroker
from tests.harness.broker import ROOT, Broker
from tests.harness.wire import Wire

SMALL = {**MANAGED, "queue": {"window_messages": 64}}
"""Queues of more than a handful of messages are on disk."""


def post(console: Console, path: str, status: int = 200) -> Any:
    got, _, body = console.request("POST", path)
    assert got == status, (path, got, body)
    return json.loads(body)


def put(wire: Wire, queue: str, count: int, headers: list[tuple[str, str]] | None = None) -> None:
    for number in range(count - 1):
        wire.publish(queue, b"%d" % number, headers or [])
    wire.request("SEND", [("destination", queue), *(headers or [])], b"%d" % (count - 1))


def take(wire: Wire, queue: str, count: int) -> list[str]:
    """The bodies of so many messages, and the proof that there is no more."""
    wire.subscribe(queue, id="take", ack="client-individual", headers=[("prefetch-count", "1000")])
    frames = [wire.expect("MESSAGE") for _ in range(count)]
    wire.quiet()
    for frame in frames:
        wire.acknowledge(frame)
    wire.request("UNSUBSCRIBE", [("id", "take")])
    return [frame.body.decode() for frame in frames]


def kill_letters(wire: Wire, queue: str, count: int, headers: list[tuple[str, str]] | None = None) -> None:
    """Make so many dead letters of `queue`, in `/queue/dlq...`."""
    put(wire, queue, count, headers)
    wire.subscribe(queue, id="reject", ack="client-individual", headers=[("prefetch-count", "1000")])
    for frame in [wire.expect("MESSAGE") for _ in range(count)]:
        wire.acknowledge(frame, "NACK", [("requeue", "false"), ("reason", "no: good")])
    wire.request("UNSUBSCRIBE", [("id", "reject")])


def elsewhere(console: Console, name: str) -> str:
    """A queue of that kind whose dead letters have another owner than itself."""
    workers = len(console.get("/api/workers")["workers"])
    for number in range(1000):
        queue = f"/queue/{name}.{number}"
        if owner_of(queue.encode(), workers) != owner_of(f"/queue/dlq.{name}.{number}".encode(), workers):
            return queue
    raise AssertionError("no such queue")


def test_queues_are_listed_and_one_is_described_with_its_consumers(start_broker: StartBroker, on: ConnectOn) -> None:
    console = Console(broker := start_broker(workers=2, config=SMALL))
    names = [f"/queue/listed.{number}" for number in range(7)]
    sender = on(broker, 0)
    for count, name in enumerate(names, 1):
        put(sender, name, count)
    deep = "/queue/deep: %2F"
    put(sender, deep, 200)
    found, after = {}, "0.0"
    while after is not None:
        page = console.get(f"/api/queues?limit=3&after={after}")
        assert len(page["queues"]) <= 3 and page["unanswered"] == []
        found |= {each["name"]: each for each in page["queues"]}
        after = page["next"]
    assert {name: each["messages"] for name, each in found.items()} == {
        deep: 200,
        **{name: count for count, name in enumerate(names, 1)},
    }
    assert {each["owner"] for each in found.values()} == {0, 1}
    assert found[deep]["spilled"] >= 100 and found[deep]["ready"] + found[deep]["spilled"] == 200
    assert found[deep]["bytes"] > 200 * 20 and not found[deep]["blocked"]
    assert [each["name"] for each in console.get("/api/queues?text=LISTED.3")["queues"]] == [names[3]]
    consumers = [on(broker, 0), on(broker, 1)]
    for wire in consumers:
        wire.subscribe(deep, ack="client", headers=[("prefetch-count", "5"), ("selector", "a IS NULL")])
        for _ in range(5):
            wire.expect("MESSAGE")
    one = console.get(f"/api/queues/{quote(deep, safe='')}")
    assert (one["messages"], one["unsettled"], one["consumers"]) == (200, 10, 2)
    assert one["dead_letter"] == "/queue/dlq.deep: %2F" and one["owner"] == found[deep]["owner"]
    assert {
        each["session"]: (each["worker"], each["prefetch"], each["unsettled"]) for each in one["consumer_list"]
    } == {wire.session: (slot, 5, 5) for slot, wire in enumerate(consumers)}
    assert all(each["has_selector"] and not each["exclusive"] for each in one["consumer_list"])
    assert console.get("/api/queues/listed.0")["messages"] == 1
    assert "no queue" in console.get("/api/queues/nothing", status=404)["error"]


def test_the_depths_of_queues_and_the_state_of_the_store_are_metrics(start_broker: StartBroker, on: ConnectOn) -> None:
    console = Console(broker := start_broker(workers=2, config=MANAGED))
    wire = on(broker, 0)
    kill_letters(wire, "/queue/poison", 3)
    put(wire, "/queue/other", 5)
    for number in range(120):
        wire.publish(f"/queue/many.{number}", b"x")
    wire.subscribe("/queue/other", ack="client", headers=[("prefetch-count", "2")])
    wire.expect("MESSAGE")
    wire.expect("MESSAGE")

    def counted() -> bool:
        overview = console.get("/api/overview")
        return overview["queue_messages"] == 128 and not overview["unconfirmed_bytes"]

    wait_until(counted, "the counters")
    found = console.metrics()

    def total(name: str) -> float:
        return sum(found[f"{name},slot={slot}"] for slot in (0, 1))

    assert (total("queued_messages"), total("dead_lettered_total"), total("unsettled_messages")) == (128, 3, 2)
    assert total("queues") == 123 and total("queue_consumers") == 1
    assert total("queued_bytes") > 128 and total("store_commits_total") > 5 and total("store_bytes") > 10_000
    assert total("store_failing") == 0 and total("handoff_unconfirmed_bytes") == 0
    assert found["queue_depth_messages,queue=/queue/other"] == 5
    assert found["queue_depth_unsettled,queue=/queue/other"] == 2
    assert found["queue_depth_consumers,queue=/queue/other"] == 1
    assert found["queue_depth_messages,queue=/queue/dlq.poison"] == 3
    # Clients choose the names: there must be an end to them.
    assert sum(name.startswith("queue_depth_messages,") for name in found) == 100


def test_a_store_that_cannot_write_is_told_and_forgotten_again(start_broker: StartBroker, on: ConnectOn) -> None:
    store = {"quota_bytes": 1 << 20, "retry_interval": "50ms"}
    console = Console(broker := start_broker(workers=2, config={**MANAGED, "store": store}))
    assert console.get("/health/ready") == {"status": "ready"}
    wire, queue = on(broker, 0), next(f"/queue/{n}" for n in range(99) if owner_of(b"/queue/%d" % n, 2) == 1)
    frame = None
    while frame is None or frame.command == "RECEIPT":
        wire.publish(queue, b"." * 100_000, [("receipt", "r")])
        frame = wire.read()
    assert frame["error-code"] == "store-full"
    degraded = {"status": "degraded", "reason": "worker 1 cannot store messages, the disk or its quota is full"}
    wait_until(lambda: console.get("/health/ready") == degraded, "that it is told")
    assert console.get("/api/overview")["degraded"] and console.get("/api/overview")["ready"]
    # What the other worker counts may come a moment later.
    wait_until(lambda: [console.metrics().get(f"store_failing,slot={slot}") for slot in range(2)] == [0, 1], "metrics")
    # To throw away what is there is what helps.
    assert post(console, f"/api/queues/{quote(queue, safe='')}/purge")["left"] == 0
    on(broker, 0).request("SEND", [("destination", queue)], b"again")
    wait_until(lambda: console.get("/health/ready") == {"status": "ready"}, "the end of it")


def test_dead_letters_go_back_to_the_queue_they_came_from(start_broker: StartBroker, on: ConnectOn) -> None:
    console = Console(broker := start_broker(workers=2, config=SMALL))
    wire = on(broker, 0)
    queue = elsewhere(console, "back")
    dead = queue.replace("/queue/", "/queue/dlq.")
    kill_letters(wire, queue, 150, [("priority", "7"), ("colour", "b:l\\ue")])
    wait_until(lambda: console.get(f"/api/queues/{quote(dead, safe='')}")["messages"] == 150, "the dead letters")
    assert post(console, f"/api/queues/{quote(dead, safe='')}/requeue?limit=20") == {
        "queue": dead,
        "moved": 20,
        "left": 130,
        "why": "",
    }
    # Their priority is theirs again: they come before this one.
    put(wire, queue, 1)
    assert post(console, f"/api/queues/{dead.removeprefix('/queue/')}/requeue") == {
        "queue": dead,
        "moved": 130,
        "left": 0,
        "why": "",
    }
    wire.subscribe(queue, id="look", ack="client-individual", headers=[("prefetch-count", "1")])
    first = wire.expect("MESSAGE")
    assert first["destination"] == queue and first["priority"] == "7" and first["colour"] == "b:l\\ue"
    assert not any(name.startswith("dlq-") for name, _ in first.headers) and "redelivered" not in first
    wire.request("UNSUBSCRIBE", [("id", "look")])
    assert take(wire, queue, 151) == [*(str(number) for number in range(150)), "0"]


def test_any_messages_go_to_another_queue_but_only_dead_letters_go_back(
    start_broker: StartBroker, on: ConnectOn
) -> None:
    console = Console(broker := start_broker(workers=2, config=SMALL))
    wire = on(broker, 0)
    put(wire, "/queue/plain", 100)
    answer = post(console, "/api/queues/plain/requeue")
    assert answer["moved"] == 0 and answer["left"] == 100 and "only dead letters" in answer["why"]
    for to in ("/topic/x", "/queue/", "a.*"):
        assert "takes the name of a queue" in post(console, f"/api/queues/plain/requeue?to={quote(to)}", 400)["error"]
    assert post(console, "/api/queues/nothing/requeue", 404)["error"]
    # What a consumer has is its own.
    other = on(broker, 1)
    other.subscribe("/queue/plain", ack="client-individual", headers=[("prefetch-count", "10")])
    held = [other.expect("MESSAGE") for _ in range(10)]
    assert post(console, "/api/queues/plain/requeue?to=elsewhere")["moved"] == 90
    assert take(wire, "/queue/elsewhere", 90) == [str(number) for number in range(10, 100)]
    for frame in held:
        other.acknowledge(frame)
    other.quiet()


def test_a_queue_is_purged_but_for_what_consumers_have(start_broker: StartBroker, on: ConnectOn) -> None:
    console = Console(broker := start_broker(workers=2, config=SMALL))
    wire = on(broker, 0)
    put(wire, "/queue/litter", 1000)
    wire.subscribe("/queue/litter", ack="client-individual", headers=[("prefetch-count", "3")])
    held = [wire.expect("MESSAGE") for _ in range(3)]
    answer = post(console, "/api/queues/litter/purge")
    assert (answer["moved"], answer["left"]) == (997, 0)
    wire.acknowledge(held[0])
    wire.quiet()
    wire.request("UNSUBSCRIBE", [("id", "0")])
    assert take(wire, "/queue/litter", 2) == ["1", "2"]
    assert console.request("GET", "/api/queues/litter/purge")[0] == 405


def test_a_requeue_that_is_killed_loses_and_doubles_nothing(
    mortal: Callable[..., Broker], on: ConnectOn, tmp_path: Path
) -> None:
    """Between owners, at any moment: all processes die with slices on their way."""
    letters = 3000
    broker = mortal(workers=2, config=SMALL, data_dir=tmp_path)
    console, wire = Console(broker), on(broker, 0)
    queue = elsewhere(console, "kill")
    dead = queue.replace("/queue/", "dlq.")
    put(wire, queue, letters)
    # All at once, without a client in between.
    assert post(console, f"/api/queues/{queue.removeprefix('/queue/')}/requeue?to={dead}")["moved"] == letters
    for delay in (0.01, 0.03, 0.06):
        moving = subprocess.Popen(
            [sys.executable, "-m", "broker", "requeue", dead, "--to", queue, "--management", console.address],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda console=console: console.get(f"/api/queues/{dead}")["messages"] < letters, "the first slice")
        with suppress(subprocess.TimeoutExpired):
            moving.wait(delay)
        for pid in (broker.pid, *broker.worker_pids().values()):
            os.kill(pid, signal.SIGKILL)
        moving.wait()
        broker.wait()
        broker = mortal(workers=2, config=SMALL, data_dir=tmp_path)
        console = Console(broker)

        # What was on its way arrives after the start.
        def all_back(console: Console = console) -> bool:
            post(console, f"/api/queues/{queue.removeprefix('/queue/')}/requeue?to={dead}")
            return console.get(f"/api/queues/{dead}")["messages"] >= letters

        wait_until(all_back, "all of them")
    found = take_many(on(broker, 1), f"/queue/{dead}", letters)
    assert sorted(map(int, found)) == list(range(letters))


def take_many(wire: Wire, queue: str, count: int) -> list[str]:
    wire.subscribe(queue, id="many")
    found = [wire.expect("MESSAGE").body.decode() for _ in range(count)]
    wire.quiet()
    return found


class TestCommand:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STAMPEDE_")}
        return subprocess.run(
            [sys.executable, "-m", "broker", "requeue", *arguments],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def test_it_says_what_it_moved(self, start_broker: StartBroker, on: ConnectOn) -> None:
        console = Console(broker := start_broker(workers=2, config=MANAGED))
        wire = on(broker, 0)
        kill_letters(wire, "/queue/told", 3)
        management = ("--management", console.address)
        done = self.run("dlq.told", "--limit", "1", *management)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1 message moved, 2 left in the queue\n", "")
        done = self.run("/queue/dlq.told", *management)
        assert (done.returncode, done.stdout) == (0, "2 messages moved, 0 left in the queue\n")
        assert take(wire, "/queue/told", 3) == ["0", "1", "2"]
        put(wire, "/queue/told", 1)
        done = self.run("told", *management)
        assert done.returncode == 1 and "only dead letters" in done.stderr
        done = self.run("told", "--to", "next", *management)
        assert (done.returncode, done.stdout) == (0, "1 message moved, 0 left in the queue\n")
        assert take(wire, "/queue/next", 1) == ["0"]
        done = self.run("nothing", *management)
        assert (done.returncode, done.stderr) == (1, "stampede: there is no queue '/queue/nothing'\n")

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            ((), 2, "it is not known where"),
            (("--management", "127.0.0.1:0"), 2, "it is not known where"),
            (("--management", "10.0.0.1:15613"), 2, "loopback"),
            (("--management", "127.0.0.1:1"), 1, "no answer from 127.0.0.1:1"),
            (("--limit", "0"), 2, "a whole number from 1"),
        ],
    )
    def test_what_cannot_be_done_is_said(self, arguments: tuple[str, ...], code: int, said: str) -> None:
        done = self.run("dlq.x", *arguments)
        assert (done.returncode, done.stdout) == (code, "") and said in done.stderr
