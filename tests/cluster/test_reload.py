"""SIGHUP: a new configuration is taken whole, by the front and every worker, or not at all."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.actors import LONG, Publisher, Subscriber, join_all, wait_standstill
from tests.cluster.conftest import ConnectOn
from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import Wire

Topic = Callable[[], str]
Config = Mapping[str, object]


def limits(**changes: object) -> Config:
    return {"limits": {"body_bytes": "1MiB", **changes}}


def reload(broker: Broker, config: Config) -> str:
    """Have the broker take `config`, and wait until every process goes by it; the keys the front names."""
    processes = ["front", *(f"worker-{slot}" for slot in range(broker.workers))]
    before = {process: len(broker.events("config.reloaded", process=process)) for process in processes}
    broker.write_config(config)
    os.kill(broker.pid, signal.SIGHUP)
    for process in processes:
        broker.wait_event("config.reloaded", process=process, count=before[process] + 1, timeout=LONG)
    return str(broker.events("config.reloaded", process="front")[-1]["changed"])


def refusals(broker: Broker) -> list[str]:
    """Have the broker read its file, which it is to refuse; its reasons."""
    before = len(broker.events("broker.signal"))
    for count in (1, 2):
        # Twice: what is written about the second signal comes after all about the first.
        os.kill(broker.pid, signal.SIGHUP)
        broker.wait_event("broker.signal", count=before + count, timeout=LONG)
    events = broker.events(process="front")
    first, second = [place for place, event in enumerate(events) if event["event"] == "broker.signal"][before:]
    assert {event["event"] for event in events[first + 1 : second]} == {"config.refused"}
    return [event["reason"] for event in events[first + 1 : second]]


def assert_limit(wire: Wire, destination: str, size: int) -> None:
    """A body of `size` bytes is taken on this live connection, one byte more ends it; both in a known header block."""
    wire.subscribe(destination)
    for _ in range(3):
        wire.publish(destination, b"x" * size)
        assert len(wire.expect("MESSAGE").body) == size
    wire.publish(destination, b"x" * (size + 1))
    assert f"limit is {size}" in wire.expect_error("body-too-large").body.decode()


# --- taken


def test_a_lower_limit_holds_for_live_connections_and_new_ones(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    broker, name = start_broker(workers=2, config=limits()), topic()
    live = [on(broker, slot) for slot in (0, 1)]
    for wire in live:
        wire.subscribe(name + wire.session)
        for _ in range(4):
            # Often enough for the header block to be known, under the limits of its time.
            wire.publish(name + wire.session, b"x" * 1001)
            assert len(wire.expect("MESSAGE").body) == 1001
    assert reload(broker, limits(body_bytes=1000)) == "limits.body_bytes"
    for wire in live:
        wire.publish(name + wire.session, b"x" * 1001)
        assert "limit is 1000" in wire.expect_error("body-too-large").body.decode()
        assert_limit(on(broker, wire.slot), name, 1000)
    assert reload(broker, limits(body_bytes=2000)) == "limits.body_bytes"
    for slot in (0, 1):
        assert_limit(on(broker, slot), name, 2000)
    assert reload(broker, limits(body_bytes=2000)) == "nothing"


def test_what_a_connection_has_already_stays_and_more_is_held_to_the_new_limits(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    broker, name = start_broker(workers=1, config=limits()), topic()
    subscriber, holder = on(broker, 0), on(broker, 0)
    for number in range(3):
        subscriber.subscribe(f"{name}.{number}", id=str(number))
        holder.request("BEGIN", [("transaction", str(number))])
    assert reload(broker, limits(subscriptions=2, transactions=2, connections=2)) == (
        "limits.connections, limits.subscriptions, limits.transactions"
    )
    holder.request("SEND", [("destination", f"{name}.2"), ("transaction", "1")], b"kept")
    holder.request("COMMIT", [("transaction", "1")])
    assert subscriber.expect("MESSAGE").body == b"kept"
    holder.request("ABORT", [("transaction", "0")])
    holder.request("BEGIN", [("transaction", "another")])
    with Wire(broker.address) as third:
        third.expect_error("too-many-connections")
    holder.frame("BEGIN", [("transaction", "one more")])
    holder.expect_error("too-many-transactions")
    subscriber.frame("SUBSCRIBE", [("destination", name), ("id", "more")])
    subscriber.expect_error("too-many-subscriptions")


def test_a_listeners_rules_hold_for_the_connections_it_accepts_from_then_on(
    start_broker: StartBroker, on: ConnectOn
) -> None:
    def listener(beat: str, **more: object) -> Config:
        beats = {"minimum": beat, "wish": beat, "maximum": "60s"}
        return {"listener": [{"bind": "127.0.0.1:0", "heart_beat": beats, **more}]}

    broker = start_broker(workers=2, config=listener("200ms"))
    live = [on(broker, slot, headers=[("heart-beat", "0,200")]) for slot in (0, 1)]
    assert reload(broker, listener("30s", hosts=["localhost"], connect_timeout="300ms")) == (
        "listener[0].hosts, listener[0].connect_timeout, listener[0].heart_beat.wish, listener[0].heart_beat.minimum"
    )
    for slot in (0, 1):
        connected = on(broker, slot).connected
        assert connected is not None and connected["heart-beat"] == "30000,30000"
    with Wire(broker.address) as silent, Wire(broker.address) as stranger:
        stranger.send(b"CONNECT\naccept-version:1.2\nhost:elsewhere\n\n\0")
        stranger.expect_error("unknown-host")
        silent.expect_error("connect-timeout")
    for wire in live:
        assert len(wire.collect_beats(1.0)) >= 2, "what was agreed with the client stays"


def test_a_policy_that_blocks_no_more_frees_the_publishers_at_once(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    name = topic()
    outbox = {"outbox": {"high_bytes": "256KiB", "low_bytes": "64KiB", "block_timeout": "100s"}}
    broker = start_broker(workers=2, config=outbox)
    slow = on(broker, 1, receive_buffer=4096)
    slow.subscribe(name)
    publishers = [Publisher(on(broker, slot), f"p{slot}", name, padding=5000) for slot in (0, 1)]
    for publisher in publishers:
        publisher.start()
    wait_standstill(publishers, [])
    sent = [publisher.sent for publisher in publishers]
    assert reload(broker, {**outbox, "destination": [{"pattern": name, "slow_consumer": "drop"}]}) == "destination"
    for publisher, stalled in zip(publishers, sent, strict=True):
        publisher.wait_sent(stalled + 500)
    broker.wait_event("subscriber.dropping", process="worker-1", destination=name, timeout=LONG)
    for publisher in publishers:
        publisher.stop()
    join_all(publishers)
    assert not broker.events("connection.closed")


def test_the_log_level_of_every_process(start_broker: StartBroker, on: ConnectOn) -> None:
    broker = start_broker(workers=2, config={"log": {"level": "info"}}, log_level=None)
    for slot in (0, 1):
        on(broker, slot).request("DISCONNECT")
    assert reload(broker, {"log": {"level": "debug"}}) == "log.level"
    assert not broker.events(level="debug")
    for slot in (0, 1):
        on(broker, slot).request("DISCONNECT")
        broker.wait_event("connection.closed", level="debug", process=f"worker-{slot}")
    broker.write_config({"log": {"level": "error"}})
    os.kill(broker.pid, signal.SIGHUP)
    broker.wait_event("broker.signal", count=2)
    # The signal's line was written under the old level; from the next on there is nothing but faults.
    os.kill(broker.pid, signal.SIGTERM)
    assert broker.wait(15) == 0
    assert len(broker.events("broker.signal")) == 2 and not broker.events("broker.draining")


def test_a_worker_started_later_has_the_new_configuration(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    broker = start_broker(workers=2, config=limits())
    reload(broker, {**limits(body_bytes=1000), "supervision": {"backoff_initial": "50ms"}})
    os.kill(broker.worker_pids()[1], signal.SIGKILL)
    assert broker.wait_event("worker.backoff")["delay"] == 0.05
    broker.wait_event("worker.ready", slot=1, incarnation=2, timeout=LONG)
    assert_limit(on(broker, 1), topic(), 1000)


def test_a_reload_while_the_workers_start_reaches_them_all(on: ConnectOn, topic: Topic) -> None:
    broker = Broker(workers=2, config=limits())
    with ExitStack() as stack:
        stack.callback(broker.discard)
        broker.spawn()
        broker.wait_event("worker.spawned", slot=1, timeout=LONG)
        assert not broker.events("worker.ready")
        reload(broker, limits(body_bytes=1000))
        for slot in (0, 1):
            broker.wait_event("worker.ready", slot=slot, timeout=LONG)
        host, port = broker.wait_event("listener.bound")["address"].split(":")
        broker.addresses = [(host, int(port))]
        for slot in (0, 1):
            assert_limit(on(broker, slot), topic(), 1000)
        broker.stop()
        broker.check_log()


def test_reloads_under_load_lose_nothing(start_broker: StartBroker, on: ConnectOn, topic: Topic) -> None:
    broker, name = start_broker(workers=3, config=limits()), topic()
    publishers = [Publisher(on(broker, slot), f"p{slot}", name, most_at_once=5) for slot in range(3)]
    subscribers = []
    for slot in range(3):
        wire = on(broker, slot)
        wire.subscribe(name)
        subscribers.append(Subscriber(wire, f"s{slot}", ["p0", "p1", "p2"]))
    for actor in (*publishers, *subscribers):
        actor.start()
    for turn in range(12):
        publishers[turn % 3].wait_sent(publishers[turn % 3].sent + 100)
        changed: Config = {
            "limits": {"body_bytes": 100_000 + turn, "head_bytes": 70_000 + turn},
            "outbox": {"high_bytes": f"{4 + turn % 2}MiB"},
            "cache": {"header_blocks_bytes": f"{turn % 3}MiB"},
            "destination": [{"pattern": f"/topic/other.{turn}"}][: turn % 2],
            "supervision": {"ping_interval": f"{100 + turn}ms"},
        }
        assert "limits.body_bytes" in reload(broker, changed)
    for publisher in publishers:
        publisher.stop()
    join_all([*publishers, *subscribers])
    assert not broker.events("connection.closed") and not broker.events("worker.exited")


# --- refused


def test_a_configuration_with_mistakes_changes_nothing_and_each_is_named(
    start_broker: StartBroker, on: ConnectOn, topic: Topic
) -> None:
    broker = start_broker(workers=2, config=limits(body_bytes=1000))
    broker.write_config({"limits": {"body_bytes": 5, "transactions": 0}, "outbox": {"hihg_bytes": 1}})
    path = str(broker.config_path)
    reasons = refusals(broker)
    assert len(reasons) == 2 and all(reason.startswith(f"{path}: ") for reason in reasons)
    assert any("limits.transactions = 0: too small" in reason for reason in reasons)
    assert any("outbox.hihg_bytes = 1: unknown key" in reason for reason in reasons)
    broker.config_path.write_text("[limits]\nbody_bytes = ")
    assert "not valid TOML" in refusals(broker)[0]
    broker.config_path.unlink()
    assert f"{path}: cannot be read: No such file" in refusals(broker)[0]


@pytest.mark.parametrize("mistake", [{"limits": {"transactions": 0}}, {"backplane": {"high_water_mark": 7}}])
def test_a_refused_configuration_leaves_the_running_one(
    start_broker: StartBroker, on: ConnectOn, topic: Topic, mistake: dict[str, dict[str, object]]
) -> None:
    broker = start_broker(workers=2, config=limits(body_bytes=1000))
    broker.write_config({**mistake, "limits": {"body_bytes": 5, **mistake.get("limits", {})}})
    os.kill(broker.pid, signal.SIGHUP)
    broker.wait_event("config.refused")
    # Whatever the refused one had sent would be read before the Configure of this one.
    assert reload(broker, limits(body_bytes=1000, transactions=9)) == "limits.transactions"
    assert len(broker.events("config.refused")) == 1
    assert len(broker.events("config.reloaded")) == 3
    for slot in (0, 1):
        assert_limit(on(broker, slot), topic(), 1000)


def test_a_key_that_needs_a_restart_is_refused_by_its_name(start_broker: StartBroker) -> None:
    first = {"bind": "127.0.0.1:0"}
    broker = start_broker(workers=1, config={"listener": [first]})
    broker.write_config({"listener": [{**first, "backlog": 7}], "backplane": {"retry_interval": "1s"}})
    assert refusals(broker) == [
        "listener[0].backlog = 7: needs a restart; the broker runs with 4096",
        'backplane.retry_interval = "1s": needs a restart; the broker runs with "20ms"',
    ]
    broker.write_config({"listener": [first, first]})
    assert refusals(broker) == ["listener = 2 tables: needs a restart; the broker runs with 1 table"]


# --- the service manager


def test_the_service_manager_hears_of_the_beginning_and_the_end(start_broker: StartBroker) -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(Path(directory) / "notify")
        manager.bind(path)
        manager.settimeout(20)
        broker = start_broker(workers=1, config=limits(), environment={"NOTIFY_SOCKET": path})

        def hear(start: str) -> list[str]:
            while not (state := manager.recv(4096).decode()).startswith(start):
                continue
            return state.split("\n")

        hear("READY=1")
        for config, ending in ((limits(body_bytes=5), ""), (limits(body_bytes=-5), "; the last reload was refused")):
            broker.write_config(config)
            os.kill(broker.pid, signal.SIGHUP)
            assert hear("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
            ready, status = manager.recv(4096).decode().split("\n")
            assert ready == "READY=1"
            assert status.startswith("STATUS=1 of 1 worker ready on 127.0.0.1:") and ending in status
            assert ("refused" in status) is bool(ending)
