"""Temporary destinations: the names that clients call their own by, and the addresses they have for everybody else.

A client names its own as `/temp-queue/NAME` or `/temp-topic/NAME`. The address that reaches it from anywhere has the
client's session before the name, `/temp-queue/SESSION/NAME`. Bytes throughout: UTF-8, as on the wire.
"""

from __future__ import annotations

import re

__all__ = ["TEMPORARY", "TEMP_QUEUE", "TEMP_TOPIC", "full_address", "is_address", "is_short", "session_of", "slot_of"]

TEMP_QUEUE = b"/temp-queue/"
TEMP_TOPIC = b"/temp-topic/"
TEMPORARY = (TEMP_QUEUE, TEMP_TOPIC)

# A session starts with the slot of its worker, see CONNECTED.
_ADDRESS = re.compile(rb"(/temp-(?:queue|topic)/)(?:((\d{1,5})-[0-9a-z]+\.[0-9a-f]+-[0-9a-f]+)/)?[^/]+", re.DOTALL)


def is_address(destination: bytes) -> bool:
    """Whether a destination that starts as `TEMPORARY` is a name or an address of one: either without a further `/`."""
    return _ADDRESS.fullmatch(destination) is not None


def is_short(destination: bytes) -> bool:
    """Whether it is a name that a client has for its own."""
    found = _ADDRESS.fullmatch(destination)
    return found is not None and found[2] is None


def full_address(destination: bytes, session: str) -> bytes:
    """The address of what the client of `session` calls `destination`."""
    found = _ADDRESS.fullmatch(destination)
    if found is None or found[2] is not None:
        return destination
    return b"%b%b/%b" % (found[1], session.encode(), destination[found.end(1) :])


def session_of(address: bytes) -> str | None:
    """Whose it is, None if that is no full address."""
    found = _ADDRESS.fullmatch(address)
    return None if found is None or found[2] is None else found[2].decode()


def slot_of(address: bytes) -> int | None:
    """The slot of the worker that it is on, None if that is no full address."""
    found = _ADDRESS.fullmatch(address)
    return None if found is None or found[3] is None else int(found[3])
