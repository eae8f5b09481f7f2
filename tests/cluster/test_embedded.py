"""`Broker` inside a program: its life and end, what it tells of its clients, the names it is given; real workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from broker import (
    Broker,
    CannotStartError,
    ClientConnected,
    ClientDisconnected,
    CloseReason,
    ConfigError,
    Event,
    EventsLost,
    ServerStopped,
    SubscriptionEnded,
    SubscriptionStarted,
)
from broker.events import Events
from common.config import Config
from common.log import Level
from tests.harness.broker import ROOT
from tests.harness.wire import Wire, connect_on, encode

SECONDS = 20.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
FAKE_WORKER = [sys.executable, "-m", "tests.cluster.fake_worker"]

Scenario = Callable[[], Awaitable[None]]
Run = Callable[[Scenario], None]


class Log:
    """Takes what the broker logs."""

    def __init__(self) -> None:
        self.events: list[tuple[Level, str, Mapping[str, Any]]] = []

    def __call__(self, level: Level, event: str, fields: Mapping[str, Any]) -> None:
        self.events.append((level, event, fields))

    def named(self, name: str) -> list[Mapping[str, Any]]:
        return [fields for _, event, fields in self.events if event == name]

    @property
    def pids(self) -> dict[int, int]:
        """Of the workers that are ready, by slot."""
        return {fields["slot"]: fields["pid"] for fields in self.named("worker.ready")}

    def check(self) -> None:
        assert [each for each in self.events if each[1] == "internal.error" or "Traceback" in str(each[2])] == []


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


def descriptors() -> dict[str, str]:
    """The open files of this process."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # That of the listing itself.
    return found


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("pytest_timeout")}


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every test leaves the handlers it found, and no process, file, descriptor or thread that was not there: those of
    earlier tests may end meanwhile."""
    # Made where temporary files are: before that is a place of the test's own.
    tmp_path_factory.getbasetemp()
    # libuv opens a pipe with its first loop, and keeps it.
    uvloop.new_event_loop().close()
    with tempfile.TemporaryDirectory(prefix="eb-", dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        before = children(), descriptors().items(), threads()
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield Path(directory)
        assert os.listdir(directory) == []
        found = children(), descriptors().items(), threads()
        assert [now - then for now, then in zip(found, before, strict=True)] == [set()] * 3
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == handlers
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit


def run_in(loop: str, scenario: Scenario) -> None:
    failures: list[Any] = []

    async def main() -> None:
        def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            failures.append(context)

        running = asyncio.get_running_loop()
        running.set_exception_handler(handler)
        async with asyncio.timeout(60):
            await scenario()
        assert running.get_exception_handler() is handler
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())
    assert failures == []


@pytest.fixture
def run() -> Run:
    """Runs a scenario in a plain event loop."""
    return lambda scenario: run_in("asyncio", scenario)


@pytest.fixture(params=sorted(LOOPS))
def run_in_each(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario in each kind of loop."""
    return lambda scenario: run_in(request.param, scenario)


@asynccontextmanager
async def a_broker(*arguments: Any, **settings: Any) -> AsyncIterator[tuple[Broker, Log]]:
    log = Log()
    async with Broker(*arguments, **{"log": log, **settings}) as broker:
        yield broker, log
    log.check()


async def take(events: Events, count: int) -> list[Event]:
    async with asyncio.timeout(SECONDS):
        return [await anext(events) for _ in range(count)]


async def until(events: Events, wanted: Event) -> list[Event]:
    """What comes up to `wanted`: looking for a connection to a certain worker makes others."""
    found: list[Event] = []
    async with asyncio.timeout(SECONDS):
        while wanted not in found:
            found.append(await anext(events))
    return found


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - what a test looks at tells nobody when it changes
            await asyncio.sleep(0.01)


async def connected(broker: Broker, slot: int | None = None) -> Wire:
    return await asyncio.to_thread(connect_on, broker, slot)


# --- life


