"""A STOMP frame as a value, decoded: header names and values as the application means them, the body as bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

__all__ = ["CLIENT_COMMANDS", "SERVER_COMMANDS", "Frame", "PlainFrame"]

_HEADER = re.compile(r"\n([^:\n]+):(.*)")

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


class PlainFrame(Frame):
    """A frame as it was received, whose headers are decoded when they are asked for: most of them never are.

    `head` is the header lines, each with an LF *before* it: valid UTF-8, with nothing to unescape.
    """

    __slots__ = ("_decoded", "head")

    def __init__(self, command: str, head: bytes, body: bytes) -> None:
        self.command = command
        self.head = head
        self.body = body
        self._decoded: list[tuple[str, str]] | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """As in `Frame`."""
        if self._decoded is None:
            self._decoded = _HEADER.findall(self.head.decode())
        return self._decoded

    @headers.setter
    def headers(self, headers: list[tuple[str, str]]) -> None:
        self._decoded = headers

    def get(self, name: str) -> str | None:
        if self._decoded is not None:
            return Frame.get(self, name)
        mark = _mark(name)
        start = self.head.find(mark)
        if start < 0:
            return None
        start += len(mark)
        end = self.head.find(b"\n", start)
        return (self.head[start:end] if end >= 0 else self.head[start:]).decode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return (self.command, self.headers, self.body) == (other.command, other.headers, other.body)

    __hash__ = None  # type: ignore[assignment]


@lru_cache(256)
def _mark(name: str) -> bytes:
    """What stands before the value of the header `name`, and nowhere else: no name holds a colon, nothing an LF."""
    return f"\n{name}:".encode() if ":" not in name and "\n" not in name else b"\n\n"
