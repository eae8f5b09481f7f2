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
    """A broker of that many workers, for tests that leave it alive, with queues of their own."""
    with ExitStack() as stack:
        started: dict[int, Mortal] = {}

        def mortal(workers: int) -> Mortal:
            if workers not in started:
                started[workers] = stack.enter_context(Mortal(workers))
            return started[workers]

        yield mortal


@pytest.fixture
def unused() -> int:
    """A number no other test of this process has: for `queue_owned_by`."""
    return next(_numbers)