def test_it_starts_serves_and_leaves_nothing_behind(run_in_each: Run, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with a_broker(workers=2) as (broker, log):
            host, port = broker.address
            assert (host, port > 0) == ("127.0.0.1", True)
            assert broker.addresses == [(host, port)]
            assert broker.url == f"stomp://127.0.0.1:{port}"
            assert broker.management_address is None
            with await connected(broker, 0) as one, await connected(broker, 1) as other:

                def exchange() -> None:
                    one.subscribe("/topic/a")
                    other.request("SEND", [("destination", "/topic/a")], b"x")
                    one.expect("MESSAGE")

                await asyncio.to_thread(exchange)
        assert [fields["exit"] for fields in log.named("worker.exited")] == ["code 0", "code 0"]
        assert log.named("broker.stopped") == [{"process": "front", "code": 0}]

    run_in_each(scenario)
    assert capfd.readouterr() == ("", "")


def test_what_a_configuration_sets_counts_and_the_rest_suits_a_program(run: Run, nothing_left: Path) -> None:
    config = {
        "listener": [{"heart_beat": {"minimum": "1s"}}, {"bind": "[::1]:0"}],
        "management": {"bind": "127.0.0.1:0"},
    }

    async def scenario() -> None:
        async with a_broker(config) as (broker, log):
            assert [host for host, _ in broker.addresses] == ["127.0.0.1", "::1"]
            assert broker.management_address is not None
            assert log.named("management.bound")[0]["address"].endswith(f":{broker.management_address[1]}")
            assert len(log.pids) == 1
            data_dir = Path(log.named("broker.starting")[0]["data_dir"])
            assert data_dir.parent == nothing_left and data_dir.name in os.listdir(nothing_left)

    run(scenario)


@pytest.mark.parametrize("kind", ["mapping", "file", "config"])
def test_a_configuration_has_three_forms(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "stampede.toml"
    path.write_text(f'[broker]\nworkers = 2\ndata_dir = "{tmp_path}/data"\n')
    mapping = {"broker": {"workers": 2, "data_dir": f"{tmp_path}/data"}}
    config = {"mapping": mapping, "file": path, "config": Config.model_validate(mapping)}[kind]

    async def scenario() -> None:
        async with a_broker(config) as (broker, log):
            assert broker.address[0] == "127.0.0.1" and broker.address[1] != 61613
            assert len(log.pids) == 2
        assert (tmp_path / "data" / "slot-1.db").exists()
        async with a_broker(config, workers=1, data_dir=tmp_path / "other") as (broker, log):
            assert len(log.pids) == 1
        assert (tmp_path / "other" / "slot-0.db").exists()

    run(scenario)


def test_no_environment_variable_counts(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000")
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("STAMPEDE_BROKER_WORKERS", "3")
        monkeypatch.setenv("STAMPEDE_NONSENSE", "1")
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "runtime"))

        async def scenario() -> None:
            async with a_broker(path) as (_, log):
                assert len(log.pids) == 1
                environment = Path(f"/proc/{log.pids[0]}/environ").read_text()  # noqa: ASYNC240 - not a disk
                assert "NOTIFY_SOCKET" not in environment and "WATCHDOG_USEC" not in environment

        path = tmp_path / "stampede.toml"
        path.write_text("")
        run(scenario)
        assert not (tmp_path / "runtime").exists()
        assert os.environ["LISTEN_FDS"] == "1"
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_workers_may_open_as_many_files_as_there_can_be_and_the_program_stays_as_it_is(run: Run) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    lower = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        async with a_broker() as (_, log):
            assert resource.prlimit(log.pids[0], resource.RLIMIT_NOFILE) == (hard, hard)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == lower

    try:
        run(scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_stop_can_be_called_again_by_several_and_never_after_a_start_that_was_not(run: Run) -> None:
    async def scenario() -> None:
        broker = Broker(log=Log())
        await broker.stop()
        with pytest.raises(RuntimeError, match="no address before it is started"):
            _ = broker.address
        with pytest.raises(RuntimeError, match="was not started"):
            await broker.wait_stopped()
        await broker.start()
        waiting = asyncio.ensure_future(broker.wait_stopped())
        await asyncio.gather(broker.stop(), broker.stop())
        await broker.stop()
        assert await waiting == 0
        with pytest.raises(RuntimeError, match="started once"):
            await broker.start()

    run(scenario)


def test_leaving_tells_the_clients_and_delivers_what_is_queued(run_in_each: Run) -> None:
    async def scenario() -> None:
        async with a_broker(workers=2) as (broker, _):
            events = broker.events()
            wires = [await connected(broker, slot) for slot in (0, 1)]
            for wire in wires:
                await asyncio.to_thread(wire.subscribe, "/topic/a")
        with wires[0], wires[1]:
            for wire in wires:
                await asyncio.to_thread(wire.expect_error, "shutting-down")
        told = [event async for event in events]
        assert told[-1] == ServerStopped(0)
        for wire in wires:
            of_it = [event for event in told if not isinstance(event, ServerStopped) and event.session == wire.session]
            assert of_it == [
                ClientConnected(wire.session, of_it[0].address, "1.2", None),  # type: ignore[union-attr]
                SubscriptionStarted(wire.session, "0", "/topic/a", "auto"),
                SubscriptionEnded(wire.session, "0", "/topic/a"),
                ClientDisconnected(wire.session, CloseReason.SHUTTING_DOWN),
            ]

    run_in_each(scenario)


def test_a_body_that_fails_stops_it_too(run: Run) -> None:
    log = Log()

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError):
            async with Broker(log=log):
                _ = 1 / 0
        assert log.named("broker.stopped")[0]["code"] == 0

    run(scenario)


def test_a_body_that_is_cancelled_stops_it_too(run_in_each: Run) -> None:
    log = Log()
    inside: list[bool] = []

    async def body() -> None:
        async with Broker(log=log):
            inside.append(True)
            await asyncio.get_running_loop().create_future()

    async def scenario() -> None:
        task = asyncio.ensure_future(body())
        await eventually(lambda: inside)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log.named("broker.stopped")[0]["code"] == 0

    run_in_each(scenario)


def test_a_start_that_is_cancelled_leaves_nothing(run: Run) -> None:
    # Tests before this one may share a broker that still runs.
    before = children()

    async def scenario() -> None:
        for wait_for in ("", "broker.starting", "worker.spawned"):
            log = Log()
            task = asyncio.ensure_future(Broker(log=log).start())
            await asyncio.sleep(0)
            await eventually(lambda log=log, name=wait_for: not name or log.named(name))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert children() <= before

    run(scenario)


def test_a_stop_that_is_cancelled_stops_at_once(run: Run) -> None:
    async def scenario() -> None:
        log = Log()
        # A worker that does not go when it is told.
        broker = Broker(
            {"broker": {"drain_timeout": "1h"}}, log=log, worker_command=["env", "FAKE_WORKER=stay", *FAKE_WORKER]
        )
        events = broker.events()
        await broker.start()
        stopping = asyncio.ensure_future(broker.stop())
        await eventually(lambda: log.named("broker.draining"))
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert log.named("worker.exited")[0]["exit"] == "SIGKILL"
        assert [event async for event in events] == [ServerStopped(1)]

    run(scenario)


def test_an_end_of_the_loop_is_the_end_of_it() -> None:
    log = Log()

    async def main() -> None:
        await Broker(log=log).start()

    asyncio.run(main())
    assert log.named("worker.exited")[0]["exit"] == "SIGKILL"


def test_a_stop_while_it_starts_is_told_to_who_starts_it(run: Run) -> None:
    async def scenario() -> None:
        broker = Broker(log=Log())
        starting = asyncio.ensure_future(broker.start())
        await asyncio.sleep(0)
        await broker.stop()
        with pytest.raises(CannotStartError, match="stopped before it was ready"):
            await starting

    run(scenario)


def test_a_dead_program_takes_its_workers_along(nothing_left: Path) -> None:
    program = (
        "import asyncio, os, signal\n"
        "from broker import Broker\n"
        "async def main():\n"
        "    pids = []\n"
        "    log = lambda level, event, fields: event == 'worker.ready' and pids.append(fields['pid'])\n"
        "    async with Broker(workers=2, log=log, data_dir=os.environ['TMPDIR'] + '/data'):\n"
        "        print(*pids, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2

    async def gone() -> None:
        await eventually(lambda: not any(psutil.pid_exists(pid) for pid in workers))

    asyncio.run(gone())
    # What a killed program leaves on disk is for its next start, or nobody's.
    for path in nothing_left.iterdir():
        subprocess.run(["rm", "-r", str(path)], check=True)


# --- it cannot start


def test_a_taken_port_is_one_clear_error_and_the_loop_goes_on_meanwhile(run_in_each: Run) -> None:
    async def scenario() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            log = Log()
            broker = Broker({"listener": [{"bind": f"127.0.0.1:{port}"}]}, log=log)
            events = broker.events()
            starting = asyncio.ensure_future(broker.start())
            turns = 0
            while not starting.done():
                await asyncio.sleep(0.01)
                turns += 1
            with pytest.raises(CannotStartError, match=f"cannot listen on 127.0.0.1:{port}: the port is taken"):
                await starting
            assert turns > 10
            await broker.stop()
            assert [event async for event in events] == [ServerStopped(3)]

    run_in_each(scenario)


def test_a_port_that_comes_free_in_time_is_taken(run: Run) -> None:
    async def scenario() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            broker = Broker({"listener": [{"bind": f"127.0.0.1:{port}"}]}, log=Log())
            starting = asyncio.ensure_future(broker.start())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await starting
        assert broker.address == ("127.0.0.1", port)
        await broker.stop()

    run(scenario)


def test_a_worker_that_cannot_start_is_told_by_its_own_words(run: Run) -> None:
    async def scenario() -> None:
        broker = Broker(log=Log(), worker_command=["env", "FAKE_WORKER=cannot-start", *FAKE_WORKER])
        with pytest.raises(CannotStartError, match="worker 0: the moon is in the way"):
            await broker.start()

    run(scenario)


def test_a_data_directory_in_use_is_told(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with a_broker(data_dir=tmp_path):
            with pytest.raises(CannotStartError, match="used by another broker"):
                await Broker(data_dir=tmp_path, log=Log()).start()

    run(scenario)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"config": {"broker": {"wrokers": 2}, "log": {"level": "loud"}}},
            ["broker.wrokers = 2: unknown key", "log.level"],
        ),
        ({"config": {"broker": 7}}, ["broker = 7"]),
        ({"config": {"outbox": {"low_bytes": "1MiB", "high_bytes": "1KiB"}}}, ["outbox"]),
        ({"workers": 0}, ["Broker(...): broker.workers = 0"]),
        ({"workers": 65, "config": {"broker": {"workers": 2}}}, ["broker.workers = 65"]),
        ({"config": "/nowhere/stampede.toml"}, ["/nowhere/stampede.toml: cannot be read"]),
    ],
)
def test_mistakes_in_the_configuration_are_told_at_once(arguments: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Broker(**arguments)
    for part in said:
        assert part in str(caught.value)
    assert len(caught.value.mistakes) >= len(said)


# --- events


def test_the_events_of_a_session_come_in_their_order(run_in_each: Run) -> None:
    async def scenario() -> None:
        async with a_broker(workers=2) as (broker, _):
            first, second = broker.events(), broker.events()
            with await connected(broker) as wire:

                def live() -> None:
                    wire.subscribe("/topic/a", id="a", ack="client")
                    wire.subscribe("/queue/b", id="b", ack="client-individual")
                    wire.subscribe("/temp-queue/c", id="c")
                    wire.request("UNSUBSCRIBE", [("id", "a")])
                    wire.request("DISCONNECT")

                await asyncio.to_thread(live)
                address = wire.socket.getsockname()
            session = wire.session
            expected = [
                ClientConnected(session, address, "1.2", None),
                SubscriptionStarted(session, "a", "/topic/a", "client"),
                SubscriptionStarted(session, "b", "/queue/b", "client-individual"),
                SubscriptionStarted(session, "c", "/temp-queue/c", "auto"),
                SubscriptionEnded(session, "a", "/topic/a"),
                SubscriptionEnded(session, "b", "/queue/b"),
                SubscriptionEnded(session, "c", "/temp-queue/c"),
                ClientDisconnected(session, CloseReason.DISCONNECT),
            ]
            assert await take(first, len(expected)) == expected
            late = broker.events()
        assert [event async for event in first] == [ServerStopped(0)]
        assert [event async for event in second] == [*expected, ServerStopped(0)]
        assert [event async for event in late] == [ServerStopped(0)]
        assert [event async for event in broker.events()] == [ServerStopped(0)]

    run_in_each(scenario)


def test_login_and_version_are_told_and_a_client_of_1_0_needs_no_id(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker() as (broker, _):
            events = broker.events()
            with Wire(broker.address) as wire:
                await asyncio.to_thread(wire.connect, "1.0", [("login", "jane"), ("passcode", "secret")])
                await asyncio.to_thread(wire.subscribe, "/topic/a", id=None)
                found = await take(events, 2)
                assert found == [
                    ClientConnected(wire.session, wire.socket.getsockname(), "1.0", "jane"),
                    SubscriptionStarted(wire.session, None, "/topic/a", "auto"),
                ]
                assert "secret" not in repr(found)

    run(scenario)


def test_after_a_subscription_started_every_worker_routes_to_it(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker(workers=2) as (broker, _):
            with await connected(broker, 0) as one, await connected(broker, 1) as other:
                events = broker.events()
                for number in range(20):
                    one.frame("SUBSCRIBE", [("destination", f"/topic/{number}"), ("id", str(number))])
                    await until(events, SubscriptionStarted(one.session, str(number), f"/topic/{number}", "auto"))
                    other.frame("SEND", [("destination", f"/topic/{number}")])
                    await asyncio.to_thread(one.expect, "MESSAGE", subscription=str(number))

    run(scenario)


def test_a_killed_worker_s_clients_are_told_of_and_others_are_not(run_in_each: Run) -> None:
    async def scenario() -> None:
        async with a_broker(workers=2) as (broker, log):
            with await connected(broker, 0) as stays, await connected(broker, 1) as dies:
                events = broker.events()
                await asyncio.to_thread(stays.subscribe, "/topic/a")
                await asyncio.to_thread(dies.subscribe, "/topic/a", id="x")
                # Its client may know before the front does, and what that never heard of has no end.
                await until(events, SubscriptionStarted(dies.session, "x", "/topic/a", "auto"))
                os.kill(log.pids[1], signal.SIGKILL)
                ended = SubscriptionEnded(dies.session, "x", "/topic/a")
                told = await until(events, ended)
                told += await until(events, ClientDisconnected(dies.session, CloseReason.CONNECTION_LOST))
                await eventually(lambda: len(log.named("worker.ready")) == 3)
                with await connected(broker, 1) as again:
                    address = again.socket.getsockname()
                    told += await until(events, ClientConnected(again.session, address, "1.2", None))
                await asyncio.to_thread(stays.request, "SEND", [("destination", "/topic/b")])
                assert stays.session not in [event.session for event in told if isinstance(event, ClientDisconnected)]

    run_in_each(scenario)


def test_a_reader_that_does_not_read_is_told_what_it_missed(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker() as (broker, _):
            slow, quick = broker.events(kept=3), broker.events()
            for _ in range(3):
                (await connected(broker)).close()
            await take(quick, 6)
            assert [type(event) for event in await take(slow, 3)] == [
                ClientConnected,
                ClientDisconnected,
                ClientConnected,
            ]
            with pytest.raises(EventsLost, match="3 events"):
                await anext(slow)
            with await connected(broker) as wire:
                assert [getattr(event, "session", "") for event in await take(slow, 1)] == [wire.session]

    run(scenario)


def test_many_clients_that_come_and_go_at_once_are_all_told_of(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker(workers=2) as (broker, _):
            events = broker.events()
            for _ in range(5):
                wires = [Wire(broker.address) for _ in range(40)]
                for wire in wires:
                    wire.send(encode("CONNECT", [("accept-version", "1.2"), ("host", "h")]))
                    wire.frame("SUBSCRIBE", [("destination", "/topic/a"), ("id", "1")])
                    wire.frame("DISCONNECT", [("receipt", "bye")])
                for wire in wires:
                    await asyncio.to_thread(wire.read_rest)
                    wire.close()
            found = await take(events, 5 * 40 * 4)
            by_session: dict[str, list[type]] = {}
            for event in found:
                assert not isinstance(event, ServerStopped)
                by_session.setdefault(event.session, []).append(type(event))
            life = [ClientConnected, SubscriptionStarted, SubscriptionEnded, ClientDisconnected]
            assert list(by_session.values()) == [life] * 200

    run(scenario)


# --- names


def ask(address: tuple[str, int] | None, path: str, method: str = "GET") -> Any:
    assert address is not None
    url = f"http://{address[0]}:{address[1]}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=SECONDS) as answer:
        return json.load(answer)


def test_a_name_is_in_connected_events_log_and_management(run_in_each: Run) -> None:
    names = iter(["jane", "joe"])
    config = {"log": {"level": "debug"}, "management": {"bind": "127.0.0.1:0"}}

    async def scenario() -> None:
        async with a_broker(config, workers=2, session_ids=names.__next__) as (broker, log):
            events = broker.events()
            with Wire(broker.address) as jane, Wire(broker.address) as joe:
                await asyncio.to_thread(jane.connect)
                await asyncio.to_thread(joe.connect)
                assert (jane.session, joe.session) == ("jane", "joe")
                found = [event for event in await take(events, 2) if isinstance(event, ClientConnected)]
                assert sorted(event.session for event in found) == ["jane", "joe"]
                management = broker.management_address
                listed = await asyncio.to_thread(ask, management, "/api/connections")
                assert sorted(each["session"] for each in listed["connections"]) == ["jane", "joe"]
                one = await asyncio.to_thread(ask, management, "/api/connections/joe")
                assert (one["session"], one["peer"]) == ("joe", joe.peer)
                await asyncio.to_thread(ask, management, "/api/connections/jane/close", "POST")
                await asyncio.to_thread(jane.expect_error, "closed-by-operator")
                await asyncio.to_thread(joe.request, "SEND", [("destination", "/topic/a")])
            await eventually(lambda: len(log.named("connection.closed")) == 2)
        assert {fields["session"] for fields in log.named("connection.opened")} == {"jane", "joe"}
        assert {fields["session"] for fields in log.named("connection.closed")} == {"jane", "joe"}

    run_in_each(scenario)


def test_what_follows_connect_in_one_write_is_handled_after_it(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker(session_ids=lambda: "me") as (broker, _):
            with Wire(broker.address) as wire:
                wire.send(
                    encode("CONNECT", [("accept-version", "1.2"), ("host", "h")])
                    + encode("SUBSCRIBE", [("destination", "/queue/a"), ("id", "1"), ("receipt", "s")])
                    + encode("SEND", [("destination", "/queue/a"), ("receipt", "m")], b"x")
                    + encode("BEGIN", [("transaction", "t")])
                    + encode("SEND", [("destination", "/queue/a"), ("transaction", "t")], b"y")
                    + encode("COMMIT", [("transaction", "t"), ("receipt", "c")])
                )
                frames = await asyncio.to_thread(wire.read_many, 6)
                assert frames[0].command == "CONNECTED"
                assert [frame["receipt-id"] for frame in frames if frame.command == "RECEIPT"] == ["s", "m", "c"]
                assert [frame.body for frame in frames if frame.command == "MESSAGE"] == [b"x", b"y"]

    run(scenario)


def test_a_provider_that_fails_refuses_that_one_client(run: Run) -> None:
    given: list[Any] = ["good", ValueError("out of names"), "good", "", 7, "a\nb", "better"]

    def provide() -> Any:
        name = given.pop(0)
        if isinstance(name, Exception):
            raise name
        return name

    log = Log()

    async def scenario() -> None:
        async with Broker(session_ids=provide, log=log) as broker:
            events = broker.events()
            with Wire(broker.address) as good:
                await asyncio.to_thread(good.connect)
                await take(events, 1)
                for number in range(5):
                    with Wire(broker.address) as bad:
                        bad.send(encode("CONNECT", [("accept-version", "1.2"), ("host", "h")]))
                        error = await asyncio.to_thread(bad.expect_error, "internal-error", frame="CONNECT")
                        assert error["message"] == "no session id"
                        await asyncio.to_thread(good.request, "SEND", [("destination", "/topic/a")])
                    assert len(log.named("session.refused")) == number + 1
                with Wire(broker.address) as better:
                    await asyncio.to_thread(better.connect)
                    assert better.session == "better"
                    assert [getattr(event, "session", "") for event in await take(events, 1)] == ["better"]

    run(scenario)
    reasons = [fields["reason"] for fields in log.named("session.refused")]
    assert "ValueError: out of names" in reasons[0]
    assert "another client" in reasons[1]
    assert [level for level, event, _ in log.events if event == "session.refused"] == [Level.ERROR] * 5


def test_a_name_is_free_again_when_its_client_has_left_or_its_worker_died(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker(session_ids=lambda: "only") as (broker, log):
            events = broker.events()
            for _ in range(2):
                with Wire(broker.address) as wire:
                    await asyncio.to_thread(wire.connect)
                    await asyncio.to_thread(wire.request, "DISCONNECT")
                await take(events, 2)
            with Wire(broker.address) as wire:
                await asyncio.to_thread(wire.connect)
                await take(events, 1)
                os.kill(log.pids[0], signal.SIGKILL)
                assert await take(events, 1) == [ClientDisconnected("only", CloseReason.CONNECTION_LOST)]
            await eventually(lambda: len(log.named("worker.ready")) == 2)
            with Wire(broker.address) as wire:
                assert (await asyncio.to_thread(wire.connect))["session"] == "only"

    run(scenario)


def test_temporary_destinations_reach_clients_with_any_name(run: Run) -> None:
    names = iter(["/a/b", "c-d"])

    async def scenario() -> None:
        async with a_broker(workers=2, session_ids=names.__next__) as (broker, _):
            with Wire(broker.address) as asks, Wire(broker.address) as answers:

                def exchange() -> None:
                    asks.connect()
                    answers.connect()
                    answers.subscribe("/queue/work")
                    asks.subscribe("/temp-queue/mine")
                    asks.frame("SEND", [("destination", "/queue/work"), ("reply-to", "/temp-queue/mine")], b"?")
                    request = answers.expect("MESSAGE")
                    answers.frame("SEND", [("destination", request["reply-to"])], b"!")
                    assert asks.expect("MESSAGE").body == b"!"

                await asyncio.to_thread(exchange)

    run(scenario)


# --- the log


def test_a_logger_gets_the_events_of_every_process(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mine")

    async def scenario() -> None:
        async with Broker({"log": {"level": "debug"}}, log=logging.getLogger("mine")) as broker:
            (await connected(broker)).close()

    run(scenario)
    by_name = {record.__dict__["event"]: record for record in caplog.records if record.name == "mine"}
    assert by_name["broker.ready"].__dict__["fields"]["process"] == "front"
    assert by_name["connection.opened"].__dict__["fields"]["process"] == "worker-0"
    assert by_name["connection.opened"].levelno == logging.DEBUG
    assert by_name["store.opened"].getMessage().startswith('store.opened process="worker-0" path=')


def test_the_stack_of_a_worker_that_is_aborted_goes_to_the_log(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    log = Log()

    async def scenario() -> None:
        async with Broker(log=log):
            os.kill(log.pids[0], signal.SIGABRT)
            await eventually(lambda: len(log.named("worker.ready")) == 2)

    run(scenario)
    lines = [fields["line"] for fields in log.named("worker.output")]
    assert lines[0] == "Fatal Python error: Aborted"
    assert capfd.readouterr() == ("", "")


def test_a_log_that_fails_is_told_to_the_program_and_harms_nobody() -> None:
    told: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with Broker(log=lambda level, event, fields: 1 / 0) as broker:
            with await connected(broker) as wire:
                await asyncio.to_thread(wire.request, "SEND", [("destination", "/topic/a")])

    asyncio.run(main())
    assert len(told) > 5
    assert {type(error) for error in told} == {ZeroDivisionError}


def test_a_program_that_holds_its_loop_up_does_not_hold_up_the_clients(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker({"log": {"level": "debug"}}) as (broker, _):
            # More log lines than a pipe takes, and the loop that would read them stands still.
            with ExitStack() as stack:
                wire = stack.enter_context(Wire(broker.address))
                wire.connect()
                for _ in range(700):
                    wire.frame(
                        "SUBSCRIBE", [("destination", "/queue/a"), ("id", "1"), ("selector", "x" * 2000 + " = 1")]
                    )
                    wire.request("UNSUBSCRIBE", [("id", "1")])

    run(scenario)


# --- threads


def test_a_program_without_a_loop_has_it_in_a_thread() -> None:
    log = Log()
    with Broker.in_thread(workers=2, log=log, session_ids=lambda: "me") as broker:
        assert broker.url == f"stomp://127.0.0.1:{broker.address[1]}"
        assert broker.addresses == [broker.address]
        assert broker.management_address is None
        events = broker.events(timeout=SECONDS)
        with Wire(broker.address) as wire:
            wire.connect()
            assert next(events) == ClientConnected("me", wire.socket.getsockname(), "1.2", None)
        assert next(events) == ClientDisconnected("me", CloseReason.CLIENT_CLOSED)
        with pytest.raises(TimeoutError):
            next(broker.events(timeout=0))
        thread = next(each for each in threading.enumerate() if each.name == "stampede")
        assert thread.daemon
    assert list(events) == [ServerStopped(0)]
    assert list(broker.events()) == [ServerStopped(0)]
    broker.stop()
    log.check()


def test_one_in_a_thread_that_cannot_start_says_so_where_it_was_started() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        broker = Broker.in_thread({"listener": [{"bind": f"127.0.0.1:{other.getsockname()[1]}"}]}, log=Log())
        with pytest.raises(CannotStartError, match="the port is taken"), broker:
            pass
        broker.stop()
    with pytest.raises(ConfigError):
        Broker.in_thread(workers=0)


def test_what_is_stored_is_there_for_the_next_one_with_more_workers(tmp_path: Path) -> None:
    with Broker.in_thread(data_dir=tmp_path, log=Log()) as broker, Wire(broker.address) as wire:
        wire.connect()
        for number in range(5):
            wire.request("SEND", [("destination", f"/queue/{number}")], b"x")
    # Laying out for another number of workers runs another program from that thread.
    with Broker.in_thread(data_dir=tmp_path, workers=2, log=Log()) as broker, Wire(broker.address) as wire:
        wire.connect()
        for number in range(5):
            wire.subscribe(f"/queue/{number}", id=str(number))
            assert wire.expect("MESSAGE").body == b"x"


def test_several_brokers_stand_beside_each_other(run: Run) -> None:
    async def scenario() -> None:
        async with a_broker() as (one, _), a_broker() as (other, _):
            assert one.address != other.address
            with await connected(one) as wire:
                events = other.events()
                await asyncio.to_thread(wire.request, "DISCONNECT")
        assert [event async for event in events] == [ServerStopped(0)]

    run(scenario)


@pytest.mark.parametrize("options", [{"log": "stampede"}, {"session_ids": "abc"}])
def test_what_is_no_function_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"^{next(iter(options))} was"):
        Broker(**options)
