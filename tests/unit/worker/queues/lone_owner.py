"""The real owner of queues on a store whose commits the test calls for, with a clock and consumers that pretend."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, cast

from common.config import Config
from common.log import EventLog
from tests.unit.worker.memory_store import MemoryStore
from worker.queues.consumer import Consumer
from worker.queues.feeds import Feed
from worker.queues.letters import ADD, ATTACH, DETACH, NACK, SETTLE, Operation, Outcome, room_for
from worker.queues.message import Message
from worker.queues.owned import OwnedQueue
from worker.queues.owner import Owner
from worker.queues.policy import Policies
from worker.queues.work import Work
from worker.settings import QueueSettings
from worker.store.interface import Recovered
from worker.traits import Traits

__all__ = ["ELSEWHERE", "NOW", "LoneOwner"]

NOW = 1_800_000_000_000
ELSEWHERE = b"/queue/elsewhere"
"""What another worker owns."""


class LoneOwner:
    """It owns all queues but one, and is asked by worker 1. `delivered` are message-ids by consumer, each with how
    often it was delivered."""

    slot = 0

    def __init__(self, store: MemoryStore | None = None, recovered: Recovered | None = None, **config: Any) -> None:
        self.time = NOW
        self.store = MemoryStore() if store is None else store
        self.delivered: dict[int, list[tuple[str, int]]] = {}
        self.keys: dict[str, int] = {}
        self.held_up: set[bytes] = set()
        self.wakes: list[int] = []
        self.on_delivery: Callable[[], object] = lambda: None
        self.sent_across: list[dict[int, list[Operation]]] = []
        self.sequence = 0
        settings = Config.model_validate(config)
        self.owner = Owner(
            cast(Any, self),
            self.store,
            QueueSettings.of(settings),
            Policies.of(settings),
            EventLog("worker-0", stream=io.StringIO()),
        )
        if recovered is not None:
            # Above the sequence stands where a hand-off was refused.
            self.sequence = max((mark & (1 << 40) - 1 for mark in recovered.marks.values()), default=0)
            self.owner.recover(recovered)
        self.owner.start()

    # --- the rest of its worker

    def owner_of(self, queue: bytes) -> int:
        return 1 if queue == ELSEWHERE else 0

    def now(self) -> int:
        return self.time

    def deliver(self, consumer: Consumer, messages: list[Message]) -> None:
        for message in messages:
            id = message.frame.split(b"\n", 1)[0].decode()
            self.delivered.setdefault(consumer.id, []).append((id, message.count))
            self.keys[id] = message.key
        self.on_delivery()

    def ended(self, consumer: Consumer) -> None:
        """Its client would be told."""

    def across(self, parts: dict[int, list[Operation]], own: Work, recorded: Callable[[], None]) -> None:
        self.owner.write(own, lambda error: recorded())
        self.sent_across.append(parts)

    def flush_soon(self) -> None:
        """Every test flushes."""

    def announce(self, feeds: list[Feed | bytes], done: Callable[[], None]) -> None:
        done()

    def wake_at(self, when: int) -> None:
        self.wakes.append(when)

    def hold_up(self, queue: bytes, held_up: bool) -> None:
        if held_up:
            self.held_up.add(queue)
        else:
            self.held_up.remove(queue)

    # --- what a test does

    def configure(self, **config: Any) -> None:
        """Go by another configuration from now on."""
        settings = Config.model_validate(config)
        self.owner.configure(QueueSettings.of(settings), Policies.of(settings))

    def commit_of(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The same, once all is stored."""
        self.settled()
        return outcomes

    def queue_is_used(self, name: str) -> bool:
        """Whether there is such a queue with something in it."""
        owned = self.owner.registry.get(name.encode())
        return owned is not None and owned.queue.messages > 0

    def apply(self, *operations: Operation, sequence: int | None = None) -> list[Outcome]:
        """Hand these off; the list gets how that ended, as soon as it has."""
        if sequence is None:
            self.sequence += 1
        outcomes: list[Outcome] = []
        number = self.sequence if sequence is None else sequence
        self.owner.apply("1-boot.1", 1, number, list(operations), None, outcomes.append)
        self.owner.flush()
        return outcomes

    def transact(self, *operations: Operation, sequence: int | None = None) -> list[Outcome]:
        """The same as a COMMIT that concerns no other owner."""
        return self.apply(room_for(list(operations), self.time), *operations, sequence=sequence)

    def add(
        self,
        queue: str,
        *ids: str,
        traits: dict[int, Traits] | None = None,
        keys: dict[int, bytes] | None = None,
        body: bytes = b"x",
    ) -> list[Outcome]:
        operation = self.adding(queue, *ids, traits=traits, body=body)
        return self.apply(operation if keys is None else [*operation, keys])

    def adding(self, queue: str, *ids: str, traits: dict[int, Traits] | None = None, body: bytes = b"x") -> Operation:
        items = [b"%b\ndestination:%b\n\n%b\0" % (id.encode(), queue.encode(), body) for id in ids]
        packed = None if traits is None else {place: each.pack() for place, each in traits.items()}
        return [ADD, queue.encode(), b"", items, packed]

    def attach(self, queue: str, number: int, prefetch: int = 100, **options: Any) -> list[Outcome]:
        given = {
            "prefetch": prefetch,
            "auto": False,
            "selector": "",
            "exclusive": False,
            "feed": None,
            "instant": False,
        }
        return self.apply([ATTACH, queue.encode(), number, {**given, **options}])

    def detach(self, queue: str, number: int, *, orderly: bool = True) -> list[Outcome]:
        return self.apply([DETACH, queue.encode(), number, orderly])

    def settle(self, queue: str, number: int, *ids: str) -> list[Outcome]:
        return self.apply([SETTLE, queue.encode(), number, [self.keys[id] for id in ids]])

    def nack(self, queue: str, number: int, *ids: str, delay: int | None = None, requeue: bool = True) -> list[Outcome]:
        keys = [self.keys[id] for id in ids]
        return self.apply([NACK, queue.encode(), number, keys, delay, requeue, "because"])

    def commit(self) -> None:
        self.store.commit()
        self.owner.flush()

    def settled(self) -> None:
        """Let the store store all there is."""
        while self.store.waits:
            self.commit()

    def wake(self, milliseconds: int = 0) -> None:
        """So much later."""
        self.time += milliseconds
        self.owner.upkeep.wake(self.time)
        self.owner.flush()

    def queue(self, name: str) -> OwnedQueue:
        owned = self.owner.registry.get(name.encode())
        assert owned is not None
        return owned

    def consumers(self) -> list[Consumer]:
        """All there are."""
        return [consumer for owned in self.owner.registry for consumer in owned.queue.consumers.values()]

    def ids(self, number: int) -> list[str]:
        """What that consumer was delivered."""
        return [id for id, _ in self.delivered.get(number, [])]

    def stored(self) -> list[str]:
        """The message-ids that are in the store, in the order of their keys."""
        return [frame.split(b"\n", 1)[0].decode() for _, frame in sorted(self.store.rows.items())]
