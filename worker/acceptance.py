"""The RECEIPTs of the SENDs of one read: written, in their order, once everything they went to has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import CloseReason, ErrorCode, StompError
from worker.queues.letters import DONE, Outcome

if TYPE_CHECKING:
    from worker.assembly import Sent
    from worker.connection import Connection
    from worker.receipts import Ticket

__all__ = ["Acceptance", "refuse"]

_RECEIPT = b"RECEIPT\nreceipt-id:%b\nmessage-id:%b\nrouted:%d\n%b\n\0"
_TAKEN = b"RECEIPT\nreceipt-id:%b\n\n\0"
"""For a SEND that waits for its COMMIT."""


class Acceptance:
    """`expect` before each hand-off, `confirmed` after it, `begun` when there are no more to come."""

    __slots__ = ("_connection", "_outcomes", "_routed", "_sent", "_ticket", "_waiting")

    def __init__(self, connection: Connection, sent: list[Sent]) -> None:
        self._connection = connection
        self._sent = sent
        self._waiting = 0
        self._ticket: Ticket | None = None
        self._outcomes: dict[bytes, Outcome] = {}
        self._routed: dict[bytes, int] = {}

    def expect(self) -> None:
        self._waiting += 1

    def routed(self, destination: bytes, count: int) -> None:
        """So many take what was sent to `destination`; those of several calls add up."""
        self._routed[destination] = self._routed.get(destination, 0) + count

    def confirmed(self, destination: bytes, outcome: Outcome) -> None:
        """What was sent to `destination` is where it belongs, or was refused there."""
        if outcome is not DONE and (outcome.refused or destination not in self._outcomes):
            self._outcomes[destination] = outcome
        self._waiting -= 1
        if not self._waiting and self._ticket is not None:
            self._ticket.release()

    def begun(self) -> None:
        connection = self._connection
        if not self._waiting and not connection.receipts:
            self._write()
            return
        self._ticket = connection.hold(self._write)
        if not self._waiting:
            self._ticket.release()

    def _write(self) -> None:
        if self._connection.closing:
            return
        if self._outcomes:
            self._write_each()
            return
        routed = self._routed.get
        self._send(
            [
                _RECEIPT % (receipt, message_id, routed(destination, 0), b"") if destination else _TAKEN % receipt
                for receipt, destination, _, message_id in self._sent
            ]
        )

    def _write_each(self) -> None:
        """Where not all went as it mostly does."""
        frames = []
        for receipt, destination, place, message_id in self._sent:
            if not destination:
                frames.append(_TAKEN % receipt)
                continue
            outcome = self._outcomes.get(destination)
            again = b""
            if outcome is not None:
                if outcome.refused is not None and place >= outcome.place:
                    self._send(frames)
                    refuse(self._connection, outcome, b"\nreceipt:" + receipt)
                    return
                if outcome.duplicates and place in outcome.duplicates:
                    message_id = outcome.duplicates[place]
                    again = b"duplicate:true\n"
            frames.append(_RECEIPT % (receipt, message_id, self._routed.get(destination, 0), again))
        self._send(frames)
        for outcome in self._outcomes.values():
            if outcome.refused is not None:
                refuse(self._connection, outcome)

    def _send(self, frames: list[bytes]) -> None:
        if frames:
            self._connection.send(b"".join(frames))


def refuse(connection: Connection, outcome: Outcome, receipt: bytes = b"", command: bytes = b"SEND") -> None:
    """Answer ERROR for what an owner refused; `receipt` is the header line, with the LF before it."""
    if outcome.refused is not None:
        code, message, detail = outcome.refused
        connection.fail(StompError(ErrorCode(code), message, detail), CloseReason.PROTOCOL_ERROR, command + receipt)
