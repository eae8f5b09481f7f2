"""The judge of a history: what of the promises about queues does it break?

Pure: reads a list of events, knows no broker. It grants what at-least-once grants, and no more:

* what was sent and not receipted may be there or not;
* what was acknowledged and not receipted may come again or not;
* a message may be delivered again, saying so, when a process was killed, when the subscription that held it ended, or
  when it was sent back (NACK);
* a first delivery may say that it is a redelivery: after a crash nobody knows. Those are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.chaos.history import (
    Acknowledged,
    AcknowledgementReceipted,
    Calm,
    Closed,
    CommitReceipted,
    Committed,
    Delivered,
    Event,
    Killed,
    Receipted,
    Recovered,
    Refused,
    Returned,
    Sent,
)

__all__ = ["Fault", "Kind", "Verdict", "judge"]


class Kind(StrEnum):
    """How a promise was broken."""

    LOST = "lost"
    """Receipted (or of a transaction that took effect), never acknowledged, and not there at the end."""
    UNDONE = "undone"
    """Delivered after the receipt of its acknowledgement."""
    UNMARKED = "unmarked"
    """Delivered a second time without `redelivered:true` and a `delivery-count` of 2 or more, or with one of them."""
    UNPROVOKED = "unprovoked"
    """Delivered again while its consumer was there, had not sent it back, and nobody was killed."""
    ORDER = "order"
    """What one producer sent to one queue came in another order to one consumer, redeliveries left out."""
    SPLIT = "split"
    """A part of a transaction took effect, another did not."""
    PHANTOM = "phantom"
    """Delivered, though never sent or in a transaction that was never committed, or to the wrong queue."""
    IDENTITY = "identity"
    """Two messages with one message-id, or one with two."""
    REFUSED = "refused"
    """An ERROR that nothing of the client's asked for."""


@dataclass(frozen=True)
class Fault:
    kind: Kind
    about: str
    """The message, the transaction, or the text of the ERROR."""
    text: str
    at: int = -1
    """Index of the event that shows it; -1 for what shows only at the end."""

    def __str__(self) -> str:
        return f"{self.kind} {self.about}: {self.text}" + ("" if self.at < 0 else f" (event {self.at})")


@dataclass
class Verdict:
    """`faults`, and what was counted on the way: a run that proves nothing is seen by that."""

    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    awaited: set[str] = field(default_factory=set)
    """Ids that still have to come, should the history go on: they are lost if it does not."""

    def kinds(self) -> set[Kind]:
        return {fault.kind for fault in self.faults}

    def explain(self, events: Iterable[Event], most: int = 8) -> str:
        """The first faults, each with everything that happened to the message it is about."""
        history = list(events)
        lines = [f"{len(self.faults)} faults {dict(Counter(fault.kind.value for fault in self.faults))}; {self.counts}"]
        for fault in self.faults[:most]:
            lines.append(str(fault))
            about = {fault.about, *_relatives(fault.about, history)}
            lines += [f"    {index}: {event}" for index, event in enumerate(history) if _concerns(event, about)]
        return "\n".join(lines)


def _relatives(id: str, history: list[Event]) -> set[str]:
    """The transactions that sent or acknowledged it, and whatever else they sent."""
    sends = {event.transaction for event in history if isinstance(event, Sent) and event.id == id}
    acks = {event.transaction for event in history if isinstance(event, Acknowledged) and id in event.ids}
    names = {name for name in sends | acks | {id} if name is not None}
    return names | {event.id for event in history if isinstance(event, Sent) and event.transaction in names}


def _concerns(event: Event, about: set[str]) -> bool:
    if isinstance(event, Killed | Recovered | Calm):
        return True
    named = {getattr(event, "id", None), getattr(event, "transaction", None), *getattr(event, "ids", ())}
    return bool(about & named)


@dataclass(slots=True)
class _Message:
    sent: Sent
    receipted: bool = False
    deliveries: int = 0
    last_consumer: str = ""
    last_at: int = -1
    message_id: str = ""
    is_plain_seen: bool = False
    """A delivery that did not say that it was another one."""
    may_return: bool = False
    """It was sent back since its last delivery."""
    acked: bool = False
    """An ACK outside of transactions was sent."""
    acked_in: list[str] = field(default_factory=list)
    settled_at: int = -1
    """When an acknowledgement of it was receipted, if ever."""


@dataclass(slots=True)
class _Transaction:
    sends: list[str] = field(default_factory=list)
    acks: list[str] = field(default_factory=list)
    committed: bool = False
    receipted: bool = False


def judge(history: Iterable[Event]) -> Verdict:
    """Judge a history that ends when every queue was drained, with all acknowledgements of that receipted."""
    judged = _Judge()
    for index, event in enumerate(history):
        judged.take(index, event)
    return judged.close()


