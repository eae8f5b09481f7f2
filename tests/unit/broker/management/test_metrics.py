"""The metrics, read back with the reference parser."""

from __future__ import annotations

import os

import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.management.metrics import DEPTHS, Depth, render
from broker.management.processes import ProcessUse, process_use
from broker.management.state import BrokerState, View, WorkerState
from broker.supervisor import SlotStatus
from common.errors import CloseReason, ErrorCode


def worker(slot: int, state: str = "ready", restarts: int = 0, **stats: int) -> WorkerState:
    return WorkerState(slot, state, 10 + slot, restarts, stats, ProcessUse(4096, 1.5))


def broker(*workers: WorkerState, is_stopping: bool = False) -> BrokerState:
    return BrokerState(1000.0, 5.0, is_stopping, ("127.0.0.1:1",), workers, ProcessUse(8192, 0.25))


def scrape(state: BrokerState) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(render(state)):
        assert family.documentation and family.type in ("gauge", "counter"), family
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "each series once"
            found[key] = sample.value
    return found


def test_each_worker_has_its_own_series() -> None:
    found = scrape(broker(worker(0, connections=3, messages_in=1 << 60), worker(1, restarts=2, connections=4)))
    assert found["stampede_connections", (("slot", "0"),)] == 3
    assert found["stampede_connections", (("slot", "1"),)] == 4
    assert found["stampede_messages_received_total", (("slot", "0"),)] == 1 << 60
    assert found["stampede_messages_received_total", (("slot", "1"),)] == 0
    assert found["stampede_worker_restarts_total", (("slot", "1"),)] == 2
    assert found["stampede_worker_resident_memory_bytes", (("slot", "1"),)] == 4096
    assert found["stampede_front_cpu_seconds_total", ()] == 0.25


def test_every_reason_and_code_is_there_from_the_start() -> None:
    found = scrape(broker(worker(0, **{"connections": 0, "closed:disconnect": 2, "error:bad-frame": 1})))
    for name in CloseReason:
        expected = 2 if name is CloseReason.DISCONNECT else 0
        assert found["stampede_connections_closed_total", (("reason", name.value), ("slot", "0"))] == expected
    for code in ErrorCode:
        expected = 1 if code is ErrorCode.BAD_FRAME else 0
        assert found["stampede_errors_total", (("code", code.value), ("slot", "0"))] == expected


def test_queues_are_told_by_name_up_to_an_end() -> None:
    depths = [Depth(f'/queue/"{number}\n', number, 2, 3) for number in range(DEPTHS + 50)]
    found = {}
    for family in text_string_to_metric_families(render(broker(worker(0, queue_messages=9)), depths)):
        found[family.name] = {sample.labels.get("queue"): sample.value for sample in family.samples}
    assert len(found["stampede_queue_depth_messages"]) == DEPTHS
    assert found["stampede_queue_depth_messages"]['/queue/"7\n'] == 7
    assert found["stampede_queue_depth_unsettled"]['/queue/"7\n'] == 2
    assert found["stampede_queue_depth_consumers"]['/queue/"7\n'] == 3
    assert found["stampede_queued_messages"] == {None: 9}


@pytest.mark.parametrize(("full", "why"), [(0, "its log says why"), (1, "the disk or its quota is full")])
def test_a_store_that_cannot_write_is_degraded_not_unready(full: int, why: str) -> None:
    state = broker(worker(0), worker(1, store_failing=1, store_full=full))
    assert state.not_ready_because == "" and broker(worker(0)).degraded_because == ""
    assert state.degraded_because == f"worker 1 cannot store messages, {why}"
    assert scrape(state)["stampede_store_failing", (("slot", "1"),)] == 1


def test_a_worker_that_said_nothing_yet_has_no_counters_of_its_own() -> None:
    found = scrape(broker(worker(0, "starting")))
    assert ("stampede_connections", (("slot", "0"),)) not in found
    assert found["stampede_worker_ready", (("slot", "0"),)] == 0
    assert found["stampede_ready", ()] == 0


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (broker(worker(0), worker(1)), ""),
        (broker(worker(0), worker(1, "starting")), "worker 1 is starting"),
        (broker(worker(0, "waiting"), worker(1, "aborting")), "worker 0 is waiting, worker 1 is aborting"),
        (broker(worker(0), is_stopping=True), "the broker is stopping"),
    ],
)
def test_ready_is_every_worker(state: BrokerState, why: str) -> None:
    assert state.not_ready_because == why
    assert scrape(state)["stampede_ready", ()] == (0 if why else 1)


def test_the_kernel_is_asked_for_memory_and_time() -> None:
    use = process_use(os.getpid())
    assert use is not None and 1 << 20 < use.resident_bytes < 1 << 34
    assert 0 < use.cpu_seconds <= sum(os.times()[:2]) + 0.05
    assert process_use(2**22 + 1) is None


def test_the_view_puts_supervisor_and_workers_together() -> None:
    class Supervision:
        is_stopping = False

        def status(self) -> list[SlotStatus]:
            return [SlotStatus(0, "ready", 3, os.getpid()), SlotStatus(1, "waiting", 1, None)]

    class Worker:
        stats = {"connections": 7}  # noqa: RUF012

    state = View(Supervision(), {0: Worker()}, lambda: ("a",)).take()
    first, second = state.workers
    assert (first.restarts, first.stats, second.restarts, second.stats) == (2, {"connections": 7}, 0, {})
    assert first.process is not None and second.process is None
    assert state.total("connections") == 7
