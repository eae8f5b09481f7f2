"""Back-pressure against a model of three sets: who blocks what, who told whom, who stands still for what."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from worker.flow import EVERYTHING, FlowControl


class FakePublisher:
    def __init__(self) -> None:
        self.on: set[bytes] = set()

    def pause(self, destination: bytes) -> None:
        assert destination not in self.on
        self.on.add(destination)

    def resume(self, destination: bytes) -> None:
        self.on.remove(destination)


DESTINATIONS = st.sampled_from([b"/topic/a", b"/topic/b", b"/topic/c"])
LOCAL = st.sampled_from(["connection-1", "connection-2"])
REMOTE = st.sampled_from([1, 2, "backplane"])


class Flow(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.told: set[bytes] = set()
        self.flow = FlowControl(self.tell)
        self.publishers = [FakePublisher() for _ in range(3)]
        self.blocked: set[tuple[bytes, object, bool]] = set()
        self.paused: set[tuple[int, bytes]] = set()

    def tell(self, destination: bytes, blocked: bool) -> None:
        # Each change once, and only changes.
        assert (destination in self.told) is not blocked
        (self.told.add if blocked else self.told.remove)(destination)

    def _settle(self) -> None:
        names = {destination for destination, _, _ in self.blocked}
        self.paused = {(number, destination) for number, destination in self.paused if destination in names}

    @rule(destination=DESTINATIONS, by=LOCAL)
    def block(self, destination: bytes, by: str) -> None:
        self.flow.block(destination, by, local=True)
        self.blocked.add((destination, by, True))

    @rule(destination=DESTINATIONS, by=REMOTE)
    def block_from_elsewhere(self, destination: bytes, by: object) -> None:
        self.flow.block(destination, by, local=False)
        self.blocked.add((destination, by, False))

    @rule(destination=DESTINATIONS, by=LOCAL)
    def unblock(self, destination: bytes, by: str) -> None:
        self.flow.unblock(destination, by, local=True)
        self.blocked.discard((destination, by, True))
        self._settle()

    @rule(destination=DESTINATIONS, by=REMOTE)
    def unblock_from_elsewhere(self, destination: bytes, by: object) -> None:
        self.flow.unblock(destination, by, local=False)
        self.blocked.discard((destination, by, False))
        self._settle()

    @rule(by=REMOTE)
    def lose(self, by: object) -> None:
        self.flow.unblock_all(by)
        self.blocked = {each for each in self.blocked if each[1] != by}
        self._settle()

    @rule(number=st.integers(0, 2), destinations=st.lists(DESTINATIONS, max_size=3))
    def publish(self, number: int, destinations: list[bytes]) -> None:
        self.flow.pause_for(self.publishers[number], destinations)
        names = {destination for destination, _, _ in self.blocked}
        self.paused |= {(number, destination) for destination in destinations if destination in names}

    @rule(number=st.integers(0, 2))
    def leave(self, number: int) -> None:
        gone = self.publishers[number]
        self.flow.forget(gone, gone.on)
        self.publishers[number] = FakePublisher()
        self.paused = {each for each in self.paused if each[0] != number}

    @invariant()
    def is_the_model(self) -> None:
        assert set(self.flow.blocked) == {destination for destination, _, _ in self.blocked}
        assert self.told == {destination for destination, _, local in self.blocked if local}
        for number, publisher in enumerate(self.publishers):
            assert publisher.on == {destination for each, destination in self.paused if each == number}

    def teardown(self) -> None:
        for destination, by, local in list(self.blocked):
            self.flow.unblock(destination, by, local=local)
        assert not self.flow.blocked and not self.told, "what is undone leaves something behind"
        assert not self.flow._paused and not self.flow._local
        assert not any(publisher.on for publisher in self.publishers)


TestFlow = Flow.TestCase
TestFlow.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_publisher_that_pauses_again_while_others_are_resumed() -> None:
    flow = FlowControl(lambda destination, blocked: None)
    order: list[str] = []

    class Eager(FakePublisher):
        def resume(self, destination: bytes) -> None:
            super().resume(destination)
            order.append("resumed")
            flow.block(destination, "again", local=True)
            flow.pause_for(self, [destination])

    eager, other = Eager(), FakePublisher()
    flow.block(b"/topic/a", 1, local=False)
    flow.pause_for(eager, [b"/topic/a"])
    flow.pause_for(other, [b"/topic/a"])
    flow.unblock(b"/topic/a", 1, local=False)
    assert order == ["resumed"]
    assert eager.on == {b"/topic/a"} and not other.on


def test_everything_blocked_holds_up_every_publisher() -> None:
    flow, told = FlowControl(lambda destination, blocked: None), []

    class Waiting:
        def pause(self, destination: bytes) -> None:
            told.append(("pause", destination))

        def resume(self, destination: bytes) -> None:
            told.append(("resume", destination))

    flow.block(EVERYTHING, "someone", local=False)
    flow.pause_for(Waiting(), [b"/topic/never-blocked-by-name"])
    flow.unblock(EVERYTHING, "someone", local=False)
    assert told == [("pause", EVERYTHING), ("resume", EVERYTHING)]
