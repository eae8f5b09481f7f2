"""Where the tests of queues take place: on one worker, and with producer, consumer and owner spread over two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.harness.broker import Broker
from tests.protocol.site import PLACES, Site

POLICIES = [
    {"pattern": "/queue/few.#", "max_messages": 3, "when_full": "reject"},
    {"pattern": "/queue/small.#", "max_bytes": 2000, "when_full": "reject"},
    {"pattern": "/queue/full.#", "max_messages": 3, "when_full": "block"},
    {"pattern": "/queue/last.#", "max_messages": 3, "when_full": "drop-head"},
    {"pattern": "/queue/lean.#", "max_bytes": 2000, "when_full": "drop-head"},
    {"pattern": "/queue/late.#", "expired": "dead-letter"},
    {"pattern": "/queue/twice.#", "redelivery_limit": 1, "redelivery_delay": 0.0},
    {"pattern": "/queue/often.#", "redelivery_limit": 3, "redelivery_delay": 0.0},
    {"pattern": "/queue/nowhere.#", "redelivery_limit": 1, "redelivery_delay": 0.0, "dead_letter": ""},
    {"pattern": "/queue/elsewhere.#", "redelivery_limit": 1, "dead_letter": "/queue/failed"},
    {"pattern": "/queue/memory.#", "persistent": False},
    {"pattern": "/queue/one.#", "prefetch": 1},
]


@pytest.fixture(scope="session")
def brokers() -> Iterator[dict[int, Broker]]:
    """Brokers with `POLICIES`, by their number of workers."""
    with ExitStack() as stack:
        yield {
            workers: stack.enter_context(Broker(workers=workers, config={"destination": POLICIES}, log_level="debug"))
            for workers in (1, 2)
        }


@pytest.fixture(params=PLACES, ids=[place.name for place in PLACES])
def site(request: pytest.FixtureRequest, brokers: dict[int, Broker]) -> Iterator[Site]:
    """Each of `PLACES` in turn; its broker is found alive and without a fault in its log after the test."""
    place = request.param
    broker = brokers[place.workers]
    with Site(broker, place) as site:
        yield site
    broker.check_log()
    if broker.returncode is not None or broker.events("worker.exited"):
        raise broker.failure("the broker lost a worker, or its life")
