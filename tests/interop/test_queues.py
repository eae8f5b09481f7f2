"""stomp.py, stompman and stompjs on queues: what each offers to take, refuse and repeat messages with."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import stompman

from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import TIMEOUT, VERSIONS, connect_on
from tests.interop.stomp_py import StompPy, connect_stomp_py
from tests.interop.stompjs import Node, StompJs, require_node
from tests.interop.stompman_client import stompman_on
from tests.protocol.site import queue_owned_by

Queue = Callable[[], str]
ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
MODES = pytest.mark.parametrize("mode", ["client", "client-individual"])
SIX = [b"%d" % number for number in range(6)]


def left_over(cluster: Broker, queue: str) -> list[tuple[bytes, str | None]]:
    """What is still in the queue, with the number of its delivery."""
    with connect_on(cluster, 0) as wire:
        wire.publish(queue, b"end", [("priority", "0")])
        wire.subscribe(queue)
        found: list[tuple[bytes, str | None]] = []
        while (message := wire.read()).body != b"end":
            found.append((message.body, message.get("delivery-count")))
        return found


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    require_node()
    with Node() as node:
        yield node


class TestStompPy:
    @pytest.fixture
    def join(self, cluster: Broker) -> Iterator[Callable[..., StompPy]]:
        with ExitStack() as stack:

            def joined(slot: int, version: str) -> StompPy:
                client = connect_stomp_py(cluster.address, slot, version)
                stack.callback(client.close)
                return client

            yield joined

    @staticmethod
    def answer(client: StompPy, command: str, message: Any, **options: Any) -> None:
        """ACK or NACK the way stomp.py does it for the version, and wait for the RECEIPT."""
        receipt = client.receipt()
        call = getattr(client.connection, command)
        if client.version == "1.2":
            call(message.headers["ack"], receipt=receipt, **options)
        elif client.version == "1.1":
            call(message.headers["message-id"], message.headers["subscription"], receipt=receipt, **options)
        else:
            call(message.headers["message-id"], receipt=receipt, **options)
        client.settled(receipt)

    @ALL
    def test_auto(self, version: str, cluster: Broker, join: Any, queue: Queue) -> None:
        name = queue()
        producer, consumer = join(0, version), join(0, version)
        for body in SIX[:3]:
            producer.send(name, body)
        sent = producer.told("receipt")[-1]
        assert sent.headers["routed"] == "1"
        consumer.subscribe(name)
        for body in SIX[3:]:
            producer.send(name, body)
        assert consumer.bodies(6) == SIX
        assert consumer.told("message")[2].headers["message-id"] == sent.headers["message-id"]
        consumer.close()
        assert left_over(cluster, name) == []

    @ALL
    @MODES
    def test_acknowledged_and_given_back(
        self, version: str, mode: str, cluster: Broker, join: Any, queue: Queue
    ) -> None:
        name = queue()
        producer, consumer = join(0, version), join(0, version)
        for body in SIX:
            producer.send(name, body)
        consumer.subscribe(name, ack=mode)
        assert consumer.bodies(6) == SIX
        messages = consumer.told("message")
        self.answer(consumer, "ack", messages[3])
        consumer.unsubscribe()
        # The same client takes up again what it left.
        consumer.subscribe(name, "again", mode)
        rest = [b"4", b"5"] if mode == "client" else [b"0", b"1", b"2", b"4", b"5"]
        assert consumer.bodies(6 + len(rest))[6:] == rest
        assert {frame.headers["redelivered"] for frame in consumer.told("message")[6:]} == {"true"}
        consumer.close()
        assert left_over(cluster, name) == [(body, "3") for body in rest]

    @NEWER
    def test_refused(self, version: str, cluster: Broker, join: Any, queue: Queue) -> None:
        name = queue()
        producer, consumer = join(0, version), join(0, version)
        producer.send(name, b"x")
        consumer.subscribe(name, ack="client-individual")
        self.answer(consumer, "nack", consumer.wait("message"))
        again = consumer.wait("message", 2)
        assert (again.body, again.headers["delivery-count"]) == (b"x", "2")
        self.answer(consumer, "nack", again, requeue="false", reason="no")
        consumer.unsubscribe()
        assert left_over(cluster, name) == []
        consumer.subscribe(f"/queue/dlq.{name.removeprefix('/queue/')}", "dead")
        assert consumer.wait("message", 3).headers["dlq-detail"] == "no"

    @ALL
    def test_transactions(self, version: str, cluster: Broker, join: Any, queue: Queue) -> None:
        name, target = queue(), queue()
        producer, consumer = join(0, version), join(0, version)
        for body in SIX[:2]:
            producer.send(name, body)
        consumer.subscribe(name, ack="client-individual")
        consumer.bodies(2)
        for message, end in zip(consumer.told("message"), ("abort", "commit"), strict=True):
            transaction = consumer.connection.begin(receipt=(receipt := consumer.receipt()))
            consumer.settled(receipt)
            consumer.send(target, end, transaction=transaction)
            self.answer(consumer, "ack", message, transaction=transaction)
            getattr(consumer.connection, end)(transaction, receipt=(receipt := consumer.receipt()))
            consumer.settled(receipt)
        consumer.close()
        assert left_over(cluster, name) == [(b"0", "2")]
        assert left_over(cluster, target) == [(b"commit", None)]


class TestStompMan:
    @MODES
    def test_acknowledged_by_hand_and_given_back(self, mode: Any, cluster: Broker, queue: Queue) -> None:
        async def run() -> None:
            name = queue()
            async with stompman_on(cluster.address, 0) as producer:
                for body in SIX:
                    await producer.send(body, name)
                async with stompman_on(cluster.address, 0) as consumer:
                    subscription = await consumer.client.subscribe_with_manual_ack(
                        name, consumer.take, ack=mode, receipt_timeout=TIMEOUT
                    )
                    assert await consumer.received(6) == SIX
                    await consumer.messages[3].ack()
                    await consumer.messages[5 if mode == "client-individual" else 4].nack()
                    await consumer.received(7)
                    again = consumer.messages[6]
                    assert again.headers["redelivered"] == "true"
                    assert again.body == (b"5" if mode == "client-individual" else b"4")
                    await subscription.unsubscribe()
            rest = [b"4", b"5"] if mode == "client" else [b"0", b"1", b"2", b"4", b"5"]
            assert left_over(cluster, name) == [(body, "3" if body == again.body else "2") for body in rest]

        asyncio.run(run())

    def test_acknowledged_by_the_client_itself(self, cluster: Broker, queue: Queue) -> None:
        async def run() -> None:
            name = queue()
            async with stompman_on(cluster.address, 0) as man:

                async def handle(message: stompman.MessageFrame) -> None:
                    await man.take(message)
                    if message.body == b"1" and "redelivered" not in message.headers:
                        raise ValueError("stompman answers this with NACK")

                subscription = await man.subscribe(name, "client-individual", handle)
                for body in SIX[:3]:
                    await man.send(body, name)
                assert sorted(await man.received(4)) == [b"0", b"1", b"1", b"2"]
                await subscription.unsubscribe()
            assert left_over(cluster, name) == []

        asyncio.run(run())

    def test_transactions(self, cluster: Broker, queue: Queue) -> None:
        async def run() -> None:
            one, two = queue(), queue()
            async with stompman_on(cluster.address, 0) as man:
                async with man.client.begin() as transaction:
                    await transaction.send(b"a", one)
                    await transaction.send(b"b", two)
                with pytest.raises(ZeroDivisionError):
                    async with man.client.begin() as transaction:
                        await transaction.send(b"never", one)
                        raise ZeroDivisionError
                # This RECEIPT says that all of it was done.
                await man.send(b"c", one)
            assert left_over(cluster, one) == [(b"a", None), (b"c", None)]
            assert left_over(cluster, two) == [(b"b", None)]

        asyncio.run(run())

    @pytest.mark.parametrize("owner", [0, 1])
    def test_gets_again_what_it_had_when_its_worker_dies(self, start_broker: StartBroker, owner: int) -> None:
        broker = start_broker(workers=2)
        name = queue_owned_by(owner, 2)

        async def run() -> None:
            async with stompman_on(broker.address, 1) as producer, stompman_on(broker.address, 0) as consumer:
                subscription = await consumer.client.subscribe_with_manual_ack(
                    name, consumer.take, ack="client-individual", receipt_timeout=TIMEOUT
                )
                for body in SIX[:3]:
                    await producer.send(body, name)
                await consumer.received(3)
                await consumer.messages[1].ack()
                # It has no receipt; nothing comes after it that has.
                await consumer.send(b"", f"{name}.other")
                os.kill(broker.worker_pids()[0], signal.SIGKILL)
                await consumer.until(lambda: len(consumer.read(stompman.ConnectedFrame)) == 2)
                # The acknowledged one may be among them, before the last: that ACK was not receipted.
                await consumer.until(lambda: {b"0", b"2"} <= {message.body for message in consumer.messages[3:]})
                again = {message.body: message for message in consumer.messages[3:]}
                assert set(again) <= {b"0", b"1", b"2"}
                assert {message.headers["redelivered"] for message in again.values()} == {"true"}
                for message in consumer.messages[3:]:
                    await message.ack()
                await subscription.unsubscribe()

        asyncio.run(run())
        with connect_on(broker, 0) as wire:
            wire.subscribe(name, ack="client-individual")
            wire.quiet()


class TestStompJs:
    @pytest.fixture
    def join(self, node: Node, cluster: Broker) -> Iterator[Callable[..., StompJs]]:
        with ExitStack() as stack:

            def joined(slot: int, version: str) -> StompJs:
                client = StompJs.on(node, cluster.address, slot, version)
                stack.callback(client.close)
                return client

            yield joined

    @ALL
    @pytest.mark.parametrize("mode", ["auto", "client", "client-individual"])
    def test_acknowledged_and_given_back(
        self, version: str, mode: str, cluster: Broker, join: Any, queue: Queue
    ) -> None:
        name = queue()
        producer, consumer = join(0, version), join(0, version)
        for body in SIX:
            producer.send(name, body)
        consumer.subscribe(name, ack=mode)
        assert consumer.bodies(6) == SIX
        if mode != "auto":
            consumer.settle("ack", 3)
        consumer.close()
        rest = {"auto": [], "client": [b"4", b"5"], "client-individual": [b"0", b"1", b"2", b"4", b"5"]}[mode]
        assert left_over(cluster, name) == [(body, "2") for body in rest]

    @NEWER
    def test_refused(self, version: str, cluster: Broker, join: Any, queue: Queue) -> None:
        name = queue()
        consumer = join(0, version)
        consumer.send(name, b"x")
        consumer.subscribe(name, ack="client-individual")
        consumer.bodies(1)
        consumer.settle("nack", 0)
        assert consumer.bodies(2) == [b"x", b"x"]
        consumer.settle("nack", 1, {"requeue": "false"})
        consumer.close()
        assert left_over(cluster, name) == []
        assert [body for body, _ in left_over(cluster, f"/queue/dlq.{name.removeprefix('/queue/')}")] == [b"x"]
