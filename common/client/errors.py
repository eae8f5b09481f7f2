"""What can go wrong for a client, apart from misuse of a call, which is a `ValueError` or `TypeError`.

No text of these ever holds a passcode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.frame import Frame

if TYPE_CHECKING:
    from common.client.address import Address

__all__ = [
    "AddressError",
    "AlreadySettled",
    "BrokerError",
    "BufferOverrun",
    "ClientClosed",
    "ClientError",
    "ConnectFailed",
    "ConnectionClosed",
    "ConnectionLost",
    "OutcomeUnknown",
    "ProtocolFault",
    "StaleDelivery",
    "TransactionLost",
]


class ClientError(Exception):
    """The base of all errors of the client."""


class AddressError(ClientError, ValueError):
    """A URL that names no broker. The text names the part that is wrong, without login and passcode."""


class ConnectFailed(ClientError):
    """None of the addresses could be connected to; `attempts` has each one tried with what became of it, in order."""

    def __init__(self, attempts: Sequence[tuple[Address, Exception]]) -> None:
        super().__init__(attempts)
        self.attempts = list(attempts)

    def __str__(self) -> str:
        reasons = "; ".join(str(error) for _, error in self.attempts)
        return f"could not connect: {reasons or 'there was no address to try'}"


class ConnectionLost(ClientError):
    """The connection is gone, or could not be made; `reason` is one line that says why and names the other side."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConnectionClosed(ConnectionLost):
    """The connection ended in order: one of the two sides closed it."""


class ProtocolFault(ConnectionLost):
    """The other side sent what is no STOMP, and was left."""


class BrokerError(ClientError):
    """The broker sent an ERROR frame, after which it closes the connection (1.2 section ERROR)."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        self.frame = frame

    @property
    def code(self) -> str | None:
        """The `error-code` header (see `common.errors.ErrorCode`); None from brokers that send none."""
        return self.frame.get("error-code")

    @property
    def message(self) -> str:
        """The `message` header: what was wrong, in short."""
        return self.frame.get("message") or "the broker sent an ERROR without a message"

    @property
    def detail(self) -> str:
        """The body: what was wrong at length, and how to mend it; may be empty."""
        return self.frame.body.decode(errors="replace").strip()

    def __str__(self) -> str:
        return f"{self.message}: {self.detail}" if self.detail else self.message


class ClientClosed(ClientError):
    """The client is closed, or was before the broker confirmed this."""

    def __init__(self, what: str = "the client is closed") -> None:
        super().__init__(what)


class OutcomeUnknown(ClientError):
    """The connection was lost, for `__cause__`, after `frame` was written and before the broker confirmed it: it may
    have taken effect or not. It is not sent again."""

    def __init__(self, frame: Frame, error: ClientError) -> None:
        super().__init__(frame, error)
        self.frame = frame
        self.__cause__ = error

    def __str__(self) -> str:
        where = self.frame.get("destination") or self.frame.get("transaction") or self.frame.get("id") or ""
        return f"nobody knows whether {self.frame.command} {where} took effect: {self.__cause__}"


class BufferOverrun(ClientError):
    """A subscription with `ack:auto` was ended because nobody took its messages while the client had to go on reading.
    What had come by then can be taken before this is raised."""


class StaleDelivery(ClientError):
    """An ACK or NACK of a message that came on a connection that is gone: the broker delivers it again, and the old
    `ack` id could hit another message."""


class AlreadySettled(ClientError):
    """An ACK or NACK of a message that has had one, or whose subscription is `ack:auto`."""


class TransactionLost(ClientError):
    """The connection, and the transaction with it, was gone before COMMIT: nothing of it has happened."""
