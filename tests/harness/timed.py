"""For tests that measure time on a machine that others use too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

__all__ = ["timed"]

P = ParamSpec("P")
ATTEMPTS = 4


def timed(test: Callable[P, None]) -> Callable[P, None]:
    """Let `test` fail up to three times before it counts.

    A machine that is short of time breaks any promise about time now and then, its tests' as well as the broker's; a
    broker that is wrong breaks it every time. Only for tests that demand that something happens within, or not
    before, so many milliseconds.
    """

    @functools.wraps(test)
    def again(*args: P.args, **kwargs: P.kwargs) -> None:
        for _ in range(ATTEMPTS - 1):
            try:
                return test(*args, **kwargs)
            except (AssertionError, OSError):
                continue
        return test(*args, **kwargs)

    return again
