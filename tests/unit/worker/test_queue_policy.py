"""Which policy is for which queue, and where dead letters go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.config import Config, Destination
from worker.queues import policy
from worker.queues.policy import DEFAULT_POLICY, Policies, QueuePolicy
from worker.settings import Settings


def policies(*rules: dict[str, Any]) -> Policies:
    return Policies.of(Config.model_validate({"destination": rules}))


def with_dead_letter(template: str) -> QueuePolicy:
    return QueuePolicy.of(Destination(pattern="#", dead_letter=template))


def test_every_key_of_a_rule_arrives() -> None:
    found = policies(
        {
            "pattern": "/queue/a",
            "persistent": False,
            "max_messages": 3,
            "max_bytes": "4kB",
            "when_full": "drop-head",
            "prefetch": 5,
            "redelivery_limit": 6,
            "redelivery_delay": "1.5ms",
            "redelivery_delay_max": "8s",
            "dead_letter": "/queue/failed",
            "expired": "dead-letter",
            "retain": "last",
        }
    ).find(b"/queue/a")
    assert found == QueuePolicy(False, 3, 4000, "drop-head", 5, 6, 2, 8000, "/queue/failed", True, True)


def test_the_defaults_are_those_of_the_configuration() -> None:
    expected = QueuePolicy(True, 0, 0, "block", 100, 20, 100, 30_000, "/queue/dlq.{name}", False, False)
    assert expected == DEFAULT_POLICY
    assert policies().find(b"/queue/a") == expected
    assert policies({"pattern": "/queue/b"}).find(b"/queue/b") == expected


def test_the_first_rule_that_matches_wins_whatever_is_more_exact() -> None:
    found = policies(
        {"pattern": "/queue/a.>", "prefetch": 1},
        {"pattern": "/queue/a.b", "prefetch": 2},
        {"pattern": "/queue/#", "prefetch": 3},
    )
    for name, prefetch in ((b"/queue/a.b", 1), (b"/queue/a", 3), (b"/queue/c", 3), (b"/topic/a", 100)):
        assert found.find(name).prefetch == prefetch
        assert found.find(name) is found.find(name)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_MAX_FOUND", 10)
    found = policies({"pattern": "/queue/a.*", "prefetch": 1})
    for number in range(100):
        assert found.find(b"/queue/a.%d" % number).prefetch == 1
        assert len(found._found) <= 10


@pytest.mark.parametrize(
    ("template", "queue", "expected"),
    [
        ("/queue/dlq.{name}", "/queue/orders.eu", "/queue/dlq.orders.eu"),
        ("/queue/dlq.{name}", "/queue/dlq", "/queue/dlq.dlq"),
        ("/queue/{name}.dead", "/queue/orders", "/queue/orders.dead"),
        ("/queue/failed", "/queue/orders", "/queue/failed"),
        ("", "/queue/orders", None),
        # Dead letter queues have none themselves.
        ("/queue/dlq.{name}", "/queue/dlq.orders", None),
        ("/queue/dlq.{name}", "/queue/dlq.dlq.orders", None),
        ("/queue/failed", "/queue/failed", None),
        ("/queue/failed", "/queue/dlq.orders", None),
        ("/queue/failed.{name}", "/queue/failed.orders", None),
        ("/queue/{name}.dead", "/queue/orders.dead", None),
        ("/queue/{name}.dead", "/queue/dlq.orders", None),
        ("/queue/a.{name}.a", "/queue/a.a", "/queue/a.a.a.a"),
    ],
)
def test_where_dead_letters_go(template: str, queue: str, expected: str | None) -> None:
    assert with_dead_letter(template).dead_letter_for(queue) == expected


def test_a_worker_s_settings_hold_queues_store_and_policies() -> None:
    config = Config.model_validate(
        {
            "broker": {"data_dir": "/srv/data"},
            "destination": [{"pattern": "/queue/a", "slow_consumer": "drop", "prefetch": 7}],
            "queue": {
                "window_messages": 101,
                "window_bytes": 102_000,
                "max_queues": 103,
                "idle_timeout": 104,
                "handoff_bytes": 105_000,
                "idempotency_window": 106,
                "idempotency_keys": 107,
            },
            "store": {"quota_bytes": 108, "pending_bytes": 109_000, "wal_bytes": 11_000_000, "retry_interval": 0.5},
        }
    )
    settings = Settings.of(config, "0", 1024)
    queue = settings.queue
    assert queue.data_dir == Path("/srv/data")
    assert (queue.window_messages, queue.window_bytes, queue.max_queues, queue.idle_timeout) == (101, 102_000, 103, 104)
    assert (queue.handoff_bytes, queue.idempotency_window, queue.idempotency_keys) == (105_000, 106, 107)
    assert (queue.quota_bytes, queue.pending_bytes, queue.wal_bytes, queue.retry_interval) == (
        *(108, 109_000, 11_000_000),
        0.5,
    )
    assert settings.queue_policies.find(b"/queue/a").prefetch == 7
    assert settings.policies == ((b"/queue/a", "drop"),)


def test_automatic_connections_follow_from_the_open_files_of_the_process() -> None:
    assert Settings.of(Config(), "0", 1024).connections == 768
    assert Settings.of(Config(), "0", -1).connections == 1_000_000
    assert Settings.of(Config.model_validate({"limits": {"connections": 5}}), "0", 1024).connections == 5
