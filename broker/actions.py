"""What the supervisor asks the front to do."""

from __future__ import annotations

from dataclasses import dataclass

from common.exitcodes import ExitCode
from common.log import Event, Level

__all__ = [
    "Abort",
    "Action",
    "Announce",
    "Finish",
    "Kill",
    "Report",
    "SendDrain",
    "SendPing",
    "SendRoster",
    "Spawn",
]


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for `slot`, then call `spawned`, or `exited` when there is none."""

    slot: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class SendRoster:
    """Send `members` (`(slot, incarnation, endpoint)` of every live worker) to each of `slots`."""

    slots: tuple[int, ...]
    members: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class SendPing:
    slot: int
    number: int


@dataclass(frozen=True, slots=True)
class SendDrain:
    slot: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Abort:
    """Make the worker dump its stacks and die, also when it is stopped."""

    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    slot: int


@dataclass(frozen=True, slots=True)
class Announce:
    """`ready` workers accept clients. `first` is true once in a broker's life: all do for the first time."""

    ready: int
    first: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Log this."""

    level: Level
    event: Event
    fields: dict[str, object]


@dataclass(frozen=True, slots=True)
class Finish:
    """No worker is left: exit with `code`."""

    code: ExitCode


Action = Spawn | SendRoster | SendPing | SendDrain | Abort | Kill | Announce | Report | Finish
