"""What clients say about queues in the headers of SUBSCRIBE and NACK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.acknowledgement import AckMode
from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version
from worker.queues.subscription import QueueSubscription

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core

__all__ = ["Nack", "parse_nack", "queue_subscription"]

_LONGEST = 365 * 24 * 3600 * 1000
"""Milliseconds a NACK may put a message off."""


@dataclass(frozen=True, slots=True)
class Nack:
    """What a NACK asks for: to deliver again after `delay` ms, None for what the policy says; or, without `requeue`, to
    dead-letter, with the client's `reason`."""

    delay: int | None
    requeue: bool
    reason: str


def parse_nack(frame: Frame) -> Nack:
    """Raises StompError `bad-value`."""
    delay = frame.get("delay")
    return Nack(
        None if delay is None else _number("delay", delay, _LONGEST),
        _flag(frame, "requeue", default=True),
        frame.get("reason") or "",
    )


def queue_subscription(
    core: Core, connection: Connection, frame: Frame, queue: bytes, id: str | None, number: int, mode: AckMode
) -> QueueSubscription:
    """The subscription that a SUBSCRIBE to a queue asks for. Raises StompError `bad-value`."""
    most = core.settings.unacknowledged
    prefetch = core.settings.queue_policies.find(queue).prefetch
    for name in ("prefetch-count", "activemq.prefetchSize"):
        value = frame.get(name)
        if value is not None:
            # Elsewhere 0 stands for no limit; here there is one, which is the subscription's own.
            prefetch = min(_number(name, value, 1 << 31), most) or most
            break
    return QueueSubscription(
        connection,
        queue,
        id,
        number,
        mode,
        Version.V1_2 if connection.version is None else connection.version,
        frame.get("selector") or "",
        core.queues.owner_of(queue),
        prefetch,
        exclusive=_flag(frame, "exclusive", default=False),
    )


def _flag(frame: Frame, name: str, *, default: bool) -> bool:
    value = frame.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise StompError(
            ErrorCode.BAD_VALUE, f"bad {name} header", f"{name} was {value[:80]!r}; it takes true or false"
        )
    return value == "true"


def _number(name: str, value: str, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 16 and int(value) <= most):
        raise StompError(
            ErrorCode.BAD_VALUE,
            f"bad {name} header",
            f"{name} was {value[:80]!r}; it takes a whole number from 0 to {most}",
        )
    return int(value)
