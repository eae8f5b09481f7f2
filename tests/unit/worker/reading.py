"""What the tests of the hot path put in the place of connections and handlers, and how they compare what comes out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from common.codec import Limits, unescape
from common.decoder import Decoder
from common.errors import StompError
from common.frame import Frame
from common.negotiation import Version
from worker.assembly import MessageIds, Sent
from worker.backplane.interface import Batch
from worker.connection import Connection
from worker.ingest import Ingest
from worker.routes import Route

__all__ = ["FakeConnection", "Log", "Reader", "message", "messages"]

Log = list[tuple[Any, ...]]

_OWN = {"destination", "receipt", "transaction", "message-id", "subscription", "ack", "redelivered", "receipt-id"}


class FakeConnection:
    """The reading side of `worker.connection.Connection`, and no more."""

    def __init__(self, version: Version | None = Version.V1_2) -> None:
        self.version = version
        self.crlf = False
        self.deaf = False
        self.partial: bytearray | None = None
        self.partial_wanted = 0
        self.kept = 0

    def keep(self, data: bytes, wanted: int) -> None:
        self.kept += 1
        self.partial = bytearray(data)
        self.partial_wanted = wanted


class Reader:
    """An `Ingest` with handlers that write down what they are called for, in order."""

    def __init__(
        self,
        version: Version | None = Version.V1_2,
        *,
        limits: Limits | None = None,
        login_limits: Limits | None = None,
        cache_bytes: int = 1 << 20,
    ) -> None:
        self.log: Log = []
        self.ids: list[bytes] = []
        self.fault_on: str | None = None
        self.fault: StompError | None = None
        self.refuses_sends = False
        self.heads: list[bytes] = []
        self.connection = FakeConnection(version)
        limits = limits or Limits()
        self.ingest = Ingest(self, MessageIds(0, "boot", 1), limits, login_limits or limits, 1024, cache_bytes)

    def read(self, *pieces: bytes) -> Log:
        """Read the pieces as long as the connection would; returns the log."""
        for piece in pieces:
            if self.connection.deaf:
                break
            self.ingest.read(cast(Connection, self.connection), piece)
        return self.log

    # --- worker.ingest.Handlers

    def dispatch(self, connection: Connection, batches: dict[bytes, Batch], receipts: list[Sent]) -> None:
        assert batches or receipts
        for destination, batch in batches.items():
            found = [messages(batch, version) for version in Version]
            self.ids += [frame.headers[0][1].encode() for frame in found[2]]
            assert len(found[0]) == len(found[1]) == len(found[2]) == len(batch.items) > 0
            for forms in zip(*found, strict=True):
                assert forms[0].headers[0] == forms[1].headers[0] == forms[2].headers[0]
                bare = [Frame(each.command, each.headers[1:], each.body) for each in forms]
                self.log.append(("message", destination, *bare))
        for sent in receipts:
            if sent.destination:
                batch = batches[sent.destination]
                assert sent.message_id == batch.id_prefix + batch.items[sent.place].split(b"\n")[0]
            assert connection.version is not None
            self.log.append(("receipt", unescape(sent.receipt.decode(), connection.version)))
        if self.refuses_sends:
            self.connection.deaf = True

    def command(self, connection: Connection, frame: Frame) -> None:
        assert frame.command != "SEND" or connection.version is None, "a SEND is no command"
        if frame.command == self.fault_on and self.fault is not None:
            raise self.fault
        if frame.command == "CONNECT":
            connection.version = Version.V1_2
        if frame.command == "DISCONNECT":
            self.connection.deaf = True
        self.log.append(("command", frame.command, tuple(frame.headers), frame.body))

    def acknowledge(self, connection: Connection, values: list[bytes]) -> int:
        for number, value in enumerate(values):
            if self.fault_on == "ACK":
                return number
            self.log.append(("command", "ACK", (("id", value.decode()),), b""))
        return len(values)

    def transacted_send(self, connection: Connection, route: Route, body: bytes) -> None:
        if self.fault_on == "SEND" and self.fault is not None:
            raise self.fault
        assert body.endswith(b"\0")
        self.log.append(("transacted", route.transaction, route.destination, body[:-1]))

    def refuse(self, connection: Connection, error: StompError, head: bytes) -> None:
        self.connection.deaf = True
        self.heads.append(head)
        self.log.append(("refuse", error.code))

    # ---

    def settled(self) -> list[Any]:
        """The log as what any cut of the bytes must agree on: between two commands, the messages of each destination
        in their order, and the receipts in theirs."""
        parts: list[Any] = []
        by_destination: dict[bytes, list[Any]] = {}
        receipts: list[str] = []
        for entry in [*self.log, ("end",)]:
            if entry[0] == "message":
                by_destination.setdefault(entry[1], []).append(entry[2:])
            elif entry[0] == "receipt":
                receipts.append(entry[1])
            else:
                parts += [by_destination, receipts, ("refuse",) if entry[0] == "refuse" else entry]
                by_destination, receipts = {}, []
        return parts


def messages(batch: Batch, version: Version) -> list[Frame]:
    """What a subscriber of `version` without a subscription id would be sent."""
    items: Iterable[bytes] = batch.items if batch.by_version is None else batch.by_version[version]
    found = []
    for item in items:
        frames = list(Decoder(version).feed(b"MESSAGE\nmessage-id:" + batch.id_prefix + item))
        assert len(frames) == 1, item
        found.append(frames[0])
    return found


def message(send: Frame) -> Frame:
    """The MESSAGE that a SEND becomes, but for its message-id."""
    headers = [("destination", send.get("destination") or "")]
    counted = False
    for name, value in send.headers:
        if name == "content-length":
            if not counted:
                headers.append((name, value))
            counted = True
        elif name not in _OWN:
            headers.append((name, value))
    if send.body and not counted:
        headers.append(("content-length", str(len(send.body))))
    return Frame("MESSAGE", headers, send.body)