class _Judge:
    def __init__(self) -> None:
        self._verdict = Verdict()
        self._messages: dict[str, _Message] = {}
        self._transactions: dict[str, _Transaction] = {}
        self._closed: set[str] = set()
        self._orders: dict[tuple[str, str, str], tuple[int, str]] = {}
        self._owners: dict[str, str] = {}
        self._late: list[tuple[int, str]] = []
        self._dead = 0
        self._last_death = -1
        """Up to here deliveries may have been forgotten by whoever made them."""
        self._calm = False
        self._handlers: dict[type[Any], Any] = {
            Sent: self._sent,
            Receipted: self._receipted,
            Delivered: self._delivered,
            Acknowledged: self._acknowledged,
            AcknowledgementReceipted: self._acknowledgement_receipted,
            Committed: self._committed,
            CommitReceipted: self._commit_receipted,
            Returned: self._returned,
            Closed: self._consumer_closed,
            Killed: self._killed,
            Recovered: self._recovered,
            Calm: self._calmed,
            Refused: self._refused,
        }

    def take(self, index: int, event: Event) -> None:
        self._verdict.counts[type(event).__name__] += 1
        self._handlers[type(event)](index, event)

    def _fault(self, kind: Kind, about: str, text: str, at: int = -1) -> None:
        self._verdict.faults.append(Fault(kind, about, text, at))

    def _transaction(self, name: str) -> _Transaction:
        return self._transactions.setdefault(name, _Transaction())

    # --- sending

    def _sent(self, index: int, event: Sent) -> None:
        self._messages[event.id] = _Message(event)
        if event.transaction is not None:
            self._transaction(event.transaction).sends.append(event.id)

    def _receipted(self, index: int, event: Receipted) -> None:
        self._messages[event.id].receipted = True

    def _committed(self, index: int, event: Committed) -> None:
        self._transaction(event.transaction).committed = True

    def _commit_receipted(self, index: int, event: CommitReceipted) -> None:
        transaction = self._transaction(event.transaction)
        transaction.receipted = True
        for id in transaction.sends:
            self._messages[id].receipted = True
        for id in transaction.acks:
            self._settle(index, id)

    # --- receiving

    def _delivered(self, index: int, event: Delivered) -> None:
        message = self._messages.get(event.id)
        if message is None or message.sent.queue != event.queue:
            where = "was never sent" if message is None else f"was sent to {message.sent.queue}"
            self._fault(Kind.PHANTOM, event.id, f"came from {event.queue} to {event.consumer}, but {where}", index)
            return
        message.deliveries += 1
        if event.consumer in self._closed:
            # It was on its way when the subscription ended, and may have gone on to another and come there since.
            self._verdict.counts["left over"] += 1
            message.last_consumer = message.last_consumer or event.consumer
            return
        if message.deliveries > 1:
            self._delivered_again(index, event, message)
        elif event.redelivered or event.count:
            self._verdict.counts["marked at first"] += 1
        if event.redelivered != (event.count >= 2):
            text = f"redelivered is {event.redelivered}, delivery-count {event.count}"
            self._fault(Kind.UNMARKED, event.id, text, index)
        self._check_identity(index, event, message)
        if message.deliveries == 1 and not event.redelivered:
            self._check_order(index, event, message)
        if message.settled_at >= 0:
            text = f"came to {event.consumer} after its acknowledgement was receipted in event {message.settled_at}"
            self._fault(Kind.UNDONE, event.id, text, index)
        if self._calm:
            self._late.append((index, event.id))
        message.is_plain_seen = message.is_plain_seen or not event.redelivered
        message.last_consumer, message.last_at, message.may_return = event.consumer, index, False

    def _delivered_again(self, index: int, event: Delivered, message: _Message) -> None:
        self._verdict.counts["redeliveries"] += 1
        was_lost = self._dead > 0 or message.last_at < self._last_death
        if not event.redelivered:
            # While workers die, the first delivery may still be under way when the second comes by another one.
            if message.is_plain_seen or not was_lost:
                self._fault(Kind.UNMARKED, event.id, f"delivery {message.deliveries} does not say so", index)
            else:
                self._verdict.counts["first read last"] += 1
        if not (was_lost or message.may_return or message.last_consumer in self._closed):
            text = f"came to {event.consumer}, while {message.last_consumer} has it since event {message.last_at}"
            self._fault(Kind.UNPROVOKED, event.id, text, index)

    def _check_identity(self, index: int, event: Delivered, message: _Message) -> None:
        if message.message_id not in ("", event.message_id):
            text = f"has the message-id {event.message_id}, and had {message.message_id} before"
            self._fault(Kind.IDENTITY, event.id, text, index)
        message.message_id = event.message_id
        other = self._owners.setdefault(event.message_id, event.id)
        if other != event.id:
            self._fault(Kind.IDENTITY, event.id, f"has the message-id {event.message_id} of {other}", index)

    def _check_order(self, index: int, event: Delivered, message: _Message) -> None:
        key = (event.consumer, event.queue, message.sent.producer)
        number = message.sent.number
        highest, previous = self._orders.get(key, (-1, ""))
        if number <= highest:
            text = f"number {number} of {key[2]} came to {key[0]} after {highest} ({previous})"
            self._fault(Kind.ORDER, event.id, text, index)
        else:
            self._orders[key] = number, event.id

    # --- settling

    def _acknowledged(self, index: int, event: Acknowledged) -> None:
        for id in event.ids:
            message = self._messages.get(id)
            if message is None:
                # A phantom, found at its delivery.
                continue
            if event.transaction is None:
                message.acked = True
            else:
                message.acked_in.append(event.transaction)
                self._transaction(event.transaction).acks.append(id)

    def _acknowledgement_receipted(self, index: int, event: AcknowledgementReceipted) -> None:
        for id in event.ids:
            self._settle(index, id)

    def _settle(self, index: int, id: str) -> None:
        message = self._messages.get(id)
        if message is not None and message.settled_at < 0:
            message.settled_at = index

    def _returned(self, index: int, event: Returned) -> None:
        for id in event.ids:
            if id in self._messages:
                self._messages[id].may_return = True

    # --- the world

    def _consumer_closed(self, index: int, event: Closed) -> None:
        self._closed.add(event.consumer)

    def _killed(self, index: int, event: Killed) -> None:
        self._dead += 1
        self._last_death = index

    def _recovered(self, index: int, event: Recovered) -> None:
        self._dead -= 1
        # What came meanwhile may have been sent by the dead one, and read late.
        self._last_death = index

    def _calmed(self, index: int, event: Calm) -> None:
        self._calm = True

    def _refused(self, index: int, event: Refused) -> None:
        self._fault(Kind.REFUSED, event.text, "an ERROR nobody asked for", index)

    # --- the end

    def close(self) -> Verdict:
        effective = {name for name, each in self._transactions.items() if self._took_effect(name, each)}
        for id, message in self._messages.items():
            name = message.sent.transaction
            is_required = message.receipted or name in effective
            if not is_required:
                # Delivered from memory before it was stored, it may still have gone with the process.
                self._verdict.counts["unreceipted, there" if message.deliveries else "unreceipted, not there"] += 1
                continue
            self._check_settled(id, message, effective)
        for index, id in self._late:
            for name in self._messages[id].acked_in:
                if name in effective and not self._transactions[name].receipted:
                    text = f"its SENDs are there, but {id}, which it acknowledged, still comes"
                    self._fault(Kind.SPLIT, name, text, index)
        return self._verdict

    def _took_effect(self, name: str, transaction: _Transaction) -> bool:
        seen = [id for id in transaction.sends if self._messages[id].deliveries]
        if seen and not transaction.committed:
            self._fault(Kind.PHANTOM, name, f"never committed, but {seen[0]} was delivered")
        # What was delivered from memory and not acknowledged may have gone with the process, all of it.
        is_there = any(self._messages[id].settled_at >= 0 for id in seen)
        if transaction.committed and not transaction.receipted and transaction.sends:
            how = "there" if is_there else "seen, not there" if seen else "not there"
            self._verdict.counts[f"COMMIT unreceipted, {how}"] += 1
        return transaction.committed and (transaction.receipted or is_there)

    def _check_settled(self, id: str, message: _Message, effective: set[str]) -> None:
        """Whatever was acknowledged in effect may be gone; everything else has to have come in the end."""
        if message.acked or any(name in effective for name in message.acked_in):
            return
        if any(self._is_open(name) for name in message.acked_in):
            return
        self._verdict.awaited.add(id)
        name = message.sent.transaction
        if name in effective and not message.deliveries and not self._transactions[name].receipted:
            self._fault(Kind.SPLIT, name, f"{id} did not come, others of its SENDs did")
        elif not message.deliveries:
            self._fault(Kind.LOST, id, f"receipted, and never came from {message.sent.queue}")
        else:
            self._fault(Kind.LOST, id, f"never acknowledged, and gone from {message.sent.queue}")

    def _is_open(self, name: str) -> bool:
        """Committed without a receipt, and none of its SENDs tells whether it took effect: it has none, or they were
        seen, and may have gone since either way."""
        transaction = self._transactions[name]
        seen = any(self._messages[id].deliveries for id in transaction.sends)
        return transaction.committed and not transaction.receipted and (seen or not transaction.sends)
