"""What the connections of a worker share, and what ties its parts together.

`Core` is what the hot path calls (`worker.ingest.Handlers`), what the backplane calls
(`worker.backplane.interface.BackplaneEvents`), and the only one of the worker's modules that knows them all.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

from common.codec import encode
from common.destination import QUEUE, QUEUES
from common.errors import CloseReason, ErrorCode, StompError
from common.frame import Frame
from common.log import Event, EventLog
from common.temporary import TEMPORARY
from worker.acceptance import Acceptance
from worker.assembly import MessageIds, Sent
from worker.backplane.interface import Backplane, Batch
from worker.commands import COMMANDS, acknowledge
from worker.connection import Connection
from worker.deadlines import Deadlines
from worker.flow import EVERYTHING, FlowControl
from worker.ingest import Ingest
from worker.inspection import Inspector
from worker.journal import Journal
from worker.queues.service import Queues
from worker.reports import Naming, Reports
from worker.retained import RetainedMessages
from worker.router import Gathered, Router
from worker.routes import Route
from worker.settings import Settings
from worker.temporary import Temporaries

__all__ = ["Core"]

_BACKPLANE = "backplane"
_MANY = 64
"""Destinations held up for a full link by name; beyond, it is all of them."""
_REFUSALS = 128
"""Refused clients that may read their ERROR at the same time; the files of the process leave room for them."""


class Core:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        log: EventLog,
        ids: MessageIds,
        session_prefix: str,
        make_backplane: Callable[[Core], Backplane],
        make_queues: Callable[[Core], Queues],
    ) -> None:
        self.settings = settings
        self.log = log
        self.ids = ids
        self.soon = loop.call_soon
        self.now = loop.time
        self.later = loop.call_later
        self._session_prefix = session_prefix
        self._numbers = 0
        self.backplane = make_backplane(self)
        self.router = Router(self.backplane, settings.policies, settings.unacknowledged)
        self.flow = FlowControl(self._tell)
        self.ingest = Ingest(
            self,
            ids,
            settings.limits,
            settings.login_limits,
            settings.destination_bytes,
            settings.header_cache_bytes,
        )
        self.queues = make_queues(self)
        # Not a set: a listing goes by their order, which is that of their numbers.
        self.connections: dict[Connection, None] = {}
        self.deadlines = Deadlines(loop, self.connections)
        self.journal = Journal(self)
        self.session_names: dict[int, str] = {}
        """By the number of the connection, where the front names sessions."""
        self.reports: Reports | None = None
        self.naming: Naming | None = None
        self.retained = RetainedMessages(self)
        self.inspector = Inspector(self)
        self.temporary = Temporaries(self)
        self.draining = False
        self.drain_until = 0.0
        self._live = 0
        self.messages_in = 0
        self._from_siblings: Gathered = {}
        self.on_idle: Callable[[], None] | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self._kept_for = 0

    def configure(self, settings: Settings) -> None:
        """Go by `settings` from now on: what is read next, by whomever, is held to them."""
        self.settings = settings
        self.router.configure(settings.policies, settings.unacknowledged)
        self.ingest.configure(
            settings.limits, settings.login_limits, settings.destination_bytes, settings.header_cache_bytes
        )
        self.queues.configure()
        self.retained.configure()
        for connection in list(self.connections):
            connection.reconfigure()

    # --- connections

    def session_id(self, number: int) -> str:
        return f"{self._session_prefix}{number:x}"

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def opened(self, connection: Connection) -> None:
        connection.number = self.next_number()
        self.journal.accepted += 1
        self.connections[connection] = None
        self._live += 1
        limit = self.settings.connections
        if self.draining:
            connection.fail(_shutting_down(), CloseReason.SHUTTING_DOWN)
        elif len(self.connections) > limit + _REFUSALS:
            # No time for words: what the refused hold while they read them must have an end, too.
            connection.reason = CloseReason.TOO_MANY_CONNECTIONS
            connection.transport.abort()
        elif self._live > limit:
            connection.fail(
                StompError(
                    ErrorCode.TOO_MANY_CONNECTIONS,
                    "too many connections",
                    f"this worker has {limit}, which is the limit (limits.connections)",
                ),
                CloseReason.TOO_MANY_CONNECTIONS,
            )

    def left(self, connection: Connection) -> None:
        """A connection takes part no more; it may linger until its client has read the end."""
        self._live -= 1
        if self.reports is not None:
            self.reports.left(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.pop(connection, None)
        self.journal.closed(connection)
        self.session_names.pop(connection.number, None)
        if not self.connections and self.on_idle is not None:
            self.on_idle()

    def stop_taking(self, until: float) -> None:
        """Take nothing more from any client; what they have coming may be delivered `until` then (loop's clock)."""
        self.draining = True
        self.drain_until = until
        for connection in self.connections:
            if not connection.closing:
                # What a client still sends could not reach the siblings' clients any more, receipt or not.
                connection.deaf = True
                connection.transport.pause_reading()

    def say_goodbye(self) -> None:
        """Tell every client that the broker is going, and close."""
        for connection in list(self.connections):
            connection.fail(_shutting_down(), CloseReason.SHUTTING_DOWN)

    # --- the hot path's handlers

    def dispatch(self, connection: Connection, batches: dict[bytes, Batch], receipts: list[Sent]) -> None:
        if connection.backlog is not None:
            connection.backlog.add(lambda: self.dispatch(connection, batches, receipts), always=True)
            return
        deliver = self.router.deliver
        backplane = self.backplane
        acceptance = Acceptance(connection, receipts) if receipts else None
        queues = False
        fed: list[bytes] = []
        # One destination needs no gathering: what it writes to a connection is one piece already.
        gathered: Gathered | None = None if len(batches) == 1 else {}
        for destination, batch in batches.items():
            self.messages_in += len(batch.items)
            if batch.traits is not None:
                self.temporary.rewrite(connection, batch)
            if destination.startswith(QUEUE):
                queues = True
                self.queues.send(connection, destination, batch, acceptance)
                continue
            if destination.startswith(TEMPORARY):
                queues = True
                self.temporary.send(connection, destination, batch, acceptance, gathered)
                continue
            if self.queues.feeds:
                fed += self.queues.feed(connection, destination, batch, acceptance)
            if batch.traits is not None or self.retained.by_policy:
                fed += self.retained.publish(connection, destination, batch, acceptance)
            if acceptance is not None:
                acceptance.routed(destination, self.router.audience(destination))
            deliver(destination, batch, gathered)
            if backplane.interested(destination):
                backplane.publish(destination, batch)
        if gathered:
            _write_out(gathered)
        if queues or fed:
            self.queues.flush()
        if acceptance is not None:
            acceptance.begun()
        if self.flow.blocked and not connection.closing:
            names = [self.temporary.address(connection, each) for each in batches]
            held_up = {self.queues.holding_up(each) for each in names if each.startswith(QUEUES)} if queues else ()
            self.flow.pause_for(connection, (*names, *held_up, *fed))

    def publish(self, batches: dict[bytes, Batch]) -> None:
        """Deliver `batches` to topics, whoever sent them and is or is not there any more."""
        for destination, batch in batches.items():
            self.messages_in += len(batch.items)
            self.router.deliver(destination, batch)
            if self.backplane.interested(destination):
                self.backplane.publish(destination, batch)

    def command(self, connection: Connection, frame: Frame) -> None:
        if connection.closing:
            # It has left already: whatever this would start nobody would end.
            return
        if connection.backlog is not None:
            connection.backlog.add(lambda: self.command(connection, frame), encode(frame))
            return
        COMMANDS[frame.command](self, connection, frame)

    def acknowledge(self, connection: Connection, values: list[bytes]) -> int:
        if connection.backlog is not None:
            for value in values:
                self.command(connection, Frame("ACK", [("id", value.decode())]))
            return len(values)
        return acknowledge(self, connection, values)

    def transacted_send(self, connection: Connection, route: Route, body: bytes) -> None:
        if connection.backlog is not None:
            connection.backlog.add(lambda: self.transacted_send(connection, route, body), b"SEND")
            return
        connection.open_transactions().add_send(route, body)

    def refuse(self, connection: Connection, error: StompError, head: bytes) -> None:
        connection.fail(error, CloseReason.PROTOCOL_ERROR, head)

    # --- back-pressure

    def block(self, destination: bytes, connection: Connection, waiting: int) -> None:
        """`connection`, with `waiting` bytes in its outbox, cannot take what is sent to `destination`. A name that
        starts with NUL stands for the answers to its own frames, which hold up nobody else. `waiting` is 0 if that is
        known already."""
        own = destination.startswith(b"\0")
        self.flow.block(destination, connection, local=not own)
        if own:
            self.flow.pause_for(connection, (destination,))
        elif waiting:
            self.log.info(
                Event.SUBSCRIBER_SLOW,
                session=connection.session,
                destination=destination.decode(errors="replace"),
                waiting_bytes=waiting,
            )

    def greet(self, slot: int) -> None:
        """A sibling is new and has not heard what is held up here, nor who consumes its queues."""
        self.retained.greet(slot)
        self.queues.siblings.greet(slot)
        for destination in self.flow.blocked_here():
            self.backplane.send(slot, ["blocked", destination])

    def unblock(self, destination: bytes, connection: Connection) -> None:
        self.flow.unblock(destination, connection, local=not destination.startswith(b"\0"))

    def _tell(self, destination: bytes, blocked: bool) -> None:
        self.backplane.broadcast(["blocked" if blocked else "unblocked", destination])

    # --- the backplane's events

    def on_batch(self, destination: bytes, batch: Batch) -> None:
        self.router.deliver(destination, batch, self._from_siblings)

    def on_round_end(self) -> None:
        _write_out(self._from_siblings)
        self.queues.flush()

    def on_message(self, slot: int, message: Any) -> None:
        match message:
            case ["blocked", bytes(destination)]:
                self.flow.block(destination, slot, local=False)
            case ["unblocked", bytes(destination)]:
                self.flow.unblock(destination, slot, local=False)
            case ["retained", int(part), list(news)]:
                self.retained.on_letter(slot, part, news)
            case [str(), *_] if self._on_letter(slot, message):
                pass
            case _:
                self.log.error(
                    Event.INTERNAL_ERROR, what="unknown backplane message", sibling=slot, got=repr(message)[:200]
                )

    def _on_letter(self, slot: int, letter: list[Any]) -> bool:
        try:
            return self.queues.siblings.on_letter(slot, letter)
        except Exception as error:  # noqa: BLE001 - whatever it was, it must not be passed over
            # The next life gets it again, with all that is not confirmed.
            self.log.error(
                Event.INTERNAL_ERROR,
                what="a letter could not be handled: this worker ends, so that nothing in it is lost",
                sibling=slot,
                stack="".join(traceback.format_exception(error)),
            )
            self.on_broken()
            return True

    def on_blocked(self, destination: bytes) -> None:
        self.log.debug(Event.BACKPLANE_BLOCKED, destination=destination.decode(errors="replace"))
        self.flow.block(destination, _BACKPLANE, local=False)
        self._kept_for += 1
        if self._kept_for == _MANY:
            # Publishers that never repeat a destination would go on, and each new one would have to be kept, too.
            self.flow.block(EVERYTHING, _BACKPLANE, local=False)

    def on_unblocked(self, destination: bytes) -> None:
        self.log.debug(Event.BACKPLANE_UNBLOCKED, destination=destination.decode(errors="replace"))
        self.flow.unblock(destination, _BACKPLANE, local=False)
        self._kept_for -= 1
        if self._kept_for == _MANY // 2:
            self.flow.unblock(EVERYTHING, _BACKPLANE, local=False)

    def on_sibling_lost(self, slot: int, incarnation: int) -> None:
        self.log.info(Event.BACKPLANE_LOST, sibling=slot, incarnation=incarnation)
        self.flow.unblock_all(slot)
        self.queues.siblings.lost(slot)


def _write_out(gathered: Gathered) -> None:
    for connection, blobs in gathered.items():
        if not connection.closing:
            connection.transport.write(blobs[0] if len(blobs) == 1 else b"".join(blobs))
    gathered.clear()


def _shutting_down() -> StompError:
    return StompError(
        ErrorCode.SHUTTING_DOWN, "broker is shutting down", "connect again, here or elsewhere, in a moment"
    )
