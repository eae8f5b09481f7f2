"""Kinds of workload: what load each one makes and what it reads off the broker and the generator."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from brokers import Broker, Setup
from generator import natsbench, run_generator, stompbench
from processes import BenchError, machine_busy_seconds

__all__ = [
    "BEST_RIVAL",
    "Connections",
    "HeaderFlood",
    "IdleMemory",
    "Latency",
    "Metrics",
    "Sample",
    "Scenario",
    "Throughput",
]

Metrics = dict[str, float]
BEST_RIVAL = "the best rival"
_MIB = 1024 * 1024
_LOGIN_SECONDS = 90  # for thousands of connections to log in and subscribe


@dataclass
class Sample:
    """The broker at one instant."""

    at: float
    cpu: float
    rss: int
    busy: float

    @classmethod
    def take(cls, broker: Broker) -> Sample:
        """Sample now."""
        return cls(time.monotonic(), broker.cpu_seconds(), broker.rss_bytes(), machine_busy_seconds())


@dataclass(frozen=True)
class Scenario:
    """One workload. `headline`: the metric compared across brokers; `skip`: why a broker is left out.

    `goal_ratios`: by rival, how many times better Stampede shall be (`BEST_RIVAL`: than the best of them);
    `goal_values`: by metric, the limit; `goal_flat`: by metric, the most it may be of that at the first point of the
    `series`. `setup`: what the brokers are configured for. `by_name_only`: left out of "all" and of prefixes.
    """

    name: str
    title: str
    headline: str
    goal_ratios: Mapping[str, float] = field(default_factory=dict)
    goal_values: Mapping[str, float] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)
    series: tuple[str, int] | None = None
    goal_flat: Mapping[str, float] = field(default_factory=dict)
    setup: Setup = Setup.DEFAULT
    by_name_only: bool = False
    fresh = False  # a new broker process for every round

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        """Bring the broker to speed, size the load to about `seconds` a run; the result goes to `measure`."""
        raise NotImplementedError

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        """One measured run."""
        raise NotImplementedError

    def command_line(self, broker: Broker, sized: Any) -> str:
        """The generator's command line, ready to be typed in this folder."""
        raise NotImplementedError


