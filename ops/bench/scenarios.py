"""The scenario matrix, with the goals Stampede is held to."""

from __future__ import annotations

from collections.abc import Mapping

from brokers import Setup
from clients import CLIENT_SCENARIOS
from queueloads import Depth, OneReceipt, QueueThroughput
from workloads import BEST_RIVAL, Connections, HeaderFlood, IdleMemory, Latency, Scenario, Throughput

__all__ = ["SCENARIOS"]

_STOMP_ONLY = {"nats": "its load generator has no such mode"}
_NO_QUEUES = {"nats": "its core has no queues"}
_LONG_FILL = dict.fromkeys(("activemq", "rabbitmq"), "left out to save time: filling takes about ten minutes")
_TOO_MANY_QUEUES = {"rabbitmq": "left out to save time: it took about 600 subscriptions/s in trials"}
_TOO_MANY_TOPICS = {
    **_TOO_MANY_QUEUES,
    "activemq": "not tried: with 10,000 topics it already grew to 2 GiB, its largest heap",
}


def _fanout(subs: int, goals: Mapping[str, float], skip: Mapping[str, str] | None = None) -> Throughput:
    title = f"1 publisher, {subs:,} subscribers, 1 topic"
    name, series = f"fanout-1x{subs}", ("subscribers", subs)
    return Throughput(name, title, "deliveries_per_s", goals, skip=skip or {}, series=series, subs=subs)


def _destinations(dests: int, skip: Mapping[str, str]) -> Throughput:
    connections = min(dests, 20)
    title = f"1 publisher cycling through {dests:,} destinations, one subscription each, {connections} connections"
    name, series = f"destinations-{dests}", ("destinations", dests)
    return Throughput(
        name, title, "deliveries_per_s", skip=skip, series=series, subs=connections, topics=1, dests=dests
    )


def _depth(label: str, depth: int, skip: Mapping[str, str], by_name_only: bool = False) -> Depth:
    return Depth(
        f"queue-depth-{label}",
        f"1 queue holding {depth:,} persistent messages: enqueue 128,000 more, then drain as many",
        "enqueue_per_s",
        skip=skip,
        setup=Setup.DURABLE_QUEUES,
        series=("standing messages", depth),
        goal_flat={"enqueue_cpu_us": 1.5, "drain_cpu_us": 1.5, "largest_process_mib": 1.5} if depth else {},
        by_name_only=by_name_only,
        depth=depth,
    )


_ALL: tuple[Scenario, ...] = (
    _fanout(10, {"activemq": 15, "nats": 1}),
    _fanout(100, {"activemq": 25, "nats": 1}),
    _fanout(1000, {}),
    _fanout(5000, {}),
    _fanout(10_000, {}, _TOO_MANY_QUEUES),
    Throughput(
        "pairs-4x4x4",
        "4 topics, 4 publishers, 4 subscribers",
        "deliveries_per_s",
        {"activemq": 6},
        pubs=4,
        subs=4,
        topics=4,
    ),
    Throughput(
        "pairs-4x4x4-uniq",
        "the same, every frame with headers of its own",
        "deliveries_per_s",
        {"activemq": 4},
        skip=_STOMP_ONLY,
        pubs=4,
        subs=4,
        topics=4,
        uniq=True,
    ),
    Latency(
        "latency-1k",
        "1,000 messages/s, 1 publisher, 10 subscribers",
        "p50_ms",
        skip=_STOMP_ONLY,
        goal_values={"p50_ms": 0.2, "p99_ms": 0.4},
    ),
    IdleMemory(
        "idle-memory",
        "5,000 idle subscribed connections",
        "kib_per_connection",
        goal_values={"kib_per_connection": 4},
    ),
    Connections(
        "connections",
        "5,000 connections accepted and logged in",
        "logins_per_s",
        skip=_STOMP_ONLY,
        goal_values={"logins_per_s": 15_000},
    ),
    _destinations(1, {}),
    _destinations(100, {}),
    _destinations(10_000, _TOO_MANY_QUEUES),
    _destinations(100_000, _TOO_MANY_TOPICS),
    HeaderFlood(
        "header-flood",
        "repeating headers before and after a flood of headers that never repeat",
        "after_over_before",
        skip=_STOMP_ONLY,
        goal_values={"after_over_before": 0.9},
    ),
    QueueThroughput(
        "queue-memory",
        "2 queues, 2 producers, 2 consumers, messages in memory only, ack auto",
        "deliveries_per_s",
        {"activemq": 3},
        skip=_NO_QUEUES,
        setup=Setup.MEMORY_QUEUES,
    ),
    QueueThroughput(
        "queue-durable",
        "2 queues, 2 producers of persistent messages, a receipt for every 64th, 2 consumers, ack client-individual",
        "deliveries_per_s",
        {BEST_RIVAL: 8},
        skip=_NO_QUEUES,
        setup=Setup.DURABLE_QUEUES,
        durable=True,
    ),
    OneReceipt(
        "queue-one-receipt",
        "1 producer of persistent messages, one receipt at a time",
        "p50_ms",
        skip=_NO_QUEUES,
        goal_values={"p50_over_disk": 2},
        setup=Setup.DURABLE_QUEUES,
    ),
    _depth("0", 0, _NO_QUEUES),
    _depth("1m", 1_000_000, _NO_QUEUES),
    _depth("10m", 10_000_000, {**_NO_QUEUES, **_LONG_FILL}, by_name_only=True),
    *CLIENT_SCENARIOS,
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
