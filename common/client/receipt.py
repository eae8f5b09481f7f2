"""What the broker answers to a frame with a `receipt` header."""

from __future__ import annotations

from common.frame import Frame

__all__ = ["Receipt"]


class Receipt:
    """A RECEIPT. The fields are of a SEND's, and None where the broker does not say."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    @property
    def message_id(self) -> str | None:
        """The `message-id` that the message has for its consumers."""
        return self.frame.get("message-id")

    @property
    def routed(self) -> int | None:
        """How many took the message: 0, nobody."""
        text = self.frame.get("routed")
        return int(text) if text is not None and text.isdecimal() else None

    @property
    def duplicate(self) -> bool:
        """Whether the message was there already, sent before under the same `idempotency-key`."""
        return self.frame.get("duplicate") == "true"

    def __repr__(self) -> str:
        return f"Receipt(message_id={self.message_id!r}, routed={self.routed}, duplicate={self.duplicate})"
