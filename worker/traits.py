"""What the headers of a SEND ask of the queues it reaches, beyond being kept and delivered in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from common.codec import escape, unescape
from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version
from common.temporary import is_short

__all__ = ["KEY_BYTES", "PLAIN", "TRAIT_HEADERS", "Traits", "parse_key", "parse_traits", "traits_of"]

TRAIT_HEADERS = frozenset(
    {
        "persistent",
        "priority",
        "ttl",
        "expires",
        "delay",
        "deliver-at",
        "group-id",
        "idempotency-key",
        "retain",
        "reply-to",
    }
)
_MOST = 1 << 53
"""Milliseconds beyond are refused: no clock gets there, and clients that count in floats lose digits."""
KEY_BYTES = 256
"""Of an `idempotency-key`."""


_KEY_ONCE_AT = 7


class Traits(NamedTuple):
    """Times in ms, absolute ones since the epoch; 0 for none. `reply_to` only if it is what the sender calls a
    temporary destination of its own, and until it is written as what others reach it by."""

    persistent: bool = True
    priority: int = 4
    ttl: int = 0
    expires: int = 0
    delay: int = 0
    deliver_at: int = 0
    group: bytes | None = None
    retain: bool = False
    reply_to: bytes | None = None

    def pack(self) -> tuple[bool | int | bytes | str | None, ...]:
        """The fields in order, to make it again from."""
        return self

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Traits:
        """The reverse of `pack`. What the first format of the store keeps of a COMMIT has the idempotency key in it,
        which is of no use any more: a COMMIT is applied once."""
        if len(packed) > len(cls._fields):
            packed = [*packed[:_KEY_ONCE_AT], *packed[_KEY_ONCE_AT + 1 :]]
        return cls._make(packed)


PLAIN = Traits()
"""Nothing special."""


def parse_traits(frame: Frame) -> Traits | None:
    """The traits of a SEND, None if there is nothing special about it. Raises StompError `bad-value`."""
    if TRAIT_HEADERS.isdisjoint(name for name, _ in frame.headers):
        return None
    group = frame.get("group-id")
    reply_to = (frame.get("reply-to") or "").encode()
    traits = Traits(
        persistent=_flag(frame, "persistent", default=True),
        priority=_number(frame, "priority", 9, 4),
        ttl=_number(frame, "ttl", _MOST, 0),
        expires=_number(frame, "expires", _MOST, 0),
        delay=_number(frame, "delay", _MOST, 0),
        deliver_at=_number(frame, "deliver-at", _MOST, 0),
        group=group.encode() if group else None,
        retain=_flag(frame, "retain", default=False),
        reply_to=reply_to if is_short(reply_to) else None,
    )
    return None if traits == PLAIN else traits


def parse_key(frame: Frame) -> bytes | None:
    """The `idempotency-key` of a SEND as 1.2 writes it, None without one. Raises StompError `bad-value`."""
    key = frame.get("idempotency-key")
    if not key:
        return None
    if len(key.encode()) > KEY_BYTES:
        raise StompError(
            ErrorCode.BAD_VALUE,
            "idempotency-key too long",
            f"it has {len(key.encode())} bytes, the limit is {KEY_BYTES}",
        )
    return escape(key, Version.V1_2).encode()


def traits_of(frame: bytes) -> Traits | None:
    """The traits of a message that was put off, from its id on in 1.2 form: all but the time it was put off to."""
    _, *lines = frame[: frame.index(b"\n\n")].decode().split("\n")
    headers = [tuple(unescape(part, Version.V1_2) for part in line.split(":", 1)) for line in lines]
    kept = [(name, value) for name, value in headers if name not in ("delay", "deliver-at", "idempotency-key")]
    return parse_traits(Frame("SEND", kept))


def _flag(frame: Frame, name: str, *, default: bool) -> bool:
    value = frame.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        raise StompError(
            ErrorCode.BAD_VALUE, f"bad {name} header", f"{name} was {value[:80]!r}; it takes true or false"
        )
    return value == "true"


def _number(frame: Frame, name: str, most: int, default: int) -> int:
    value = frame.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 16 and int(value) <= most):
        raise StompError(
            ErrorCode.BAD_VALUE,
            f"bad {name} header",
            f"{name} was {value[:80]!r}; it takes a whole number from 0 to {most}",
        )
    return int(value)
