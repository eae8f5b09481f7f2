"""Workloads on queues: throughput, the price of one receipt, and queues that stand deep."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from brokers import Broker
from disk import percentile, sync_seconds
from generator import run_generator, stompbench
from processes import BenchError
from workloads import Metrics, Sample, Scenario, Throughput

__all__ = ["Depth", "OneReceipt", "QueueThroughput"]

_MIB = 1024 * 1024
_DURABLE = ("--persistent", "--receipts", 64)


@dataclass(frozen=True)
class QueueThroughput(Throughput):
    """Producers send to queues as fast as the broker takes it, consumers take: ends when all has arrived."""

    pubs: int = 2
    subs: int = 2
    topics: int = 2
    durable: bool = False

    def _deliveries(self) -> int:
        return 1

    def _run(self, broker: Broker, messages: int, uniq: bool, limit: float = 60) -> tuple[Metrics, dict[str, Sample]]:
        metrics, samples = super()._run(broker, messages, uniq, limit)
        if metrics["lost"]:
            # A rate over the part that came would be none: a queue gives everything to a consumer that is there.
            raise BenchError(f"{metrics['lost']:,.0f} of {metrics['messages']:,.0f} messages did not arrive")
        return metrics, samples

    def _command(self, broker: Broker, messages: int, uniq: bool, seconds: float) -> list[str]:
        options: list[object] = ["--pubs", self.pubs, "--subs", self.subs, "--topics", self.topics]
        options += ["--ack", "client-individual", *_DURABLE] if self.durable else []
        return stompbench(broker, "queue", *options, "--msgs", messages, "--size", 100, "--max", seconds)


@dataclass(frozen=True)
class OneReceipt(Scenario):
    """One producer of persistent messages that waits for each receipt, beside what the disk itself needs."""

    def _command(self, broker: Broker, messages: int) -> list[str]:
        options: tuple[object, ...] = ("--persistent", "--msgs", messages, "--size", 100, "--max", 60)
        return stompbench(broker, "receipt", *options)

    def _run(self, broker: Broker, messages: int) -> Metrics:
        samples: dict[str, Sample] = {}
        # Half before and half after, so that a disk that changes its pace does so for both.
        syncs = sync_seconds(broker.folder, messages // 2)
        result = run_generator(
            self._command(broker, messages), 120, lambda step: samples.update({step: Sample.take(broker)})
        )
        syncs += sync_seconds(broker.folder, messages // 2)
        if result["receipts"] < messages or result["errors"]:
            raise BenchError(f"not every SEND was receipted: {result}")
        start, end = samples["start"], samples["end"]
        cpu, wall = end.cpu - start.cpu, end.at - start.at
        return {
            "p50_ms": result["p50_us"] / 1000,
            "p99_ms": result["p99_us"] / 1000,
            "max_ms": result["max_us"] / 1000,
            "disk_p50_ms": percentile(syncs, 0.5) * 1000,
            "disk_p99_ms": percentile(syncs, 0.99) * 1000,
            "p50_over_disk": result["p50_us"] / 1e6 / percentile(syncs, 0.5),
            "p99_over_disk": result["p99_us"] / 1e6 / percentile(syncs, 0.99),
            "cpu_us_per_message": cpu / messages * 1e6,
            "other_cores": max(0.0, (end.busy - start.busy - cpu - result["gen_cpu_s"]) / wall),
            "messages": float(messages),
        }

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        self._run(broker, 500)
        median = self._run(broker, 500)["p50_ms"] / 1000
        return max(500, min(20_000, int(seconds / median)))

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        return self._run(broker, sized)

    def command_line(self, broker: Broker, sized: Any) -> str:
        return " ".join(self._command(broker, sized))


@dataclass(frozen=True)
class Depth(Scenario):
    """A queue that holds `depth` persistent messages: enqueue `step` more with nobody listening, then drain `step`."""

    depth: int = 0
    step: int = 128_000
    _UNIT: ClassVar[int] = 2 * 64  # what two producers send for a receipt each: in multiples all is receipted
    _FILL_PER_SECOND: ClassVar[int] = 2_000  # less than the slowest broker takes
    _DRAIN: ClassVar[tuple[object, ...]] = ("--ack", "client-individual", "--subs", 2, "--prefetch", 100)

    def _command(self, broker: Broker, mode: str, messages: int) -> list[str]:
        seconds = 60 + messages // self._FILL_PER_SECOND
        options: tuple[object, ...] = self._DRAIN if mode == "drain" else ("--pubs", 2, "--subs", 0, *_DURABLE)
        common = ("--dest", "/queue/depth.", "--msgs", messages, "--size", 100, "--wait", 60, "--max", seconds)
        return stompbench(broker, mode, *options, *common)

    def _part(self, broker: Broker, mode: str, messages: int) -> Metrics:
        samples: dict[str, Sample] = {}
        result = run_generator(
            self._command(broker, mode, messages),
            240 + messages // self._FILL_PER_SECOND,
            lambda step: samples.update({step: Sample.take(broker)}),
        )
        done = result["received"] if mode == "drain" else result["receipts"] * 64
        if done < messages or result["errors"]:
            raise BenchError(f"{mode}: {done} of {messages}: {result}")
        start, end = samples["start"], samples["end"]
        cpu, wall = end.cpu - start.cpu, end.at - start.at
        name = "drain" if mode == "drain" else "enqueue"
        return {
            f"{name}_per_s": messages / result["secs"],
            f"{name}_us": result["secs"] / messages * 1e6,
            f"{name}_cpu_us": cpu / messages * 1e6,
            "other_cores": max(0.0, (end.busy - start.busy - cpu - result["gen_cpu_s"]) / wall),
            "seconds": result["secs"],
        }

    def _turn(self, broker: Broker) -> Metrics:
        enqueue, drain = self._part(broker, "queue", self.step), self._part(broker, "drain", self.step)
        peaks = broker.peak_rss_bytes()
        return {
            **enqueue,
            **drain,
            "other_cores": max(enqueue["other_cores"], drain["other_cores"]),
            "seconds": enqueue["seconds"] + drain["seconds"],
            "peak_rss_mib": sum(peaks) / _MIB,
            "largest_process_mib": max(peaks) / _MIB,
        }

    def warm_up(self, broker: Broker, seconds: float) -> Any:
        begin = time.monotonic()
        if self.depth:
            self._part(broker, "queue", -(-self.depth // self._UNIT) * self._UNIT)
        filled = time.monotonic() - begin
        self._turn(broker)
        return filled

    def measure(self, broker: Broker, sized: Any) -> Metrics:
        return {**self._turn(broker), "fill_s": sized}

    def command_line(self, broker: Broker, sized: Any) -> str:
        return " && ".join(" ".join(self._command(broker, mode, self.step)) for mode in ("queue", "drain"))
