"""The real front with workers that only speak the control protocol: real processes, sockets and signals."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker.service import SAME_SIGNAL
from common.exitcodes import ExitCode
from tests.harness.broker import ROOT, Broker

PATIENT = {"ping_interval": 0.1, "hang_timeout": 30.0}
STRICT = {"ping_interval": 0.1, "hang_timeout": 2.0, "start_timeout": 20.0}


class Front(Broker):
    """The harness's broker with the fake worker as worker; `wrong` is how that one misbehaves."""

    def __init__(
        self,
        *,
        workers: int = 2,
        wrong: str = "",
        slot: int | None = None,
        until: int | None = None,
        supervision: dict[str, float] | None = None,
        drain_timeout: float = 10.0,
        bind: str = "127.0.0.1:0",
        runtime_dir: Path | None = None,
        data_dir: Path | None = None,
        environment: dict[str, str] | None = None,
        inherited: socket.socket | None = None,
    ) -> None:
        fake = {"FAKE_WORKER": wrong}
        if slot is not None:
            fake["FAKE_WORKER_SLOT"] = str(slot)
        if until is not None:
            fake["FAKE_WORKER_UNTIL"] = str(until)
        super().__init__(workers=workers, environment=fake | (environment or {}), data_dir=data_dir)
        self.settings: dict[str, Any] = {
            "broker": {
                "workers": workers,
                "drain_timeout": drain_timeout,
                "runtime_dir": runtime_dir,
                "data_dir": self.data_dir,
            },
            "listener": [{"bind": bind}],
            "supervision": supervision or PATIENT,
            "log": {"format": "json", "level": "debug"},
        }
        self._inherited = inherited

    def spawn(self) -> None:
        configuration = json.dumps(self.settings, default=str)
        command = [sys.executable, "-m", "tests.cluster.front_with_fake_worker", configuration]
        passed: list[int] = []
        with ExitStack() as stack:
            if self._inherited is not None:
                # As systemd does it: descriptor 3, and the id of the very process that is executed.
                descriptor = fcntl.fcntl(self._inherited.fileno(), fcntl.F_DUPFD, 100)
                stack.callback(os.close, descriptor)
                passed.append(descriptor)
                shell = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&{descriptor} {descriptor}<&-'
                command = ["bash", "-c", shell, *command]
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.directory)} | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=passed,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None and self.process.stderr is not None
        for stream, take in ((self.process.stdout, self._take_stdout), (self.process.stderr, self._take_log)):
            reader = threading.Thread(target=self._read, args=(stream, take), daemon=True)
            reader.start()
            self._readers.append(reader)

    def start(self, timeout: float = 30.0) -> None:
        super().start(timeout)
        # The ready line comes on another stream than the log: read that, too, up to the same moment.
        self.wait_event("broker.ready")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def newest_pid(self, slot: int) -> int:
        return self.worker_pids()[slot]

    def who_answers(self) -> tuple[int, int, int]:
        """Slot, incarnation and process id of the worker that takes a new connection."""
        with socket.create_connection(self.address, timeout=20) as sock:
            slot, incarnation, pid = sock.makefile().readline().split()
        return int(slot), int(incarnation), int(pid)


StartFront = Callable[..., Front]


