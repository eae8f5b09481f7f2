"""The header-block cache: what a SEND's headers mean, remembered by their raw bytes.

Publishers repeat the same header block, so its meaning (destination, body length, the ready-made rest of the MESSAGE)
is worked out once. The cache is bounded in bytes and made of two generations: when the young one is full it becomes
the old one and what is still in use moves back, so a hot block survives any flood. A block is remembered only when it
is seen a second time, and never with a `receipt` or `transaction`: blocks that do not repeat cost no memory.
Blocks that would repeat were it not for their `receipt` and `idempotency-key` have a form, see `worker.forms`.
"""

from __future__ import annotations

from common.codec import Limits, content_length, decode_head, encode_headers
from common.destination import QUEUES, check_destination
from common.errors import ErrorCode, StompError
from common.negotiation import Version
from common.temporary import TEMPORARY
from worker.forms import Forms
from worker.traits import TRAIT_HEADERS, Traits, parse_key, parse_traits

__all__ = ["Route", "RouteCache", "parse_send"]

_DESTINATION, _CONTENT_LENGTH, _RECEIPT, _TRANSACTION, _DROPPED, _TRAIT = range(6)
_OWN_LINES = {
    # Header lines of a SEND that are the protocol's or the broker's own and are not part of the message.
    b"destination": _DESTINATION,
    b"content-length": _CONTENT_LENGTH,
    b"receipt": _RECEIPT,
    b"transaction": _TRANSACTION,
    b"message-id": _DROPPED,
    b"subscription": _DROPPED,
    b"ack": _DROPPED,
    b"redelivered": _DROPPED,
    b"receipt-id": _DROPPED,
    b"delivery-count": _DROPPED,
    b"retained": _DROPPED,
    **{name.encode(): _TRAIT for name in TRAIT_HEADERS},
}
_OWN_NAMES = frozenset(name.decode() for name in _OWN_LINES) - {"content-length"} - TRAIT_HEADERS
_USUAL_TRAITS = frozenset({b"persistent:true", b"priority:4"})
"""What many clients always send, and what is so without it."""

_PLAIN = bytes(octet for octet in range(1, 128) if octet not in b":\\\r\n")
"""Octets of a header line that mean the same in 1.1 and 1.2, raw or escaped."""

_COLON = b":"[0]

_ENTRY_BYTES = 400
"""About what an entry takes besides the block and the tail: the dict slot, the Route, its attributes."""
_LINE_BYTES = 250
"""About what a known header line takes besides its bytes."""
_DOOR_BITS = 16
_SHAPE_BYTES = 1024
_SHAPE_SHARE = 64 << 10
"""One destination's last plain block is at hand, to compare the next with, for each so many bytes of the cache."""


class Route:
    """What one header block of SEND means. Shared and never changed once it is remembered.

    `length` is the body's, -1 if NUL ends it. `tail` is everything of the MESSAGE between the message-id and the
    body, from the LF on; without a `length` it ends before the `content-length` line. `simple` if that is all there
    is to it: a counted body, the same tail for every version, no `receipt`, no `transaction`, no `traits`, no
    idempotency `key`. `tails` is the tail per version where they differ. `head` is the block with its blank line if the
    route is remembered, else None.
    """

    __slots__ = ("destination", "head", "key", "length", "receipt", "simple", "tail", "tails", "traits", "transaction")
    receipt: str | None
    transaction: str | None
    tails: tuple[bytes, bytes, bytes] | None
    traits: Traits | None
    key: bytes | None

    def __init__(self, destination: bytes, length: int, tail: bytes) -> None:
        self.destination = destination
        self.length = length
        self.tail = tail
        self.simple = True
        self.head: bytes | None = None

    @classmethod
    def full(
        cls,
        destination: bytes,
        length: int,
        tail: bytes,
        receipt: str | None,
        transaction: str | None,
        tails: tuple[bytes, bytes, bytes] | None = None,
        traits: Traits | None = None,
        key: bytes | None = None,
    ) -> Route:
        """A route that may not be `simple`; only those have the attributes given here."""
        route = cls(destination, length, tail)
        special = (receipt, transaction, tails, traits, key)
        route.simple = length >= 0 and special == (None,) * len(special)
        route.traits = traits
        route.receipt = receipt
        route.transaction = transaction
        route.tails = tails
        route.key = key
        return route


