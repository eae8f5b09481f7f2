"""What the front may ask about this worker's clients, answered in pieces that hold up nobody.

One answer looks at no more than `SCAN` objects and gives no more than `PIECE` of them: with 8,000 connections 1.4 ms of
the event loop for the costliest, 0.5 ms where a filter finds nothing. A listing is gone through by asking again from
where the last piece ended. Reads the state of connections and routes where they are, so that they need not keep
anything for it: what the kernel counts is asked of the kernel.

| what | arguments | answer |
|---|---|---|
| `connections` | `after` (number), `limit`, `text`, `state` | `connections`, `next` (`after` for more, or None) |
| `connection` | `session`, `offset` and `limit` of its subscriptions | one connection, `subscriptions`, `paused_on` |
| `close` | `session` | `{}` |
| `destinations` | `offset`, `limit`, `text` | `destinations`, `next` (`offset` for more, or None) |
| `counts` | `names` | `destinations`, as above, those of `names` that have subscribers here |

A `session` that is asked about is the locator of the connection. Those about queues are in `worker.queues.inspection`.
"""

from __future__ import annotations

import socket
import struct
from bisect import bisect_right
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from common.acknowledgement import AckMode
from common.destination import is_pattern
from common.errors import CloseReason, ErrorCode, StompError
from worker.queues.inspection import QueueInspector

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core
    from worker.router import Subscription

__all__ = ["PIECE", "SCAN", "Inspector", "state_of"]

SCAN = 500
PIECE = 200

# struct tcp_info of linux/tcp.h up to the last of tcpi_last_data_recv (32 bits, ms), tcpi_rtt (32 bits, us),
# tcpi_bytes_acked and tcpi_bytes_received (64 bits, since Linux 4.1).
_TCP_INFO = struct.Struct("=52xI12xI48xQQ")


