"""Fixtures for tests of programs that speak STOMP: a broker of their own, nothing to install or start.

In the `conftest.py` of a test suite: `pytest_plugins = ["broker.pytest_plugin"]`. It is not loaded by itself: a test
run that needs no broker imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from broker.embedded import Settings
    from broker.injected_log import Log
    from broker.threaded import ThreadedBroker

__all__ = ["StartStampede", "stampede", "start_stampede"]


class StartStampede(Protocol):
    """`broker.embedded.Broker.in_thread`, started."""

    def __call__(
        self,
        config: Settings | None = None,
        *,
        workers: int | None = None,
        data_dir: Path | str | None = None,
        session_ids: Callable[[], str] | None = None,
        log: Log | None = None,
    ) -> ThreadedBroker: ...


@pytest.fixture(scope="session")
def stampede() -> Iterator[ThreadedBroker]:
    """A broker with one worker that all tests share: `stampede.address`, `stampede.url`, `stampede.events()`. Use
    destinations of your own in each test."""
    from broker import Broker

    with Broker.in_thread() as broker:
        yield broker


@pytest.fixture
def start_stampede() -> Iterator[StartStampede]:
    """Starts a broker of the test's own, as configured by its arguments; it is stopped after the test."""
    from broker import Broker

    with ExitStack() as stack:

        def start(
            config: Settings | None = None,
            *,
            workers: int | None = None,
            data_dir: Path | str | None = None,
            session_ids: Callable[[], str] | None = None,
            log: Log | None = None,
        ) -> ThreadedBroker:
            broker = Broker.in_thread(config, workers=workers, data_dir=data_dir, session_ids=session_ids, log=log)
            return stack.enter_context(broker)

        yield start
