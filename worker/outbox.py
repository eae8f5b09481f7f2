"""What waits for one client that does not keep up: bounded, and by whose means is the destination's policy.

A connection has an outbox only while its transport is full. Above `high` bytes the policy decides: `drop` the batch,
`disconnect` the client, or `block` the destination, which pauses its publishers until the outbox is down to `low`
bytes; for as long as `block_timeout` allows, and never above `max` bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker.flow import EVERYTHING

if TYPE_CHECKING:
    from worker.connection import Connection

__all__ = ["NEVER", "Outbox"]

NEVER = float("inf")
_CHUNK = 256 << 10
_MANY = 32
"""Destinations that one client holds up by name; beyond, it is all of them."""


class Outbox:
    """`congested` while the transport takes nothing; `size` in bytes; `deadline` is when a blocking client is given
    up (seconds of the loop's clock)."""

    __slots__ = ("_blocking", "_chunks", "_connection", "_given_up", "congested", "deadline", "size")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._blocking: set[bytes] = set()
        self._given_up = False
        self.congested = True
        self.deadline = NEVER
        self.size = 0

    def push(self, data: bytes) -> None:
        """Take an answer to the client's own frames. A client that never reads them is not read from any more."""
        self._chunks.append(data)
        self.size += len(data)
        connection = self._connection
        if self.size > connection.core.settings.outbox_high and not connection.closing:
            self._block(b"\0%d" % connection.number)

    def keep(self, blob: bytes) -> None:
        """Take what the client's own prefetch let through: that bounds it, and nobody else waits for it."""
        self._chunks.append(blob)
        self.size += len(blob)

    def offer(self, blob: bytes, destination: bytes, count: int, policy: str) -> None:
        """Take a batch of `count` messages, or do as the slow-consumer `policy` of its destination says."""
        if self._given_up:
            return
        connection = self._connection
        settings = connection.core.settings
        size = self.size + len(blob)
        if size > settings.outbox_high and self._chunks:
            if policy == "drop":
                if not connection.dropped:
                    connection.core.journal.dropping(connection, destination, self.size)
                connection.dropped += count
                connection.core.journal.dropped += count
                return
            if policy == "disconnect":
                self._give_up(f"more than {settings.outbox_high} bytes were waiting (outbox.high_bytes)")
                return
            if size > settings.outbox_max:
                self._give_up(f"more than {settings.outbox_max} bytes were waiting (outbox.max_bytes)")
                return
            self._block(destination)
        self._chunks.append(blob)
        self.size = size

    def drain(self) -> bool:
        """Hand over what the transport takes; True if nothing is left."""
        self.congested = False
        transport = self._connection.transport
        chunks = self._chunks
        while chunks and not self.congested:
            batch = []
            size = 0
            while chunks and size < _CHUNK:
                chunk = chunks.popleft()
                batch.append(chunk)
                size += len(chunk)
            self.size -= size
            transport.write(batch[0] if len(batch) == 1 else b"".join(batch))
        if self._blocking and self.size <= self._connection.core.settings.outbox_low:
            self.unblock()
        return not self.congested

    def clear(self) -> None:
        """Forget what waits. What the transport holds ends with a whole frame, so frames may follow."""
        self._chunks.clear()
        self.size = 0

    def unblock(self) -> None:
        """Let the publishers go on that stand still for this client."""
        blocking, self._blocking = self._blocking, set()
        self.deadline = NEVER
        for destination in blocking:
            self._connection.core.unblock(destination, self._connection)

    def apply_policies(self, policy: Callable[[bytes], str]) -> None:
        """Let those publishers go on whose destination does not `block` any more, as `policy` says."""
        for destination in [each for each in self._blocking if each[:1] != b"\0" and policy(each) != "block"]:
            self._blocking.remove(destination)
            self._connection.core.unblock(destination, self._connection)
        if not self._blocking:
            self.deadline = NEVER

    def _block(self, destination: bytes) -> None:
        connection = self._connection
        first = not self._blocking
        if first:
            self.deadline = connection.core.now() + connection.core.settings.block_timeout
            connection.core.deadlines.wake_at(connection, self.deadline)
        if len(self._blocking) >= _MANY and destination[:1] != b"\0":
            # Who is sent ever new destinations by publishers that repeat none stops them all, or stops nobody.
            destination = EVERYTHING
        if destination not in self._blocking:
            self._blocking.add(destination)
            connection.core.block(destination, connection, self.size if first else 0)

    def _give_up(self, why: str) -> None:
        # Not now: the router is in the middle of its subscribers.
        self._given_up = True
        self._connection.core.soon(self._connection.disconnect_slow, why)
