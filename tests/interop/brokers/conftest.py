"""RabbitMQ and ActiveMQ for the tests of the client: each started by the first test that needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.interop.brokers.rivals import RIVALS, CannotStart, Rival

Started = Callable[[str], Rival]


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """The broker of that name, running; the test is skipped where it is not installed or does not start."""
    running: dict[str, Rival | CannotStart] = {}

    def start(name: str) -> Rival:
        if name not in running:
            rival = RIVALS[name](tmp_path_factory.mktemp(name))
            try:
                rival.start()
            except CannotStart as error:
                running[name] = error
            else:
                running[name] = rival
        found = running[name]
        if isinstance(found, CannotStart):
            pytest.skip(str(found))
        return found

    yield start
    for found in running.values():
        if isinstance(found, Rival):
            found.stop()


@pytest.fixture(params=list(RIVALS))
def rival(request: pytest.FixtureRequest, started: Started) -> Rival:
    """Each of the two in turn."""
    return started(request.param)


@pytest.fixture
def rabbitmq(started: Started) -> Rival:
    return started("rabbitmq")


@pytest.fixture
def activemq(started: Started) -> Rival:
    return started("activemq")
