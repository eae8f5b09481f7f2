"""One run: for each scenario all brokers are up, and the rounds go A B C A B C, never A A B B C C."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from brokers import Broker, make_broker
from processes import BenchError
from profiling import PARTS, profiled
from workloads import Metrics, Scenario

__all__ = ["run_scenario", "summarise"]


def summarise(rounds: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """Median, smallest and largest value of every metric over the rounds."""
    return {
        metric: {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
        }
        for metric in (rounds[0] if rounds else {})
        if (values := [entry[metric] for entry in rounds])
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class _Contestant:
    """One broker in one scenario: its process, its load, its measured rounds, or why it has none."""

    def __init__(self, broker: Broker, scenario: Scenario, seconds: float) -> None:
        self.broker = broker
        self.scenario = scenario
        self.seconds = seconds
        self.sized: Any = None
        self.rounds: list[Metrics] = []
        self.record: dict[str, Any] = {}

    def attempt(self, action: Callable[[], None]) -> None:
        """Do it; a failure is recorded and takes the broker out of this scenario, not out of the run."""
        if "error" in self.record:
            return
        try:
            action()
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            _say(f"  {self.broker.name}: {error}")
            self.record["error"] = str(error).splitlines()[0]
            self.broker.stop()

    def begin(self) -> None:
        self.broker.start()
        self.sized = self.scenario.warm_up(self.broker, self.seconds)
        self.record["broker"] = self.broker.command_line()
        if self.broker.configuration:
            self.record["configuration"] = self.broker.configuration
        load = self.scenario.command_line(self.broker, self.sized)
        self.record["generator"] = load.replace(str(self.broker.port), "$PORT")

    def round(self) -> None:
        if self.scenario.fresh:
            self.broker.stop()
            self.begin()
        metrics = self.scenario.measure(self.broker, self.sized)
        self.rounds.append(metrics)
        shown = ", ".join(f"{name} {value:,.6g}" for name, value in metrics.items())
        _say(f"  round {len(self.rounds)} {self.broker.name}: {shown}")

    def profile(self) -> None:
        """One more run, not among the measured ones: the sampling slows the broker down."""
        if not (pids := self.broker.worker_pids()):
            return
        found: dict[str, Any] = {}
        with profiled(pids, found):
            self.scenario.measure(self.broker, self.sized)
        self.record["profile"] = found
        _say(f"  profile {self.broker.name}: {', '.join(f'{part} {found[part]:.0%}' for part in PARTS)}")


def run_scenario(
    scenario: Scenario, names: Iterable[str], rounds: int, seconds: float, data_in: Path, profile: bool
) -> dict[str, Any]:
    """Run one scenario on the named brokers, interleaved; returns its record. Leaves no process behind.

    `data_in`: the folder for the brokers' temporary folders; `profile`: profile Stampede after the last round.
    """
    _say(f"{scenario.name}: {scenario.title}")
    record: dict[str, Any] = {"name": scenario.name, "title": scenario.title, "brokers": {}}
    contestants: list[_Contestant] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            if (why := scenario.skip.get(name)) is not None:
                record["brokers"][name] = {"skipped": why}
                continue
            broker = make_broker(name)
            broker.setup, broker.data_in = scenario.setup, data_in
            contestant = _Contestant(broker, scenario, seconds)
            stack.callback(contestant.broker.stop)
            contestants.append(contestant)
            record["brokers"][name] = contestant.record
            if not scenario.fresh:
                contestant.attempt(contestant.begin)
        for _ in range(rounds):
            for contestant in contestants:
                contestant.attempt(contestant.round)
        if profile:
            for contestant in contestants:
                contestant.attempt(contestant.profile)
    for contestant in contestants:
        contestant.record["rounds"] = contestant.rounds
        contestant.record["summary"] = summarise(contestant.rounds)
    return record
