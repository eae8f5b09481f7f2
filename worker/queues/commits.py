"""COMMITs whose queues have several owners, and whatever else has to happen at more than one owner or at none: written
down here first, once no owner that may have no room objects, then handed off to each, then forgotten. What was
written down is handed off again after a restart, and each owner applies it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgpack

from common.errors import ErrorCode
from common.temporary import TEMP_QUEUE
from worker.queues.feeds import FED
from worker.queues.letters import DONE, FORGET, Confirmed, Operation, Outcome, room_for
from worker.queues.work import Work
from worker.store.interface import Change, Forget, ForgetTransaction, Mark, PutTransaction, StoreError

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["Commits", "HandOff"]

HandOff = Callable[[int, list[Operation], Confirmed | None, str | None], None]
"""Gives operations to the owner in a slot, as part of a transaction or, with None, by themselves."""

_MAX_KNOWN = 65536
"""Queues of others that are remembered; beyond, all are forgotten, and their owners asked again."""


class Commits:
    """`origin` is this life of this worker, `owner` its own owner."""

    def __init__(self, origin: str, owner: Owner, hand_off: HandOff) -> None:
        self._origin = origin
        self._owner = owner
        self._hand_off = hand_off
        self._count = 0
        # Queues that other workers have, and until when they surely keep them.
        self._known: dict[bytes, int] = {}

    def commit(self, parts: dict[int, list[Operation]], done: Confirmed) -> None:
        """Apply the operations at the owner in each slot, all or none; `done` once they are on disk everywhere."""
        if len(parts) == 1:
            [(slot, operations)] = parts.items()
            room = room_for(operations, self._owner.now())
            # Without, of a single ADD as much would be taken as fits.
            self._hand_off(slot, [room, *operations] if room[1] else operations, done, None)
            return
        now = self._owner.now()
        rooms = {slot: room_for(operations, now) for slot, operations in parts.items()}
        asked = {slot: room for slot, room in rooms.items() if self._may_object(slot, room[1], now)}

        def applied(outcome: Outcome) -> None:
            if not outcome.refused:
                self._there(rooms, now)
            done(outcome)

        if asked:
            self._ask(asked, lambda outcome: done(outcome) if outcome.refused else self._record(parts, applied))
        else:
            self._record(parts, applied)

    def _may_object(self, slot: int, queues: Iterable[bytes], now: int) -> bool:
        """Whether the owner in `slot` may have no room for messages in these, or for one of them that is new."""
        registry = self._owner.registry
        for queue in queues:
            if registry.may_refuse(queue):
                return True
            there = registry.get(queue) is not None if slot == self._owner.slot else self._known.get(queue, 0) > now
            if not there and not queue.startswith((*FED, TEMP_QUEUE)):
                return True
        return False

    def _there(self, rooms: dict[int, Operation], since: int) -> None:
        """Their owners got messages for these after that time."""
        until = since + self._owner.registry.idle_timeout
        for slot, room in rooms.items():
            if slot != self._owner.slot:
                if len(self._known) > _MAX_KNOWN:
                    self._known.clear()
                self._known.update(dict.fromkeys(room[1], until))

    def _ask(self, rooms: dict[int, Operation], done: Confirmed) -> None:
        """Ask the owner in each slot for room: once it is written down nobody can refuse it any more."""
        waiting = set(rooms)
        answer = DONE

        def answered(slot: int) -> Confirmed:
            def confirmed(outcome: Outcome) -> None:
                nonlocal answer
                waiting.discard(slot)
                answer = answer if answer.refused else outcome
                if not waiting:
                    done(answer)

            return confirmed

        for slot, room in rooms.items():
            self._hand_off(slot, [room], answered(slot), None)

    def _record(self, parts: dict[int, list[Operation]], done: Confirmed) -> None:
        name = self._next_name()

        def recorded(error: StoreError | None) -> None:
            if error is not None:
                code = ErrorCode.STORE_FULL if error.full else ErrorCode.STORE_FAILED
                done(Outcome((code.value, "transaction not stored", str(error))))
            else:
                self._apply(name, parts, done)

        self._owner.write(Work(changes=[PutTransaction(name, msgpack.packb(parts))]), recorded)

    def across(self, parts: dict[int, list[Operation]], own: Work, recorded: Callable[[], None]) -> None:
        """The same where this worker's own part is applied to its queues in memory already, and `own` is what of it is
        to be stored; `recorded` once nothing of it can be lost any more."""
        name = self._next_name()
        own.changes += [PutTransaction(name, msgpack.packb(parts)), Mark(f"transaction {name}", 1)]
        others = {slot: each for slot, each in parts.items() if slot != self._owner.slot}

        def written(error: StoreError | None) -> None:
            if error is None:
                self._apply(name, others, None)
            recorded()

        self._owner.write(own, written)

    def again(self, transaction: PutTransaction) -> None:
        """One that an earlier life of this worker had written down."""
        self._apply(transaction.id, msgpack.unpackb(transaction.record, strict_map_key=False), None)

    def _next_name(self) -> str:
        self._count += 1
        return f"{self._origin}-{self._count}"

    def _apply(self, name: str, parts: dict[int, list[Operation]], done: Confirmed | None) -> None:
        waiting = set(parts)

        def applied(slot: int) -> Confirmed:
            def confirmed(outcome: Outcome) -> None:
                waiting.discard(slot)
                if not waiting:
                    if done is not None:
                        done(outcome)
                    changes: list[Change] = [ForgetTransaction(name), Forget(f"transaction {name}")]
                    self._owner.write(Work(changes=changes, must=True), forgotten)

            return confirmed

        def forgotten(error: StoreError | None) -> None:
            for slot in parts:
                self._hand_off(slot, [[FORGET, name]], None, None)

        for slot, operations in parts.items():
            self._hand_off(slot, operations, applied(slot), name)
