"""What outlives the broker, what does not, and the message that is sent twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartBroker
from tests.harness.wire import VERSIONS, Frame, Wire, connect_on
from tests.protocol.conftest import POLICIES
from tests.protocol.site import ENDS, Site, bodies, life, queue_owned_by, receipted, send

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
HOW = pytest.mark.parametrize("how", ENDS)
WORKERS = pytest.mark.parametrize("workers", [1, 2])
CONFIG = {"destination": POLICIES}


def everything(wire: Wire, queue: str) -> list[bytes]:
    """All that is in the queue, taken out for good, up to a last message of our own."""
    send(wire, queue, b"end", [("priority", "0")])
    # Acknowledged with a receipt: what a client of ack:auto had read may come back after a kill.
    wire.subscribe(queue, id=queue, ack="client")
    found = [wire.read()]
    while found[-1].body != b"end":
        found.append(wire.read())
    wire.acknowledge(found[-1])
    wire.request("UNSUBSCRIBE", [("id", queue)])
    return bodies(found[:-1])


def sent_again(wire: Wire, queue: str, count: int) -> list[Frame]:
    """The RECEIPTs of so many messages in one write, each with a key and a receipt of its own."""
    frame = "SEND\ndestination:{}\nreceipt:{}-{}\nidempotency-key:c0ffee-{}\ncontent-length:{}\n\n{}\0"
    sent = [str(number) for number in range(count)]
    wire.send("".join([frame.format(queue, count, each, each, len(each), each) for each in sent]).encode())
    return [wire.expect("RECEIPT", receipt_id=f"{count}-{each}") for each in sent]


@HOW
@WORKERS
class TestRestart:
    def test_what_is_kept(self, start_broker: StartBroker, tmp_path: Path, workers: int, how: str) -> None:
        plain, memory = (queue_owned_by(workers - 1, workers, kind) for kind in ("q", "memory"))
        with life(how, workers=workers, data_dir=tmp_path, config=CONFIG) as broker, connect_on(broker, 0) as wire:
            send(wire, plain, b"kept")
            send(wire, plain, b"lost", [("persistent", "false")])
            send(wire, plain, b"asked for", [("persistent", "true"), ("priority", "9")])
            send(wire, memory, b"lost")
            send(wire, memory, b"lost as well", [("persistent", "true")])
        broker = start_broker(workers=workers, data_dir=tmp_path, config=CONFIG)
        with connect_on(broker, 0) as wire:
            assert everything(wire, plain) == [b"asked for", b"kept"]
            assert everything(wire, memory) == []

    def test_what_was_settled(self, start_broker: StartBroker, tmp_path: Path, workers: int, how: str) -> None:
        queue = queue_owned_by(workers - 1, workers)
        with life(how, workers=workers, data_dir=tmp_path) as broker, connect_on(broker, 0) as wire:
            ids = [send(wire, queue, b"%d" % number)["message-id"] for number in range(6)]
            with connect_on(broker, 0) as consumer:
                consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "4")])
                messages = consumer.read_many(4)
                assert [message["message-id"] for message in messages] == ids[:4]
                consumer.request("UNSUBSCRIBE", [("id", "0")])
                consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "4")])
                messages = consumer.read_many(4)
                # Each makes room for one more.
                more = receipted(consumer, "NACK", [*consumer.acknowledgement(messages[1]), ("requeue", "false")])
                more += receipted(consumer, "ACK", consumer.acknowledgement(messages[2]))
                assert bodies(more + consumer.read_many(2 - len(more))) == [b"4", b"5"]
        broker = start_broker(workers=workers, data_dir=tmp_path)
        with connect_on(broker, 0) as wire:
            wire.subscribe(queue)
            found = wire.read_many(4)
            assert bodies(found) == [b"0", b"3", b"4", b"5"]
            assert [message["message-id"] for message in found] == [ids[0], *ids[3:]]
            for message in found:
                # What the client or the broker gave back in order counts once only; that it was delivered is known.
                assert (message["redelivered"], message["delivery-count"]) == ("true", "2")
            wire.subscribe(f"/queue/dlq.{queue.removeprefix('/queue/')}", id="dead")
            dead = wire.read()
            assert (dead.body, dead["dlq-reason"], dead["dlq-count"]) == (b"1", "rejected", "2")

    def test_what_was_repeated(self, start_broker: StartBroker, tmp_path: Path, workers: int, how: str) -> None:
        queue = queue_owned_by(workers - 1, workers)
        key = [("idempotency-key", "order:4711")]
        with life(how, workers=workers, data_dir=tmp_path) as broker, connect_on(broker, 0) as wire:
            first = send(wire, queue, b"first", key)
            assert "duplicate" not in first
            assert everything(wire, queue) == [b"first"]
        broker = start_broker(workers=workers, data_dir=tmp_path)
        with connect_on(broker, 0) as wire:
            second = send(wire, queue, b"second", key)
            assert (second["duplicate"], second["message-id"]) == ("true", first["message-id"])
            assert everything(wire, queue) == []

    def test_what_was_repeated_of_many(self, start_broker: StartBroker, tmp_path: Path, workers: int, how: str) -> None:
        """Their owner is another worker where there is one."""
        queue = queue_owned_by(workers - 1, workers)
        with life(how, workers=workers, data_dir=tmp_path) as broker, connect_on(broker, 0) as wire:
            first = sent_again(wire, queue, 300)
            assert not any("duplicate" in each for each in first)
            assert len({each["message-id"] for each in first}) == 300
        broker = start_broker(workers=workers, data_dir=tmp_path)
        with connect_on(broker, 0) as wire:
            again = sent_again(wire, queue, 303)
            assert [each.get("duplicate") for each in again] == ["true"] * 300 + [None] * 3
            assert [each["message-id"] for each in again[:300]] == [each["message-id"] for each in first]
            wire.subscribe(queue)
            assert bodies(wire.read_many(303)) == [b"%d" % number for number in range(303)]


class TestIdempotencyKey:
    @ALL
    def test_stored_once(self, site: Site, version: str) -> None:
        queue, other = site.queues()
        key = [("idempotency-key", "a:b")]
        consumer = site.consumer()
        consumer.subscribe(queue)
        first = send(site.producer(version), queue, b"first", key)
        again = [send(site.producer(version), queue, b"again", key) for _ in range(2)]
        for receipt in again:
            assert (receipt["duplicate"], receipt["message-id"]) == ("true", first["message-id"])
        assert consumer.read()["message-id"] == first["message-id"]
        # Each destination and each key for itself.
        assert "duplicate" not in send(site.producer(version), other, b"x", key)
        assert "duplicate" not in send(site.producer(version), queue, b"x", [("idempotency-key", "a:c")])
        assert "duplicate" not in send(site.producer(version), queue, b"y")
        assert bodies(consumer.read_many(2)) == [b"x", b"y"]
        site.silent(consumer)

    def test_from_another_worker(self, site: Site) -> None:
        queue = site.queue()
        key = [("idempotency-key", "k")]
        first = send(site.producer(), queue, b"first", key)
        again = send(site.consumer(), queue, b"again", key)
        assert (again["duplicate"], again["message-id"]) == ("true", first["message-id"])

    def test_within_one_write(self, site: Site) -> None:
        queue = site.queue()
        producer, consumer = site.producer(), site.consumer()
        consumer.subscribe(queue)
        frame = "SEND\ndestination:{}\nidempotency-key:{}\nreceipt:{}\ncontent-length:1\n\n{}\0"
        keys = "aabba"
        producer.send("".join(frame.format(queue, key, n, n) for n, key in enumerate(keys)).encode())
        receipts = [producer.expect("RECEIPT", receipt_id=str(number)) for number in range(5)]
        assert [receipt.get("duplicate") for receipt in receipts] == [None, "true", None, "true", "true"]
        ids = [receipt["message-id"] for receipt in receipts]
        assert ids == [ids[0], ids[0], ids[2], ids[2], ids[0]]
        messages = consumer.read_many(2)
        assert [(m.body, m["message-id"]) for m in messages] == [(b"0", ids[0]), (b"2", ids[2])]
        site.silent(consumer)

    def test_of_a_delayed_message(self, site: Site) -> None:
        queue = site.queue()
        producer, consumer = site.producer(), site.consumer()
        consumer.subscribe(queue)
        headers = [("idempotency-key", "k"), ("delay", "200")]
        first, again = (send(producer, queue, b"x", headers) for _ in range(2))
        assert again["duplicate"] == "true"
        assert consumer.read()["message-id"] == first["message-id"] == again["message-id"]
        assert send(producer, queue, b"x", headers)["duplicate"] == "true"
        site.silent(consumer)

    def test_the_window(self, start_broker: StartBroker) -> None:
        broker = start_broker(config={"queue": {"idempotency_keys": 2}})
        with connect_on(broker, 0) as wire:
            for key in "abc":
                assert "duplicate" not in send(wire, "/queue/k", b"x", [("idempotency-key", key)])
            assert "duplicate" in send(wire, "/queue/k", b"x", [("idempotency-key", "c")])
            # The oldest is forgotten soon, not at once.
            while "duplicate" in send(wire, "/queue/k", b"x", [("idempotency-key", "a")]):
                pass
