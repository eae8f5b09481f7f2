"""A client that is not read from, because what it sends to is full: whether it is still there, and whether it waits for
itself. Nothing else would tell: its end comes behind what it sent, and is not read either."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from common.errors import CloseReason, ErrorCode, StompError

if TYPE_CHECKING:
    from worker.connection import Connection

__all__ = ["LOOK_EVERY", "has_ended", "look_at"]

LOOK_EVERY = 1.0
"""Seconds."""


def look_at(connection: Connection, now: float) -> None:
    """To be called every now and then, at `now` (seconds of the loop's clock), while `connection` is paused."""
    if connection.backlog is not None:
        # What it sent is on its way still.
        return
    if has_ended(connection.transport):
        connection.eof_received()
        return
    queue = _waits_for_itself(connection, now)
    if queue is not None:
        timeout = connection.core.settings.block_timeout
        connection.fail(
            StompError(
                ErrorCode.QUEUE_FULL,
                "queue is full, and its consumer waits for itself",
                f"this connection stood still for {timeout:g} seconds (outbox.block_timeout), because it sent to "
                f"{queue.decode(errors='replace')!r}, which is full, while it holds messages of it unacknowledged; "
                "consume on one connection and send on another, or have the queue `reject` (destination.when_full)",
            ),
            CloseReason.PROTOCOL_ERROR,
        )


def has_ended(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its side, or is gone, and nothing that it sent is left to be read."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    try:
        peer = socket.socket(fileno=os.dup(sock.fileno()))
    except OSError:
        # As many files are open as may be: at another time, then.
        return False
    with peer:
        try:
            return not peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def _waits_for_itself(connection: Connection, now: float) -> bytes | None:
    """The queue that it has been paused for too long for, while messages of it wait for its own ACKs."""
    paused = connection.paused_on or {}
    timeout = connection.core.settings.block_timeout
    for subscription in (connection.queues or {}).values():
        since = paused.get(subscription.name)
        if since is not None and subscription.keys and since + timeout <= now:
            return subscription.name
    return None
