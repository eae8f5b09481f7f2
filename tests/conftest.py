"""Fixtures of the tests that run the broker: one shared by the quick ones, a factory for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.harness.broker import Broker
from tests.harness.wire import Headers, Wire, connect_on

MAIN, BEATING, HASTY, HOSTED = range(4)
"""The listeners of the shared broker, as indexes of `Broker.addresses`."""

SHARED_CONFIG: dict[str, object] = {
    "listener": [
        {"bind": "127.0.0.1:0"},
        {"bind": "127.0.0.1:0", "heart_beat": {"minimum": "200ms", "wish": "200ms"}},
        {"bind": "127.0.0.1:0", "connect_timeout": "300ms"},
        {"bind": "127.0.0.1:0", "hosts": ["alpha.example", "beta.example"]},
    ],
}

Connect = Callable[..., Wire]
StartBroker = Callable[..., Broker]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "statement(number, ...): the lines of statements.toml this test is the proof of")


@pytest.fixture(scope="session")
def shared_broker() -> Iterator[Broker]:
    """Two workers and the listeners of `SHARED_CONFIG`; for tests that neither harm it nor configure it."""
    # At debug level the end of every connection is logged, not only of those that failed.
    with Broker(workers=2, config=SHARED_CONFIG, log_level="debug") as broker:
        yield broker


@pytest.fixture
def broker(shared_broker: Broker) -> Iterator[Broker]:
    """The shared broker, found alive and without a fault in its log after the test."""
    yield shared_broker
    shared_broker.check_log()
    if shared_broker.returncode is not None or shared_broker.events("worker.exited"):
        raise shared_broker.failure("the shared broker lost a worker, or its life")


@pytest.fixture
def start_broker() -> Iterator[StartBroker]:
    """Starts a broker of the test's own with the arguments of `Broker`; stopped and checked at its end."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Broker(**settings))


@pytest.fixture
def wire(broker: Broker) -> Iterator[Callable[..., Wire]]:
    """Opens a socket to a listener of the shared broker, without logging in."""
    with ExitStack() as stack:

        def opened(listener: int = MAIN) -> Wire:
            return stack.enter_context(Wire(broker.addresses[listener]))

        yield opened


@pytest.fixture
def connect(broker: Broker) -> Iterator[Connect]:
    """Logs in to the shared broker, on worker 0 unless told otherwise, and closes after the test."""
    with ExitStack() as stack:

        def connected(
            version: str = "1.2", headers: Headers = (), *, slot: int | None = 0, listener: int = MAIN
        ) -> Wire:
            return stack.enter_context(connect_on(broker, slot, version, headers, listener=listener))

        yield connected
