"""What can go wrong between a client and the broker, as two closed lists and one exception.

`ErrorCode` is the machine-readable `error-code` header of every ERROR frame; `CloseReason` says why a connection
ended and is counted and logged for each one. Both lists are part of the public contract: codes are added, never
renamed.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CloseReason", "ErrorCode", "StompError"]


class ErrorCode(StrEnum):
    """The value of `error-code` on an ERROR frame."""

    BAD_FRAME = "bad-frame"
    """The bytes are no STOMP frame: no NUL after the body, a NUL inside the headers, an over-long command line."""
    UNKNOWN_COMMAND = "unknown-command"
    BAD_HEADER = "bad-header"
    """A header line without a colon, or with an empty name."""
    BAD_ESCAPE = "bad-escape"
    """An escape sequence the negotiated version does not define (1.2 section Value Encoding)."""
    BAD_ENCODING = "bad-encoding"
    """A header that is not valid UTF-8."""
    BAD_CONTENT_LENGTH = "bad-content-length"
    UNEXPECTED_BODY = "unexpected-body"
    TOO_MANY_HEADERS = "too-many-headers"
    HEADER_TOO_LARGE = "header-too-large"
    BODY_TOO_LARGE = "body-too-large"
    NOT_CONNECTED = "not-connected"
    """A frame other than CONNECT or STOMP came first."""
    ALREADY_CONNECTED = "already-connected"
    UNSUPPORTED_VERSION = "unsupported-version"
    UNKNOWN_HOST = "unknown-host"
    MISSING_HEADER = "missing-header"
    BAD_VALUE = "bad-value"
    """A header whose value is not one of those allowed."""
    BAD_DESTINATION = "bad-destination"
    ACCESS_DENIED = "access-denied"
    """A temporary destination of another connection."""
    DUPLICATE_SUBSCRIPTION = "duplicate-subscription"
    UNKNOWN_SUBSCRIPTION = "unknown-subscription"
    TOO_MANY_SUBSCRIPTIONS = "too-many-subscriptions"
    SUBSCRIPTION_IN_USE = "subscription-in-use"
    """A durable subscription that is not shared has its consumer."""
    SUBSCRIPTION_MISMATCH = "subscription-mismatch"
    """A durable or shared subscription of that name is to something else."""
    UNKNOWN_MESSAGE = "unknown-message"
    """ACK or NACK of an id that was never delivered here, or is settled already."""
    TOO_MANY_UNACKNOWLEDGED = "too-many-unacknowledged"
    DUPLICATE_TRANSACTION = "duplicate-transaction"
    UNKNOWN_TRANSACTION = "unknown-transaction"
    TOO_MANY_TRANSACTIONS = "too-many-transactions"
    TRANSACTION_TOO_LARGE = "transaction-too-large"
    QUEUE_FULL = "queue-full"
    """A queue is at its limit, and its policy is to refuse."""
    TOO_MANY_QUEUES = "too-many-queues"
    STORE_FULL = "store-full"
    """There is no room on the disk, or the quota is reached: nothing of the frame was stored."""
    STORE_FAILED = "store-failed"
    """The disk refused for another reason: nothing of the frame was stored."""
    CONNECT_TIMEOUT = "connect-timeout"
    HEART_BEAT_TIMEOUT = "heart-beat-timeout"
    SLOW_CONSUMER = "slow-consumer"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    SHUTTING_DOWN = "shutting-down"
    CLOSED_BY_OPERATOR = "closed-by-operator"
    INTERNAL_ERROR = "internal-error"


class CloseReason(StrEnum):
    """Why a connection ended; counted per worker and logged with `connection.closed`."""

    DISCONNECT = "disconnect"
    """The client sent DISCONNECT."""
    CLIENT_CLOSED = "client-closed"
    """The client closed its side without DISCONNECT."""
    CONNECTION_LOST = "connection-lost"
    """The network reported a failure (reset, broken pipe)."""
    PROTOCOL_ERROR = "protocol-error"
    """The client was sent an ERROR for a frame of its own."""
    CONNECT_TIMEOUT = "connect-timeout"
    HEART_BEAT_TIMEOUT = "heart-beat-timeout"
    SLOW_CONSUMER = "slow-consumer"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    SHUTTING_DOWN = "shutting-down"
    CLOSED_BY_OPERATOR = "closed-by-operator"
    """An operator closed it through the management interface, or ended the durable subscription that it consumed."""
    INTERNAL_ERROR = "internal-error"


class StompError(Exception):
    """A fault that is answered with an ERROR frame.

    `message` is one short sentence (the frame's `message` header); `detail` is the body: the offending value, the
    limit, and how to mend it. Neither ever holds a passcode. `headers` are extra headers of the ERROR frame.
    """

    def __init__(
        self, code: ErrorCode, message: str, detail: str = "", *, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = headers
