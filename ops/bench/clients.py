"""Client libraries side by side, each in a process of its own, against one and the same broker."""

from __future__ import annotations

import contextlib
import functools
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokers import Broker, Setup, make_broker
from generator import run_generator, stompbench
from processes import BenchError
from runner import summarise
from workloads import Metrics, Sample, Scenario

__all__ = ["CLIENT_NAMES", "CLIENT_SCENARIOS", "ClientLoad", "client_versions", "run_client_scenario"]

CLIENT_NAMES = ("stampede-client", "stampede-client-no-keys", "stomp.py", "stompman", "raw-socket")
"""The second sends without an `idempotency-key`, as the rivals do. The last is no rival: frames written in advance,
counted and not decoded, so what the broker could do."""

_BROKER = "stampede-1"
_PYTHON = "../../.venv/bin/python"  # from this folder, as the results show it
_HERE = Path(__file__).resolve().parent
_MOST_MESSAGES = 400_000
_FILL_UNIT = 64  # stompbench asks for a receipt that often, so in multiples of it all is confirmed


@dataclass(frozen=True)
class ClientLoad(Scenario):
    """One connection of one library: `task` is `send`, `receive` or `ack`, see `clients_load.py`."""

    task: str = "send"
    destination: str = "/queue/clients"
    window: int = 1000

    def command(self, client: str, broker: Broker, destination: str, messages: int, loop: str) -> list[str]:
        """The command line of one run, from this folder."""
        options: list[object] = ["--port", broker.port, "--destination", destination, "--messages", messages]
        words = [_PYTHON, "clients_load.py", client, self.task, *options, "--window", self.window, "--loop", loop]
        return [str(word) for word in words]

    def fill(self, broker: Broker, destination: str, messages: int) -> list[str]:
        """The command line that puts `messages` into the queue `destination`, whose name ends in 0."""
        options: tuple[object, ...] = ("--pubs", 1, "--subs", 0, "--receipts", _FILL_UNIT, "--msgs", messages)
        return stompbench(broker, "queue", *options, "--dest", destination[:-1], "--size", 100)


def client_versions(names: Iterable[str], loop: str) -> dict[str, str]:
    """Version of every library, as recorded in the results. BenchError for a name that is not known."""
    found = {}
    for name in names:
        if name not in CLIENT_NAMES:
            raise BenchError(f"unknown client {name!r}; known: {', '.join(CLIENT_NAMES)}")
        command = [_PYTHON, "clients_load.py", name, "version", "--loop", loop]
        result = subprocess.run(command, cwd=_HERE, capture_output=True, text=True, timeout=60, check=False)
        if result.returncode:
            raise BenchError(f"{name} is not in .venv: {result.stderr.strip()[-200:]}")
        found[name] = result.stdout.strip()
    return found


