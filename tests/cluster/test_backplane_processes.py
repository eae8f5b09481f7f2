"""The backplane between real processes, of which some are stopped and some are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

SECONDS = 60.0
"""How long a test waits for what must come."""

ROOT = Path(__file__).parents[2]


class Process:
    """One `tests.cluster.backplane_peer`."""

    def __init__(self, slot: int, incarnation: int, directory: str, mark: int) -> None:
        self.slot = slot
        self._control, theirs = socket.socketpair()
        with theirs:
            arguments = [str(value) for value in (theirs.fileno(), slot, incarnation, directory, mark)]
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "tests.cluster.backplane_peer", *arguments],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                cwd=ROOT,
            )
        self._control.settimeout(SECONDS)
        self._unpacker = msgpack.Unpacker(strict_map_key=False)
        self._results: dict[int, Any] = {}
        self._last = 0
        self.killed = False
        self._identity = slot, incarnation
        self.member: list[Any] = []

    def bound(self) -> None:
        """Returns when it listens."""
        self.member = [*self._identity, self.result(0)]

    def begin(self, name: str, *arguments: Any) -> int:
        self._last += 1
        self._control.sendall(msgpack.packb([self._last, name, *arguments]))
        return self._last

    def result(self, number: int) -> Any:
        while number not in self._results:
            data = self._control.recv(1 << 16)
            if not data:
                raise AssertionError(f"peer {self.slot} is gone: {self._process.communicate()[1].decode()}")
            self._unpacker.feed(data)
            self._results.update(dict(self._unpacker))
        return self._results.pop(number)

    def answered(self) -> set[int]:
        """The commands whose results have arrived and were not taken."""
        return set(self._results)

    def call(self, name: str, *arguments: Any) -> Any:
        return self.result(self.begin(name, *arguments))

    def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while not condition(state := self.call("state")):
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        return dict(state)

    def stop(self) -> None:
        """Returns when the kernel has stopped every thread of it."""
        self._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        deadline = time.monotonic() + SECONDS
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def kill(self) -> None:
        self.killed = True
        self._process.kill()
        self._process.wait(SECONDS)
        self._release()

    def close(self) -> None:
        """The peer ends by itself, without a word."""
        self.begin("close")
        assert self._process.wait(SECONDS) == 0
        assert self._process.stderr is not None
        assert self._process.stderr.read() == b""
        self._release()

    def _release(self) -> None:
        self._control.close()
        if self._process.stderr is not None:
            self._process.stderr.close()


class Cluster:
    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.processes: list[Process] = []
        self._all: list[Process] = []

    def start(self, slot: int, incarnation: int = 1, mark: int = 16) -> Process:
        """Bound, on nobody's roster yet."""
        process = Process(slot, incarnation, self.directory, mark)
        self._all.append(process)
        process.bound()
        self.processes.append(process)
        return process

    def tell_roster(self) -> None:
        for process in self.processes:
            process.call("roster", [other.member for other in self.processes])

    def join(self, *processes: Process) -> None:
        self.tell_roster()
        for number, process in [(process.begin("join"), process) for process in processes]:
            process.result(number)

    def of(self, count: int) -> list[Process]:
        processes = [self.start(slot) for slot in range(count)]
        self.join(*processes)
        return processes

    def drop(self, process: Process) -> None:
        self.processes.remove(process)
        self.tell_roster()

    def close(self) -> None:
        for process in self._all:
            if process.running:
                process.close()
        killed = {os.path.basename(process.member[2]) for process in self._all if process.killed}
        assert set(os.listdir(self.directory)) == killed

    def kill(self) -> None:
        for process in self._all:
            process.kill()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Not tmp_path: a Unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="bp-") as directory:
        cluster = Cluster(directory)
        try:
            yield cluster
            cluster.close()
        finally:
            cluster.kill()


def blocked_on(*destinations: bytes) -> Callable[[dict[str, Any]], bool]:
    """Of others, a link may be full for a moment whenever its reader did not get its turn."""
    return lambda state: set((Counter(state["blocked"]) - Counter(state["unblocked"])).elements()) == set(destinations)


def has_received(items: int) -> Callable[[dict[str, Any]], bool]:
    return lambda state: sum(state["received"].values()) >= items


def test_stopped_sibling_delays_only_what_it_subscribed_to(cluster: Cluster) -> None:
    publisher, stopped, live = cluster.of(3)
    stopped.call("subscribe", b"/topic/both", b"/topic/stopped")
    live.call("subscribe", b"/topic/both", b"/topic/live")
    stopped.stop()
    batches = 4000
    for destination in (b"/topic/stopped", b"/topic/both", b"/topic/live"):
        publisher.call("publish", destination, batches, 5, False)
    live.until(lambda state: state["received"].get(b"/topic/live") == batches * 16)
    live.call("publish", b"/topic/live", 1, 1, False)
    state = publisher.until(blocked_on(b"/topic/stopped", b"/topic/both"))
    assert state["blocked"].count(b"/topic/stopped") == 1
    assert b"/topic/stopped" not in state["unblocked"]
    stopped.go_on()
    everything = {b"/topic/stopped": batches * 16, b"/topic/both": batches * 16}
    assert stopped.until(lambda state: state["received"] == everything)["disorder"] == []
    everything = {b"/topic/live": batches * 16, b"/topic/both": batches * 16}
    assert live.until(lambda state: state["received"] == everything)["disorder"] == []
    publisher.until(blocked_on())


