"""Metrics in the text format of Prometheus (exposition format 0.0.4), made anew for each scrape.

Counters of a worker start at zero again with its next life, which `rate()` allows for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from broker.management.state import BrokerState, WorkerState
from common.errors import CloseReason, ErrorCode
from common.release import VERSION

__all__ = ["CONTENT_TYPE", "DEPTHS", "Depth", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DEPTHS = 100
"""Queues with series of their own: clients choose the names, so there must be an end to them."""

_BY_QUEUE = (
    ("queue_depth_messages", "messages", "Messages in a queue."),
    ("queue_depth_unsettled", "unsettled", "Those that consumers have and did not acknowledge."),
    ("queue_depth_consumers", "consumers", "Consumers of a queue."),
)
"""Name after `stampede_`, attribute of a `Depth`, help."""

_BY_WORKER = (
    ("connections", "gauge", "connections", "Client connections."),
    ("connections_accepted_total", "counter", "accepted", "Client connections accepted."),
    ("subscriptions", "gauge", "subscriptions", "Subscriptions of its clients."),
    ("destinations", "gauge", "destinations", "Destinations and patterns with subscribers."),
    ("messages_received_total", "counter", "messages_in", "Messages that its clients sent."),
    ("messages_delivered_total", "counter", "messages_out", "Messages handed over for its subscribers, one each."),
    ("messages_dropped_total", "counter", "dropped", "Messages left out for slow subscribers, as a policy says."),
    ("received_bytes_total", "counter", "bytes_in", "Bytes read from its clients."),
    ("delivered_bytes_total", "counter", "bytes_out", "Bytes of the messages delivered."),
    ("slow_subscribers", "gauge", "slow_subscribers", "Clients whose outbox is full, so that publishers wait."),
    ("paused_publishers", "gauge", "paused_publishers", "Clients not read from, because of a slow subscriber."),
    ("blocked_destinations", "gauge", "blocked_destinations", "Destinations whose publishers are paused."),
    ("backplane_kept_bytes", "gauge", "backplane_kept_bytes", "Bytes for siblings that wait for room on a link."),
    ("queues", "gauge", "queues", "Queues it owns, those of durable subscriptions included."),
    ("queued_messages", "gauge", "queue_messages", "Messages in them, the unsettled ones included."),
    ("queued_bytes", "gauge", "queue_bytes", "Bytes of these."),
    ("unsettled_messages", "gauge", "queue_unsettled", "Messages that consumers have and did not acknowledge."),
    ("queue_consumers", "gauge", "queue_consumers", "Consumers of its queues, on all workers."),
    ("retained_messages", "gauge", "retained_messages", "Topics whose last message it keeps, as their owner."),
    ("retained_bytes", "gauge", "retained_bytes", "Bytes of these messages."),
    ("dead_lettered_total", "counter", "dead_lettered", "Messages that failed for good, dead letter queue or not."),
    ("handoff_unconfirmed_bytes", "gauge", "unconfirmed_bytes", "Bytes on their way to queues of other workers."),
    ("store_commits_total", "counter", "store_commits", "Commits of its store."),
    ("store_failures_total", "counter", "store_failures", "Commits that failed."),
    ("store_bytes", "gauge", "store_bytes", "Bytes of its store on disk."),
    ("store_pending_bytes", "gauge", "store_pending_bytes", "Bytes that wait for the disk."),
    ("store_failing", "gauge", "store_failing", "1 while its store cannot write."),
)
"""Name after `stampede_`, type, key of the worker's counters, help."""


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    kind: str
    help: str
    samples: list[tuple[dict[str, str], float]]

    def lines(self) -> Iterator[str]:
        yield f"# HELP stampede_{self.name} {self.help}"
        yield f"# TYPE stampede_{self.name} {self.kind}"
        for labels, value in self.samples:
            written = ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items())
            yield f"stampede_{self.name}{f'{{{written}}}' if written else ''} {value!r}"


@dataclass(frozen=True, slots=True)
class Depth:
    """A queue by its name."""

    queue: str
    messages: int
    unsettled: int
    consumers: int


def render(state: BrokerState, depths: Sequence[Depth] = ()) -> str:
    """All metrics of the broker; `depths` are the queues that are told of one by one, no more than `DEPTHS`."""
    return "".join(f"{line}\n" for family in _families(state, depths[:DEPTHS]) for line in family.lines())


def _families(state: BrokerState, depths: Sequence[Depth]) -> Iterator[_Family]:
    workers = state.workers
    yield _Family("build_info", "gauge", "Always 1; the label is the version.", [({"version": VERSION}, 1)])
    yield _Family("start_time_seconds", "gauge", "When the broker was started.", [({}, state.started)])
    yield _Family("ready", "gauge", "1 while every worker accepts clients.", [({}, int(not state.not_ready_because))])
    ready = [(_slot(worker), float(worker.state == "ready")) for worker in workers]
    yield _Family("worker_ready", "gauge", "1 while the worker accepts clients.", ready)
    restarts = [(_slot(worker), float(worker.restarts)) for worker in workers]
    yield _Family("worker_restarts_total", "counter", "Times the worker was replaced.", restarts)
    heard = [worker for worker in workers if worker.stats]
    for name, kind, key, text in _BY_WORKER:
        samples = [(_slot(worker), float(worker.stats.get(key, 0))) for worker in heard]
        yield _Family(name, kind, text, samples)
    for name, attribute, text in _BY_QUEUE:
        told = f"{text} Only of the {DEPTHS} that hold the most."
        yield _Family(name, "gauge", told, [({"queue": each.queue}, getattr(each, attribute)) for each in depths])
    # Every reason and code from the start: a counter that comes into being at 1 hides its first increase.
    yield _Family("connections_closed_total", "counter", "Connections that ended.", list(_by_name(heard, "reason")))
    yield _Family("errors_total", "counter", "ERROR frames sent.", list(_by_name(heard, "code")))
    yield from _processes(state)


def _by_name(workers: list[WorkerState], label: str) -> Iterator[tuple[dict[str, str], float]]:
    names, prefix = ([*CloseReason], "closed") if label == "reason" else ([*ErrorCode], "error")
    for worker in workers:
        for name in names:
            yield {**_slot(worker), label: name.value}, float(worker.stats.get(f"{prefix}:{name.value}", 0))


def _processes(state: BrokerState) -> Iterator[_Family]:
    running = [(worker, worker.process) for worker in state.workers if worker.process is not None]
    memory = [(_slot(worker), float(use.resident_bytes)) for worker, use in running]
    cpu = [(_slot(worker), use.cpu_seconds) for worker, use in running]
    yield _Family("worker_resident_memory_bytes", "gauge", "Resident memory of the process.", memory)
    yield _Family("worker_cpu_seconds_total", "counter", "CPU time of the process.", cpu)
    if state.front is not None:
        text = "Resident memory of the front process."
        yield _Family("front_resident_memory_bytes", "gauge", text, [({}, float(state.front.resident_bytes))])
        yield _Family("front_cpu_seconds_total", "counter", "CPU time of the front.", [({}, state.front.cpu_seconds)])


def _slot(worker: WorkerState) -> dict[str, str]:
    return {"slot": str(worker.slot)}


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