@dataclass(frozen=True)
class Throughput(Scenario):
    """Publishers send as fast as the broker takes it; ends when every delivery has arrived."""

    pubs: int = 1
    subs: int = 10
    topics: int = 1
    dests: int = 0
    uniq: bool = False

    def _deliveries(self) -> int:
        return 1 if self.dests else self.subs // self.topics

    def _command(self, broker: Broker, messages: int, uniq: bool, seconds: float) -> list[str]:
        if broker.protocol == "nats":
            return natsbench(broker, self.pubs, self.subs, self.topics, messages, self.dests)
        options: list[object] = ["--pubs", self.pubs, "--subs", self.subs, "--topics", self.topics]
        options += ["--msgs", messages, "--size", 100, "--wait", _LOGIN_SECONDS, "--max", seconds]
        options += ["--dests", self.dests] if self.dests else []
        return stompbench(broker, "fanout", *options, *(["--uniq"] if uniq else []))

    def _run(self, broker: Broker, messages: int, uniq: bool, limit: float = 60) -> tuple[Metrics, dict[str, Sample]]:
        samples: dict[str, Sample] = {}
        command = self._command(broker, messages, uniq, limit)
        result = run_generator(
            command, limit + _LOGIN_SECONDS + 60, lambda step: samples.update({step: Sample.take(broker)})
        )
        start, end = samples["start"], samples["end"]
        if not result["received"] or result.get("errors"):
            raise BenchError(f"nothing arrived, or ERROR frames did: {result}")
        cpu, wall = end.cpu - start.cpu, end.at - start.at
        other = end.busy - start.busy - cpu - result["gen_cpu_s"]
        metrics = {
            "deliveries_per_s": float(result["recv_per_s"]),
            "cpu_us_per_delivery": cpu / result["received"] * 1e6,
            "broker_cores": cpu / wall,
            "generator_cores": result["gen_cpu_s"] / wall,
            "other_cores": max(0.0, other / wall),
            "rss_mib": end.rss / _MIB,
            "seconds": result["secs"],
            "messages": result["expected"] / self._deliveries(),
            "lost": float(max(0, result["expected"] - round(result["received"]))),
        }
        return metrics, samples

    def _size(self, broker: Broker, seconds: float, uniq: bool) -> int:
        # Names differ from run to run, so less than two turns through all destinations would measure first sights only.
        least = max(20, 2 * self.dests)
        messages = max(least, 20_000 // self._deliveries())
        fitting = 0
        for _ in range(10):
            took = self._run(broker, messages, uniq)[0]["seconds"]
            factor = seconds / max(took, 0.001)
            messages = max(least, min(int(messages * min(factor, 10)), 20_000_000))
            # Twice, because a just-in-time compiler makes the first full-sized run a slow one.
            fitting += factor < 1.5
            if fitting == 2 or took > 10 * seconds:
                break
        return messages

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        return self._size(broker, seconds, self.uniq)

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        return self._run(broker, sized, self.uniq)[0]

    def command_line(self, broker: Broker, sized: Any) -> str:
        return " ".join(self._command(broker, sized, self.uniq, 60))


@dataclass(frozen=True)
class HeaderFlood(Throughput):
    """Frames with repeating headers, then a flood whose headers never repeat, then the first load again."""

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        return self._size(broker, seconds, False), 2 * self._size(broker, seconds, True)

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        plain, unique = sized
        before, samples_before = self._run(broker, plain, False)
        flood, _ = self._run(broker, unique, True)
        after, samples_after = self._run(broker, plain, False)
        rss_before, rss_after = samples_before["end"].rss / _MIB, samples_after["end"].rss / _MIB
        return {
            "after_over_before": after["deliveries_per_s"] / before["deliveries_per_s"],
            "before_per_s": before["deliveries_per_s"],
            "flood_per_s": flood["deliveries_per_s"],
            "after_per_s": after["deliveries_per_s"],
            "flood_frames": flood["messages"],
            "rss_before_mib": rss_before,
            "rss_after_mib": rss_after,
            "rss_growth_mib": rss_after - rss_before,
            "other_cores": max(part["other_cores"] for part in (before, flood, after)),
            "lost": before["lost"] + flood["lost"] + after["lost"],
        }

    def command_line(self, broker: Broker, sized: Any) -> str:
        return " ".join(self._command(broker, sized[1], True, 60))


@dataclass(frozen=True)
class Latency(Scenario):
    """A steady rate far below what the broker can take: time from the SEND to each arrival."""

    rate: int = 1000
    subs: int = 10
    seconds: int = 5

    def _command(self, broker: Broker, seconds: int) -> list[str]:
        options = (
            "--pubs",
            1,
            "--subs",
            self.subs,
            "--rate",
            self.rate,
            "--secs",
            seconds,
            "--max",
            seconds + 10,
        )
        return stompbench(broker, "latency", *options)

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        for _ in range(2):
            self._run(broker, self.seconds)
        return self.seconds

    def _run(self, broker: Broker, seconds: int) -> Metrics:
        samples: dict[str, Sample] = {}
        result = run_generator(
            self._command(broker, seconds),
            seconds + 60,
            lambda step: samples.update({step: Sample.take(broker)}),
        )
        start, end = samples["start"], samples["end"]
        cpu, wall = end.cpu - start.cpu, end.at - start.at
        return {
            "p50_ms": result["p50_us"] / 1000,
            "p90_ms": result["p90_us"] / 1000,
            "p99_ms": result["p99_us"] / 1000,
            "p999_ms": result["p999_us"] / 1000,
            "max_ms": result["max_us"] / 1000,
            "cpu_us_per_delivery": cpu / result["received"] * 1e6,
            "other_cores": max(0.0, (end.busy - start.busy - cpu - result["gen_cpu_s"]) / wall),
            "lost": float(result["expected"] - result["received"]),
        }

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        return self._run(broker, sized)

    def command_line(self, broker: Broker, sized: Any) -> str:
        return " ".join(self._command(broker, sized))


@dataclass(frozen=True)
class Connections(Scenario):
    """Connections that log in at once, then subscribe at once, then stay idle."""

    conns: int = 5000

    def _command(self, broker: Broker, conns: int) -> list[str]:
        if broker.protocol == "nats":
            return natsbench(broker, 1, conns, 1, 500, 0)
        return stompbench(broker, "conns", "--conns", conns, "--secs", 0, "--wait", _LOGIN_SECONDS)

    def _open(self, broker: Broker, conns: int) -> tuple[dict[str, Any], int]:
        """Open them; the result also holds the broker's resident bytes once they all stand idle."""
        held = 0

        def at(step: str) -> None:
            nonlocal held
            if step in ("held", "start"):
                held = steady_rss(broker)

        return run_generator(self._command(broker, conns), 2 * _LOGIN_SECONDS + 60, at), held

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        self._open(broker, self.conns)
        return self.conns

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        before = Sample.take(broker)
        result, _ = self._open(broker, sized)
        after = Sample.take(broker)
        return {
            "logins_per_s": float(result["connect_per_s"]),
            "subscribes_per_s": sized / max(result["subscribe_s"], 0.001),
            "cpu_us_per_connection": (after.cpu - before.cpu) / sized * 1e6,
        }

    def command_line(self, broker: Broker, sized: Any) -> str:
        return " ".join(self._command(broker, sized))


@dataclass(frozen=True)
class IdleMemory(Connections):
    """Resident memory of a broker that has just started, with and without idle subscribed connections."""

    fresh = True

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        # A few, for what a broker loads on first use; more would leave freed memory to be reused unseen.
        self._open(broker, 100)
        return self.conns

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        empty = steady_rss(broker)
        _, held = self._open(broker, sized)
        per_connection = (held - empty) / sized / 1024
        return {
            "kib_per_connection": per_connection,
            "rss_empty_mib": empty / _MIB,
            "rss_held_mib": held / _MIB,
        }


def steady_rss(broker: Broker) -> int:
    """Resident bytes once they moved less than 1 % in half a second, or after 6 s."""
    last = broker.rss_bytes()
    for _ in range(12):
        time.sleep(0.5)
        current = broker.rss_bytes()
        if abs(current - last) < last / 100:
            return current
        last = current
    return last