class Inspector:
    def __init__(self, core: Core) -> None:
        self._core = core
        queues = QueueInspector(lambda: core.queues, SCAN, PIECE)
        self._orders = queues.orders
        self._questions: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "connections": self._connections,
            "connection": self._connection,
            "close": self._close,
            "destinations": self._destinations,
            "counts": self._counts,
            **queues.questions,
        }

    def ask(self, what: str, arguments: dict[str, Any], reply: Callable[[dict[str, Any] | None], None]) -> None:
        """Call `reply` with the answer, at once or when it is known. Raises as `answer` does."""
        order = self._orders.get(what)
        if order is not None:
            order(arguments, reply)
        else:
            reply(self.answer(what, arguments))

    def answer(self, what: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, or None where the connection does not exist. Raises `KeyError` and `TypeError` for a question
        that is not in the table above."""
        return self._questions[what](arguments)

    # --- connections

    def _connections(self, arguments: dict[str, Any]) -> dict[str, Any]:
        after, text, state = arguments["after"], arguments["text"].lower(), arguments["state"]
        limit = min(arguments["limit"], PIECE)
        # The copy costs 50 us for 10,000, and nobody can come between.
        everyone = list(self._core.connections)
        start = bisect_right(everyone, after, key=_number)
        found: list[dict[str, Any]] = []
        position = start
        for position in range(start, min(start + SCAN, len(everyone))):
            connection = everyone[position]
            if (not state or state_of(connection) == state) and (not text or text in _searched(connection)):
                found.append(self._describe(connection))
                if len(found) >= limit:
                    break
        more = position + 1 < len(everyone)
        return {"connections": found, "next": everyone[position].number if more else None}

    def _connection(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        connection = self._find(arguments["session"])
        if connection is None:
            return None
        offset = arguments["offset"]
        chosen = islice(connection.subscriptions.values(), offset, offset + min(arguments["limit"], PIECE))
        return {
            **self._describe(connection),
            "subscriptions": [_describe_subscription(each) for each in chosen],
            "paused_on": [_text(name) for name in islice(connection.paused_on or (), PIECE)],
        }

    def _close(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        connection = self._find(arguments["session"])
        if connection is None or connection.closing:
            return None
        error = StompError(
            ErrorCode.CLOSED_BY_OPERATOR,
            "closed by an operator",
            "an operator of the broker closed this connection through the management interface",
        )
        connection.fail(error, CloseReason.CLOSED_BY_OPERATOR)
        return {}

    def _find(self, session: str) -> Connection | None:
        _, _, written = session.rpartition("-")
        try:
            number = int(written, 16)
        except ValueError:
            return None
        everyone = list(self._core.connections)
        position = bisect_right(everyone, number, key=_number) - 1
        # The whole id counts: it names this life of the worker as well.
        return everyone[position] if position >= 0 and everyone[position].locator == session else None

    def _describe(self, connection: Connection) -> dict[str, Any]:
        transport, outbox = connection.transport, connection.outbox
        waiting = transport.get_write_buffer_size() + (0 if outbox is None else outbox.size)
        return {
            "session": connection.session,
            "peer": _peer(connection),
            "listener": connection.listener.name,
            "state": state_of(connection),
            "version": None if connection.version is None else connection.version.label,
            "sends_beat_every": connection.beat_every,
            "closes_after_silence_of": connection.silence,
            "subscription_count": len(connection.subscriptions),
            "outbox_bytes": waiting,
            "dropped": connection.dropped,
            "age": round(self._core.now() - connection.opened_at, 3),
            **_kernel_counts(connection),
        }

    # --- destinations

    def _destinations(self, arguments: dict[str, Any]) -> dict[str, Any]:
        # By position: where names come and go meanwhile, a listing may miss some.
        offset, text = arguments["offset"], arguments["text"].lower()
        limit = min(arguments["limit"], PIECE)
        found: list[dict[str, Any]] = []
        for name in islice(self._core.router.names(), offset, offset + SCAN):
            offset += 1
            if not text or text in _text(name).lower():
                found.append(self._describe_destination(name))
                if len(found) >= limit:
                    break
        return {"destinations": found, "next": offset if offset < self._core.router.destinations else None}

    def _counts(self, arguments: dict[str, Any]) -> dict[str, Any]:
        found = [self._describe_destination(name.encode()) for name in arguments["names"][:PIECE]]
        return {"destinations": [each for each in found if each["subscribers"] or each["blocked"]]}

    def _describe_destination(self, name: bytes) -> dict[str, Any]:
        return {
            "name": _text(name),
            "pattern": is_pattern(name),
            "subscribers": self._core.router.subscribers(name),
            "blocked": name in self._core.flow.blocked,
        }


def state_of(connection: Connection) -> str:
    """`closing`, `connecting` (no CONNECT yet), `waiting` (the client does not read as fast as it is written to),
    `paused` (not read from, because of a slow subscriber) or `open`."""
    if connection.closing:
        return "closing"
    if connection.version is None:
        return "connecting"
    if connection.outbox is not None:
        return "waiting"
    return "open" if connection.paused_on is None else "paused"


def _describe_subscription(subscription: Subscription) -> dict[str, Any]:
    unacknowledged = subscription.unacknowledged
    mode = AckMode.AUTO if unacknowledged is None else unacknowledged.mode
    return {
        "id": subscription.id,
        "destination": "" if subscription.entry is None else _text(subscription.entry.name),
        "ack": mode.name.lower().replace("_", "-"),
        "unacknowledged": len(unacknowledged or ()),
        "has_selector": subscription.selector is not None,
    }


def _number(connection: Connection) -> int:
    return connection.number


def _peer(connection: Connection) -> str:
    peer = connection.transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return str(peer)
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def _searched(connection: Connection) -> str:
    return f"{connection.session} {_peer(connection)}".lower()


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _kernel_counts(connection: Connection) -> dict[str, Any]:
    """What the kernel knows of the connection; nothing where it does not say."""
    sock = connection.transport.get_extra_info("socket")
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        idle, round_trip, bytes_out, bytes_in = _TCP_INFO.unpack(info)
    except (OSError, struct.error):
        return {"bytes_in": None, "bytes_out": None, "idle": None, "round_trip": None}
    return {"bytes_in": bytes_in, "bytes_out": bytes_out, "idle": idle / 1000, "round_trip": round_trip / 1e6}