def parse_send(block: bytes, version: Version, limits: Limits, destination_bytes: int) -> Route:
    """The route of a SEND frame's `block` (command and header lines, without the last EOL), by the codec's rules.

    Raises StompError as `decode_head`, `content_length` and `check_destination` do, and `missing-header`.
    """
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
    tails = None if old == middle == new else (old, middle, new)
    traits = parse_traits(frame)
    if traits is not None and traits.retain and destination.startswith((*QUEUES, *TEMPORARY)):
        raise StompError(
            ErrorCode.BAD_VALUE,
            "retain on a destination that is no topic",
            f"{name[:80]!r} was sent to with retain:true, which keeps the last message of a topic for those who"
            " subscribe later; leave it out",
        )
    if traits is not None and traits.reply_to is not None:
        check_destination(traits.reply_to, destination_bytes, pattern_allowed=False)
    receipt, transaction = frame.get("receipt"), frame.get("transaction")
    return Route.full(destination, length, new, receipt, transaction, tails, traits, parse_key(frame))


class RouteCache:
    """The routes of one protocol version. `young` may be read directly; a miss goes to `forms`, then to `find`."""

    __slots__ = (
        "_door",
        "_limits",
        "_lines",
        "_lines_bytes",
        "_max_destination",
        "_max_shapes",
        "_old",
        "_room",
        "_shapes",
        "_version",
        "_young_bytes",
        "forms",
        "young",
    )

    def __init__(self, version: Version, limits: Limits, destination_bytes: int, max_bytes: int) -> None:
        self._version = version
        self._limits = limits
        self._max_destination = destination_bytes
        # Two generations, the forms with half of one, and the header lines with a quarter.
        self._room = max_bytes * 4 // 11
        self._young_bytes = 0
        self._lines: dict[bytes, tuple[int, bytes]] = {}
        self._lines_bytes = 0
        self._max_shapes = max_bytes // _SHAPE_SHARE
        self._shapes: dict[bytes, tuple[list[bytes], Route]] = {}
        self._door = bytearray(1 << _DOOR_BITS)
        self.forms = Forms(self._room // 2, limits.header_line_bytes, self.parse, self._known)
        self._old: dict[bytes, Route] = {}
        self.young: dict[bytes, Route] = {}

    def find(self, head: bytes, block: bytes) -> Route:
        """The route of `block`; `head` is the block with its blank line. Raises as `parse_send` does."""
        route = self._old.get(head)
        if route is None:
            route = self.parse(block)
            if not route.simple and (route.receipt is not None or route.transaction is not None):
                return route
            if not self._known(head):
                return route
        self._remember(head, route)
        return route

    def _known(self, key: object) -> bool:
        """Whether this was asked for `key` before; now and then it says so, or not, of one that it was not, or was."""
        digest = hash(key)
        slot = digest & ((1 << _DOOR_BITS) - 1)
        mark = (digest >> _DOOR_BITS) & 0xFF | 1
        known = self._door[slot] == mark
        self._door[slot] = mark
        return known

    def parse(self, block: bytes) -> Route:
        """The route of `block` as `parse_send` finds it, sooner where there is nothing to unescape, escape or trim.

        This is the path of headers that differ in every frame: their lines are passed on as they are, and the lines
        that do repeat, such as the destination's, are known from before.
        """
        if len(block) > self._limits.header_line_bytes:
            return parse_send(block, self._version, self._limits, self._max_destination)
        lines = block.split(b"\n")
        shape = self._shapes.get(lines[1]) if len(lines) > 1 else None
        if shape is not None and self._is_like(lines, shape[0]):
            before = shape[1]
            return Route(before.destination, before.length, block[4:] + b"\n\n")
        if (
            self._version is not Version.V1_0
            and block.isascii()
            and b"\\" not in block
            and b"\r" not in block
            and b"\0" not in block
        ):
            route = self._parse_plain(block, lines)
            if route is not None:
                return route
        return parse_send(block, self._version, self._limits, self._max_destination)

    def _is_like(self, lines: list[bytes], before: list[bytes]) -> bool:
        """Whether these lines are those of a plain block `before`, which starts with the same destination, but for the
        values of a few headers: what header blocks with ids or times in them are."""
        if len(lines) != len(before):
            return False
        for line, old in zip(lines, before, strict=True):
            if line != old and (
                # One colon, and nothing that takes a closer look; and neither line is the protocol's own.
                line.translate(None, _PLAIN) != b":"
                or line[0] == _COLON
                or line[: line.find(b":")] in _OWN_LINES
                or old[: old.find(b":")] in _OWN_LINES
            ):
                return False
        return True

    def _parse_plain(self, block: bytes, lines: list[bytes]) -> Route | None:
        destination = receipt = transaction = None
        length = -1
        own_lines: list[bytes] = []
        known = self._lines
        headers = lines[1:]
        if len(headers) > self._limits.header_count:
            return None
        for line in headers:
            meaning = known.get(line)
            if meaning is None:
                name, colon, value = line.partition(b":")
                if name not in _OWN_LINES:
                    if colon and name and b":" not in value:
                        continue
                    return None
                meaning = self._meaning(line, name, value)
                if meaning is None:
                    return None
            kind, value = meaning
            if kind == _TRAIT:
                continue
            if kind == _CONTENT_LENGTH:
                if length >= 0:
                    return None
                length = int(value)
                continue
            if kind == _DESTINATION:
                destination = destination or value
            elif kind == _RECEIPT:
                receipt = receipt or value.decode()
            elif kind == _TRANSACTION:
                transaction = transaction or value.decode()
            own_lines.append(line)
        if destination is None:
            return None
        end = b"\n\n" if length >= 0 else b"\n"
        if len(own_lines) == 1 and own_lines[0] is headers[0]:
            tail = block[4:] + end
            if length < 0:
                return Route.full(destination, length, tail, None, None)
            route = Route(destination, length, tail)
            if len(block) <= _SHAPE_BYTES and self._max_shapes:
                if len(self._shapes) >= self._max_shapes:
                    self._shapes.clear()
                self._shapes[lines[1]] = lines, route
            return route
        passed = [line for line in headers if line not in own_lines]
        tail = b"\n" + b"\n".join([b"destination:" + destination, *passed]) + end
        return Route.full(destination, length, tail, receipt, transaction)

    def _meaning(self, line: bytes, name: bytes, value: bytes) -> tuple[int, bytes] | None:
        """What one of the protocol's own header lines says, or None if that takes a closer look."""
        kind = _OWN_LINES[name]
        if not value or b":" in value:
            return None
        if kind == _TRAIT and line not in _USUAL_TRAITS:
            return None
        if kind == _CONTENT_LENGTH:
            if not value.isdigit() or len(value) > 18 or int(value) > self._limits.body_bytes:
                return None
        elif kind == _DESTINATION:
            try:
                check_destination(value, self._max_destination, pattern_allowed=False)
            except StompError:
                # Only the first of several counts, and `parse_send` says so.
                return None
        elif kind != _TRAIT:
            return kind, value
        size = len(line) + len(value) + _LINE_BYTES
        if self._lines_bytes + size > self._room // 4:
            self._lines.clear()
            self._lines_bytes = 0
        self._lines[line] = kind, value
        self._lines_bytes += size
        return kind, value

    def _remember(self, head: bytes, route: Route) -> None:
        tails = [route.tail] if route.simple or route.tails is None else route.tails
        size = len(head) + len(route.destination) + sum(map(len, tails)) + _ENTRY_BYTES
        if self._young_bytes + size > self._room:
            if size > self._room:
                return
            self._old = self.young
            self.young = {}
            self._young_bytes = 0
        route.head = head
        self.young[head] = route
        self._young_bytes += size
