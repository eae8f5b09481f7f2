"""A STOMP frame as a value, decoded: header names and values as the application means them, the body as bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CLIENT_COMMANDS", "SERVER_COMMANDS", "Frame"]

CLIENT_COMMANDS = frozenset(
    {
        "CONNECT", "STOMP", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK",
        "BEGIN", "COMMIT", "ABORT", "DISCONNECT",
    }
)  # fmt: skip
SERVER_COMMANDS = frozenset({"CONNECTED", "MESSAGE", "RECEIPT", "ERROR"})


@dataclass(slots=True)
class Frame:
    """`headers` keeps the sender's order and repetitions; of a repeated header the first entry counts
    (1.2 section Repeated Header Entries), which is what `get` returns."""

    command: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """The first value of header `name`, or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None
