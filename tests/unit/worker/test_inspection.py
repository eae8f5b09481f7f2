"""What a worker answers about its clients: pieces of bounded size, complete together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.clocked import Worker, send
from worker import inspection
from worker.inspection import PIECE, SCAN, Inspector
from worker.store.interface import StoreError


class FakeTransport:
    """As much of a transport as is looked at; `looked_at` counts."""

    looked_at = 0

    def get_extra_info(self, name: str) -> Any:
        FakeTransport.looked_at += 1
        return ("::1", 7) if name == "peername" else SimpleNamespace(getsockopt=lambda *_: b"")

    def get_write_buffer_size(self) -> int:
        return 3


class FakeConnection:
    def __init__(self, number: int) -> None:
        self.number = number
        self.locator = self.session = f"0-boot.1-{number:x}"
        self.transport = FakeTransport()
        self.listener = SimpleNamespace(name="here")
        self.version = self.outbox = self.paused_on = None
        self.closing = False
        self.beat_every = self.silence = self.opened_at = 0.0
        self.subscriptions: dict[str, Any] = {}
        self.dropped = 0


def inspector(numbers: list[int], names: dict[bytes, int] | None = None) -> Inspector:
    counts = names or {}
    core = SimpleNamespace(
        connections=dict.fromkeys(FakeConnection(number) for number in sorted(numbers)),
        now=lambda: 1.5,
        flow=SimpleNamespace(blocked={b"/topic/b": {1}}),
        router=SimpleNamespace(
            names=lambda: counts, subscribers=lambda name: counts.get(name, 0), destinations=len(counts)
        ),
    )
    return Inspector(cast(Any, core))


def ask(one: Inspector, what: str, **arguments: Any) -> dict[str, Any]:
    answer = one.answer(what, {"text": "", "state": "", "limit": PIECE, **arguments})
    assert answer is not None
    return answer


@given(st.lists(st.integers(1, 500), unique=True, max_size=60), st.integers(1, 20), st.sampled_from(["", "a", "zz"]))
def test_the_pieces_make_the_whole(numbers: list[int], limit: int, text: str) -> None:
    one, after, found = inspector(numbers), 0, []
    while after is not None:
        answer = ask(one, "connections", after=after, limit=limit, text=text)
        assert len(answer["connections"]) <= limit
        found += [int(each["session"].rpartition("-")[2], 16) for each in answer["connections"]]
        assert answer["next"] is None or answer["next"] > after
        after = answer["next"]
    assert found == [number for number in sorted(numbers) if text in f"0-boot.1-{number:x} [::1]:7"]


def test_a_piece_is_bounded_in_what_it_gives_and_in_what_it_looks_at() -> None:
    one = inspector(list(range(1, 5001)))
    answer = ask(one, "connections", after=0, limit=10_000)
    assert len(answer["connections"]) == PIECE and answer["next"] == PIECE
    FakeTransport.looked_at = 0
    answer = ask(one, "connections", after=100, text="nowhere")
    assert FakeTransport.looked_at == SCAN and answer == {"connections": [], "next": 100 + SCAN}
    names = {b"/topic/%d" % number: 1 for number in range(5000)}
    answer = ask(inspector([], names), "destinations", offset=0, limit=10_000)
    assert len(answer["destinations"]) == PIECE and answer["next"] == PIECE
    assert ask(inspector([], names), "destinations", offset=7, text="nowhere")["next"] == 7 + SCAN


def test_a_connection_without_numbers_from_the_kernel_is_described_all_the_same() -> None:
    (each,) = ask(inspector([5]), "connections", after=0)["connections"]
    assert (each["bytes_in"], each["idle"]) == (None, None)
    assert (each["peer"], each["outbox_bytes"], each["age"], each["state"]) == ("[::1]:7", 3, 1.5, "connecting")


@pytest.mark.parametrize("session", ["", "-", "0-boot.1-", "0-boot.1-6", "0-boot.2-5", "1-boot.1-5", "0-boot.1-05"])
@pytest.mark.parametrize("what", ["connection", "close"])
def test_only_the_whole_id_names_a_connection(session: str, what: str) -> None:
    assert inspector([1, 5, 9]).answer(what, {"session": session, "offset": 0, "limit": 1}) is None


def test_destinations_are_counted_by_name() -> None:
    one = inspector([], {b"/topic/a.*": 2, b"/topic/b": 1})
    expected = [
        {"name": "/topic/a.*", "pattern": True, "subscribers": 2, "blocked": False},
        {"name": "/topic/b", "pattern": False, "subscribers": 1, "blocked": True},
    ]
    assert ask(one, "destinations", offset=0) == {"destinations": expected, "next": None}
    assert ask(one, "counts", names=["/topic/b", "/topic/c"]) == {"destinations": expected[1:]}


@pytest.mark.parametrize(
    ("closing", "version", "outbox", "paused", "state"),
    [
        (True, 1, 1, 1, "closing"),
        (False, None, 1, None, "connecting"),
        (False, 1, 1, {1}, "waiting"),
        (False, 1, None, {1}, "paused"),
        (False, 1, None, None, "open"),
    ],
)
def test_the_state_is_what_matters_most(closing: bool, version: Any, outbox: Any, paused: Any, state: str) -> None:
    connection = SimpleNamespace(closing=closing, version=version, outbox=outbox, paused_on=paused)
    assert inspection.state_of(cast(Any, connection)) == state


class TestQueues:
    def worker(self) -> tuple[Worker, Inspector]:
        worker = Worker()
        client = worker.login()
        for number in range(25):
            client.read(send(b"/queue/many.%d" % number, b"x") * (number + 1))
        client.read(b"SUBSCRIBE\nid:1\ndestination:/queue/many.24\nack:client\nprefetch-count:3\n\n\0")
        return worker, worker.core.inspector

    def test_the_pieces_make_the_whole(self) -> None:
        _, one = self.worker()
        found, offset = [], 0
        while offset is not None:
            answer = ask(one, "queues", offset=offset, limit=4)
            assert len(answer["queues"]) <= 4
            found += [(each["name"], each["messages"]) for each in answer["queues"]]
            offset = answer["next"]
        assert found == [(f"/queue/many.{number}", number + 1) for number in range(25)]
        assert [each["name"] for each in ask(one, "queues", offset=0, text="MANY.7")["queues"]] == ["/queue/many.7"]

    def test_one_with_its_consumers(self) -> None:
        worker, one = self.worker()
        answer = ask(one, "queue", name="/queue/many.24", offset=0)
        assert (answer["messages"], answer["ready"], answer["unsettled"], answer["consumers"]) == (25, 22, 3, 1)
        (consumer,) = answer["consumer_list"]
        assert (consumer["worker"], consumer["prefetch"], consumer["unsettled"]) == (0, 3, 3)
        (connection,) = worker.core.connections
        number = consumer["number"]
        assert ask(one, "consumers", numbers=[number, 10**6]) == {"sessions": [[number, connection.session]]}
        assert ask(one, "queue", name="/queue/many.24", offset=1)["consumer_list"] == []
        assert one.answer("queue", {"name": "/queue/none", "offset": 0, "limit": 1}) is None

    def test_an_order_is_answered_when_it_is_on_disk(self) -> None:
        worker, one = self.worker()
        answers: list[Any] = []
        one.ask("purge", {"name": "/queue/many.24"}, answers.append)
        assert answers == []
        worker.loop.settle()
        assert answers == [{"moved": 22, "left": 0, "why": ""}]
        one.ask("requeue", {"name": "/queue/many.9", "to": "/queue/other", "limit": 4}, answers.append)
        worker.loop.settle()
        assert answers[1:] == [{"moved": 4, "left": 6, "why": ""}]
        one.ask("requeue", {"name": "/queue/many.9", "to": "", "limit": 4}, answers.append)
        assert answers[2]["moved"] == 0 and answers[2]["left"] == 6 and "only dead letters" in answers[2]["why"]
        one.ask("purge", {"name": "/queue/none"}, answers.append)
        assert answers[3] is None
        assert {owned.name: owned.queue.messages for owned in worker.core.queues.owner.registry}[b"/queue/other"] == 4

    def test_nothing_is_moved_where_it_could_not_be_stored_but_a_purge_makes_room(self) -> None:
        worker, one = self.worker()
        answers: list[Any] = []
        for full in (False, True):
            worker.store.fault = StoreError("no", full=full)
            for what in ("requeue", "purge"):
                one.ask(what, {"name": "/queue/many.9", "to": "/queue/other", "limit": 4}, answers.append)
                worker.loop.settle()
        assert answers == [{"moved": 0, "left": 10, "why": "no"}] * 3 + [{"moved": 10, "left": 0, "why": ""}]
