"""Header blocks of SEND that differ from one another only in what a client makes anew for each frame.

A client that wants to know what became of each message sends a `receipt` of its own with each, and one that sends
again what it does not know of an `idempotency-key` too: no two of its header blocks are the same. Without the values
of these two they are, so what is left of a block keys what there is to know of all that are like it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import StompError
from worker.traits import KEY_BYTES

if TYPE_CHECKING:
    from worker.routes import Route

__all__ = ["Form", "Forms"]

_RECEIPT = b"\nreceipt:"
_KEY = b"\nidempotency-key:"
_RECEIPT_SIZE = len(_RECEIPT)
_KEY_SIZE = len(_KEY)
_SAFE = bytes(octet for octet in range(33, 127) if octet not in b":\\")
"""Octets of a value that are read, and written, as they are in every version and at every place."""

_ENTRY_BYTES = 1100
"""About what an entry takes besides its bytes."""

_Parts = tuple[bytes, ...]


class Form:
    """What such blocks have in common: all that a route says (`worker.routes`) but for the receipt and the key, and
    always with a counted body, one tail for every version and no transaction.

    The tail is `before`, the key and `after`; all is in `before` if there is no key.
    """

    __slots__ = ("after", "before", "destination", "length", "traits")

    def __init__(self, route: Route, before: bytes, after: bytes) -> None:
        self.destination = route.destination
        self.length = route.length
        self.before = before
        self.after = after
        self.traits = None if route.simple else route.traits


class Forms:
    """Remembers forms, in two generations as routes are, within about `room` bytes; `known` says whether it was asked
    for the same before, and `parse` gives the route of a block."""

    __slots__ = ("_bytes", "_known", "_most_bytes", "_old", "_parse", "_room", "_young")

    def __init__(
        self, room: int, most_bytes: int, parse: Callable[[bytes], Route], known: Callable[[_Parts], bool]
    ) -> None:
        self._room = room // 2
        self._most_bytes = most_bytes
        self._parse = parse
        self._known = known
        self._bytes = 0
        # None for what has no form: it is not to be tried each time.
        self._young: dict[_Parts, Form | None] = {}
        self._old: dict[_Parts, Form | None] = {}

    def find(self, head: bytes) -> tuple[Form, bytes | None, bytes | None] | None:
        """The form of a block with its blank line, its `receipt` and its `idempotency-key`; None if it takes a closer
        look. Only the first of several counts, and the others are a part of the form."""
        at = head.find(_RECEIPT)
        key_at = head.find(_KEY)
        receipt = key = None
        parts: _Parts
        if at < 0:
            if key_at < 0:
                return None
            key_at += _KEY_SIZE
            stop = head.index(b"\n", key_at)
            varied = key = head[key_at:stop]
            parts = head[:key_at], head[stop:]
        elif key_at < 0:
            at += _RECEIPT_SIZE
            end = head.index(b"\n", at)
            varied = receipt = head[at:end]
            parts = head[:at], head[end:]
        else:
            at += _RECEIPT_SIZE
            key_at += _KEY_SIZE
            end = head.index(b"\n", at)
            stop = head.index(b"\n", key_at)
            receipt = head[at:end]
            key = head[key_at:stop]
            varied = receipt + key
            parts = (
                (head[:at], head[end:key_at], head[stop:])
                if at < key_at
                else (head[:key_at], head[stop:at], head[end:])
            )
        if receipt == b"" or key == b"" or varied.translate(None, _SAFE) or len(head) > self._most_bytes:
            return None
        if key is not None and len(key) > KEY_BYTES:
            return None
        try:
            form = self._young[parts]
        except KeyError:
            form = self._find_old(parts, head, key)
        return None if form is None else (form, receipt, key)

    def _find_old(self, parts: _Parts, head: bytes, key: bytes | None) -> Form | None:
        if parts in self._old:
            form = self._old[parts]
        elif self._known(parts):
            form = self._make(head[:-2], key)
        else:
            return None
        tail = 0 if form is None else len(form.destination) + len(form.before) + len(form.after)
        size = sum(map(len, parts)) + tail + _ENTRY_BYTES
        if self._bytes + size > self._room:
            if size > self._room:
                return form
            self._old = self._young
            self._young = {}
            self._bytes = 0
        self._young[parts] = form
        self._bytes += size
        return form

    def _make(self, block: bytes, key: bytes | None) -> Form | None:
        try:
            route = self._parse(block)
        except StompError:
            # Whoever wants its route is told, of each that is like it.
            return None
        if route.simple or route.length < 0 or route.transaction is not None or route.tails is not None:
            return None
        if key is None:
            return Form(route, route.tail, b"")
        if route.key != key:
            return None
        # A line that starts so has that name: names are escaped in a tail, and the first counts here as it did there.
        at = route.tail.index(_KEY) + _KEY_SIZE
        return Form(route, route.tail[:at], route.tail[at + len(key) :])
