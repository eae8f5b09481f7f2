"""The models: defaults, bounds of every key, and the way to the workers."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pydantic import ValidationError

from common.config import MAX_WORKERS, Broker, Config, Destination, Limits, Listener
from common.config.keys import KEYS
from common.config.kinds import Count, Duration, Factor, Kind, Size

BOUNDED = {name: key.kind for name, key in KEYS.items() if isinstance(key.kind, Count | Duration | Factor | Size)}


def nested(name: str, value: object) -> dict[str, Any]:
    """`value` at the dotted `name`, in the first element where a list is due."""
    first, *rest = name.split(".")
    inner: Any = value
    for part in reversed(rest):
        inner = {part: inner}
    if first == "destination" and isinstance(inner, dict):
        inner = {"pattern": "a", **inner}
    return {first: [inner] if first in ("listener", "destination") else inner}


def value_at(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
        value = value[0] if part in ("listener", "destination") else value
    return value


def test_the_keys_are_those_agreed_on() -> None:
    assert list(KEYS) == [
        *(f"broker.{n}" for n in ("workers", "data_dir", "runtime_dir", "drain_timeout", "announce_version")),
        *(f"listener.{n}" for n in ("bind", "backlog", "hosts", "connect_timeout")),
        *(f"listener.heart_beat.{n}" for n in ("wish", "minimum", "maximum", "send_factor", "receive_factor")),
        *(
            f"limits.{n}"
            for n in (
                *("connections", "command_bytes", "header_count", "header_line_bytes", "head_bytes"),
                *("login_head_bytes", "body_bytes", "destination_bytes", "subscriptions", "unacknowledged"),
                *("transactions", "transaction_frames", "transaction_bytes"),
            )
        ),
        *(f"outbox.{n}" for n in ("high_bytes", "low_bytes", "max_bytes", "block_timeout", "linger")),
        *(
            f"destination.{n}"
            for n in (
                *("pattern", "slow_consumer", "persistent", "max_messages", "max_bytes", "when_full", "prefetch"),
                *("redelivery_limit", "redelivery_delay", "redelivery_delay_max", "dead_letter", "expired", "retain"),
            )
        ),
        *(
            f"queue.{n}"
            for n in (
                *("window_messages", "window_bytes", "max_queues", "idle_timeout", "handoff_bytes"),
                *("idempotency_window", "idempotency_keys"),
            )
        ),
        *("retained.max_messages", "retained.max_bytes"),
        *(f"store.{n}" for n in ("quota_bytes", "pending_bytes", "wal_bytes", "retry_interval")),
        *(f"backplane.{n}" for n in ("high_water_mark", "retry_interval", "kept_bytes", "kept_total_bytes")),
        "cache.header_blocks_bytes",
        *(
            f"supervision.{n}"
            for n in ("ping_interval", "hang_timeout", "start_timeout", "backoff_initial", "backoff_max")
        ),
        *(f"management.{n}" for n in ("bind", "hosts")),
        *(f"log.{n}" for n in ("format", "level")),
    ]


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
def test_every_key_has_a_reason_and_a_default_that_is_allowed(key: Any) -> None:
    assert len(key.description) > 60 or key.name == "log.format"
    if not key.required:
        assert key.kind.parse(key.default) == key.default


@pytest.mark.parametrize(("name", "kind"), BOUNDED.items(), ids=list(BOUNDED))
def test_bounds_are_exact(name: str, kind: Count | Duration | Factor | Size) -> None:
    step = 1 if isinstance(kind, Count | Size) else 1e-6
    for inside in (kind.low, kind.high):
        assert value_at(Config.model_validate(nested(name, inside)), name) == inside
    for outside in (kind.low - step, kind.high + step):
        with pytest.raises(ValidationError, match=r"too small|too large|negative"):
            Config.model_validate(nested(name, outside))


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("value", [{}, [[]], 1e999, object, ""], ids=["table", "list", "inf", "type", "empty"])
def test_no_key_takes_a_value_of_another_kind(name: str, value: object) -> None:
    if name == "listener.hosts" and value == "":
        # An empty variable means no names at all.
        assert Config.model_validate(nested(name, value)).listener[0].hosts == ()
        return
    if name in ("management.bind", "management.hosts") and value == "":
        assert Config.model_validate(nested(name, value)) == Config(), "off, and no further names"
        return
    if name == "destination.dead_letter" and value == "":
        assert Destination(pattern="a", dead_letter="").dead_letter == "", "none"
        return
    with pytest.raises(ValidationError):
        Config.model_validate(nested(name, value))


def test_a_config_survives_the_way_to_the_workers() -> None:
    config = Config.model_validate(
        {
            "broker": {"workers": 3, "runtime_dir": "/run/stampede", "announce_version": False},
            "listener": [{"bind": "[::1]:0", "hosts": ["a.example", "b"]}, {"heart_beat": {"wish": "0s"}}],
            "limits": {"body_bytes": "1.5MiB"},
            "outbox": {"max_bytes": "16GiB"},
            "destination": [
                {"pattern": "/topic/ticks.>", "slow_consumer": "drop"},
                {"pattern": "a", "dead_letter": ""},
            ],
            "queue": {"idle_timeout": "90s"},
            "store": {"quota_bytes": "5GB"},
        }
    )
    sent = msgpack.unpackb(msgpack.packb(config.model_dump(mode="json")))
    assert Config.model_validate(sent) == config
    assert config.limits.body_bytes == 3 << 19


def test_the_default_config_survives_it_too() -> None:
    assert Config.model_validate(Config().model_dump(mode="json")) == Config()


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Config().limits.body_bytes = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("bind", "host", "port"),
    [
        ("127.0.0.1:61613", "127.0.0.1", 61613),
        ("[::1]:0", "::1", 0),
        ("[fe80::1%eth0]:5", "fe80::1%eth0", 5),
        ("localhost:65535", "localhost", 65535),
        ("a-b.example.org:1", "a-b.example.org", 1),
    ],
)
def test_an_address_is_taken_apart(bind: str, host: str, port: int) -> None:
    listener = Listener(bind=bind)
    assert (listener.host, listener.port) == (host, port)


@pytest.mark.parametrize(
    ("bind", "problem"),
    [
        ("61613", "no port"),
        ("localhost", "no port"),
        ("localhost:", "no port"),
        ("[::1]", "no port"),
        (":61613", "no host"),
        ("::1:61613", "without brackets"),
        ("[::g]:1", "not an IPv6 address"),
        ("[127.0.0.1]:1", "not an IPv6 address"),
        ("127.0.0.256:1", "not an IPv4 address"),
        ("127.1:1", "not an IPv4 address"),
        ("localhost:65536", "not a port"),
        ("localhost:-1", "not a port"),
        ("localhost:٣", "not a port"),
        ("localhost:http", "not a port"),
        ("tcp://localhost:1", "without brackets"),
        ("my host:1", "not a host name"),
        ("-x:1", "not a host name"),
        (f"{'a.' * 130}:1", "not a host name"),
    ],
)
def test_what_is_no_address(bind: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Listener(bind=bind)


@pytest.mark.parametrize("pattern", ["/topic/a", "a.*.b", "/topic/#.x", "/topic/>", "a.>", "a>b.c", ">"])
def test_patterns(pattern: str) -> None:
    assert Config.model_validate(nested("destination.pattern", pattern)).destination[0].pattern == pattern


@pytest.mark.parametrize("pattern", ["", "a\0b", "a\n", "/topic/>.a", "a.>.b", "\udc80", 5])
def test_what_is_no_pattern(pattern: object) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(nested("destination.pattern", pattern))


def test_automatic_workers_are_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6})
    assert Broker().worker_count() == 3
    assert Broker(workers=7).worker_count() == 7
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)))
    assert Broker().worker_count() == MAX_WORKERS


@pytest.mark.parametrize(("files", "connections"), [(1024, 768), (100, 1), (2_000_000, 1_000_000)])
def test_automatic_connections_leave_files_for_the_broker(files: int, connections: int) -> None:
    assert Limits().connection_count(files) == connections
    assert Limits(connections=5).connection_count(files) == 5


def test_without_a_limit_of_open_files_connections_are_limited_still() -> None:
    assert Limits().connection_count(resource.RLIM_INFINITY) == 1_000_000


@pytest.mark.parametrize("name", ["", "/queue/failed", "/queue/dlq.{name}", "/queue/{name}.dead", "/queue/a b*"])
def test_dead_letter_queues(name: str) -> None:
    assert Destination(pattern="/queue/>", dead_letter=name).dead_letter == name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("dlq", "not a queue"),
        ("/topic/failed.{name}", "not a queue"),
        ("{name}", "not a queue"),
        ("/queue/", "not a queue"),
        ("/queue/{name}", "each queue would be its own"),
        ("/queue/{queue}", "braces"),
        ("/queue/{name}.{name}", "braces"),
        ("/queue/dlq.{name", "braces"),
        ("/queue/dlq.*", "a pattern"),
        ("/queue/dlq.\n", "cannot be printed"),
    ],
)
def test_what_is_no_dead_letter_queue(name: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Destination(pattern="/queue/>", dead_letter=name)


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "\udcff", 3])
def test_what_is_no_directory(path: object) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"broker": {"data_dir": path}})


def test_directories_are_paths() -> None:
    assert Config().broker.data_dir == Path("stampede-data")
    assert Config().broker.runtime_dir is None


def test_every_kind_describes_itself() -> None:
    kinds: set[Kind] = {key.kind for key in KEYS.values()}
    assert all(kind.allowed() and kind.name for kind in kinds)
