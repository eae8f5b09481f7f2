"""The lives of the workers, without a process or a clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.actions import (
    Abort,
    Action,
    Announce,
    Finish,
    Kill,
    Report,
    SendDrain,
    SendPing,
    SendRoster,
    Spawn,
)
from broker.supervisor import ABORT_GRACE, DRAIN_GRACE, GIVE_UP_AFTER, STABLE_AFTER, Supervisor
from common.exitcodes import ExitCode
from common.log import Event, Level


@dataclass(frozen=True)
class Timing:
    ping_interval: float = 1.0
    hang_timeout: float = 10.0
    start_timeout: float = 30.0
    backoff_initial: float = 0.1
    backoff_max: float = 10.0


DRAIN_TIMEOUT = 5.0


class Driver:
    """A supervisor, the time, and every action so far."""

    def __init__(self, workers: int = 2, timing: Timing | None = None) -> None:
        self.timing = timing or Timing()
        self.supervisor = Supervisor(workers, self.timing, DRAIN_TIMEOUT)
        self.now = 1000.0
        self.all: list[Action] = []
        self.log: list[Report] = []

    def _kept(self, actions: list[Action]) -> list[Action]:
        self.all += actions
        self.log += [action for action in actions if isinstance(action, Report)]
        return [action for action in actions if not isinstance(action, Report)]

    def start(self) -> list[Action]:
        return self._kept(self.supervisor.start(self.now))

    def bring_up(self, *slots: int) -> None:
        for slot in slots:
            self.spawned(slot)
            self.bound(slot)
        for slot in slots:
            self.ready(slot)

    def spawned(self, slot: int) -> list[Action]:
        return self._kept(self.supervisor.spawned(slot, 4000 + slot, self.now))

    def bound(self, slot: int, endpoint: str = "") -> list[Action]:
        return self._kept(self.supervisor.bound(slot, endpoint or f"ipc://{slot}", self.now))

    def ready(self, slot: int) -> list[Action]:
        return self._kept(self.supervisor.became_ready(slot, self.now))

    def answered(self, slot: int, number: int) -> list[Action]:
        return self._kept(self.supervisor.answered(slot, number, self.now))

    def exited(self, slot: int, how: str = "SIGKILL") -> list[Action]:
        return self._kept(self.supervisor.exited(slot, how, self.now))

    def cannot_start(self, slot: int) -> list[Action]:
        return self._kept(self.supervisor.cannot_start(slot, "no room", self.now))

    def control_lost(self, slot: int, error: str = "") -> list[Action]:
        return self._kept(self.supervisor.control_lost(slot, error, self.now))

    def drain(self) -> list[Action]:
        return self._kept(self.supervisor.drain(self.now))

    def stop(self) -> list[Action]:
        return self._kept(self.supervisor.stop(self.now))

    def tick(self) -> list[Action]:
        return self._kept(self.supervisor.tick(self.now))

    def run_for(self, seconds: float, *, answering: tuple[int, ...] = ()) -> list[Action]:
        """Tick whenever it is due, answer the pings of some slots at once; returns what else happened."""
        end, actions = self.now + seconds, []
        while (due := self.supervisor.next_tick()) is not None and due <= end:
            self.now = max(self.now, due)
            for action in self.tick():
                actions.append(action)
                if isinstance(action, SendPing) and action.slot in answering:
                    actions += self.answered(action.slot, action.number)
        self.now = end
        return actions

    def logged(self, event: Event) -> list[dict[str, object]]:
        return [report.fields for report in self.log if report.event is event]


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def running() -> Driver:
    driver = Driver()
    driver.start()
    driver.bring_up(0, 1)
    return driver


def test_every_slot_is_spawned_at_the_start(driver: Driver) -> None:
    assert driver.start() == [Spawn(0, 1), Spawn(1, 1)]


def test_the_roster_goes_to_every_bound_worker_on_every_change(driver: Driver) -> None:
    driver.start()
    assert driver.bound(1, "ipc://b") == [SendRoster((1,), ((1, 1, "ipc://b"),))]
    both = ((0, 1, "ipc://a"), (1, 1, "ipc://b"))
    assert driver.bound(0, "ipc://a") == [SendRoster((0, 1), both)]
    assert driver.exited(1)[0] == SendRoster((0,), ((0, 1, "ipc://a"),))


def test_a_worker_that_dies_before_it_is_bound_changes_no_roster(driver: Driver) -> None:
    driver.start()
    driver.bound(0)
    assert driver.exited(1) == []


def test_ready_is_announced_first_when_the_last_worker_is(driver: Driver) -> None:
    driver.start()
    driver.bound(0)
    driver.bound(1)
    assert driver.ready(1) == [Announce(1, first=False)]
    assert driver.ready(0) == [Announce(2, first=True)]
    driver.exited(0)
    driver.run_for(0.2, answering=(1,))
    driver.bound(0)
    assert driver.ready(0) == [Announce(2, first=False)], "once in a broker's life"


def test_a_dead_worker_is_replaced_in_its_slot_with_the_next_incarnation(running: Driver) -> None:
    assert running.exited(1) == [SendRoster((0,), ((0, 1, "ipc://0"),)), Announce(1, first=False)]
    assert running.logged(Event.WORKER_EXITED) == [{"slot": 1, "incarnation": 1, "pid": 4001, "exit": "SIGKILL"}]
    assert running.run_for(0.09, answering=(0,)) == []
    assert Spawn(1, 2) in running.run_for(0.02, answering=(0,))


def test_the_pause_before_a_replacement_doubles_up_to_the_maximum(running: Driver) -> None:
    delays = []
    for _ in range(10):
        running.exited(0)
        delays.append(running.logged(Event.WORKER_BACKOFF)[-1]["delay"])
        assert running.run_for(delays[-1] - 0.001, answering=(1,)).count(Spawn(0, 2)) == 0
        running.run_for(0.002, answering=(1,))
        running.bring_up(0)
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10])
    assert running.all.count(Spawn(0, 11)) == 1


def test_ten_seconds_of_ready_life_reset_the_pause(running: Driver) -> None:
    running.exited(0)
    running.run_for(1, answering=(1,))
    running.bring_up(0)
    running.run_for(STABLE_AFTER - 0.01, answering=(0, 1))
    running.exited(0)
    assert running.logged(Event.WORKER_BACKOFF)[-1]["delay"] == pytest.approx(0.2)
    running.run_for(1, answering=(1,))
    running.bring_up(0)
    running.run_for(STABLE_AFTER + 0.01, answering=(0, 1))
    running.exited(0)
    assert running.logged(Event.WORKER_BACKOFF)[-1]["delay"] == pytest.approx(0.1)


def test_thousands_of_deaths_in_a_row_are_still_backed_off(running: Driver) -> None:
    for _ in range(2000):
        running.exited(0)
        running.run_for(10.1, answering=(1,))
    assert running.logged(Event.WORKER_BACKOFF)[-1]["delay"] == 10.0


def test_a_ready_worker_is_pinged_each_interval(running: Driver) -> None:
    pings = [a.number for a in running.run_for(5.5, answering=(0, 1)) if a == SendPing(0, getattr(a, "number", 0))]
    assert pings == [1, 2, 3, 4, 5]


def test_a_worker_is_not_pinged_again_before_it_answered(running: Driver) -> None:
    pings = [a for a in running.run_for(5, answering=(1,)) if isinstance(a, SendPing) and a.slot == 0]
    assert pings == [SendPing(0, 1)]


def test_an_answer_just_in_time_saves_a_worker(running: Driver) -> None:
    running.run_for(10.9, answering=(1,))
    running.answered(0, 1)
    actions = running.run_for(30, answering=(0, 1))
    assert not [a for a in actions if isinstance(a, Abort | Kill)]


def test_an_answer_to_another_ping_does_not_count(running: Driver) -> None:
    running.run_for(1.5, answering=(1,))
    running.answered(0, 7)
    assert Abort(0) in running.run_for(10, answering=(1,))


def test_a_hung_worker_is_dumped_then_killed_then_replaced(running: Driver) -> None:
    actions = running.run_for(11.0, answering=(1,))
    assert [a for a in actions if isinstance(a, Abort | Kill)] == [Abort(0)]
    assert Announce(1, first=False) in actions, "the service manager is told that one is missing"
    assert Kill(0) not in running.run_for(ABORT_GRACE - 0.01, answering=(1,))
    assert [a for a in running.run_for(0.02, answering=(1,)) if a == Kill(0)] == [Kill(0)]
    assert running.logged(Event.WORKER_HUNG)[0]["reason"] == "no answer to a ping for 10 s"
    assert running.exited(0)[0] == SendRoster((1,), ((1, 1, "ipc://1"),))
    assert Spawn(0, 2) in running.run_for(0.2, answering=(1,))
    assert Abort(1) not in running.all


def test_a_worker_that_dies_of_its_dump_is_not_killed(running: Driver) -> None:
    running.run_for(11.0, answering=(1,))
    running.exited(0, "SIGABRT")
    assert Spawn(0, 2) in running.run_for(5, answering=(1,))
    assert Kill(0) not in running.all


def test_a_worker_that_does_not_become_ready_in_time_is_dumped_and_replaced(driver: Driver) -> None:
    driver.start()
    driver.bring_up(0)
    driver.spawned(1)
    assert Abort(1) not in driver.run_for(29.9, answering=(0,))
    assert Abort(1) in driver.run_for(0.2, answering=(0,))
    assert driver.logged(Event.WORKER_HUNG)[0]["reason"] == "not ready after 30 s"


def test_time_in_which_the_front_did_not_run_is_held_against_nobody(running: Driver) -> None:
    running.run_for(1.5)
    running.now += 60
    assert not [a for a in running.tick() if isinstance(a, Abort)]
    for slot in (0, 1):
        running.answered(slot, 1)
    assert not [a for a in running.run_for(20, answering=(0, 1)) if isinstance(a, Abort)]


def test_a_closed_control_channel_costs_the_worker_its_life_after_a_moment(running: Driver) -> None:
    running.control_lost(0)
    assert Kill(0) not in running.run_for(ABORT_GRACE - 0.01, answering=(1,))
    assert Kill(0) in running.run_for(0.02, answering=(1,))
    assert running.logged(Event.CONTROL_ERROR) == []


def test_rubbish_on_the_control_channel_is_logged(running: Driver) -> None:
    running.control_lost(0, "unknown control message 'Hello'")
    assert running.logged(Event.CONTROL_ERROR)[0]["reason"] == "unknown control message 'Hello'"


def test_five_deaths_before_the_first_ready_stop_the_broker(driver: Driver) -> None:
    driver.start()
    driver.bring_up(0)
    for _ in range(GIVE_UP_AFTER - 1):
        driver.exited(1, "code 7")
        driver.run_for(1, answering=(0,))
    assert driver.logged(Event.BROKER_CANNOT_START) == []
    assert driver.exited(1, "code 7") == [Kill(0)]
    reason = driver.logged(Event.BROKER_CANNOT_START)[0]["reason"]
    assert "worker 1 died 5 times in a row" in str(reason) and "code 7" in str(reason)
    assert driver.exited(0) == [Finish(ExitCode.CANNOT_START)]


def test_a_ready_in_between_starts_the_count_again(driver: Driver) -> None:
    driver.start()
    for _ in range(GIVE_UP_AFTER - 1):
        driver.exited(1)
        driver.run_for(1)
    driver.bring_up(1)
    for _ in range(GIVE_UP_AFTER):
        driver.exited(1)
        driver.run_for(10)
    assert driver.logged(Event.BROKER_CANNOT_START) == []


def test_a_broker_that_was_ready_never_gives_up_on_a_dying_worker(running: Driver) -> None:
    for _ in range(4 * GIVE_UP_AFTER):
        running.exited(1)
        running.run_for(10.1, answering=(0,))
    assert running.logged(Event.BROKER_CANNOT_START) == []
    assert not running.supervisor.is_stopping


def test_a_worker_that_cannot_start_stops_a_starting_broker_at_once(driver: Driver) -> None:
    driver.start()
    assert driver.cannot_start(1) == [Kill(0), Kill(1)]
    assert driver.logged(Event.BROKER_CANNOT_START) == [{"reason": "worker 1: no room"}]
    driver.exited(0)
    assert driver.exited(1) == [Finish(ExitCode.CANNOT_START)]


def test_a_later_worker_that_cannot_start_drains_its_siblings(running: Driver) -> None:
    running.exited(1)
    running.run_for(0.2, answering=(0,))
    assert running.cannot_start(1) == [SendDrain(0, DRAIN_TIMEOUT), SendDrain(1, DRAIN_TIMEOUT)]
    running.exited(1)
    assert running.exited(0)[-1] == Finish(ExitCode.CANNOT_START)


def test_drain_asks_every_worker_and_ends_when_the_last_is_gone(running: Driver) -> None:
    assert running.drain() == [SendDrain(0, DRAIN_TIMEOUT), SendDrain(1, DRAIN_TIMEOUT)]
    assert running.exited(0, "code 0") == [SendRoster((1,), ((1, 1, "ipc://1"),))]
    assert running.exited(1, "code 0") == [Finish(ExitCode.OK)]
    assert running.supervisor.next_tick() is None


def test_nobody_is_replaced_pinged_or_found_hung_while_draining(running: Driver) -> None:
    running.exited(1)
    running.drain()
    actions = running.run_for(DRAIN_TIMEOUT + DRAIN_GRACE - 0.01)
    assert actions == []


def test_a_worker_that_stays_is_killed_after_the_drain_timeout(running: Driver) -> None:
    running.drain()
    running.exited(1, "code 0")
    assert running.run_for(DRAIN_TIMEOUT + DRAIN_GRACE + 0.01) == [Kill(0)]
    assert running.exited(0) == [Finish(ExitCode.OK)]


def test_a_worker_that_was_being_dumped_is_killed_while_draining(running: Driver) -> None:
    running.run_for(11.0, answering=(1,))
    assert running.drain() == [SendDrain(1, DRAIN_TIMEOUT)]
    assert Kill(0) in running.run_for(ABORT_GRACE + 0.01)


def test_a_drain_with_nobody_left_ends_at_once(driver: Driver) -> None:
    driver.start()
    driver.exited(0)
    driver.exited(1)
    assert driver.drain() == [Finish(ExitCode.OK)]


def test_stop_kills_everybody_and_is_no_success(running: Driver) -> None:
    running.drain()
    assert running.stop() == [Kill(0), Kill(1)]
    assert running.stop() == []
    running.exited(0)
    assert running.exited(1) == [Finish(ExitCode.FAILED)]
    assert running.drain() == []


def test_a_process_that_cannot_be_had_is_tried_again(running: Driver) -> None:
    running.exited(1)
    running.run_for(0.15, answering=(0,))
    running.exited(1, "could not be spawned: out of memory")
    assert running.logged(Event.WORKER_EXITED)[-1]["exit"] == "could not be spawned: out of memory"
    assert Spawn(1, 3) in running.run_for(0.3, answering=(0,))


def test_news_of_the_dead_is_no_news(running: Driver) -> None:
    running.exited(1)
    assert running.exited(1) == []
    assert running.ready(1) == []
    assert running.bound(1) == []
    assert running.answered(1, 1) == []


@hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
class AnyHistory(RuleBasedStateMachine):
    """Whatever happens: one process per slot at most, and a broker told to stop ends."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(3)
        self.seen = 0
        self.alive: dict[int, int] = {}
        self.killed: set[int] = set()
        self.finished = 0
        self.driver.start()
        self.follow()

    def follow(self) -> None:
        new, self.seen = self.driver.all[self.seen :], len(self.driver.all)
        for action in new:
            match action:
                case Spawn(slot, incarnation):
                    assert slot not in self.alive, "a second process for a slot"
                    assert not self.driver.supervisor.is_stopping
                    self.alive[slot] = incarnation
                    self.killed.discard(slot)
                case Kill(slot) | Abort(slot) | SendPing(slot) | SendDrain(slot):
                    assert slot in self.alive
                    if isinstance(action, Kill):
                        assert slot not in self.killed, "killed twice"
                        self.killed.add(slot)
                case SendRoster(slots, members):
                    assert list(slots) == [member[0] for member in members]
                    assert all(self.alive.get(slot) == incarnation for slot, incarnation, _ in members)
                case Finish():
                    self.finished += 1

    @rule(slot=st.integers(0, 2), what=st.sampled_from(["bound", "ready", "exited", "control_lost"]))
    def news(self, slot: int, what: str) -> None:
        if slot not in self.alive:
            return
        if what == "exited":
            del self.alive[slot]
        getattr(self.driver, what)(slot)
        self.follow()

    @rule(seconds=st.sampled_from([0.05, 0.5, 1.5, 12.0, 40.0]), answering=st.sets(st.integers(0, 2)))
    def time_passes(self, seconds: float, answering: set[int]) -> None:
        self.driver.run_for(seconds, answering=tuple(answering))
        self.follow()

    @rule()
    def stalled(self) -> None:
        self.driver.now += 100
        self.driver.tick()
        self.follow()

    @precondition(lambda self: not self.driver.supervisor.is_stopping)
    @rule(slot=st.integers(0, 2))
    def gives_up(self, slot: int) -> None:
        if slot in self.alive:
            self.driver.cannot_start(slot)
            self.follow()

    @rule(at_once=st.booleans())
    def told_to_stop(self, at_once: bool) -> None:
        if at_once:
            self.driver.stop()
        else:
            self.driver.drain()
        self.follow()

    @invariant()
    def finishes_once_and_only_when_nobody_is_left(self) -> None:
        assert self.finished <= 1
        if self.finished:
            assert not self.alive

    def teardown(self) -> None:
        self.driver.drain()
        self.follow()
        self.driver.run_for(DRAIN_TIMEOUT + DRAIN_GRACE + ABORT_GRACE + 1)
        self.follow()
        for slot in sorted(self.alive):
            assert slot in self.killed, "left alive after the drain timeout"
            del self.alive[slot]
            self.driver.exited(slot)
            self.follow()
        assert self.finished == 1


