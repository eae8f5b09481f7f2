"""The temporary queues and topics of this worker's clients: made when a client subscribes to one or names one in a
`reply-to`, gone with its connection.

A temporary queue is one of this worker's own, in memory, which clients of every worker can send to and only its client
can consume. A temporary topic is a topic that only its client can subscribe to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.temporary import TEMP_QUEUE, TEMPORARY, full_address, session_of
from worker.acceptance import refuse
from worker.queues.letters import DONE, Outcome
from worker.routes import Route
from worker.traits import PLAIN, Traits

if TYPE_CHECKING:
    from worker.acceptance import Acceptance
    from worker.backplane.interface import Batch
    from worker.connection import Connection
    from worker.core import Core
    from worker.router import Gathered

__all__ = ["Temporaries"]

_REPLY_TO = b"\nreply-to:"


class Temporaries:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._queues: dict[Connection, dict[bytes, None]] = {}

    def address(self, connection: Connection, destination: bytes) -> bytes:
        """What the client calls `destination`, in the terms of all workers."""
        return full_address(destination, connection.locator) if destination.startswith(TEMPORARY) else destination

    def subscribed(self, connection: Connection, frame: Frame, destination: bytes) -> bytes:
        """The address of what a SUBSCRIBE is for, made if need be. Raises StompError if it is another's, or if there
        are too many."""
        if not destination.startswith(TEMPORARY):
            return destination
        address = self.address(connection, destination)
        if session_of(address) != connection.locator:
            raise StompError(
                ErrorCode.ACCESS_DENIED,
                "temporary destination of another connection",
                f"{destination.decode()[:160]!r} can be sent to, and only the connection that made it can subscribe",
            )
        if frame.get("durable") == "true" or frame.get("shared") == "true":
            raise StompError(
                ErrorCode.BAD_VALUE,
                "temporary destination with a durable or shared subscription",
                f"{destination.decode()[:160]!r} has one connection and is gone with it; leave durable and shared out",
            )
        refused = self._make(connection, address).refused
        if refused is not None:
            raise StompError(ErrorCode(refused[0]), refused[1], refused[2])
        return address

    def left(self, connection: Connection) -> None:
        """The connection is gone, and with it what it had."""
        addresses = self._queues.pop(connection, None)
        if addresses:
            self._core.queues.owner.consumers.drop(addresses)

    def send(
        self,
        connection: Connection,
        destination: bytes,
        batch: Batch,
        acceptance: Acceptance | None,
        gathered: Gathered | None,
    ) -> None:
        """Deliver `batch` to a temporary destination, the client's own or another's."""
        core = self._core
        address = self.address(connection, destination)
        if address.startswith(TEMP_QUEUE):
            if session_of(address) == connection.locator:
                refuse(connection, self._make(connection, address))
            core.queues.send(connection, address, batch, acceptance, destination)
            return
        if acceptance is not None:
            acceptance.routed(destination, core.router.audience(address))
        core.router.deliver(address, batch, gathered)
        if core.backplane.interested(address):
            core.backplane.publish(address, batch)

    def rewrite(self, connection: Connection, batch: Batch) -> None:
        """Have the `reply-to` of messages say what reaches the client's temporary destinations from anywhere."""
        if batch.traits is None:
            return
        for place, traits in list(batch.traits.items()):
            if traits.reply_to is None:
                continue
            address = self._reply_to(connection, traits.reply_to)
            lists = (batch.items,) if batch.by_version is None else batch.by_version
            for items in lists:
                items[place] = _readdressed(items[place], address)
            kept = _without_reply_to(traits)
            if kept is None:
                del batch.traits[place]
            else:
                batch.traits[place] = kept
        if not batch.traits:
            batch.traits = None

    def route(self, connection: Connection, route: Route) -> Route:
        """`route`, of a SEND in a transaction, with the addresses of all that is temporary in it."""
        traits, key = (None, None) if route.simple else (route.traits, route.key)
        reply_to = None if traits is None else traits.reply_to
        if traits is None or reply_to is None:
            if not route.destination.startswith(TEMPORARY):
                return route
            tail, tails = route.tail, None if route.simple else route.tails
        else:
            address = self._reply_to(connection, reply_to)
            tail, tails = _readdressed(route.tail, address), None
            if route.tails is not None:
                old, middle, new = (_readdressed(each, address) for each in route.tails)
                tails = old, middle, new
            traits = _without_reply_to(traits)
        destination = self.address(connection, route.destination)
        if destination.startswith(TEMP_QUEUE) and session_of(destination) == connection.locator:
            refuse(connection, self._make(connection, destination))
        return Route.full(destination, route.length, tail, None, None, tails, traits, key)

    def _reply_to(self, connection: Connection, reply_to: bytes) -> bytes:
        address = self.address(connection, reply_to)
        refuse(connection, self._make(connection, address))
        return address

    def _make(self, connection: Connection, address: bytes) -> Outcome:
        """Have the client's own `address`; the outcome says if there are too many."""
        if not address.startswith(TEMP_QUEUE) or connection.closing:
            return DONE
        own = self._queues.setdefault(connection, {})
        if address in own:
            return DONE
        limit = self._core.settings.subscriptions
        if len(own) >= limit:
            detail = f"this connection has {limit}, which is the limit (limits.subscriptions)"
            return Outcome((ErrorCode.TOO_MANY_QUEUES.value, "too many temporary queues", detail))
        owner = self._core.queues.owner
        if owner.registry.find(address, owner.now(), volatile=True) is None:
            return owner.registry.refusal()
        own[address] = None
        return DONE


def _readdressed(head: bytes, address: bytes) -> bytes:
    """`head`, which starts with the header lines of a MESSAGE, with `address` in the place of the first reply-to."""
    start = head.index(_REPLY_TO) + len(_REPLY_TO)
    # The client's name for it ends the line, and the address ends with that name, written as this version does.
    kind = head.index(b"/", start + 1) + 1
    return b"%b%b/%b" % (head[:kind], address.split(b"/", 3)[2], head[kind:])


def _without_reply_to(traits: Traits) -> Traits | None:
    kept = traits._replace(reply_to=None)
    return None if kept == PLAIN else kept
