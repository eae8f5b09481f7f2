"""What the clients of a worker take from queues, and what they say of that, which the owners hear of by hand-offs.

Settlements are gathered: they are handed off at the end of a turn, or before what else of a client must come after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.errors import CloseReason, ErrorCode, StompError
from worker.acceptance import refuse
from worker.queues.letters import ATTACH, DETACH, END, NACK, SETTLE, Confirmed, Operation, Outcome
from worker.queues.pacing import PACE_MOST

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core
    from worker.queues.headers import Nack
    from worker.queues.service import Queues
    from worker.queues.subscription import QueueSubscription
    from worker.receipts import Ticket

__all__ = ["Clients", "settlement"]

_ORDERLY = (CloseReason.DISCONNECT, CloseReason.SHUTTING_DOWN)
"""Ends of a connection that say nothing of what its client was working on."""

_HandOff = Callable[[int, list[Operation], Confirmed | None, int], None]


class Clients:
    """`hand_off` gives operations to the owner in a slot; its last argument is their size in bytes."""

    def __init__(self, queues: Queues, core: Core, hand_off: _HandOff) -> None:
        self._queues = queues
        self._core = core
        self._hand_off = hand_off
        self._slot = queues.slot
        self._subscriptions: dict[int, QueueSubscription] = {}
        self._settling: dict[QueueSubscription, tuple[list[int], list[Ticket]]] = {}

    # --- subscriptions

    def subscription(self, number: int) -> QueueSubscription | None:
        """The consumer of that number on this worker."""
        return self._subscriptions.get(number)

    def subscribe(self, subscription: QueueSubscription, receipt: str | None) -> None:
        connection = subscription.connection
        self._subscriptions[subscription.number] = subscription
        if connection.queues is None:
            connection.queues = {}
        connection.queues[subscription.number] = subscription
        ticket = connection.hold_receipt(receipt)

        def done(outcome: Outcome) -> None:
            if outcome.refused is not None:
                refuse(connection, outcome, command=b"SUBSCRIBE")
            ticket.release()

        operation = [ATTACH, subscription.name, subscription.number, self._options(subscription)]
        self._hand_off(subscription.owner, [operation], done, 0)
        self._queues.flush_soon()

    def consumers_at(self, slot: int) -> list[list[Any]]:
        """The consumers at queues of the owner in `slot`: queue, number, options and keys of what each still has."""
        return [
            [each.name, each.number, self._options(each), list(each.keys.values()) + each.unwritten]
            for each in self._subscriptions.values()
            if each.owner == slot
        ]

    def _options(self, subscription: QueueSubscription) -> dict[str, Any]:
        local = subscription.owner == self._slot
        return {
            "prefetch": PACE_MOST if subscription.auto else subscription.prefetch,
            "auto": subscription.auto,
            "selector": subscription.owners_selector,
            "exclusive": subscription.exclusive,
            "feed": subscription.feed,
            "instant": local and subscription.auto and subscription.connection.outbox is None,
        }

    def unsubscribe(self, subscription: QueueSubscription, ticket: Ticket | None, *, orderly: bool = True) -> None:
        """The client takes no more; what it has not settled goes back. Not `orderly` if it broke off."""
        self.flush()
        self._subscriptions.pop(subscription.number, None)
        if subscription.connection.queues is not None:
            subscription.connection.queues.pop(subscription.number, None)
        done = None if ticket is None else _releasing([ticket])
        operation = [DETACH, subscription.name, subscription.number, orderly]
        self._hand_off(subscription.owner, [operation], done, 0)
        self._queues.flush_soon()

    def end(self, queue: bytes, ticket: Ticket) -> None:
        """The subscription that has this queue is to be no more."""
        self._hand_off(self._queues.owner_of(queue), [[END, queue]], _releasing([ticket]), 0)
        self._queues.flush_soon()

    def ended(self, number: int) -> None:
        """The subscription that this consumer takes part in was ended by another client."""
        subscription = self._subscriptions.get(number)
        if subscription is not None:
            error = StompError(
                ErrorCode.CLOSED_BY_OPERATOR,
                "durable subscription ended",
                f"UNSUBSCRIBE with durable:true ended the subscription of id {subscription.id!r}, and threw away what "
                "it held; who subscribes again starts a new one",
            )
            subscription.connection.fail(error, CloseReason.CLOSED_BY_OPERATOR)

    def left(self, connection: Connection) -> None:
        """The connection is gone, and with it its subscriptions."""
        orderly = connection.reason in _ORDERLY
        for subscription in list((connection.queues or {}).values()):
            self.unsubscribe(subscription, None, orderly=orderly)
        self._queues.browsing.left(connection)

    # --- deliveries

    def delivered(self, number: int, frames: list[bytes], keys: list[int], counts: list[int] | None) -> None:
        """Messages come for that consumer; see `worker.queues.subscription`."""
        subscription = self._subscriptions.get(number)
        if subscription is None or subscription.connection.closing:
            # It has left, and the owner takes back what was on its way when it hears of it.
            return
        connection = subscription.connection
        blob = subscription.frames(frames, keys, counts)
        router = self._core.router
        router.delivered += len(frames)
        router.bytes_out += len(blob)
        if connection.outbox is None:
            if subscription.auto and subscription.owner != self._slot:
                self._settling.setdefault(subscription, ([], []))[0].extend(keys)
            connection.transport.write(blob)
        else:
            if subscription.auto:
                subscription.unwritten += keys
            connection.outbox.keep(blob)

    def congested(self, connection: Connection) -> None:
        """The client does not keep up: what goes to it counts as delivered only when it reads."""
        for subscription in (connection.queues or {}).values():
            if subscription.auto and subscription.owner == self._slot:
                self._queues.owner.consumers.instant((self._slot, subscription.number), False)

    def drained(self, connection: Connection) -> None:
        """It has read everything."""
        for subscription in (connection.queues or {}).values():
            if subscription.auto:
                if subscription.unwritten:
                    keys, subscription.unwritten = subscription.unwritten, []
                    self._settling.setdefault(subscription, ([], []))[0].extend(keys)
                if subscription.owner == self._slot:
                    self._queues.owner.consumers.instant((self._slot, subscription.number), True)
        self._queues.browsing.drained(connection)
        self._queues.flush_soon()

    # --- acknowledgements

    @property
    def settling(self) -> bool:
        """Whether something was settled that no owner was told of."""
        return bool(self._settling)

    def settle(self, subscription: QueueSubscription, ids: list[bytes], ticket: Ticket | None) -> None:
        """The client acknowledged these; `ticket` is released when it is on disk."""
        subscription.connection.owners |= 1 << subscription.owner
        keys, tickets = self._settling.setdefault(subscription, ([], []))
        pop = subscription.keys.pop
        keys += [pop(id) for id in ids]
        if ticket is not None:
            tickets.append(ticket)

    def nack(
        self,
        subscription: QueueSubscription,
        ids: list[bytes],
        nack: Nack,
        ticket: Ticket | None,
    ) -> None:
        """The client refused these; `ticket` is released when it is on disk."""
        self.flush()
        subscription.connection.owners |= 1 << subscription.owner
        done = _settled(subscription, [] if ticket is None else [ticket], b"NACK")
        self._hand_off(subscription.owner, [settlement(subscription, ids, nack)], done, 0)
        self._queues.flush_soon()

    def flush(self) -> None:
        """Tell the owners of all that was settled."""
        if self._settling:
            settling, self._settling = self._settling, {}
            for subscription, (keys, tickets) in settling.items():
                done = _settled(subscription, tickets)
                operation = [SETTLE, subscription.name, subscription.number, keys]
                self._hand_off(subscription.owner, [operation], done, 9 * len(keys))


def settlement(subscription: QueueSubscription, ids: list[bytes], nack: Nack | None) -> Operation:
    """What tells the owner that the client acknowledged these or, with `nack`, refused them."""
    keys = [subscription.keys.pop(id) for id in ids]
    if nack is None:
        return [SETTLE, subscription.name, subscription.number, keys]
    return [NACK, subscription.name, subscription.number, keys, nack.delay, nack.requeue, nack.reason]


def _settled(subscription: QueueSubscription, tickets: list[Ticket], command: bytes = b"ACK") -> Confirmed:
    def settled(outcome: Outcome) -> None:
        if outcome.refused is not None:
            # Of a store that is broken. No RECEIPT that speaks for it may come, be it that of DISCONNECT.
            refuse(subscription.connection, outcome, command=command)
            return
        for ticket in tickets:
            ticket.release()

    return settled


def _releasing(tickets: list[Ticket]) -> Confirmed:
    def release(outcome: Outcome) -> None:
        # What can be refused is refused by other means; else the store is broken, and this worker about to end.
        if outcome.refused is None:
            for ticket in tickets:
                ticket.release()

    return release
