"""A queue against its model, whatever happens in whatever order: nothing lost, nothing delivered twice unmarked, order
kept among the never redelivered, counters exact, memory bounded, groups kept together, nobody starved."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.worker.queues.simulated_owner import SimulatedOwner
from worker.queues.consumer import Consumer
from worker.queues.withdrawal import discard

ITEMS = st.lists(
    st.tuples(
        st.sampled_from([4, 4, 4, 9, 0]),
        st.sampled_from([True, True, False]),
        st.integers(1, 2),
        st.sampled_from([None, None, b"g", b"h"]),
        st.sampled_from([0, 0, 0, 50, 5000]),
    ),
    min_size=1,
    max_size=12,
)
PLAIN_ITEMS = st.lists(st.tuples(st.just(4), st.just(True), st.just(1), st.none(), st.just(0)), min_size=1, max_size=20)


class QueueMachine(RuleBasedStateMachine):
    @initialize(window=st.sampled_from([1, 3, 8]), size=st.sampled_from([1 << 20, 150, 20]))
    def start(self, window: int, size: int) -> None:
        self.owner = SimulatedOwner(window_messages=window, window_bytes=size, redelivery_limit=3)

    def consumer(self, data: st.DataObject) -> Consumer:
        return data.draw(st.sampled_from(self.owner.consumers))

    def held(self, data: st.DataObject, consumer: Consumer) -> list[int]:
        keys = list(consumer.unsettled)
        chosen = data.draw(st.sampled_from(["all", "first", "last"]))
        return keys if chosen == "all" else keys[:1] if chosen == "first" else keys[-1:]

    @rule(items=ITEMS)
    def send(self, items: list[tuple[int, bool, int, bytes | None, int]]) -> None:
        self.owner.send(items)

    @rule(items=PLAIN_ITEMS)
    def send_plain(self, items: list[tuple[int, bool, int, bytes | None, int]]) -> None:
        self.owner.send(items)

    @precondition(lambda self: len(self.owner.consumers) < 4)
    @rule(
        prefetch=st.integers(1, 6),
        colour=st.sampled_from([0, 0, 1, 2]),
        exclusive=st.sampled_from([False, False, False, True]),
        instant=st.sampled_from([False, False, True]),
    )
    def attach(self, prefetch: int, colour: int, exclusive: bool, instant: bool) -> None:
        self.owner.attach(prefetch, colour, exclusive, instant)

    @precondition(lambda self: self.owner.consumers)
    @rule(data=st.data(), orderly=st.booleans())
    def detach(self, data: st.DataObject, orderly: bool) -> None:
        self.owner.detach(self.consumer(data), orderly=orderly)

    @precondition(lambda self: self.owner.consumers)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        consumer = self.consumer(data)
        self.owner.settle(consumer, self.held(data, consumer))

    @precondition(lambda self: self.owner.consumers)
    @rule(data=st.data(), delay=st.sampled_from([None, None, 0, 70]), others_first=st.booleans())
    def refuse(self, data: st.DataObject, delay: int | None, others_first: bool) -> None:
        consumer = self.consumer(data)
        self.owner.refuse(consumer, self.held(data, consumer), delay, others_first)

    @precondition(lambda self: self.owner.consumers)
    @rule(data=st.data())
    def dead_letter(self, data: st.DataObject) -> None:
        consumer = self.consumer(data)
        keys = self.held(data, consumer)
        messages = self.owner.queue.settle(consumer, keys)
        assert [message.key for message in messages] == keys
        self.owner.left(messages)

    @precondition(lambda self: self.owner.consumers)
    @rule(data=st.data(), prefetch=st.none() | st.integers(0, 6), instant=st.none() | st.booleans())
    def adjust(self, data: st.DataObject, prefetch: int | None, instant: bool | None) -> None:
        self.owner.queue.adjust(self.consumer(data), prefetch=prefetch, instant=instant)

    @rule(ms=st.sampled_from([0, 60, 200, 10_000]))
    def wait(self, ms: int) -> None:
        self.owner.wait(ms)

    @rule()
    def dispatch(self) -> None:
        self.owner.dispatch()

    @rule()
    def end_turn(self) -> None:
        self.owner.end_turn()

    @rule()
    def commit(self) -> None:
        self.owner.commit()

    @rule()
    def want_page(self) -> None:
        if self.owner.page is None:
            self.owner.want_page()

    @rule()
    def read_page(self) -> None:
        self.owner.read_page()

    @rule()
    def page_arrives(self) -> None:
        self.owner.page_arrives()

    @rule()
    def read_rested(self) -> None:
        self.owner.read_rested()

    @rule()
    def settle_down(self) -> None:
        self.owner.settle_down()

    @rule(count=st.integers(1, 5))
    def drop_head(self, count: int) -> None:
        in_memory, _ = self.owner.queue.snapshot()
        waiting = [m.key for m in in_memory if self.owner.alive[m.key].holder is None]
        taken = self.owner.queue.take_head(count)
        assert all(self.owner.alive[each.key].holder is None for each in taken)
        assert len(taken) == min(count, len(waiting) - self.owner.queue.resting + self.owner.queue.away)
        self.owner.left(taken)

    @precondition(lambda self: self.owner.alive)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        in_memory = {message.key for message in self.owner.queue.snapshot()[0]}
        key = data.draw(st.sampled_from(sorted(self.owner.alive)))
        taken = discard(self.owner.queue, [key, 3])
        assert [each.key for each in taken] == [key for key in [key] if key in in_memory]
        self.owner.left(taken)

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        survivors = [each for each in self.owner.consumers if data.draw(st.booleans())]
        self.owner.crash(survivors)

    @invariant()
    def counters(self) -> None:
        if hasattr(self, "owner"):
            self.owner.check_counters()

    def teardown(self) -> None:
        if hasattr(self, "owner"):
            self.owner.drain()


QueueMachine.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestQueueModel = QueueMachine.TestCase