@pytest.fixture
def fronts() -> Iterator[StartFront]:
    """Makes fronts, not started yet; whatever is left of them is killed after the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Front:
            front = Front(**settings)
            stack.callback(front.discard)
            return front

        yield make


@pytest.fixture
def started(fronts: StartFront) -> StartFront:
    """Starts a front and waits for its ready line."""

    def start(**settings: Any) -> Front:
        front = fronts(**settings)
        front.start()
        return front

    return start


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="st-", dir="/tmp") as path:
        yield Path(path)


def eventually(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_ready_line_is_the_only_thing_on_stdout(started: StartFront) -> None:
    front = started()
    port = front.address[1]
    assert port != 0
    front.stop()
    assert front.stderr_noise == ["a careless print"] * 2
    assert front._stdout == [f"stampede 0.1.0 ready on 127.0.0.1:{port} with 2 workers"]
    assert front.events("broker.ready")[0]["addresses"] == f"127.0.0.1:{port}"


def test_one_worker_is_no_workers(started: StartFront) -> None:
    assert started(workers=1).ready_line.endswith("with 1 worker")


def test_an_ipv6_address_is_announced_in_brackets(started: StartFront) -> None:
    assert " ready on [::1]:" in started(bind="[::1]:0").ready_line


def test_ready_waits_for_every_worker(fronts: StartFront) -> None:
    front = fronts(wrong="mute", slot=1, supervision=STRICT)
    front.spawn()
    front.wait_event("worker.ready", slot=0)
    front.wait_event("worker.spawned", slot=1)
    assert front._stdout == [] and front.events("broker.ready") == []


def test_sigterm_drains_and_exits_with_success(started: StartFront) -> None:
    front = started()
    front.signal(signal.SIGTERM)
    assert front.wait() == ExitCode.OK
    assert [event["exit"] for event in front.events("worker.exited")] == ["code 0", "code 0"]
    assert front.events("broker.stopped")[0]["code"] == 0
    assert list(front.directory.iterdir()) == [front.data_dir], "the private runtime directory is removed"


def test_sigint_is_the_same(started: StartFront) -> None:
    front = started()
    front.signal(signal.SIGINT)
    assert front.wait() == ExitCode.OK


def test_a_terminal_interrupt_of_the_whole_group_reaches_only_the_front(started: StartFront) -> None:
    front = started()
    os.killpg(front.pid, signal.SIGINT)
    assert front.wait() == ExitCode.OK
    assert {event["exit"] for event in front.events("worker.exited")} == {"code 0"}


def test_the_port_is_closed_while_draining(started: StartFront) -> None:
    front = started(workers=1, wrong="stay")
    front.signal(signal.SIGTERM)
    front.wait_event("broker.draining")
    process = psutil.Process(front.pid)
    eventually(
        lambda: not [c for c in process.net_connections("tcp") if c.status == "LISTEN"],
        "the end of the listening socket",
        timeout=2,
    )
    assert front.returncode is None


def test_a_worker_that_ignores_the_drain_is_killed_when_its_time_is_over(started: StartFront) -> None:
    # Time enough for the other one, which does not.
    front = started(wrong="stay", slot=1, drain_timeout=3)
    front.signal(signal.SIGTERM)
    assert front.wait() == ExitCode.OK
    assert [event["slot"] for event in front.events("worker.killed")] == [1]


def test_a_second_sigterm_stops_at_once_and_is_no_success(started: StartFront) -> None:
    front = started(wrong="stay")
    front.signal(signal.SIGTERM)
    front.wait_event("broker.draining")
    # Sooner it would be the same one again.
    time.sleep(2 * SAME_SIGNAL)
    began = time.monotonic()
    front.signal(signal.SIGTERM)
    assert front.wait() == ExitCode.FAILED
    assert time.monotonic() - began < 5
    assert [event["exit"] for event in front.events("worker.exited")] == ["SIGKILL", "SIGKILL"]


def test_the_same_signal_to_the_process_and_its_group_is_one(started: StartFront) -> None:
    front = started(wrong="stay", drain_timeout=0.5)
    front.signal(signal.SIGTERM)
    front.signal(signal.SIGTERM)
    assert front.wait() == ExitCode.OK


def test_sighup_while_stopping_is_answered_with_a_line_and_changes_nothing(started: StartFront) -> None:
    front = started(wrong="stay", drain_timeout=60)
    front.signal(signal.SIGTERM)
    front.wait_event("broker.draining")
    front.signal(signal.SIGHUP)
    assert front.wait_event("broker.signal", signal="SIGHUP")["does"] == "nothing while stopping"
    for slot in (0, 1):
        os.kill(front.newest_pid(slot), signal.SIGKILL)
    assert front.wait() == ExitCode.OK
    assert front.events("config.reloaded") == []


def test_a_killed_worker_is_replaced_and_its_sibling_never_notices(started: StartFront) -> None:
    front = started()
    victim, sibling = front.newest_pid(0), front.newest_pid(1)
    os.kill(victim, signal.SIGKILL)
    assert front.wait_event("worker.exited", slot=0)["exit"] == "SIGKILL"
    ready = front.wait_event("worker.ready", slot=0, incarnation=2)
    assert ready["pid"] not in (victim, sibling)
    assert not is_gone(sibling)
    front.stop()


def test_a_connection_made_while_the_worker_is_dead_is_served_by_its_successor(started: StartFront) -> None:
    front = started(workers=1)
    victim = front.newest_pid(0)
    # Stopped first: whatever connects from here on certainly finds nobody to accept it.
    os.kill(victim, signal.SIGSTOP)
    with socket.create_connection(front.address, timeout=20) as waiting:
        os.kill(victim, signal.SIGKILL)
        front.wait_event("worker.exited", slot=0)
        with socket.create_connection(front.address, timeout=20) as later:
            answers = [sock.makefile().readline().split()[:2] for sock in (waiting, later)]
    assert answers == [["0", "2"], ["0", "2"]]


def test_a_worker_that_crashes_again_and_again_is_backed_off_and_comes_back(fronts: StartFront) -> None:
    front = fronts(wrong="die", slot=1, until=3, supervision=PATIENT | {"backoff_initial": 0.05})
    front.start()
    delays = [event["delay"] for event in front.events("worker.backoff")]
    assert delays == pytest.approx([0.05, 0.1, 0.2])
    assert front.events("worker.ready", slot=1)[0]["incarnation"] == 4
    front.stop()


def test_a_stopped_worker_is_dumped_and_replaced(started: StartFront) -> None:
    front = started(supervision=STRICT)
    victim = front.newest_pid(1)
    os.kill(victim, signal.SIGSTOP)
    assert front.wait_event("worker.hung", slot=1)["pid"] == victim
    assert front.wait_event("worker.exited", slot=1)["exit"] == "SIGABRT"
    front.wait_event("worker.ready", slot=1, incarnation=2)
    eventually(lambda: "Fatal Python error: Aborted" in front.stderr_noise, "the dump")
    assert any("fake_worker.py" in line and "in main" in line for line in front.stderr_noise)
    assert not is_gone(front.newest_pid(0)) and front.events("worker.ready", slot=0)[0]["incarnation"] == 1
    front.stop()


def test_a_worker_that_survives_its_dump_is_killed(started: StartFront) -> None:
    front = started(workers=1, wrong="deaf", until=1, supervision=STRICT)
    front.wait_event("worker.hung", slot=0)
    front.wait_event("worker.killed", slot=0)
    assert front.wait_event("worker.exited", slot=0)["exit"] == "SIGKILL"
    front.wait_event("worker.ready", slot=0, incarnation=2)
    front.stop()


def test_a_worker_that_never_becomes_ready_is_replaced(fronts: StartFront) -> None:
    front = fronts(wrong="mute", slot=0, until=1, supervision=STRICT | {"start_timeout": 4.0})
    front.start()
    assert front.events("worker.hung", slot=0)[0]["reason"] == "not ready after 4 s"
    assert front.events("worker.ready", slot=0)[0]["incarnation"] == 2
    front.stop()


def test_a_front_that_was_stopped_itself_blames_nobody(started: StartFront) -> None:
    front = started(supervision=STRICT)
    front.signal(signal.SIGSTOP)
    eventually(lambda: psutil.Process(front.pid).status() == psutil.STATUS_STOPPED, "the stop")
    time.sleep(1.5 * STRICT["hang_timeout"])  # What is tested is that this time passes without a consequence.
    front.signal(signal.SIGCONT)
    front.signal(signal.SIGHUP)
    front.wait_event("broker.signal", signal="SIGHUP")
    assert front.who_answers()[1] == 1
    front.stop()
    assert front.events("worker.hung") == []


def test_a_worker_that_writes_rubbish_is_logged_and_replaced(fronts: StartFront) -> None:
    front = fronts(wrong="noise", slot=0, until=1)
    front.start()
    assert "undecodable" in front.wait_event("control.error", slot=0)["reason"]
    front.wait_event("worker.ready", slot=0, incarnation=2)
    front.stop()


def test_workers_exit_when_the_front_is_killed(started: StartFront) -> None:
    front = started()
    pids = [front.newest_pid(0), front.newest_pid(1)]
    front.signal(signal.SIGKILL)
    front.wait()
    eventually(lambda: all(map(is_gone, pids)), "the end of the workers")
    eventually(lambda: front.stderr_noise.count("control channel closed") == 2, "what they say of it")


def test_a_new_broker_takes_over_the_port_and_runtime_directory_of_a_killed_one(
    started: StartFront, short_tmp: Path
) -> None:
    first = started(runtime_dir=short_tmp)
    first.signal(signal.SIGKILL)
    second = started(bind=f"127.0.0.1:{first.address[1]}", runtime_dir=short_tmp)
    assert second.address == first.address
    second.stop()
    assert [path.name for path in short_tmp.iterdir()] == ["lock"]


@pytest.fixture
def orphaned(started: StartFront) -> Iterator[tuple[Front, int]]:
    """A front that was killed, and the worker that outlives it; that one is killed after the test."""
    front = started(wrong="orphan", slot=1)
    orphan = psutil.Process(front.newest_pid(1))
    front.signal(signal.SIGKILL)
    eventually(lambda: is_gone(front.newest_pid(0)) and is_gone(front.pid), "the end of all but the orphan")
    yield front, orphan.pid
    with suppress(psutil.NoSuchProcess):
        orphan.kill()


def test_a_data_directory_is_not_used_before_the_workers_of_a_killed_front_are_gone(
    fronts: StartFront, orphaned: tuple[Front, int]
) -> None:
    first, orphan = orphaned
    second = fronts(data_dir=first.data_dir)
    second.spawn()
    assert "workers of a killed broker" in second.wait_event("broker.waiting")["why"]
    assert not second.events("worker.spawned")
    os.kill(orphan, signal.SIGKILL)
    second.wait_event("broker.ready")
    assert second.events("broker.starting")[0]["data_dir"] == str(first.data_dir)
    second.stop()


def test_a_broker_that_waits_for_the_data_directory_can_be_stopped(
    fronts: StartFront, orphaned: tuple[Front, int]
) -> None:
    second = fronts(data_dir=orphaned[0].data_dir)
    second.spawn()
    second.wait_event("broker.waiting")
    second.stop()
    assert not second.events("broker.starting")


def test_the_workers_of_a_killed_front_are_not_waited_for_without_end(
    fronts: StartFront, orphaned: tuple[Front, int]
) -> None:
    first, _ = orphaned
    reason = cannot_start(fronts(data_dir=first.data_dir, drain_timeout=0.0))
    assert f"{first.data_dir} is still used by workers of a broker that was killed" in reason


def test_a_worker_that_died_alone_leaves_the_data_directory_to_its_successor(started: StartFront) -> None:
    front = started()
    os.kill(front.newest_pid(0), signal.SIGKILL)
    front.wait_event("worker.ready", slot=0, incarnation=2)
    front.stop()
    again = started(data_dir=front.data_dir)
    assert not again.events("broker.waiting")


# --- cannot start: one line, exit code 3


def cannot_start(front: Front) -> str:
    """The reason a front gives that is expected not to start."""
    front.spawn()
    assert front.wait() == ExitCode.CANNOT_START
    assert front._stdout == []
    assert not [line for line in front.stderr_noise if "Traceback" in line]
    (event,) = front.events("broker.cannot-start")
    assert event["level"] == "error"
    return str(event["reason"])


def test_a_taken_port(started: StartFront, fronts: StartFront) -> None:
    first = started()
    address = f"127.0.0.1:{first.address[1]}"
    assert f"{address}: the port is taken" in cannot_start(fronts(bind=address))
    first.stop()


def test_a_runtime_directory_in_use(started: StartFront, fronts: StartFront, short_tmp: Path) -> None:
    first = started(runtime_dir=short_tmp)
    reason = cannot_start(fronts(runtime_dir=short_tmp))
    assert f"used by another broker (process {first.pid})" in reason
    first.stop()


def test_runtime_directory_of_the_service_manager(started: StartFront, short_tmp: Path) -> None:
    front = started(environment={"RUNTIME_DIRECTORY": f"{short_tmp}/a:{short_tmp}/b"})
    assert front.events("broker.starting")[0]["runtime_dir"].startswith(f"{short_tmp}/a/")
    front.stop()


def test_a_worker_that_says_it_cannot_start(fronts: StartFront) -> None:
    assert cannot_start(fronts(wrong="cannot-start", slot=1)) == "worker 1: the moon is in the way"


def test_a_data_directory_that_another_broker_has(started: StartFront, fronts: StartFront) -> None:
    first = started()
    reason = cannot_start(fronts(data_dir=first.data_dir))
    assert f"{first.data_dir} is used by another broker (process {first.pid})" in reason
    assert first.who_answers()[1] == 1


def test_a_data_directory_that_cannot_be_made(fronts: StartFront) -> None:
    reason = cannot_start(fronts(data_dir=Path("/proc/nowhere")))
    assert reason.startswith("cannot use /proc/nowhere as data directory: ")


def test_a_worker_that_dies_five_times_before_it_was_ever_ready(fronts: StartFront) -> None:
    front = fronts(wrong="die", slot=1, supervision=PATIENT | {"backoff_initial": 0.01})
    assert "worker 1 died 5 times in a row before it was ready (last: code 7)" in cannot_start(front)
    assert len(front.events("worker.spawned", slot=1)) == 5


# --- systemd


def test_listeners_are_taken_over_from_systemd_and_outlive_the_broker(started: StartFront) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        front = started(inherited=mine)
        assert front.address == mine.getsockname()
        assert front.events("listener.bound")[0]["by"] == "systemd"
        assert front.who_answers()[1] == 1
        inherited = psutil.Process(front.newest_pid(0)).environ()
        assert not [name for name in inherited if name.startswith("LISTEN_")]
        front.stop()
        with socket.create_connection(mine.getsockname(), timeout=5):
            pass


def test_the_service_manager_is_told(started: StartFront, short_tmp: Path) -> None:
    path = str(short_tmp / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        front = started(workers=2, environment={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"})
        seen: list[str] = []

        def hear(state: str) -> None:
            while state not in seen:
                seen.append(manager.recv(4096).decode())

        address = f"127.0.0.1:{front.address[1]}"
        hear(f"READY=1\nSTATUS=2 of 2 workers ready on {address}")
        assert not [state for state in seen if state.startswith("STATUS=2")]
        seen.clear()
        for _ in range(5):
            hear("WATCHDOG=1")
            seen.remove("WATCHDOG=1")
        os.kill(front.newest_pid(1), signal.SIGKILL)
        hear(f"STATUS=1 of 2 workers ready on {address}")
        hear(f"STATUS=2 of 2 workers ready on {address}")
        assert "NOTIFY_SOCKET" not in psutil.Process(front.newest_pid(0)).environ()
        front.stop()
        hear("STOPPING=1\nSTATUS=draining")
        assert sum("READY=1" in state for state in seen) == 0, "ready is said once"


# --- what the workers get


def test_workers_get_the_hard_limit_of_open_files(fronts: StartFront) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    front = fronts(workers=1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        front.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert psutil.Process(front.newest_pid(0)).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
    front.stop()


def test_workers_hold_nothing_of_the_front_but_their_own_sockets(started: StartFront) -> None:
    front = started(workers=3)
    listeners = set()
    for slot in range(3):
        process = psutil.Process(front.newest_pid(slot))
        listening = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
        assert len(listening) == 1
        listeners.add(os.readlink(f"/proc/{process.pid}/fd/{listening[0].fd}"))
        links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")]
        # The control channel, the listener and the endpoint.
        assert sum(link.startswith("socket:") for link in links) == 3
        assert not [link for link in links if link.endswith("/lock")]
    assert len(listeners) == 3, "each worker accepts from a socket of its own"
    front.stop()
