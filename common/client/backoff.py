"""How long a client waits between attempts to connect. Pure: no clock, and the chance is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double, in seconds: up to `first` before the second round over the addresses, then up to twice that,
    never over `longest`. Half of each wait is left to chance, so that the clients of a broker that comes back do not
    come all at once. `give_up_after` seconds without a connection the client ends, after one round at the earliest;
    None: never. Time with a connection does not count, and does not end the count if nothing came of it.

    What is sent again after an outage longer than the broker's `queue.idempotency_window` (10 minutes) may be in the
    queue twice, since the broker has forgotten its key."""

    first: float = 0.1
    longest: float = 10.0
    give_up_after: float | None = 300.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest:
            raise ValueError(f"a back-off from {self.first} s to {self.longest} s; it takes 0 < first <= longest")
        if self.give_up_after is not None and self.give_up_after < 0:
            raise ValueError(f"give_up_after was {self.give_up_after}; it takes seconds, or None for never")

    def wait(self, failures: int, chance: Callable[[], float]) -> float:
        """Seconds to wait after `failures` (1 or more) rounds without a connection; `chance` gives 0 to 1."""
        # 2.0 ** 1024 is too large a number, and 40 doublings are too many for anybody.
        most: float = min(self.longest, self.first * 2.0 ** min(failures - 1, 40))
        return most * (1 + chance()) / 2
