"""Fixtures of the tests with several workers."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.harness.broker import Broker
from tests.harness.wire import Headers, Wire, connect_on

ConnectOn = Callable[..., Wire]
Clusters = Callable[[int], Broker]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def session_clusters() -> Iterator[Clusters]:
    with ExitStack() as stack:
        brokers: dict[int, Broker] = {}

        def cluster(workers: int) -> Broker:
            if workers not in brokers:
                brokers[workers] = stack.enter_context(Broker(workers=workers))
            return brokers[workers]

        yield cluster


@pytest.fixture
def cluster_of(session_clusters: Clusters) -> Iterator[Clusters]:
    """A broker of that many workers with the default configuration, for tests that harm none of them."""
    used: list[Broker] = []

    def cluster(workers: int) -> Broker:
        used.append(session_clusters(workers))
        return used[-1]

    yield cluster
    for broker in used:
        broker.check_log()
        if broker.returncode is not None or broker.events("worker.exited"):
            raise broker.failure("the shared broker lost a worker, or its life")


@pytest.fixture
def on() -> Iterator[ConnectOn]:
    """Logs in on a worker of a broker; the connection is closed after the test."""
    with ExitStack() as stack:

        def connected(
            broker: Broker,
            slot: int | None,
            version: str = "1.2",
            headers: Headers = (),
            *,
            listener: int = 0,
            receive_buffer: int | None = None,
        ) -> Wire:
            wire = connect_on(broker, slot, version, headers, listener=listener, receive_buffer=receive_buffer)
            return stack.enter_context(wire)

        yield connected


@pytest.fixture
def topic() -> Callable[[], str]:
    """Makes destinations that no other test uses."""
    return lambda: f"/topic/cluster.{next(_numbers)}.x"


@pytest.fixture
def mortal() -> Iterator[Callable[..., Broker]]:
    """Starts a broker whose end is the test's own business: it is killed, not asked, if it still runs after it."""
    with ExitStack() as stack:

        def started(**settings: object) -> Broker:
            broker = Broker(**settings)  # type: ignore[arg-type]
            stack.callback(broker.discard)
            broker.start()
            return broker

        yield started


@pytest.fixture
def many_files() -> Iterator[int]:
    """Lets this process open 8,000 files, or skips."""
    wanted = 8000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (OSError, ValueError):
            pytest.skip(f"needs {wanted} open files, the limit is {hard}: ulimit -Hn {wanted}")
    yield wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
