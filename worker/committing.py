"""What BEGIN, COMMIT and ABORT do; what is in a transaction until then: `worker.transactions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.codec import escape
from common.destination import QUEUES
from common.frame import Frame
from worker.acceptance import refuse
from worker.assembly import Assembly
from worker.backlog import Backlog
from worker.handling import answer, required, version_of
from worker.queues.letters import ADD, Outcome

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core

__all__ = ["abort", "begin", "commit"]


def begin(core: Core, connection: Connection, frame: Frame) -> None:
    connection.open_transactions().begin(required(frame, "transaction"))
    answer(connection, frame)


def commit(core: Core, connection: Connection, frame: Frame) -> None:
    transaction = connection.open_transactions().end(required(frame, "transaction"))
    assembly = Assembly(core.ids.next_prefix())
    for route, body in transaction.sends:
        assembly.add(core.temporary.route(connection, route), body)
    if connection.closing:
        # A reply-to found no room for its queue.
        return
    parts = core.queues.parts(assembly.batches, transaction.settled)
    topics = {name: batch for name, batch in assembly.batches.items() if not name.startswith(QUEUES)}
    core.retained.add_to(parts, topics)
    if not parts:
        core.publish(topics)
        if core.flow.blocked and not connection.closing:
            core.flow.pause_for(connection, topics)
        answer(connection, frame)
        return
    ticket = connection.hold_receipt(frame.get("receipt"))
    # What several owners apply, or the subscribers of a topic get, is overtaken by nothing that came later.
    backlog = Backlog(connection, core.refuse) if topics or len(parts) > 1 else None

    def done(outcome: Outcome) -> None:
        if outcome.refused is not None:
            receipt = frame.get("receipt")
            line = "" if receipt is None else f"\nreceipt:{escape(receipt, version_of(connection))}"
            refuse(connection, outcome, line.encode(), b"COMMIT")
            return
        core.publish(topics)
        ticket.release()
        if backlog is not None:
            backlog.end()

    core.queues.commit(parts, done)
    core.queues.flush()
    if core.flow.blocked and not connection.closing:
        names = {each[1] for operations in parts.values() for each in operations if each[0] == ADD}
        core.flow.pause_for(connection, {*topics, *names, *map(core.queues.holding_up, names)})


def abort(core: Core, connection: Connection, frame: Frame) -> None:
    connection.open_transactions().end(required(frame, "transaction")).restore()
    answer(connection, frame)
