"""What clients say about queues in the headers of SUBSCRIBE and NACK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.acknowledgement import AckMode
from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version
from common.selector import Selector
from worker.queues.feeds import DURABLE, SHARED, Feed
from worker.queues.subscription import QueueSubscription

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core

__all__ = ["Nack", "durable_name", "ends_durable", "parse_feed", "parse_nack", "queue_subscription"]

_NAME_BYTES = 256
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


def parse_feed(connection: Connection, frame: Frame, topics: bytes) -> Feed | None:
    """What a SUBSCRIBE to `topics` asks for, if it is to a durable or shared subscription. Raises StompError."""
    durable = _flag(frame, "durable", default=False) or frame.get("activemq.subscriptionName") is not None
    shared = _flag(frame, "shared", default=False)
    if not durable and not shared:
        return None
    if durable:
        queue = durable_name(connection, frame)
    else:
        name = frame.get("shared-name") or ""
        _check_name("shared-name", name)
        queue = SHARED + topics + b"/" + name.encode()
    return Feed(queue, topics, frame.get("selector") or "", shared, durable)


def ends_durable(frame: Frame) -> bool:
    """Whether an UNSUBSCRIBE is to end the durable subscription, and not only to leave it. Raises StompError
    `bad-value`."""
    return _flag(frame, "durable", default=False)


def durable_name(connection: Connection, frame: Frame) -> bytes:
    """The queue of the durable subscription that a SUBSCRIBE or UNSUBSCRIBE means. Raises StompError."""
    client = connection.client_id
    name = frame.get("durable-name") or frame.get("activemq.subscriptionName")
    if name is None:
        if client is None:
            raise StompError(
                ErrorCode.MISSING_HEADER,
                "durable subscription without a name",
                "give it one with the header durable-name, or say who subscribes with client-id on CONNECT, "
                "so that it is found again after a reconnect",
            )
        name = frame.get("id") or ""
    # A name may have dots, so the client-id has none: that of `a` for `b.c` is not that of `a.b` for `c`.
    full = name if client is None else f"{client.replace('%', '%25').replace('.', '%2E')}.{name}"
    _check_name("durable-name", full)
    return DURABLE + full.encode()


def _check_name(header: str, name: str) -> None:
    if len(name.encode()) > _NAME_BYTES or any(ord(each) < 32 for each in name):
        raise StompError(
            ErrorCode.BAD_VALUE,
            f"bad {header}",
            f"{header} was {name[:80]!r}; it has at most {_NAME_BYTES} bytes, with the client-id, and no control "
            "characters",
        )


def queue_subscription(
    core: Core,
    connection: Connection,
    frame: Frame,
    destination: bytes,
    id: str | None,
    number: int,
    mode: AckMode,
    selector: Selector | None,
    feed: Feed | None,
) -> QueueSubscription:
    """The subscription that a SUBSCRIBE to a queue, or to topics through `feed`, asks for. Raises StompError
    `bad-value`."""
    queue = destination if feed is None else feed.queue
    most = core.settings.unacknowledged
    prefetch = min(core.settings.queue_policies.find(destination).prefetch, most)
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
        selector,
        core.queues.owner_of(queue),
        prefetch,
        exclusive=_flag(frame, "exclusive", default=False),
        feed=feed,
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
