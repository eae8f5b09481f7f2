"""Messages come into the queues of an owner: within their limits, each idempotency key once, delayed ones later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ErrorCode
from common.temporary import TEMP_QUEUE
from worker.queues.feeds import FED
from worker.queues.idempotency import Seen
from worker.queues.letters import ADD, DONE, GONE, Operation, Outcome, due
from worker.queues.message import message_id
from worker.queues.owned import OwnedQueue
from worker.queues.policy import QueuePolicy
from worker.queues.work import Work
from worker.store.interface import Park, PutKeys, Unpark
from worker.traits import Traits, traits_of

if TYPE_CHECKING:
    from worker.queues.owner import Owner

__all__ = ["Arrivals"]

_FIRST_LOST = (
    ErrorCode.STORE_FAILED.value,
    "message not stored",
    "the message that came with its idempotency-key first could not be stored; send it again",
)


class Arrivals:
    """`next_parked` is the first id that no parked message ever had."""

    def __init__(self, owner: Owner, seen: Seen) -> None:
        self._owner = owner
        self._registry = owner.registry
        self.seen = seen
        self.next_parked = 1
        # Message-ids that came with an idempotency key and were not stored, while there may be repeats under way.
        self._failed: set[bytes] = set()

    def add(self, unit: Work, operation: Operation, *, limited: bool) -> Outcome:
        """Take in the messages of an ADD; `unit` tells the store. What is not `limited` was let in before."""
        _, name, prefix, items, packed, *more = operation
        keys: dict[int, bytes] | None = more[0] if more else None
        now = self._owner.now()
        if name.startswith((*FED, TEMP_QUEUE)):
            owned = self._registry.get(name)
            if owned is None:
                # Its subscription or its connection ended while this was on its way.
                return GONE
        else:
            owned = self._registry.find(name, now, must=not limited)
            if owned is None:
                return self._registry.refusal()
        traits = None if packed is None else {place: Traits.unpack(each) for place, each in packed.items()}
        outcome = DONE
        policy = owned.policy
        bounded = policy.max_messages or policy.max_bytes
        refused_at, size = None, 0
        if bounded and policy.when_full == "reject" and limited:
            # First of all: what is refused must leave nothing behind.
            place = self._first_without_room(owned, prefix, items, traits, keys, now)
            if place < len(items):
                size = len(prefix) + len(items[place])
                items = items[:place]
                refused_at = place
        if keys is not None:
            items, traits, duplicates = self._without_repeats(unit, name, prefix, items, traits, keys, now)
            if duplicates:
                outcome = Outcome(duplicates=duplicates)
        if traits is not None:
            items, traits = self._without_delayed(unit, owned, prefix, items, traits, now)
        row = owned.reserve(len(items))
        if row is not None:
            # By itself: were it refused with these messages, those that come next would have no queue.
            self._owner.write(Work(changes=[row], must=True))
        if bounded:
            owned.add(unit, prefix, items, traits, now)
            if policy.when_full == "drop-head":
                self._owner.departures.drop_head(owned)
            elif policy.when_full == "block":
                self._owner.block_when_full(owned)
        else:
            owned.add(unit, prefix, items, traits, now)
        self._owner.touch(owned)
        if refused_at is not None:
            refused = self._refusal(name, policy, owned.load, size).refused
            return Outcome(refused, refused_at, outcome.duplicates)
        return outcome

    def again(self, operation: Operation, refused_at: int | None) -> Outcome:
        """How an ADD ended that is stored already, up to the place where it was refused: its origin was told by an
        earlier life of this owner at best."""
        _, name, prefix, items, _, *more = operation
        keys: dict[int, bytes] = (more[0] if more else None) or {}
        duplicates: dict[int, bytes] = {}
        now = self._owner.now()
        for place in sorted(keys):
            if refused_at is not None and place >= refused_at:
                break
            first = self.seen.find(name, keys[place], now)
            if first is None:
                # Of all that is stored the key is known, so this was a repeat of what is not. Or the key was forgotten
                # since: rather stored twice than lost.
                return Outcome(_FIRST_LOST, place, duplicates or None)
            if first != prefix + message_id(items[place]):
                duplicates[place] = first
        if refused_at is None:
            return Outcome(duplicates=duplicates) if duplicates else DONE
        owned = self._registry.get(name)
        policy, load = (self._registry.policy(name), (0, 0)) if owned is None else (owned.policy, owned.load)
        return Outcome(self._refusal(name, policy, load).refused, refused_at, duplicates or None)

    def check_room(self, wanted: dict[bytes, tuple[int, int]], operations: list[Operation]) -> Outcome:
        """DONE, or the refusal of all of a ROOM: there is none in a queue, or for one more. What repeats others needs
        none, as far as the ADDs are among the `operations` that come with it."""
        new = [name for name in wanted if self._registry.get(name) is None and not name.startswith((*FED, TEMP_QUEUE))]
        if new and len(self._registry) + len(new) > self._registry.limit:
            return self._registry.refusal()
        for name, (count, size) in wanted.items():
            owned = self._registry.get(name)
            if owned is None and name not in new:
                # Its subscription or its connection ended: nothing of this is kept.
                continue
            policy, load = (self._registry.policy(name), (0, 0)) if owned is None else (owned.policy, owned.load)
            if policy.when_full != "reject" or _fits(policy, load, count, size):
                continue
            repeats = self._repeats(name, operations)
            count, size = count - len(repeats), size - sum(repeats)
            if not _fits(policy, load, count, size):
                return self._refusal(name, policy, load, size)
        return DONE

    def _repeats(self, name: bytes, operations: list[Operation]) -> list[int]:
        """The bytes of each message that these would add to the queue at once, had its idempotency key not come
        before."""
        now = self._owner.now()
        new: set[bytes] = set()
        repeats = []
        for operation in operations:
            if operation[0] != ADD or operation[1] != name or len(operation) < 6:
                continue
            _, _, prefix, items, packed, keys = operation
            for place, key in keys.items():
                repeated = key in new or self.seen.find(name, key, now) is not None
                new.add(key)
                later = packed is not None and place in packed and due(Traits._make(packed[place]), now) > now
                if repeated and not later:
                    repeats.append(len(prefix) + len(items[place]))
        return repeats

    def stored(self, unit: Work) -> None:
        """The store has it: what came with it is in the queues from now on."""
        more = Work(must=True)
        for owned, messages in unit.arrivals:
            # An ended subscription's queue may be gone by now, and in the store, too.
            if self._registry.by_number(owned.number) is not owned:
                continue
            owned.arrive(more, messages)
            if owned.policy.when_full == "drop-head":
                self._owner.departures.drop_head(owned)
            self._owner.touch(owned)
        if not more.is_idle:
            self._owner.write(more)

    def refused(self, unit: Work) -> None:
        """The store refused it: nothing of it came, and what it said of queues and keys is to be said again."""
        failed = set()
        for change in unit.changes:
            if isinstance(change, PutKeys):
                self.seen.remove(change)
                failed.update(change.message_ids)
        if failed:
            self._failed |= failed
            # Repeats that came meanwhile are told of it before.
            self._owner.when_stored(lambda: self._failed.difference_update(failed))
        for owned, messages in unit.arrivals:
            owned.leave_out(messages)
            owned.reserved = 0
            self._owner.eased(owned)

    def checked(self, outcome: Outcome) -> Outcome:
        """`outcome` of an ADD whose unit is stored: a repeat of what was not is no repeat."""
        lost = [place for place, first in (outcome.duplicates or {}).items() if first in self._failed]
        if not lost:
            return outcome
        return Outcome(_FIRST_LOST, min(lost))

    def unpark(self, parked: list[Park]) -> None:
        """These are due."""
        for each in parked:
            unit = Work(changes=[Unpark(each.id)], must=True)
            traits = traits_of(each.frame)
            packed = None if traits is None else {0: traits.pack()}
            self.add(unit, [ADD, each.queue.encode(), b"", [each.frame], packed], limited=False)
            self._owner.write(unit)

    def _first_without_room(
        self,
        owned: OwnedQueue,
        prefix: bytes,
        items: list[bytes],
        traits: dict[int, Traits] | None,
        keys: dict[int, bytes] | None,
        now: int,
    ) -> int:
        """The place of the first of `items` that does not fit; repeats, and what is put off, need no room."""
        room, size = owned.room
        fits = not owned.policy.max_bytes or len(items) * len(prefix) + sum(map(len, items)) <= size
        if fits and (room >= len(items) or (traits is None and keys is None)):
            return min(room, len(items))
        new = set()
        for place, item in enumerate(items):
            key = None if keys is None else keys.get(place)
            if key is not None:
                if key in new or self.seen.find(owned.name, key, now) is not None:
                    continue
                new.add(key)
            each = None if traits is None else traits.get(place)
            if each is not None and due(each, now) > now:
                continue
            room -= 1
            size -= len(prefix) + len(item)
            if room < 0 or size < 0:
                return place
        return len(items)

    @staticmethod
    def _refusal(name: bytes, policy: QueuePolicy, load: tuple[int, int], refused: int = 0) -> Outcome:
        """`refused` are the bytes of what has no room."""
        messages, size = load
        detail = (
            f"{name.decode()!r} holds {messages} messages of {size} bytes; the limits are "
            f"{policy.max_messages or 'no'} messages (destination.max_messages) and {policy.max_bytes or 'no'} bytes "
            "(destination.max_bytes); "
        )
        if 0 < policy.max_bytes < refused:
            detail += f"this would take {refused} bytes, for which there never is room"
        else:
            detail += "send again when consumers have made room"
        return Outcome((ErrorCode.QUEUE_FULL.value, "queue is full", detail))

    def _without_repeats(
        self,
        unit: Work,
        name: bytes,
        prefix: bytes,
        items: list[bytes],
        traits: dict[int, Traits] | None,
        keys: dict[int, bytes],
        now: int,
    ) -> tuple[list[bytes], dict[int, Traits] | None, dict[int, bytes]]:
        if next(reversed(keys)) >= len(items):
            # Places beyond are those of messages that were refused.
            keys = {place: key for place, key in keys.items() if place < len(items)}
        new, duplicates = self.seen.add(name, keys, prefix, items, now)
        if new is not None:
            unit.changes.append(new)
        if duplicates:
            kept = [place for place in range(len(items)) if place not in duplicates]
            items = [items[place] for place in kept]
            if traits is not None:
                traits = {at: traits[place] for at, place in enumerate(kept) if place in traits}
        return items, traits, duplicates

    def _without_delayed(
        self,
        unit: Work,
        owned: OwnedQueue,
        prefix: bytes,
        items: list[bytes],
        traits: dict[int, Traits],
        now: int,
    ) -> tuple[list[bytes], dict[int, Traits]]:
        if not any(each.delay or each.deliver_at for each in traits.values()):
            return items, traits
        kept: list[bytes] = []
        kept_traits: dict[int, Traits] = {}
        for place, item in enumerate(items):
            each = traits.get(place)
            due_at = 0 if each is None else due(each, now)
            if due_at > now:
                unit.changes.append(Park(self.next_parked, due_at, owned.name.decode(), prefix + item))
                self.next_parked += 1
                continue
            if each is not None:
                kept_traits[len(kept)] = each
            kept.append(item)
        return kept, kept_traits


def _fits(policy: QueuePolicy, load: tuple[int, int], count: int, size: int) -> bool:
    """Whether so many messages of so many bytes fit beside `load`; none always do, also where what was due is too much
    already."""
    if not count:
        return True
    fits = not policy.max_messages or load[0] + count <= policy.max_messages
    return fits and (not policy.max_bytes or load[1] + size <= policy.max_bytes)
