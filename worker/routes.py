"""The header-block cache: what a SEND's headers mean, remembered by their raw bytes.

Publishers repeat the same header block, so its meaning (destination, body length, the ready-made rest of the MESSAGE)
is worked out once. The cache is bounded in bytes and made of two generations: when the young one is full it becomes
the old one and what is still in use moves back, so a hot block survives any flood. A block is remembered only when it
is seen a second time, and never with a `receipt` or `transaction`: blocks that do not repeat cost no memory.
"""

from __future__ import annotations

from common.codec import Limits, content_length, decode_head, encode_headers
from common.destination import check_destination
from common.errors import ErrorCode, StompError
from common.negotiation import Version

__all__ = ["Route", "RouteCache", "parse_send"]

_OWN_LINES = {
    # Header lines of a SEND that are the protocol's or the broker's own and are not part of the message.
    b"destination": 1,
    b"content-length": 2,
    b"receipt": 3,
    b"transaction": 4,
    b"message-id": 0,
    b"subscription": 0,
    b"ack": 0,
    b"redelivered": 0,
    b"receipt-id": 0,
}
_OWN_NAMES = frozenset(name.decode() for name in _OWN_LINES) - {"content-length"}

_ENTRY_BYTES = 400
"""About what an entry takes besides the block and the tail: the dict slot, the Route, its attributes."""
_DOOR_BITS = 16


class Route:
    """What one header block of SEND means. Shared and never changed once made.

    `length` is the body's, -1 if NUL ends it. `tail` is everything of the MESSAGE between the message-id and the
    body, from the LF on; without a `length` it ends before the `content-length` line. `tails` holds it per version
    where they differ. `head` is the block with its blank line if the route is remembered, else None.
    """

    __slots__ = ("destination", "head", "length", "receipt", "tail", "tails", "transaction")

    def __init__(
        self,
        destination: bytes,
        length: int,
        tails: tuple[bytes, bytes, bytes],
        receipt: str | None,
        transaction: str | None,
    ) -> None:
        self.destination = destination
        self.length = length
        self.tail = tails[Version.V1_2]
        self.tails = None if tails[0] == tails[1] == tails[2] else tails
        self.receipt = receipt
        self.transaction = transaction
        self.head: bytes | None = None


def parse_send(block: bytes, version: Version, limits: Limits, destination_bytes: int) -> Route:
    """The route of a SEND frame's `block` (command and header lines, without the last EOL).

    Raises StompError as `decode_head`, `content_length` and `check_destination` do, and `missing-header`.
    """
    # Nothing to unescape, escape, trim or strip: the lines can be passed on as they are. This is the path of headers
    # that differ in every frame, so it does the least that is still right. 1.0 may have blanks to drop.
    if (
        version is not Version.V1_0
        and b"\\" not in block
        and b"\r" not in block
        and b"\0" not in block
        and block.isascii()
        and len(block) <= limits.header_line_bytes
        and (count := block.count(b"\n")) == block.count(b":")
        and count <= limits.header_count
    ):
        route = _parse_plain(block, limits, destination_bytes)
        if route is not None:
            return route
    return _parse_any(block, version, limits, destination_bytes)


def _parse_plain(block: bytes, limits: Limits, destination_bytes: int) -> Route | None:
    destination = receipt = transaction = None
    length = -1
    passed = []
    own = _OWN_LINES
    for line in block[5:].split(b"\n"):
        name, colon, value = line.partition(b":")
        kind = own.get(name)
        if kind is None:
            if not colon or not name:
                return None
            passed.append(line)
        elif kind == 1:
            if destination is None:
                destination = value
        elif kind == 2:
            if length >= 0 or not value.isdigit() or len(value) > 18 or int(value) > limits.body_bytes:
                return None
            length = int(value)
            passed.append(line)
        elif kind == 3:
            if receipt is None:
                receipt = value.decode()
        elif kind == 4 and transaction is None:
            transaction = value.decode()
    if not destination:
        return None
    check_destination(destination, destination_bytes, pattern_allowed=False)
    if passed:
        tail = b"\ndestination:%b\n%b\n" % (destination, b"\n".join(passed))
    else:
        tail = b"\ndestination:%b\n" % destination
    if length >= 0:
        tail += b"\n"
    return Route(destination, length, (tail, tail, tail), receipt, transaction)


def _parse_any(block: bytes, version: Version, limits: Limits, destination_bytes: int) -> Route:
    frame = decode_head(block, version, limits)
    length = content_length(frame, limits)
    name = frame.get("destination")
    if not name:
        raise StompError(
            ErrorCode.MISSING_HEADER,
            "SEND without destination",
            f"SEND takes a destination header, which is {'absent' if name is None else 'empty'}",
        )
    destination = name.encode()
    check_destination(destination, destination_bytes, pattern_allowed=False)
    passed = [("destination", name)]
    for header in frame.headers:
        if header[0] not in _OWN_NAMES and not (header[0] == "content-length" and header in passed):
            passed.append(header)
    end = b"\n" if length >= 0 else b""
    old, middle, new = (b"\n" + encode_headers(passed, each) + end for each in Version)
    return Route(destination, length, (old, middle, new), frame.get("receipt"), frame.get("transaction"))


class RouteCache:
    """The routes of one protocol version. `young` may be read directly; a miss goes through `find`."""

    __slots__ = ("_door", "_limits", "_max_destination", "_old", "_room", "_version", "_young_bytes", "young")

    def __init__(self, version: Version, limits: Limits, destination_bytes: int, max_bytes: int) -> None:
        self._version = version
        self._limits = limits
        self._max_destination = destination_bytes
        self._room = max_bytes // 2
        self._young_bytes = 0
        self._door = bytearray(1 << _DOOR_BITS)
        self._old: dict[bytes, Route] = {}
        self.young: dict[bytes, Route] = {}

    def find(self, head: bytes, block: bytes) -> Route:
        """The route of `block`; `head` is the block with its blank line. Raises as `parse_send` does."""
        route = self._old.get(head)
        if route is None:
            route = parse_send(block, self._version, self._limits, self._max_destination)
            if route.receipt is not None or route.transaction is not None:
                return route
            digest = hash(head)
            slot = digest & ((1 << _DOOR_BITS) - 1)
            mark = (digest >> _DOOR_BITS) & 0xFF | 1
            if self._door[slot] != mark:
                self._door[slot] = mark
                return route
        self._remember(head, route)
        return route

    def _remember(self, head: bytes, route: Route) -> None:
        size = 2 * len(head) + _ENTRY_BYTES
        if self._young_bytes + size > self._room:
            if size > self._room:
                return
            self._old = self.young
            self.young = {}
            self._young_bytes = 0
        route.head = head
        self.young[head] = route
        self._young_bytes += size
