"""Fixtures of the crash tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.mortal import Mortal

Mortals = Callable[[int], Mortal]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def mortals() -> Iterator[Mortals]:
    """A broker of that many workers, for tests with queues of their own, that start again what they kill."""
    with ExitStack() as stack:
        started: dict[int, Mortal] = {}

        def mortal(workers: int) -> Mortal:
            if workers not in started:
                started[workers] = stack.enter_context(Mortal(workers))
            elif started[workers].broker.returncode is not None:
                # A test that failed left it dead.
                started[workers].start_again()
            return started[workers]

        yield mortal


@pytest.fixture
def unused() -> int:
    """The first of ten numbers no other test of this process has: for `queue_owned_by`."""
    return 10 * next(_numbers)
