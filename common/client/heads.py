"""The headers of a SEND as an application gives them: checked, as pairs, and as bytes kept for the next time."""

from __future__ import annotations

from typing import TypedDict

from common.client.bodies import Body, encode_body, header_list
from common.client.frames import Headers
from common.codec import encode_headers
from common.frame import Frame
from common.negotiation import Version

__all__ = ["Heads", "SendOptions", "encode_plain", "send_frame", "send_headers"]

_KEPT = 1000
"""Pairs of destination and content type; an application that has more has one for every message."""
_OWN = frozenset({"destination", "content-type", "content-length", "receipt", "transaction", "idempotency-key"})


class SendOptions(TypedDict, total=False):
    """What a SEND may have beside its destination and body, see `Client.send`."""

    headers: Headers
    content_type: str | None
    idempotency_key: str | None


def send_headers(
    destination: str, content_type: str | None, headers: Headers, idempotency_key: str | None
) -> list[tuple[str, str]]:
    """The headers in their order. Raises ValueError for one that is the client's to set, TypeError if it is no text."""
    pairs = [("destination", destination)]
    if content_type is not None:
        pairs.append(("content-type", content_type))
    if headers:
        for name, value in header_list(headers):
            if name in _OWN:
                raise ValueError(f"the header {name!r} is the client's to set, see the arguments of the call")
            pairs.append((name, value))
    if idempotency_key is not None:
        pairs.append(("idempotency-key", idempotency_key))
    return pairs


def send_frame(
    destination: str,
    body: Body,
    content_type: str | None = None,
    headers: Headers = (),
    idempotency_key: str | None = None,
) -> Frame:
    """A SEND of them. Raises as `send_headers` and `encode_body` do."""
    data, content_type = encode_body(body, content_type)
    return Frame("SEND", send_headers(destination, content_type, headers, idempotency_key), data)


class Heads:
    """The encoded headers of one client's SENDs, for those that have no others than destination and content type."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str | None], bytes] = {}

    def plain(self, destination: str, content_type: str | None) -> bytes | None:
        """As `encode_plain` without further headers."""
        head = self._kept.get((destination, content_type))
        if head is None:
            head = encode_plain(send_headers(destination, content_type, (), None))
            if head is not None:
                if len(self._kept) >= _KEPT:
                    self._kept.clear()
                self._kept[destination, content_type] = head
        return head


def encode_plain(pairs: list[tuple[str, str]]) -> bytes | None:
    """The header lines if they are the same in every version of STOMP, None if anything is to be escaped."""
    head = encode_headers(pairs, Version.V1_2)
    return None if b"\\" in head else head
