"""What the handlers of several commands do alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version

if TYPE_CHECKING:
    from worker.connection import Connection

__all__ = ["answer", "required", "version_of"]


def required(frame: Frame, header: str) -> str:
    """The value of a mandatory header; raises StompError `missing-header` if it is absent or empty."""
    value = frame.get(header)
    if not value:
        raise StompError(
            ErrorCode.MISSING_HEADER,
            f"{frame.command} without {header}",
            f"{frame.command} takes the header {header}, which is {'absent' if value is None else 'empty'}",
        )
    return value


def answer(connection: Connection, frame: Frame) -> None:
    """Answer the RECEIPT that `frame` asked for, if it did: all of it has happened."""
    receipt = frame.get("receipt")
    if receipt is not None:
        connection.receipt(receipt)


def version_of(connection: Connection) -> Version:
    """That of its frames; before CONNECT they are read as those of the newest."""
    return Version.V1_2 if connection.version is None else connection.version
