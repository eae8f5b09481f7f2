"""Brokers for the clients that others wrote: two and four workers, each with a listener that beats fast."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.harness.broker import Broker
from tests.protocol.site import queue_owned_by

MAIN, BEATING = range(2)
"""The listeners, as indexes of `Broker.addresses`."""

BEAT_MS = 600
"""What the listener BEATING promises at its fastest and asks of its clients. stomp.py gives up when one is late by half
of that, which a busy machine must not bring about."""

CONFIG: dict[str, object] = {
    "listener": [
        {"bind": "127.0.0.1:0"},
        {"bind": "127.0.0.1:0", "heart_beat": {"minimum": f"{BEAT_MS}ms", "wish": f"{BEAT_MS}ms"}},
    ],
}

_numbers = itertools.count()


@pytest.fixture(scope="session", params=[2, 4], ids=["2-workers", "4-workers"])
def session_cluster(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with Broker(workers=request.param, config=CONFIG) as broker:
        yield broker


@pytest.fixture
def cluster(session_cluster: Broker) -> Iterator[Broker]:
    """A broker of several workers, shared by tests that harm none of them."""
    yield session_cluster
    session_cluster.check_log()
    if session_cluster.returncode is not None or session_cluster.events("worker.exited"):
        raise session_cluster.failure("the shared broker lost a worker, or its life")


@pytest.fixture
def topic() -> Callable[[], str]:
    """Makes destinations that no other test uses."""
    return lambda: f"/topic/interop.{next(_numbers)}"


@pytest.fixture
def queue(cluster: Broker) -> Callable[[], str]:
    """Makes queues that no other test uses, owned by the last worker: the tests' clients are on others."""
    return lambda: queue_owned_by(cluster.workers - 1, cluster.workers, "interop")
