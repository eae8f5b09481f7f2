"""COMMITs whose queues have several owners: one that has no room for its part objects before it is written down."""

from __future__ import annotations

from typing import Any

from tests.unit.worker.queues.lone_owner import LoneOwner
from worker.queues.commits import Commits
from worker.queues.letters import Confirmed, Operation, Outcome


class TwoOwners:
    """The committing worker, and another one. `handed_off` are the slots of what the last COMMIT handed off, with the
    name of the transaction."""

    def __init__(self, **config: Any) -> None:
        self.owners = [LoneOwner(**config), LoneOwner(**config)]
        self.sequence = 0
        self.handed_off: list[tuple[int, str | None]] = []
        self.commits = Commits("0-boot.1", self.owners[0].owner, self._hand_off)

    def _hand_off(
        self, slot: int, operations: list[Operation], done: Confirmed | None, transaction: str | None
    ) -> None:
        self.handed_off.append((slot, transaction))
        self.sequence += slot
        sequence = self.sequence if slot else 0
        self.owners[slot].owner.apply("0-boot.1", 0, sequence, operations, transaction, done or (lambda outcome: None))

    def commit(self, *queues: str) -> Outcome:
        """A SEND to each, at one owner after the other."""
        parts: dict[int, list[Operation]] = {0: [], 1: []}
        for place, queue in enumerate(queues):
            parts[place % 2].append(self.owners[0].adding(queue, f"m-{self.sequence}-{place}"))
        outcomes: list[Outcome] = []
        self.handed_off.clear()
        self.commits.commit(parts, outcomes.append)
        for _ in range(3):
            for each in self.owners:
                each.settled()
        [outcome] = outcomes
        return outcome

    def queues(self) -> list[list[str]]:
        return [[each.name.decode() for each in lone.owner.registry] for lone in self.owners]


def test_one_queue_too_many_at_the_other_owner() -> None:
    two = TwoOwners(queue={"max_queues": 1})
    assert two.commit("/queue/a", "/queue/b").refused is None
    refused = two.commit("/queue/a", "/queue/c").refused
    assert refused is not None and refused[0] == "too-many-queues"
    assert two.queues() == [["/queue/a"], ["/queue/b"]]
    assert [len(each.stored()) for each in two.owners] == [1, 1]
    assert two.commit("/queue/a", "/queue/b").refused is None


def test_one_queue_too_many_at_its_own_owner() -> None:
    two = TwoOwners(queue={"max_queues": 1})
    assert two.commit("/queue/a", "/queue/b").refused is None
    refused = two.commit("/queue/c", "/queue/b").refused
    assert refused is not None and refused[0] == "too-many-queues"
    assert two.queues() == [["/queue/a"], ["/queue/b"]]
    assert [len(each.stored()) for each in two.owners] == [1, 1]


def test_who_is_asked() -> None:
    """Where the queues are known to be there, nobody: it would take the time of a hand-off."""
    two = TwoOwners(queue={"idle_timeout": "60s"})
    applied = [0, 1, 0, 1]
    assert two.commit("/queue/a", "/queue/b").refused is None
    assert [slot for slot, _ in two.handed_off] == [0, 1, *applied]
    assert two.commit("/queue/a", "/queue/b").refused is None
    assert [slot for slot, _ in two.handed_off] == applied
    assert two.commit("/queue/c", "/queue/b").refused is None
    assert [slot for slot, _ in two.handed_off] == [0, *applied]
    # The other worker may have forgotten it by then.
    two.owners[0].time += 60_000
    assert two.commit("/queue/a", "/queue/b").refused is None
    assert [slot for slot, _ in two.handed_off] == [1, *applied]
