"""What a front that wants to know hears of the clients of this worker, and how it names them.

None of this exists in a worker whose front did not ask for it (`common.messages.Start`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.acknowledgement import AckMode
from common.errors import CloseReason, ErrorCode, StompError
from common.messages import Happened, Message, NameSession
from common.negotiation import Version
from worker.backlog import Backlog

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core
    from worker.router import Subscription

__all__ = ["Naming", "Reports"]

_NEVER = float("inf")
_HELD_UP = b"\0reports"
_FRONT = "front"
_BATCH_BYTES = 64 << 10
"""Characters of ids and destinations after which a batch is sent at once: a message has its limit."""


class Reports:
    """Tells of connections, subscriptions and their ends, those of one turn of the loop in one message. Of a
    subscription nothing is told before its RECEIPT was sent, or would have been if the client had asked for one."""

    def __init__(self, core: Core, send: Callable[[Message], None]) -> None:
        self._core = core
        self._send = send
        self._open: set[int] = set()
        self._batch: list[list[Any]] = []
        self._size = 0

    def begins(self, connection: Connection) -> None:
        """The front knows of it from here on, and is to hear when it leaves."""
        self._open.add(connection.number)

    def connected(self, connection: Connection, version: Version, login: str | None) -> None:
        """CONNECTED was sent; `login` is what CONNECT said."""
        self.begins(connection)
        host, port = (connection.transport.get_extra_info("peername") or ("", 0))[:2]
        self._tell(connection, "connected", connection.session, host, port, version.label, login)

    def subscribed(self, subscription: Subscription, destination: str, mode: AckMode) -> None:
        """SUBSCRIBE to `destination`, as the client wrote it, was accepted."""
        connection = subscription.connection
        ack = mode.name.lower().replace("_", "-")
        connection.when_answered(
            lambda: self._tell(connection, "subscribed", subscription.number, subscription.id, destination, ack)
        )

    def unsubscribed(self, subscription: Subscription) -> None:
        """UNSUBSCRIBE was accepted."""
        connection = subscription.connection
        connection.when_answered(lambda: self._tell(connection, "unsubscribed", subscription.number))

    def left(self, connection: Connection) -> None:
        """It takes part no more, and with it its subscriptions."""
        self._tell(connection, "left", (connection.reason or CloseReason.INTERNAL_ERROR).value)
        self._open.discard(connection.number)

    def hold_up(self, full: bool) -> None:
        """The front is behind with reading, or is so no more: clients that give it more to read wait meanwhile."""
        if full:
            self._core.flow.block(_HELD_UP, _FRONT, local=False)
        else:
            self._core.flow.unblock(_HELD_UP, _FRONT, local=False)

    def flush(self) -> None:
        """Tell what is known so far."""
        if self._batch:
            batch, self._batch, self._size = self._batch, [], 0
            self._send(Happened(batch))

    def _tell(self, connection: Connection, what: str, *details: Any) -> None:
        if connection.number not in self._open:
            return
        if not self._batch:
            self._core.soon(self.flush)
        self._batch.append([what, connection.number, *details])
        self._size += sum(len(each) for each in details if isinstance(each, str))
        if self._size > _BATCH_BYTES:
            self.flush()
        if not connection.closing:
            self._core.flow.pause_for(connection, (_HELD_UP,))


class Naming:
    """Asks the front for the session of each CONNECT; what its client sent after it waits for the answer."""

    def __init__(self, core: Core, reports: Reports, send: Callable[[Message], None]) -> None:
        self._core = core
        self._reports = reports
        self._send = send
        self._asked: dict[int, tuple[Connection, Backlog, Callable[[], None]]] = {}

    def ask(self, connection: Connection, accept: Callable[[], None]) -> None:
        """Call `accept` once the front has given `connection` a session. Other connections go on."""
        self._asked[connection.number] = connection, Backlog(connection, self._core.refuse), accept
        # The time to send CONNECT in has an end; it was sent.
        connection.deadline = _NEVER
        self._reports.begins(connection)
        # So that the sessions of those that have left are known to be free.
        self._reports.flush()
        self._send(NameSession(connection.number, connection.locator))

    def named(self, number: int, session: str | None) -> None:
        """The answer: None to refuse the CONNECT."""
        connection, backlog, accept = self._asked.pop(number)
        if connection.closing:
            return
        if session is None:
            error = StompError(
                ErrorCode.INTERNAL_ERROR,
                "no session id",
                "the program that runs this broker names the sessions, and gave none that can be used for this one; "
                "its log says why",
            )
            connection.fail(error, CloseReason.INTERNAL_ERROR, b"CONNECT")
            return
        self._core.session_names[number] = session
        accept()
        backlog.end()