TestAnyHistory = AnyHistory.TestCase


def test_reports_carry_a_level() -> None:
    driver = Driver()
    driver.start()
    driver.bring_up(0, 1)
    driver.exited(0)
    driver.drain()
    driver.exited(1, "code 0")
    exits = [report.level for report in driver.log if report.event is Event.WORKER_EXITED]
    assert exits == [Level.ERROR, Level.INFO], "an exit that was asked for is no error"


# --- other settings while it runs


def configure(driver: Driver, timing: Timing | None = None, drain_timeout: float = DRAIN_TIMEOUT) -> list[Action]:
    return driver.supervisor.configure(timing or driver.timing, drain_timeout, driver.now)


def test_a_new_ping_interval_counts_from_now(running: Driver) -> None:
    running.run_for(0.5)
    assert configure(running, Timing(ping_interval=0.2)) == []
    assert running.run_for(0.19, answering=(0, 1)) == []
    assert running.run_for(0.02, answering=(0, 1)) == [SendPing(0, 1), SendPing(1, 1)]


def test_a_shorter_hang_timeout_gives_an_unanswered_ping_its_whole_time(running: Driver) -> None:
    running.run_for(5.0)
    configure(running, Timing(hang_timeout=2.0))
    assert running.run_for(1.9) == []
    assert running.run_for(0.2) == [Abort(0), Announce(1, first=False), Abort(1), Announce(0, first=False)]