@dataclass
class _Contestant:
    """One library in one scenario: its load, its measured rounds, or why it has none."""

    name: str
    scenario: ClientLoad
    broker: Broker
    loop: str
    numbers: itertools.count[int]
    messages: int = 80 * _FILL_UNIT
    rounds: list[Metrics] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    def attempt(self, action: Callable[[], None]) -> None:
        """Do it; a failure is recorded and takes the library out of this scenario, not out of the run."""
        if "error" in self.record:
            return
        try:
            action()
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            _say(f"  {self.name}: {error}")
            self.record["error"] = str(error).splitlines()[0]

    def size(self, seconds: float) -> None:
        """Warm up, and size the load to about `seconds` a run."""
        for _ in range(3):
            factor = seconds / max(self._run()["seconds"], 0.001)
            self.messages = max(1_000, min(_MOST_MESSAGES, int(self.messages * min(factor, 20))))
            self.messages = self.messages // _FILL_UNIT * _FILL_UNIT
            if 0.67 < factor < 1.5:
                break
        scenario = self.scenario
        shown = scenario.command(self.name, self.broker, scenario.destination, self.messages, self.loop)
        self.record["generator"] = " ".join(shown).replace(str(self.broker.port), "$PORT")
        self.record["broker"] = self.broker.command_line()
        if self.broker.configuration:
            self.record["configuration"] = self.broker.configuration

    def round(self) -> None:
        """One measured run."""
        metrics = self._run()
        self.rounds.append(metrics)
        shown = ", ".join(f"{name} {value:,.6g}" for name, value in metrics.items())
        _say(f"  round {len(self.rounds)} {self.name}: {shown}")

    def _run(self) -> Metrics:
        scenario, broker = self.scenario, self.broker
        # Of its own for each run: nothing that one library has left behind can be another's.
        destination = f"{scenario.destination}{next(self.numbers)}.0"
        if scenario.task != "send":
            filled = run_generator(scenario.fill(broker, destination, self.messages), 120, lambda _step: None)
            if filled["receipts"] * _FILL_UNIT < self.messages or filled["errors"]:
                raise BenchError(f"the queue was not filled: {filled}")
        samples: dict[str, Sample] = {}
        command = scenario.command(self.name, broker, destination, self.messages, self.loop)
        result = run_generator(command, 120, lambda step: samples.update({step: Sample.take(broker)}))
        start, end = samples["start"], samples["end"]
        secs, cpu, broker_cpu = result["secs"], result["cpu_s"], end.cpu - start.cpu
        return {
            "messages_per_s": self.messages / secs,
            "client_cpu_us": cpu / self.messages * 1e6,
            "client_cores": cpu / secs,
            "broker_cpu_us": broker_cpu / self.messages * 1e6,
            "broker_cores": broker_cpu / secs,
            "other_cores": max(0.0, (end.busy - start.busy - broker_cpu - cpu) / (end.at - start.at)),
            "seconds": secs,
            "messages": float(self.messages),
        }


def run_client_scenario(
    scenario: ClientLoad, names: Sequence[str], rounds: int, seconds: float, data_in: Path, loop: str
) -> dict[str, Any]:
    """Run one scenario with the named libraries, interleaved, against one broker; returns its record.

    `data_in`: the folder for the broker's temporary folder; `loop`: of those that use asyncio.
    """
    _say(f"{scenario.name}: {scenario.title}")
    broker = make_broker(_BROKER)
    broker.setup, broker.data_in = scenario.setup, data_in
    numbers = itertools.count(1)
    skipped = {name: {"skipped": scenario.skip[name]} for name in names if name in scenario.skip}
    contestants = [_Contestant(name, scenario, broker, loop, numbers) for name in names if name not in skipped]
    with contextlib.ExitStack() as stack:
        stack.callback(broker.stop)
        broker.start()
        for contestant in contestants:
            contestant.attempt(functools.partial(contestant.size, seconds))
        for _ in range(rounds):
            for contestant in contestants:
                contestant.attempt(contestant.round)
    for contestant in contestants:
        contestant.record["rounds"] = contestant.rounds
        contestant.record["summary"] = summarise(contestant.rounds)
    return {
        "name": scenario.name,
        "title": scenario.title,
        "brokers": {**{contestant.name: contestant.record for contestant in contestants}, **skipped},
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


_NO_KEYS = {"stampede-client-no-keys": "it differs in sending only"}
CLIENT_SCENARIOS: tuple[ClientLoad, ...] = (
    ClientLoad(
        "client-send-topic",
        "1 connection sends to a topic nobody subscribes to, each message with a receipt, at most 1,000 without",
        "messages_per_s",
        {"stomp.py": 5, "stompman": 5},
        destination="/topic/clients.",
    ),
    ClientLoad(
        "client-send-queue",
        "the same to a queue on disk",
        "messages_per_s",
        {"stomp.py": 5, "stompman": 5},
        setup=Setup.DURABLE_QUEUES,
        destination="/queue/clients.",
    ),
    ClientLoad(
        "client-receive",
        "1 connection takes all that a queue in memory holds, ack auto",
        "messages_per_s",
        {"stomp.py": 5, "stompman": 5},
        skip=_NO_KEYS,
        setup=Setup.MEMORY_QUEUES,
        destination="/queue/clients.",
        task="receive",
    ),
    ClientLoad(
        "client-receive-ack",
        "the same, ack client-individual, each message acknowledged, at most 1,000 that are not",
        "messages_per_s",
        {"stomp.py": 5, "stompman": 5},
        skip=_NO_KEYS,
        setup=Setup.MEMORY_QUEUES,
        destination="/queue/clients.",
        task="ack",
    ),
)
