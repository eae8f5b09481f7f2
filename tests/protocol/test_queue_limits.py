"""What happens when there is no room: in a queue, among the queues, in the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.conftest import StartBroker
from tests.harness.broker import Broker
from tests.harness.wire import VERSIONS, Wire, connect_on
from tests.protocol.site import Site, bodies, queue_owned_by, receipted, send

ALL = pytest.mark.parametrize("version", VERSIONS)
REJECTING = pytest.mark.parametrize(("kind", "limit"), [("few", b"max_messages"), ("small", b"max_bytes")])
BODY = b"." * 550
"""Three of these are in a queue of 2000 bytes, and no fourth one."""


@pytest.fixture(scope="module")
def narrow() -> Iterator[Broker]:
    """A broker that has all the queues it may have: /queue/a and /queue/b."""
    with Broker(config={"queue": {"max_queues": 2}}) as broker:
        with connect_on(broker, None) as wire:
            send(wire, "/queue/a", b"x")
            send(wire, "/queue/b", b"x")
        yield broker


class TestReject:
    @ALL
    @REJECTING
    def test_one_too_many(self, site: Site, version: str, kind: str, limit: bytes) -> None:
        queue = site.queue(kind)
        producer = site.producer(version)
        for _ in range(3):
            send(producer, queue, BODY)
        producer.publish(queue, BODY, [("receipt", "one-more")])
        error = producer.expect_error("queue-full", frame="SEND", receipt_id="one-more")
        assert limit in error.body
        assert b"holds 3 messages" in error.body
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual")
        messages = consumer.read_many(3)
        # What consumers hold is in the queue still.
        another = site.producer(version)
        another.publish(queue, BODY, [("receipt", "again")])
        another.expect_error("queue-full", frame="SEND", receipt_id="again")
        consumer.acknowledge(messages[0])
        send(site.producer(version), queue, b"fits")
        assert consumer.read().body == b"fits"

    @ALL
    def test_without_a_receipt_the_error_comes_as_well(self, site: Site, version: str) -> None:
        queue = site.queue("few")
        producer = site.producer(version)
        for _ in range(4):
            producer.publish(queue, b"x")
        error = producer.expect_error("queue-full", frame="SEND")
        assert b"holds 3 messages" in error.body
        assert "receipt-id" not in error

    def test_of_one_write_as_many_are_taken_as_fit(self, site: Site) -> None:
        queue = site.queue("few")
        producer = site.producer()
        frame = "SEND\ndestination:{}\nreceipt:{}\ncontent-length:1\n\n{}\0"
        producer.send("".join(frame.format(queue, number, number) for number in range(5)).encode())
        for number in range(3):
            producer.expect("RECEIPT", receipt_id=str(number))
        producer.expect_error("queue-full", frame="SEND", receipt_id="3")
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(3)) == [b"0", b"1", b"2"]
        consumer.quiet()

    def test_what_is_left_is_not_enough_for_a_large_one(self, site: Site) -> None:
        queue = site.queue("small")
        send(site.producer(), queue, BODY)
        for body, room in ((BODY * 3, b"when consumers have made room"), (BODY * 4, b"there never is room")):
            producer = site.producer()
            producer.publish(queue, body, [("receipt", "large")])
            assert room in producer.expect_error("queue-full", frame="SEND", receipt_id="large").body
        send(site.producer(), queue, BODY)

    def test_a_transaction_that_does_not_fit_is_refused_as_a_whole(self, site: Site) -> None:
        few, other = site.queue("few"), site.queue()
        site.fill(few, b"there")
        producer = site.producer()
        producer.request("BEGIN", [("transaction", "t")])
        producer.publish(other, b"x", [("transaction", "t")])
        for _ in range(3):
            producer.publish(few, b"x", [("transaction", "t")])
        producer.frame("COMMIT", [("transaction", "t"), ("receipt", "commit")])
        producer.expect_error("queue-full", frame="COMMIT", receipt_id="commit")
        consumer = site.consumer()
        consumer.subscribe(few)
        assert consumer.read().body == b"there"
        consumer.subscribe(other, id="other")
        site.silent(consumer)

    def test_a_transaction_of_one_queue_is_refused_as_a_whole_as_well(self, site: Site) -> None:
        few = site.queue("few")
        producer = site.producer()
        producer.request("BEGIN", [("transaction", "t")])
        for _ in range(4):
            producer.publish(few, b"x", [("transaction", "t")])
        producer.frame("COMMIT", [("transaction", "t"), ("receipt", "commit")])
        producer.expect_error("queue-full", frame="COMMIT", receipt_id="commit")
        consumer = site.consumer()
        consumer.subscribe(few)
        site.silent(consumer)

    def test_so_is_one_over_several_owners(self, site: Site) -> None:
        few, queues = site.queue("few"), site.queues(4)
        site.fill(few, b"1", b"2")
        for number in (1, 2):
            # The first takes the last room, the second finds none.
            producer = site.producer()
            producer.request("BEGIN", [("transaction", "t")])
            for queue in (*queues, few, f"/topic/of-{queues[0][7:]}"):
                producer.publish(queue, b"commit %d" % number, [("transaction", "t")])
            producer.frame("COMMIT", [("transaction", "t"), ("receipt", "commit")])
            if number == 1:
                producer.expect("RECEIPT", receipt_id="commit")
            else:
                producer.expect_error("queue-full", frame="COMMIT", receipt_id="commit")
        consumer = site.consumer()
        for id, queue in enumerate(queues):
            consumer.subscribe(queue, id=str(id))
            assert consumer.read().body == b"commit 1"
        consumer.subscribe(few, id="few")
        assert bodies(consumer.read_many(3)) == [b"1", b"2", b"commit 1"]
        site.silent(consumer)


def fill_until_paused(site: Site, producer: Wire, queue: str) -> int:
    """Send bodies that are numbers, with as many receipts, to a queue that holds three, until the broker reads no more
    of this producer. Returns how many were sent; of some the broker knows nothing yet."""
    witness = site.producer()
    for number in range(50):
        producer.publish(queue, b"%d" % number, [("receipt", str(number))])
        # A way to the owner and back.
        send(witness, site.queue())
        if site.broker.events("publisher.paused", session=producer.session):
            producer.publish(queue, b"%d" % (number + 1), [("receipt", str(number + 1))])
            return number + 2
    raise AssertionError("50 messages were taken by a queue that holds 3")


class TestBlock:
    @ALL
    def test_producers_wait_until_there_is_room(self, site: Site, version: str) -> None:
        queue, other = site.queue("full"), site.queue()
        producer = site.producer(version)
        sent = fill_until_paused(site, producer, queue)
        # Others do not wait for it.
        send(site.producer(), other, b"x")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual")
        messages = consumer.read_many(3) + receipted(
            consumer, "SUBSCRIBE", [("destination", site.queue()), ("id", "1")]
        )
        taken = len(messages)
        assert taken < sent
        assert bodies(messages) == [b"%d" % number for number in range(taken)]
        for number in range(taken):
            producer.expect("RECEIPT", receipt_id=str(number))
        # Delivered is not settled: the queue is as full as before.
        site.silent(consumer)
        assert not producer.readable()
        for message in messages:
            consumer.frame("ACK", consumer.acknowledgement(message))
        for number in range(taken, sent):
            producer.expect("RECEIPT", receipt_id=str(number))
            assert consumer.read().body == b"%d" % number

    def test_commits_wait_as_well(self, site: Site) -> None:
        queue = site.queue("full")
        producer, witness = site.producer(), site.producer()
        for number in range(50):
            producer.frame("BEGIN", [("transaction", "t")])
            producer.publish(queue, b"%d" % number, [("transaction", "t")])
            producer.frame("COMMIT", [("transaction", "t")])
            send(witness, site.queue())
            if site.broker.events("publisher.paused", session=producer.session):
                return
        raise AssertionError("50 transactions were taken by a queue that holds 3")

    def test_a_producer_that_leaves_meanwhile(self, site: Site) -> None:
        queue = site.queue("full")
        producer = site.producer()
        fill_until_paused(site, producer, queue)
        producer.reset()
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(3)) == [b"0", b"1", b"2"]
        site.gone(producer)
        send(site.producer(), queue, b"next")
        while consumer.read().body != b"next":
            pass

    def test_a_producer_that_leaves_meanwhile_and_sent_nothing_more(self, site: Site) -> None:
        """Nothing that is not read tells of its end."""
        queue = site.queue("full")
        site.fill(queue, b"0", b"1", b"2")
        producer = site.producer()
        producer.publish(queue, b"3")
        site.broker.wait_event("publisher.paused", session=producer.session)
        producer.close()
        site.gone(producer)
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(4)) == [b"0", b"1", b"2", b"3"]

    def test_what_was_sent_by_then_is_taken_all_the_same(self, site: Site) -> None:
        queue = site.queue("full")
        site.fill(queue, b"0", b"1", b"2")
        producer, hasty = site.producer(), site.producer()
        for each in (hasty, producer):
            each.publish(queue, b"first")
            site.broker.wait_event("publisher.paused", session=each.session)
        hasty.publish(queue, b"second")
        hasty.close()
        # By the time that this one is missed, the other one would have been.
        producer.close()
        site.gone(producer)
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert sorted(bodies(consumer.read_many(6))) == [b"0", b"1", b"2", b"first", b"first", b"second"]

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_consumer_that_waits_for_itself_is_told(self, start_broker: StartBroker, workers: int) -> None:
        queue = queue_owned_by(workers - 1, workers)
        full = {"pattern": queue, "max_messages": 3}
        config = {"destination": [full], "outbox": {"block_timeout": "200ms"}}
        broker = start_broker(workers=workers, config=config, log_level="debug")
        with connect_on(broker, 0) as wire, connect_on(broker, 0) as bystander, connect_on(broker, 0) as witness:
            wire.subscribe(queue, ack="client-individual")
            for each in (bystander, wire):
                while not broker.events("publisher.paused", session=each.session):
                    each.publish(queue, b"x")
                    send(witness, "/queue/other")
            while (frame := wire.read()).command == "MESSAGE":
                pass
            assert frame["error-code"] == "queue-full"
            assert b"outbox.block_timeout" in frame.body and queue.encode() in frame.body
            # Who only sends goes on waiting.
            assert not broker.events("connection.closed", session=bystander.session)


class TestDropHead:
    @ALL
    def test_the_oldest_becomes_a_dead_letter(self, site: Site, version: str) -> None:
        queue = site.queue("last")
        dead, consumer, producer = site.consumer(), site.consumer(), site.producer(version)
        dead.subscribe(f"/queue/dlq.{queue.removeprefix('/queue/')}")
        ids = [send(producer, queue, b"%d" % number)["message-id"] for number in range(5)]
        for number in range(2):
            letter = dead.read()
            assert (letter.body, letter["message-id"]) == (b"%d" % number, ids[number])
            assert (letter["dlq-reason"], letter["dlq-from"], letter["dlq-count"]) == ("queue-full", queue, "0")
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(3)) == [b"2", b"3", b"4"]

    def test_the_lowest_priority_goes_first(self, site: Site) -> None:
        queue = site.queue("last")
        dead = site.consumer()
        dead.subscribe(f"/queue/dlq.{queue.removeprefix('/queue/')}")
        for body, priority in ((b"urgent", "9"), (b"old", "1"), (b"usual", "4"), (b"new", "1"), (b"high", "9")):
            site.fill(queue, body, headers=[("priority", priority)])
        assert bodies(dead.read_many(2)) == [b"old", b"new"]
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(3)) == [b"urgent", b"high", b"usual"]

    def test_by_bytes(self, site: Site) -> None:
        queue = site.queue("lean")
        for number in range(6):
            site.fill(queue, b"%d" % number + BODY)
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert [message.body[:1] for message in consumer.read_many(3)] == [b"3", b"4", b"5"]
        site.silent(consumer)

    def test_what_consumers_have_stays_theirs(self, site: Site) -> None:
        queue = site.queue("last")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "2")])
        site.fill(queue, b"0", b"1", b"2", b"3", b"4")
        messages = consumer.read_many(2)
        assert bodies(messages) == [b"0", b"1"]
        consumer.frame("ACK", consumer.acknowledgement(messages[0]))
        assert consumer.read().body == b"4"
        site.silent(consumer)


class TestTooManyQueues:
    @ALL
    @pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE"])
    def test_one_too_many(self, narrow: Broker, version: str, command: str) -> None:
        with connect_on(narrow, None, version) as wire:
            wire.frame(command, [("destination", "/queue/c"), ("id", "1"), ("receipt", "r")])
            error = wire.expect_error("too-many-queues", frame=command)
            assert b"queue.max_queues" in error.body

    def test_those_that_are_there_still_take_messages(self, narrow: Broker) -> None:
        with connect_on(narrow, None) as wire:
            send(wire, "/queue/a", b"y")


class TestNoRoomInTheStore:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_over_the_quota(self, start_broker: StartBroker, workers: int) -> None:
        broker = start_broker(workers=workers, config={"store": {"quota_bytes": 1 << 20}})
        queue = queue_owned_by(workers - 1, workers)
        sent = 0
        with connect_on(broker, 0) as producer:
            while True:
                producer.publish(queue, b"%04d" % sent + b"." * 100_000, [("receipt", str(sent))])
                frame = producer.read()
                if frame.command != "RECEIPT":
                    break
                sent += 1
        assert (frame["error-code"], frame["frame"], frame["receipt-id"]) == ("store-full", "SEND", str(sent))
        assert b"1048576" in frame.body
        assert 5 <= sent <= 10
        with connect_on(broker, 0) as producer:
            # What is not to be stored needs no room there.
            send(producer, queue, b"only in memory", [("persistent", "false")])
        with connect_on(broker, 0) as consumer:
            consumer.subscribe(queue, ack="client-individual")
            messages = consumer.read_many(sent + 1)
            assert [message.body[:4] for message in messages] == [*(b"%04d" % n for n in range(sent)), b"only"]
            for message in messages:
                consumer.acknowledge(message)
        with connect_on(broker, 0) as producer:
            send(producer, queue, b"." * 100_000)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_commit_that_settles_has_no_more_room_than_others(self, start_broker: StartBroker, workers: int) -> None:
        broker = start_broker(workers=workers, config={"store": {"quota_bytes": 1 << 20}})
        queue, source = (queue_owned_by(workers - 1, workers) for _ in range(2))
        committed = 0
        while committed < 20:
            with connect_on(broker, 0) as client:
                send(client, source, b"to do", [("persistent", "false")])
                client.subscribe(source, ack="client-individual")
                message = client.read()
                client.request("BEGIN", [("transaction", "t")])
                client.request("ACK", [*client.acknowledgement(message), ("transaction", "t")])
                client.publish(queue, b"." * 100_000, [("transaction", "t")])
                client.frame("COMMIT", [("transaction", "t"), ("receipt", "commit")])
                frame = client.read()
                if frame.command != "RECEIPT":
                    break
                committed += 1
        assert (frame["error-code"], frame["frame"], frame["receipt-id"]) == ("store-full", "COMMIT", "commit")
        assert 5 <= committed <= 10
        with connect_on(broker, 0) as consumer:
            consumer.subscribe(source, ack="client-individual")
            message = consumer.read()
            assert (message.body, message["redelivered"]) == (b"to do", "true")
            consumer.acknowledge(message)
            consumer.subscribe(queue, id="other", ack="client-individual")
            assert len(consumer.read_many(committed)) == committed
            consumer.quiet()

    def test_a_store_that_fails(self, start_broker: StartBroker) -> None:
        workers = 2
        broker = start_broker(workers=workers)
        queue = queue_owned_by(workers - 1, workers)
        with connect_on(broker, 0) as producer:
            send(producer, queue, b"before")
            path = broker.data_dir / f"slot-{workers - 1}.db"
            with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
                # Whoever copies the database with a lock on it for longer than the store waits, which is ten seconds.
                stranger.execute("BEGIN IMMEDIATE")
                producer.publish(queue, b"in vain", [("receipt", "r")])
                error = producer.expect_error("store-failed", frame="SEND", receipt_id="r", timeout=60)
                assert b"locked" in error.body
                stranger.execute("ROLLBACK")
        with connect_on(broker, 0) as producer, connect_on(broker, 0) as consumer:
            send(producer, queue, b"after")
            consumer.subscribe(queue)
            assert bodies(consumer.read_many(2)) == [b"before", b"after"]
            consumer.quiet()