def test_publisher_that_waits_goes_on_where_it_was(cluster: Cluster) -> None:
    publisher, reader = cluster.of(2)
    reader.call("subscribe", b"/topic/a")
    batches = 20000
    sent = publisher.begin("publish", b"/topic/a", batches, 50, True)
    for _ in range(5):
        reader.stop()
        publisher.until(lambda state: blocked_on(b"/topic/a")(state) or sent in publisher.answered())
        reader.go_on()
    publisher.result(sent)
    assert reader.until(lambda state: state["received"] == {b"/topic/a": batches * 16})["disorder"] == []
    assert publisher.until(blocked_on())["blocked"]


def test_siblings_that_wait_for_each_other_both_go_on(cluster: Cluster) -> None:
    processes = cluster.of(3)
    for process in processes:
        process.call("subscribe", b"/topic/a")
    batches = 3000
    begun = [(process, process.begin("publish", b"/topic/a", batches, 100, False)) for process in processes]
    for process, number in begun:
        process.result(number)
    for process in processes:
        state = process.until(lambda state: state["received"] == {b"/topic/a": batches * 16 * 2})
        assert state["disorder"] == []
        process.until(blocked_on())


def test_killed_while_blocked(cluster: Cluster) -> None:
    publisher, stopped, live = cluster.of(3)
    stopped.call("subscribe", b"/topic/both", b"/topic/stopped")
    live.call("subscribe", b"/topic/both")
    stopped.stop()
    batches = 2000
    for destination in (b"/topic/stopped", b"/topic/both"):
        publisher.call("publish", destination, batches, 5, False)
    publisher.until(blocked_on(b"/topic/both", b"/topic/stopped"))
    barrier = live.begin("barrier")
    stopped.kill()
    cluster.drop(stopped)
    live.result(barrier)
    state = live.until(lambda state: state["received"] == {b"/topic/both": batches * 16})
    assert state["disorder"] == [] and state["lost"] == [[1, 1]]
    state = publisher.until(blocked_on())
    assert state["lost"] == [[1, 1]]
    # Its successor starts with nothing and gets what is published from now on.
    successor = cluster.start(1, 2)
    cluster.join(successor)
    successor.call("subscribe", b"/topic/both")
    publisher.call("publish", b"/topic/both", 10, 1, False)
    live.until(lambda state: state["received"] == {b"/topic/both": (batches + 10) * 16})
    successor.until(lambda state: state["received"] == {b"/topic/both": 160})


@pytest.mark.parametrize("count", [2, 4])
def test_subscribers_miss_nothing_after_the_barrier(cluster: Cluster, count: int) -> None:
    processes = cluster.of(count)
    rounds = 6000 // count
    begun = [(process, process.begin("rounds", rounds, 16)) for process in processes]
    assert [process.result(number) for process, number in begun] == [{"received": rounds}] * count


def test_subscribers_miss_nothing_while_a_sibling_dies_and_returns(cluster: Cluster) -> None:
    processes = cluster.of(4)
    rounds = 1500
    begun = [(process, process.begin("rounds", rounds, 16)) for process in processes[:3]]
    processes[3].begin("rounds", 1 << 30, 16)
    victim = processes[3]
    for incarnation in range(2, 7):
        processes[0].until(has_received(incarnation * 50))
        victim.kill()
        cluster.drop(victim)
        victim = cluster.start(3, incarnation)
        cluster.join(victim)
        victim.begin("rounds", 1 << 30, 16)
    for process, number in begun:
        counts = process.result(number)
        assert counts.pop("received") + counts.pop("abandoned", 0) == rounds
        assert counts == {}
        assert process.call("state")["lost"] == [[3, incarnation] for incarnation in range(1, 6)]
    victim.kill()


def test_barrier_waits_for_a_stopped_sibling(cluster: Cluster) -> None:
    first, second, stopped = cluster.of(3)
    stopped.stop()
    first.begin("subscribe", b"/topic/a")
    barrier = first.begin("barrier")
    second.call("publish", b"/topic/a", 1, 1, False)
    for _ in range(20):
        first.call("state")
    assert barrier not in first.answered()
    stopped.go_on()
    first.result(barrier)


def test_leaving_in_order_loses_nothing(cluster: Cluster) -> None:
    processes = cluster.of(3)
    for process in processes:
        process.call("subscribe", b"/topic/a")
    batches = 3000
    sent = [(process, process.begin("publish", b"/topic/a", batches, 1000, False)) for process in processes]
    for process, number in sent:
        process.result(number)
    ends = [(process, process.begin("finish")) for process in processes]
    # Each goes at once when its own end is told; the others are told it left as late as can be.
    for process, number in ends:
        process.result(number)
        state = process.call("state")
        assert state["disorder"] == []
        assert state["received"] == {b"/topic/a": batches * 16 * 2}
        process.close()
