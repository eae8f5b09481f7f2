"""What workers tell each other about queues, at the moments when that is delicate."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any, cast

import pytest

from common.config import Config
from common.log import EventLog
from tests.unit.worker.clocked import Client, LonelyBackplane, Loop, Worker
from tests.unit.worker.memory_store import MemoryStore
from worker.assembly import MessageIds
from worker.backplane.interface import Backplane
from worker.core import Core
from worker.queues.service import Queues
from worker.settings import Settings


class PairedBackplane(LonelyBackplane):
    """One other worker, to which letters go when the test says so."""

    def __init__(self) -> None:
        self.letters: list[Any] = []

    def send(self, slot: int, letter: Any) -> None:
        self.letters.append(letter)

    def broadcast(self, message: Any) -> None:
        self.letters.append(message)


class Paired(Worker):
    """Worker 0 of two; `sibling` is what it sends to the other."""

    def __init__(self, **config: Any) -> None:
        settings = Config.model_validate({"listener": [{}], **config})
        self.late = 0.0
        self.loop = Loop()
        self.listener = Settings.listener(settings, 0, "test")
        self.store = MemoryStore(self.loop.call_soon)
        self.sibling = PairedBackplane()
        self.core = Core(
            cast(asyncio.AbstractEventLoop, self.loop),
            Settings.of(settings, "0", 1024),
            EventLog("worker-0", stream=io.StringIO()),
            MessageIds(0, "boot", 1),
            "0-",
            lambda _: cast(Backplane, self.sibling),
            lambda core: Queues(core, 0, 2, "0-boot.1", self.store, core.log),
        )

    def own(self, pattern: str) -> bytes:
        """The first name of that pattern that this worker owns."""
        names = (pattern.format(number).encode() for number in range(100))
        return next(name for name in names if self.core.queues.owner_of(name) == 0)

    def hear(self, letter: list[Any]) -> None:
        self.core.on_message(1, letter)
        self.loop.settle()


def received(client: Client) -> bytes:
    return b"".join(data for _, data in client.transport.written)


def test_a_worker_that_starts_hears_of_the_subscriptions_that_are_made_meanwhile() -> None:
    """It was greeted, but has not greeted yet, when a durable subscription is made: it goes by that before the RECEIPT
    of the SUBSCRIBE."""
    worker = Paired()
    worker.core.queues.siblings.expect([])
    client = worker.login()
    worker.core.greet(1)
    name = worker.own("/durable/{}").removeprefix(b"/durable/")
    client.read(
        b"SUBSCRIBE\nid:1\ndestination:/topic/t\ndurable:true\ndurable-name:%b\nack:client\nreceipt:r\n\n\0" % name
    )
    announced = [letter for letter in worker.sibling.letters if letter[0] == "queue+"]
    assert len(announced) == 1
    assert b"RECEIPT" not in received(client)
    worker.hear(["queue%", announced[0][1]])
    assert b"RECEIPT" in received(client)


def test_a_worker_that_dies_before_it_greets_is_not_waited_for() -> None:
    worker = Paired()
    worker.core.queues.siblings.expect([])
    client = worker.login()
    worker.core.greet(1)
    name = worker.own("/durable/{}").removeprefix(b"/durable/")
    client.read(
        b"SUBSCRIBE\nid:1\ndestination:/topic/t\ndurable:true\ndurable-name:%b\nack:client\nreceipt:r\n\n\0" % name
    )
    worker.core.on_sibling_lost(1, 1)
    worker.loop.settle()
    assert b"RECEIPT" in received(client)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
@pytest.mark.parametrize("mode", ["client", "client-individual"])
def test_two_messages_of_one_id(version: str, mode: str) -> None:
    """What two subscriptions took of one SEND ends in one dead letter queue: each has an acknowledgement of its own."""
    worker = Paired(destination=[{"pattern": "#", "dead_letter": "/queue/dead"}])
    worker.core.queues.siblings.expect([])
    client = worker.login(version=version)
    queue = worker.own("/queue/{}")
    client.read(b"SUBSCRIBE\nid:1\ndestination:%b\nack:%b\n\n\0" % (queue, mode.encode()))
    frames = [b"same\ndestination:%b\n\n%b\0" % (queue, body) for body in (b"first", b"second")]
    worker.hear(["queue=", "1-boot.1", [], []])
    worker.hear(["queue>", 1, [["+", queue, b"", frames, None]], None])
    worker.loop.settle()
    found = re.findall(rb"\n(ack|message-id):([^\n]*)(?=(?:\n[^\n]+)*\n\n(\w+)\0)", received(client))
    header = b"ack" if version == "1.2" else b"message-id"
    values = [value for name, value, _ in found if name == header]
    assert len(set(values)) == 2
    subscription = b"subscription:1\n" if version == "1.1" else b""
    name = b"id" if version == "1.2" else b"message-id"
    for value in values:
        client.read(b"ACK\n%b:%b\n%b\n\0" % (name, value, subscription))
    worker.loop.settle()
    assert client.error is None
    assert not worker.store.rows


def test_a_commit_to_a_queue_without_room_pauses_its_producer() -> None:
    worker = Paired(destination=[{"pattern": "/queue/#", "max_messages": 2}])
    worker.core.queues.siblings.expect([])
    client = worker.login()
    queue = worker.own("/queue/{}")
    message = b"SEND\ndestination:%b\ntransaction:t\n\nbody\0" % queue
    client.read(b"BEGIN\ntransaction:t\n\n\0" + message * 3 + b"COMMIT\ntransaction:t\n\n\0")
    assert not client.transport.reading


def test_commits_to_an_owner_that_is_away_pause_their_producer() -> None:
    """What is kept for it is bounded, also when nobody asks for a receipt."""
    worker = Paired(queue={"handoff_bytes": "64KiB"})
    worker.core.queues.siblings.expect([])
    client = worker.login()
    queue = next(b"/queue/%d" % each for each in range(100) if worker.core.queues.owner_of(b"/queue/%d" % each) == 1)
    message = b"SEND\ndestination:%b\ntransaction:t\n\n%b\0" % (queue, b"x" * 70_000)
    client.read(b"BEGIN\ntransaction:t\n\n\0" + message + b"COMMIT\ntransaction:t\n\n\0")
    assert not client.transport.reading
