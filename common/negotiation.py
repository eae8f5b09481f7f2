"""Protocol versions, their negotiation, and the agreement on heart-beats. Pure rules: no I/O, no clock."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from common.errors import ErrorCode, StompError

__all__ = ["SUPPORTED", "HeartBeat", "Version", "agree_heart_beat", "negotiate", "parse_heart_beat"]

SUPPORTED = ("1.0", "1.1", "1.2")


class Version(IntEnum):
    """A STOMP version; the number indexes per-version tables."""

    V1_0 = 0
    V1_1 = 1
    V1_2 = 2

    @property
    def label(self) -> str:
        """The version as it stands in headers."""
        return SUPPORTED[self]


def negotiate(accept_version: str | None) -> Version:
    """The highest version both sides know; no `accept-version` means 1.0 (1.2 section Protocol Negotiation).

    Raises StompError `unsupported-version`, whose `version` header lists what the broker speaks.
    """
    if accept_version is None:
        return Version.V1_0
    offered = {part.strip() for part in accept_version.split(",")}
    for version in reversed(Version):
        if SUPPORTED[version] in offered:
            return version
    raise StompError(
        ErrorCode.UNSUPPORTED_VERSION,
        "no common protocol version",
        f"accept-version was {accept_version[:80]!r}; supported protocol versions are {' '.join(SUPPORTED)}",
        headers=(("version", ",".join(SUPPORTED)),),
    )


class HeartBeat(NamedTuple):
    """What was agreed: milliseconds between beats in each direction, 0 for none."""

    to_client: int
    from_client: int


def parse_heart_beat(value: str | None) -> tuple[int, int]:
    """The client's `<cx>,<cy>` in milliseconds; absent means `0,0` (1.2 section Heart-beating).

    Raises StompError `bad-value` for anything but two non-negative integers.
    """
    if value is None:
        return 0, 0
    cx, comma, cy = value.partition(",")
    cx, cy = cx.strip(), cy.strip()
    if not (comma and cx.isascii() and cx.isdigit() and cy.isascii() and cy.isdigit() and len(value) <= 64):
        raise StompError(
            ErrorCode.BAD_VALUE,
            "malformed heart-beat header",
            f"heart-beat was {value[:80]!r}; it takes two non-negative integers of milliseconds, such as 10000,10000",
        )
    return int(cx), int(cy)


def agree_heart_beat(client: tuple[int, int], server: tuple[int, int]) -> HeartBeat:
    """MAX of what one side can and the other side wants, 0 if either is 0 (1.2 section Heart-beating)."""
    cx, cy = client
    sx, sy = server
    return HeartBeat(
        to_client=max(sx, cy) if sx and cy else 0,
        from_client=max(cx, sy) if cx and sy else 0,
    )
