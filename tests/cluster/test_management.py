"""The management interface of a real broker: every resource, and who may ask."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.actors import wait_until
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import encode

Topic = Callable[[], str]

NONE: Mapping[str, str] = {}

MANAGED: dict[str, Any] = {
    "listener": [{"bind": "127.0.0.1:0"}],
    "management": {"bind": "127.0.0.1:0"},
    # Counters come with the signs of life; the gap after a death is long enough to be seen for certain.
    "supervision": {"ping_interval": "50ms", "backoff_initial": "1s"},
}


class Console:
    """Asks the management interface of a broker."""

    def __init__(self, broker: Broker) -> None:
        self.address = broker.wait_event("management.bound")["address"]

    def request(self, method: str, path: str, headers: Mapping[str, str] = NONE) -> tuple[int, dict[str, str], bytes]:
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def get(self, path: str, status: int = 200) -> Any:
        got, headers, body = self.request("GET", path)
        assert (got, headers["content-type"]) == (status, "application/json; charset=utf-8"), (path, got, body)
        return json.loads(body)

    def metrics(self) -> dict[str, float]:
        """By `name,label=value,...`, without the common prefix of the names."""
        status, headers, body = self.request("GET", "/metrics")
        assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
        found = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                labels = "".join(f",{key}={sample.labels[key]}" for key in sorted(sample.labels))
                found[sample.name.removeprefix("stampede_") + labels] = sample.value
        return found


def test_off_unless_asked_for(start_broker: StartBroker) -> None:
    broker = start_broker()
    broker.stop()
    assert broker.events("management.bound") == []


def test_what_clients_do_is_counted(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker, name = start_broker(workers=2, config=MANAGED), topic()
    console = Console(broker)
    subscribers = [on(broker, 0), on(broker, 1), on(broker, 1)]
    for wire in subscribers:
        wire.subscribe(name)
    sender = on(broker, 0)
    before = console.get("/api/overview")
    for _ in range(5):
        sender.publish(name, b"x" * 1000)
    for wire in subscribers:
        wire.read_many(5)
    sender.send(b"NONSENSE\n\n\0")
    sender.expect_error("unknown-command")
    wait_until(lambda: console.get("/api/overview")["closed"].get("protocol-error"), "the counters")
    found = console.metrics()
    assert (found["messages_received_total,slot=0"], found["messages_received_total,slot=1"]) == (5, 0)
    assert (found["messages_delivered_total,slot=0"], found["messages_delivered_total,slot=1"]) == (5, 10)
    assert (found["subscriptions,slot=0"], found["subscriptions,slot=1"]) == (1, 2)
    assert found["errors_total,code=unknown-command,slot=0"] == 1
    assert found["connections_closed_total,reason=protocol-error,slot=0"] == 1
    assert found["connections_closed_total,reason=protocol-error,slot=1"] == 0
    assert found["received_bytes_total,slot=0"] > 5000 and found["delivered_bytes_total,slot=1"] > 10_000
    assert 1 << 23 < found["worker_resident_memory_bytes,slot=1"] < 1 << 30
    assert found["worker_cpu_seconds_total,slot=0"] > 0 and found["front_cpu_seconds_total"] > 0
    overview = console.get("/api/overview")
    assert (overview["messages_in"], overview["messages_out"], overview["subscriptions"]) == (5, 15, 3)
    assert overview["bytes_out"] - before["bytes_out"] > 15_000
    assert overview["errors"] == {"unknown-command": 1}
    assert overview["ready"] and overview["workers_ready"] == overview["workers"] == 2
    assert overview["addresses"] == [f"127.0.0.1:{broker.address[1]}"]
    workers = console.get("/api/workers")["workers"]
    assert [(worker["slot"], worker["state"], worker["pid"]) for worker in workers] == [
        (slot, "ready", pid) for slot, pid in sorted(broker.worker_pids().items())
    ]
    assert [worker["messages_out"] for worker in workers] == [5, 10]


def test_a_killed_worker_is_missed_and_its_restart_counted(start_broker: StartBroker) -> None:
    broker = start_broker(workers=2, config=MANAGED)
    console = Console(broker)
    assert console.get("/health/ready") == {"status": "ready"}
    os.kill(broker.worker_pids()[1], signal.SIGKILL)
    broker.wait_event("worker.exited", slot=1)
    answer = console.get("/health/ready", status=503)
    assert answer["status"] == "not ready" and answer["reason"].startswith("worker 1 is ")
    assert console.get("/health/live") == {"status": "live"}
    assert console.metrics()["ready"] == 0
    broker.wait_event("worker.ready", slot=1, incarnation=2)
    assert console.get("/health/ready") == {"status": "ready"}
    found = console.metrics()
    assert (found["worker_restarts_total,slot=0"], found["worker_restarts_total,slot=1"]) == (0, 1)
    assert console.get("/api/overview")["restarts"] == 1


def test_a_stopping_broker_is_not_ready_but_answers(start_broker: StartBroker, on: ConnectOn) -> None:
    broker = start_broker(config={**MANAGED, "outbox": {"linger": "3s"}})
    console = Console(broker)
    # It does not read to the end, so the worker lingers for it.
    on(broker, 0)
    broker.terminate()
    broker.wait_event("broker.draining")
    assert console.get("/health/ready", status=503)["reason"] == "the broker is stopping"
    assert console.get("/health/live") == {"status": "live"}


def test_connections_are_listed_described_and_closed(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker, name = start_broker(workers=2, config=MANAGED), topic()
    console = Console(broker)
    one, other = on(broker, 0, "1.1", [("heart-beat", "0,2000")]), on(broker, 1)
    one.subscribe(name, ack="client", headers=[("selector", "a = 'b'")])
    other.publish(name, b"x", [("a", "b")])
    one.expect("MESSAGE")
    found = console.get("/api/connections")
    assert found["next"] is None and found["unanswered"] == []
    assert [each["session"] for each in found["connections"]] == [one.session, other.session]
    listed = found["connections"][0]
    assert (listed["worker"], listed["peer"], listed["version"], listed["state"]) == (0, one.peer, "1.1", "open")
    assert (listed["subscription_count"], listed["dropped"], listed["outbox_bytes"]) == (1, 0, 0)
    assert listed["sends_beat_every"] == 1.0 and listed["closes_after_silence_of"] == 0
    assert 0 < listed["age"] < 60 and listed["bytes_in"] > 100 and listed["bytes_out"] > 100
    assert [each["session"] for each in console.get(f"/api/connections?text={other.peer}")["connections"]] == [
        other.session
    ]
    assert console.get("/api/connections?state=waiting")["connections"] == []
    detail = console.get(f"/api/connections/{one.session}")
    assert detail["session"] == one.session and detail["paused_on"] == []
    assert detail["subscriptions"] == [
        {"id": "0", "destination": name, "ack": "client", "unacknowledged": 1, "has_selector": True}
    ]
    status, _, body = console.request("POST", f"/api/connections/{one.session}/close")
    assert (status, json.loads(body)) == (200, {"session": one.session, "worker": 0})
    one.expect_error("closed-by-operator")
    one.close()
    assert broker.wait_event("connection.closed", session=one.session)["reason"] == "closed-by-operator"
    wait_until(lambda: len(console.get("/api/connections")["connections"]) == 1, "the end of the connection")
    console.get(f"/api/connections/{one.session}", status=404)
    assert console.request("POST", f"/api/connections/{one.session}/close")[0] == 404
    wait_until(lambda: console.get("/api/overview")["closed"].get("closed-by-operator") == 1, "the count")
    assert console.metrics()["connections_closed_total,reason=closed-by-operator,slot=0"] == 1
    other.quiet()


def test_a_listing_of_many_comes_in_pages(start_broker: StartBroker, on: ConnectOn) -> None:
    broker = start_broker(workers=2, config=MANAGED)
    console = Console(broker)
    wires = [on(broker, None) for _ in range(23)]
    for number, wire in enumerate(wires):
        wire.subscribe(f"/topic/pages.{number % 12}")
    sessions: list[str] = []
    names: dict[str, int] = {}
    for kind, take in (
        ("connections", lambda each: sessions.append(each["session"])),
        ("destinations", lambda each: names.__setitem__(each["name"], each["subscribers"])),
    ):
        after = "0.0"
        while after is not None:
            page = console.get(f"/api/{kind}?limit=5&after={after}")
            assert len(page[kind]) <= 5
            for each in page[kind]:
                take(each)
            after = page["next"]
    assert len(sessions) == 23 and set(sessions) == {wire.session for wire in wires}
    assert names == {f"/topic/pages.{number}": 2 if number < 11 else 1 for number in range(12)}
    found = console.get("/api/destinations?text=PAGES.11")["destinations"]
    assert [(each["name"], each["subscribers"], each["pattern"]) for each in found] == [("/topic/pages.11", 1, False)]


def test_a_slow_subscriber_and_its_publisher_are_shown(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    outbox = {"high_bytes": "64KiB", "low_bytes": "16KiB", "block_timeout": "60s"}
    broker, name = start_broker(workers=1, config={**MANAGED, "outbox": outbox}), topic()
    console = Console(broker)
    slow = on(broker, 0, receive_buffer=4096)
    slow.subscribe(name)
    publisher = on(broker, 0)
    message = encode("SEND", [("destination", name), ("content-length", "60000")], b"x" * 60_000)
    publisher.socket.setblocking(False)

    def is_paused() -> bool:
        with suppress(BlockingIOError):
            publisher.socket.send(message)
        return bool(console.get("/api/overview")["paused_publishers"])

    wait_until(is_paused, "the pause")
    assert console.metrics()["slow_subscribers,slot=0"] == 1
    (waiting,) = console.get("/api/connections?state=waiting")["connections"]
    assert waiting["session"] == slow.session and waiting["outbox_bytes"] > 64 << 10
    (paused,) = console.get("/api/connections?state=paused")["connections"]
    assert paused["session"] == publisher.session
    assert console.get(f"/api/connections/{publisher.session}")["paused_on"] == [name]
    (destination,) = console.get("/api/destinations")["destinations"]
    assert destination["blocked"] is True


def test_a_stuck_worker_costs_the_others_nothing(start_broker: StartBroker, on: ConnectOn) -> None:
    broker = start_broker(workers=2, config={**MANAGED, "supervision": {"hang_timeout": "60s"}})
    console = Console(broker)
    wires = [on(broker, 0), on(broker, 1)]
    os.kill(broker.worker_pids()[0], signal.SIGSTOP)
    try:
        page = console.get("/api/connections")
        assert page["unanswered"] == [0]
        assert [each["session"] for each in page["connections"]] == [wires[1].session]
        assert "did not answer" in console.get(f"/api/connections/{wires[0].session}", status=504)["error"]
        assert console.get("/health/live") == {"status": "live"}
    finally:
        os.kill(broker.worker_pids()[0], signal.SIGCONT)


def test_a_question_ends_with_its_worker(start_broker: StartBroker, on: ConnectOn) -> None:
    broker = start_broker(config={**MANAGED, "supervision": {"hang_timeout": "60s"}})
    console, wire = Console(broker), on(broker, 0)
    os.kill(broker.worker_pids()[0], signal.SIGSTOP)
    host, _, port = console.address.rpartition(":")
    asking = http.client.HTTPConnection(host, int(port), timeout=20)
    asking.request("GET", f"/api/connections/{wire.session}")
    # The front takes requests in turn: once it has answered this one, it has asked the worker that one.
    assert console.get("/health/live") == {"status": "live"}
    os.kill(broker.worker_pids()[0], signal.SIGKILL)
    response = asking.getresponse()
    assert (response.status, json.loads(response.read())) == (504, {"error": "worker 0 is gone"})
    asking.close()


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/connections", "/health/ready", "/console.js"])
def test_a_foreign_host_is_refused(start_broker: StartBroker, path: str) -> None:
    console = Console(start_broker(config=MANAGED))
    status, _, body = console.request("GET", path, {"Host": "rebound.example"})
    assert status == 403 and "rebound.example" in json.loads(body)["error"]
    assert console.request("GET", path, {"Host": "localhost"})[0] == 200


def test_another_site_can_close_nothing(start_broker: StartBroker, on: ConnectOn) -> None:
    broker = start_broker(config={**MANAGED, "management": {"bind": "127.0.0.1:0", "hosts": ["ops.example"]}})
    console = Console(broker)
    wire = on(broker, 0)
    path = f"/api/connections/{wire.session}/close"
    for headers in (
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "ops.example", "Origin": "http://localhost"},
    ):
        assert console.request("POST", path, headers)[0] == 403
    assert console.request("GET", path)[0] == 405
    wire.quiet()
    assert console.request("POST", path, {"Host": "ops.example", "Origin": "https://ops.example"})[0] == 200
    wire.expect_error("closed-by-operator")


def test_the_console_is_served_whole(start_broker: StartBroker) -> None:
    console = Console(start_broker(config=MANAGED))
    for path, kind in (("/", "text/html"), ("/console.js", "text/javascript"), ("/console.css", "text/css")):
        status, headers, body = console.request("GET", path)
        assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert len(body) > 1000 and b"//cdn" not in body and b"https://" not in body
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert console.request("HEAD", "/")[0] == 200


def test_requests_that_make_no_sense_are_explained(start_broker: StartBroker) -> None:
    console = Console(start_broker(config=MANAGED))
    for path in ("connections?limit=0", "connections?limit=x", "connections?state=odd", "destinations?after=1"):
        assert "takes" in console.get(f"/api/{path}", status=400)["error"]
    assert "takes at most" in console.get(f"/api/connections?text={'x' * 201}", status=400)["error"]
    for session in ("0-x-1", "99-x-1", "x", "-", "0-", "%00", "0-" + "f" * 3000):
        assert "there is no connection" in console.get(f"/api/connections/{session}", status=404)["error"]
    assert console.get("/nothing", status=404) == {"error": "Not Found"}
    status, headers, _ = console.request("DELETE", "/api/overview")
    assert status == 405 and headers["allow"] == "GET,HEAD"


def test_a_taken_port_is_told_and_nothing_is_started(start_broker: StartBroker, mortal: Callable[..., Broker]) -> None:
    taken = Console(start_broker(config=MANAGED)).address
    second = Broker(config={**MANAGED, "management": {"bind": taken}})
    try:
        second.spawn()
        assert second.wait() == 3
        reason = second.events("broker.cannot-start")[0]["reason"]
        assert f"cannot listen on {taken}: the port is taken" in reason
        assert second.events("worker.spawned") == []
    finally:
        second.discard()