def test_a_much_shorter_ping_interval_is_not_taken_for_a_stopped_front() -> None:
    driver = Driver(timing=Timing(ping_interval=60.0))
    driver.start()
    driver.bring_up(0, 1)
    driver.run_for(30.0)
    configure(driver, Timing(ping_interval=0.1, hang_timeout=1.0))
    driver.run_for(1.05)
    assert not driver.logged(Event.WORKER_HUNG)
    driver.run_for(0.1)
    assert len(driver.logged(Event.WORKER_HUNG)) == 2


def test_a_shorter_start_timeout_counts_from_now(driver: Driver) -> None:
    driver.start()
    driver.run_for(20.0)
    configure(driver, Timing(start_timeout=5.0))
    assert driver.run_for(4.9) == []
    assert Abort(0) in driver.run_for(0.2)


def test_a_back_off_that_runs_is_cut_to_the_new_maximum_and_never_grows(running: Driver) -> None:
    for _ in range(8):
        running.exited(0)
        running.run_for(15.0, answering=(1,))
        running.bring_up(0)
    running.exited(0)
    configure(running, Timing(backoff_max=20.0))
    configure(running, Timing(backoff_max=1.0))
    assert Spawn(0, 10) not in running.run_for(0.9, answering=(1,))
    assert Spawn(0, 10) in running.run_for(0.2, answering=(1,))


def test_a_new_drain_timeout_is_the_one_that_counts(running: Driver) -> None:
    configure(running, drain_timeout=1.0)
    assert running.drain() == [SendDrain(0, 1.0), SendDrain(1, 1.0)]
    assert running.run_for(1.0 + DRAIN_GRACE - 0.1) == []
    assert running.run_for(0.2) == [Kill(0), Kill(1)]
