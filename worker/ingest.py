"""The hot path: one read of one connection, split into frames, looked up and dispatched as batches.

Knows frames, routes and batches; not sockets, not the backplane, not what a command does (`Handlers`). Everything a
message costs is in `Ingest.read`; what repeats is looked up by its raw bytes (`worker.routes`), what follows the
message-id is encoded once, and the messages of a read to one destination leave as one `Batch`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from common.codec import (
    HEAD_END,
    Limits,
    body_too_large,
    check_partial_head,
    content_length,
    decode_head,
    escape,
    head_too_large,
    missing_nul,
    refuse_body,
)
from common.errors import ErrorCode, StompError
from common.frame import CLIENT_COMMANDS, Frame
from common.negotiation import Version
from worker.assembly import Assembly, MessageIds, Sent
from worker.backplane.interface import Batch
from worker.routes import Route, RouteCache

if TYPE_CHECKING:
    from worker.connection import Connection

__all__ = ["Handlers", "Ingest"]

_SEQUENCE = [b"%d" % number for number in range(4096)]
_NO_ROUTES: dict[bytes, Route] = {}
_PLAIN_ACK = re.compile(rb"ACK\nid:([!-9;-\[\]-~]{1,255})\n\n\0")
"""A whole ACK with the header `id` and no other, whose value is read as it is written."""
_PLAIN_ACKS = re.compile(rb"(?:%b)++" % _PLAIN_ACK.pattern.replace(b"(", b"(?:"))
"""Many in a row."""
_NO_ROUTE = Route(b"", 0, b"")


class Handlers(Protocol):
    """What the hot path calls for everything that is not a plain SEND."""

    def dispatch(self, connection: Connection, batches: dict[bytes, Batch], receipts: list[Sent]) -> None:
        """Deliver `batches`, in their order, to whoever subscribed, and answer `receipts` once that is so."""

    def command(self, connection: Connection, frame: Frame) -> None:
        """Act on a frame; raises StompError for one that cannot be accepted."""

    def acknowledge(self, connection: Connection, values: list[bytes]) -> int:
        """Settle by ACKs that are nothing but an `id` (1.2), in their order; returns how many could be."""

    def transacted_send(self, connection: Connection, route: Route, body: bytes) -> None:
        """Keep a SEND for its transaction; `body` ends with NUL."""

    def refuse(self, connection: Connection, error: StompError, head: bytes) -> None:
        """Answer ERROR for the frame that starts with `head`, and close."""


class Ingest:
    """The reading side of all connections of one worker."""

    def __init__(
        self,
        handlers: Handlers,
        ids: MessageIds,
        limits: Limits,
        login_limits: Limits,
        destination_bytes: int,
        cache_bytes: int,
    ) -> None:
        self.bytes_in = 0
        self._handlers = handlers
        self._ids = ids
        # ACKs that came in a row, and the pieces of the read that they are.
        self._acks: list[bytes] = []
        self._acks_in: list[re.Match[bytes]] = []
        self._rules: tuple[Limits, int, int] | None = None
        self._caches: tuple[RouteCache, ...] = ()
        self.configure(limits, login_limits, destination_bytes, cache_bytes)

    def configure(self, limits: Limits, login_limits: Limits, destination_bytes: int, cache_bytes: int) -> None:
        """Go by these for every frame that is not whole yet, and for all that follow; not to be called by a handler."""
        self._limits = limits
        self._login_limits = login_limits
        rules = (limits, destination_bytes, cache_bytes // 3)
        if rules != self._rules:
            self._rules = rules
            # What is remembered was measured by the old limits, and is never measured again.
            self._caches = tuple(RouteCache(each, *rules) for each in Version)

    def read(self, connection: Connection, data: bytes) -> None:
        """Take one read. Never raises StompError: a fault is answered by `Handlers.refuse`."""
        self.bytes_in += len(data)
        if connection.partial is not None:
            joined = self._join(connection, data)
            if joined is None:
                return
            data = joined
        assembly = Assembly(self._ids.next_prefix())
        receipts: list[Sent] = []
        self._at = 0
        fault: StompError | None = None
        at = 0
        try:
            self._frames(connection, data, assembly, receipts)
        except StompError as error:
            fault, at = error, self._at
        try:
            self._flush(connection, assembly, receipts)
        except StompError as error:
            # Of an ACK, which came before whatever else is wrong.
            fault, at = error, self._at
        if fault is not None:
            # Enough of the frame to name its command and receipt in the ERROR.
            self._handlers.refuse(connection, fault, data[at : at + self._limits.head_bytes])

    def _flush(self, connection: Connection, assembly: Assembly, receipts: list[Sent]) -> None:
        """Have what came before handled. What refused it there and then has failed the connection by the end of this,
        and nothing that the client sent after it counts: look at `deaf`."""
        if self._acks:
            self._acknowledge(connection)
        if assembly.batches or receipts:
            self._handlers.dispatch(connection, assembly.batches, receipts.copy())
            receipts.clear()
            # Ids must not repeat should more of this read follow; the batches are the receivers' from here on.
            assembly.batches = {}
            assembly.prefix = self._ids.next_prefix()
            assembly.count = 0

    def _acknowledge(self, connection: Connection) -> None:
        acks, self._acks = self._acks, []
        pieces, self._acks_in = self._acks_in, []
        settled = self._handlers.acknowledge(connection, acks)
        if settled < len(acks):
            places = [ack.start() for piece in pieces for ack in _PLAIN_ACK.finditer(piece.string, *piece.span())]
            self._at = places[settled]
            # Says what is wrong with it.
            self._handlers.command(connection, Frame("ACK", [("id", acks[settled].decode())]))

    def _frames(self, connection: Connection, data: bytes, assembly: Assembly, receipts: list[Sent]) -> None:
        pos = 0
        size = len(data)
        find = data.find
        startswith = data.startswith
        head: bytes | None = None
        head_size = length = 0
        tail = b""
        route = _NO_ROUTE
        items: list[bytes] | None = None
        cache, known = self._cache_of(connection)
        while pos < size:
            if head is not None and startswith(head, pos):
                # The same header block as in the frame before: by far the most common case.
                body_at = pos + head_size
            else:
                byte = data[pos]
                if byte == 10 or byte == 13:
                    pos += 1
                    continue
                if byte == 65 and connection.version is Version.V1_2:
                    # 'A': most probably an ACK, and one of many in a row.
                    match = _PLAIN_ACKS.match(data, pos)
                    if match is not None:
                        if assembly.batches or receipts:
                            self._flush(connection, assembly, receipts)
                            if connection.deaf:
                                return
                        self._acks_in.append(match)
                        self._acks += _PLAIN_ACK.findall(data, *match.span())
                        pos = match.end()
                        head = None
                        continue
                body_at = find(b"\n\n", pos) + 2
                if body_at == 1 or connection.crlf:
                    match = HEAD_END.search(data, pos)
                    if match is None:
                        self._at = pos
                        self._keep_head(connection, data[pos:])
                        return
                    body_at = match.end()
                key = data[pos:body_at]
                if self._acks:
                    self._acknowledge(connection)
                remembered = known.get(key)
                if remembered is None:
                    self._at = pos
                    if b"\r" in key:
                        match = HEAD_END.search(key)
                        if match is not None:
                            connection.crlf = True
                            body_at = pos + match.end()
                            key = key[: match.end()]
                    if cache is None or not key.startswith((b"SEND\n", b"SEND\r\n")):
                        done = self._command(connection, data, pos, body_at, assembly, receipts)
                        if done < 0 or connection.deaf:
                            return
                        pos = done
                        cache, known = self._cache_of(connection)
                        head = None
                        continue
                    if len(key) > self._limits.head_bytes:
                        raise head_too_large(self._limits)
                    done = self._formed(cache, key, data, body_at, assembly, receipts)
                    if done:
                        pos = done
                        continue
                    route = cache.find(key, _block(key))
                    known = cache.young
                else:
                    route = remembered
                head = route.head
                if head is not None:
                    head_size = len(head)
                length = route.length
                tail = route.tail
                items = None
                if route.simple:
                    end = body_at + length
                    if end < size and not data[end]:
                        items = assembly.list_for(route.destination)
            if items is not None:
                end = body_at + length
                if end < size and not data[end]:
                    count = assembly.count
                    number = _SEQUENCE[count] if count < 4096 else b"%d" % count
                    items.append(number + tail + data[body_at : end + 1])
                    assembly.count = count + 1
                    pos = end + 1
                    continue
            self._at = pos
            end = self._body_end(connection, data, pos, body_at, length)
            if end < 0:
                return
            body = data[body_at : end + 1]
            pos = end + 1
            if route.simple:
                assembly.add(route, body)
                continue
            if route.transaction is not None:
                self._flush(connection, assembly, receipts)
                if connection.deaf:
                    return
                self._handlers.transacted_send(connection, route, body)
                head = None
                if route.receipt is not None:
                    receipts.append(Sent(_receipt(connection, route.receipt)))
                continue
            assembly.add(route, body)
            if route.receipt is not None:
                receipts.append(assembly.sent(_receipt(connection, route.receipt), route.destination))

    def _formed(
        self, cache: RouteCache, head: bytes, data: bytes, body_at: int, assembly: Assembly, receipts: list[Sent]
    ) -> int:
        """Take a SEND whose header block has a known form; returns where the next frame starts, or 0 if it takes the
        long way."""
        found = cache.forms.find(head)
        if found is None:
            return 0
        form, receipt, key = found
        end = body_at + form.length
        if end >= len(data) or data[end]:
            return 0
        destination = form.destination
        batch = assembly.batches.get(destination)
        if batch is None:
            batch = assembly.batches[destination] = Batch(assembly.prefix, [])
        elif batch.by_version is not None:
            return 0
        items = batch.items
        place = len(items)
        number = b"%d" % assembly.count
        assembly.count += 1
        end += 1
        if form.traits is not None:
            if batch.traits is None:
                batch.traits = {}
            batch.traits[place] = form.traits
        if key is not None:
            if batch.keys is None:
                batch.keys = {}
            batch.keys[place] = key
            items.append(b"".join((number, form.before, key, form.after, data[body_at:end])))
        else:
            items.append(number + form.before + data[body_at:end])
        if receipt is not None:
            receipts.append(Sent(receipt, destination, place, assembly.prefix + number))
        return end

    def _cache_of(self, connection: Connection) -> tuple[RouteCache | None, dict[bytes, Route]]:
        if connection.version is None:
            return None, _NO_ROUTES
        cache = self._caches[connection.version]
        return cache, cache.young

    def _command(
        self,
        connection: Connection,
        data: bytes,
        pos: int,
        body_at: int,
        assembly: Assembly,
        receipts: list[Sent],
    ) -> int:
        """Handle the frame at `pos`; returns where the next starts, or -1 if this one is incomplete, or too late."""
        version = connection.version
        limits = self._login_limits if version is None else self._limits
        if body_at - pos > limits.head_bytes:
            raise head_too_large(limits)
        rules = Version.V1_2 if version is None else version
        frame = decode_head(_block(data[pos:body_at]), rules, limits)
        _check_command(frame.command, logged_in=version is not None)
        length = content_length(frame, limits)
        refuse_body(frame.command, max(length, 0), rules)
        if length < 0:
            # Before its end is known, or what may have no body could have us hold one of the largest size.
            end = data.find(b"\0", body_at)
            refuse_body(frame.command, (len(data) if end < 0 else end) - body_at, rules)
            if end < 0 and rules is not Version.V1_0:
                # Its NUL is all that may come: look again at the next byte, whatever that is.
                connection.keep(data[pos:], 0)
                return -1
        end = self._body_end(connection, data, pos, body_at, length)
        if end < 0:
            return -1
        self._flush(connection, assembly, receipts)
        if connection.deaf:
            return -1
        self._handlers.command(connection, frame)
        return end + 1

    def _body_end(self, connection: Connection, data: bytes, pos: int, body_at: int, length: int) -> int:
        """Where the NUL of the frame is, or -1 after keeping the incomplete frame for the next read."""
        size = len(data)
        if length >= 0:
            end = body_at + length
            if end >= size:
                connection.keep(data[pos:], end + 1 - pos)
                return -1
            if data[end]:
                raise missing_nul(length)
            return end
        end = data.find(b"\0", body_at)
        body = (size if end < 0 else end) - body_at
        if body > self._limits.body_bytes:
            raise body_too_large(body, self._limits)
        if end < 0:
            # Below zero by the size of the head, so that `_join` knows the size of the body.
            connection.keep(data[pos:], pos - body_at)
        return end

    def _keep_head(self, connection: Connection, data: bytes) -> None:
        check_partial_head(data, self._login_limits if connection.version is None else self._limits)
        connection.keep(data, 0)

    def _join(self, connection: Connection, data: bytes) -> bytes | None:
        """The bytes kept from earlier reads with `data`, or None while they cannot be a whole frame yet."""
        partial = connection.partial
        if partial is None:
            return data
        partial += data
        wanted = connection.partial_wanted
        if wanted > 0 and len(partial) < wanted:
            return None
        if wanted < 0 and b"\0" not in data and len(partial) + wanted <= self._limits.body_bytes:
            return None
        connection.partial = None
        return bytes(partial)


def _receipt(connection: Connection, receipt: str) -> bytes:
    version = Version.V1_2 if connection.version is None else connection.version
    return escape(receipt, version).encode()


def _block(head: bytes) -> bytes:
    """`head` without the EOL of its last header line and the blank line; not more, or a CR too many would vanish."""
    return head[:-3] if head.endswith(b"\n\r\n") else head[:-2]


def _check_command(command: str, *, logged_in: bool) -> None:
    if command not in CLIENT_COMMANDS:
        raise StompError(
            ErrorCode.UNKNOWN_COMMAND,
            "unknown command",
            f"{command[:32]!r} is no command of a STOMP client; commands are upper case",
        )
    if not logged_in and command not in ("CONNECT", "STOMP"):
        raise StompError(
            ErrorCode.NOT_CONNECTED,
            f"{command} before CONNECT",
            "the first frame of a connection is CONNECT or STOMP",
        )
