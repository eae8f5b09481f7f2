"""Messages of queues that expire, and those that are to come later."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartBroker
from tests.harness.wire import VERSIONS, Frame, Headers, connect_on, encode
from tests.protocol.site import ENDS, Site, bodies, life, now, queue_owned_by, receipted, send, wait_until

ALL = pytest.mark.parametrize("version", VERSIONS)
PAST = 946_684_800_000
"""2000-01-01, in ms since the epoch."""


def dead_letters_of(queue: str) -> str:
    return f"/queue/dlq.{queue.removeprefix('/queue/')}"


class TestExpiry:
    @ALL
    @pytest.mark.parametrize("header", ["ttl", "expires"])
    def test_dropped_also_in_the_middle(self, site: Site, version: str, header: str) -> None:
        queue = site.queue()
        producer = site.producer(version)
        send(producer, queue, b"before")
        send(producer, queue, b"late", [(header, "30" if header == "ttl" else str(now() + 30))])
        end = now() + 30
        send(producer, queue, b"after", [("ttl", "600000")])
        wait_until(end)
        consumer = site.consumer(version)
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(2)) == [b"before", b"after"]
        site.silent(consumer)
        dead = site.consumer()
        dead.subscribe(dead_letters_of(queue))
        site.silent(dead)

    @ALL
    @pytest.mark.parametrize("header", ["ttl", "expires"])
    def test_in_time(self, site: Site, version: str, header: str) -> None:
        queue = site.queue()
        end = now() + 600_000
        for value in ("0", "600000" if header == "ttl" else str(end)):
            site.fill(queue, b"x", headers=[(header, value)])
        consumer = site.consumer(version)
        consumer.subscribe(queue)
        never, later = consumer.read_many(2)
        assert never.get("expires") == (None if header == "ttl" else "0")
        # What a consumer is told is when, which holds wherever the message lay in between.
        assert end <= int(later["expires"]) <= now() + 600_000

    def test_that_is_over_when_it_is_sent(self, site: Site) -> None:
        queue = site.queue()
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert send(site.producer(), queue, b"x", [("expires", str(PAST))])["routed"] == "1"
        site.silent(consumer)

    def test_a_dead_letter_by_policy_though_nobody_listens(self, site: Site) -> None:
        queue = site.queue("late")
        site.fill(queue, b"before")
        started = now()
        (id,) = site.fill(queue, b"late", headers=[("ttl", "20"), ("color", "red")])
        site.fill(queue, b"after")
        dead = site.consumer()
        dead.subscribe(dead_letters_of(queue))
        letter = dead.read()
        assert (letter.body, letter["message-id"], letter["color"]) == (b"late", id, "red")
        assert (letter["dlq-reason"], letter["dlq-from"], letter["dlq-count"]) == ("expired", queue, "0")
        assert started + 20 <= int(letter["dlq-time"]) <= now()
        # It does not expire once more.
        assert "ttl" not in letter and "expires" not in letter
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(2)) == [b"before", b"after"]
        site.silent(consumer)

    def test_behind_a_consumer_without_credit(self, site: Site) -> None:
        queue = site.queue("late")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "1")])
        site.fill(queue, b"first")
        message = consumer.read()
        site.fill(queue, b"late", headers=[("ttl", "20")])
        site.fill(queue, b"last")
        dead = site.consumer()
        dead.subscribe(dead_letters_of(queue))
        assert dead.read().body == b"late"
        consumer.frame("ACK", consumer.acknowledgement(message))
        assert consumer.read().body == b"last"

    def test_what_a_consumer_has_is_its_own_until_it_gives_it_back(self, site: Site) -> None:
        queue = site.queue("late")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual")
        site.fill(queue, b"kept", b"refused", headers=[("ttl", "300")])
        end = now() + 300
        kept, refused = consumer.read_many(2)
        wait_until(end)
        receipted(consumer, "ACK", consumer.acknowledgement(kept))
        consumer.frame("NACK", consumer.acknowledgement(refused))
        dead = site.consumer()
        dead.subscribe(dead_letters_of(queue))
        letter = dead.read()
        assert (letter.body, letter["dlq-reason"], letter["dlq-count"]) == (b"refused", "expired", "1")
        site.silent(consumer)
        site.silent(dead)


def check_delayed(message: Frame, body: bytes, due: int) -> None:
    assert message.body == body
    assert now() >= due
    assert "redelivered" not in message


class TestDelay:
    @ALL
    @pytest.mark.parametrize("header", ["delay", "deliver-at"])
    def test_not_before_its_time(self, site: Site, version: str, header: str) -> None:
        queue = site.queue()
        consumer = site.consumer(version)
        consumer.subscribe(queue)
        producer = site.producer(version)
        started = now()
        value = "400" if header == "delay" else str(started + 400)
        receipt = send(producer, queue, b"later", [(header, value), ("color", "red")])
        assert receipt["routed"] == "1"
        send(producer, queue, b"now")
        assert consumer.read().body == b"now"
        message = consumer.read()
        check_delayed(message, b"later", started + 400)
        assert (message["message-id"], message["color"]) == (receipt["message-id"], "red")
        site.silent(consumer)

    def test_in_the_order_of_their_times(self, site: Site) -> None:
        queue = site.queue()
        consumer = site.consumer()
        consumer.subscribe(queue)
        started = now()
        for delay in (400, 200, 300):
            site.fill(queue, b"%d" % delay, headers=[("deliver-at", str(started + delay))])
        for delay in (200, 300, 400):
            check_delayed(consumer.read(), b"%d" % delay, started + delay)

    @pytest.mark.parametrize("headers", [[("delay", "0")], [("deliver-at", "0")], [("deliver-at", str(PAST))]])
    def test_without_delay(self, site: Site, headers: Headers) -> None:
        queue = site.queue()
        consumer = site.consumer()
        consumer.subscribe(queue)
        site.fill(queue, b"x", headers=headers)
        assert consumer.read().body == b"x"

    def test_so_short_that_it_is_over_before_it_is_stored(self, site: Site) -> None:
        consumer, producer = site.consumer(), site.producer()
        for number in range(20):
            queue = site.queue()
            consumer.subscribe(queue, id=str(number))
            producer.publish(queue, b"x", [("delay", "1")])
            assert consumer.read()["destination"] == queue

    def test_each_comes_once_however_many_are_due_at_once(self, site: Site) -> None:
        queue = site.queue()
        consumer, producer = site.consumer(), site.producer()
        consumer.subscribe(queue)
        # Longer than the second after which queues are looked after in any case.
        due = now() + 1500
        numbers = [b"%d" % number for number in range(2500)]
        frames = [
            encode("SEND", [("destination", queue), ("deliver-at", str(due - place % 3))], body)
            for place, body in enumerate(numbers)
        ]
        producer.send(b"".join(frames))
        assert sorted(bodies(consumer.read_many(2500, timeout=60))) == sorted(numbers)
        site.silent(consumer)
        wait_until(now() + 1100)
        site.silent(consumer)

    def test_keeps_its_priority_its_group_and_its_end(self, site: Site) -> None:
        queue = site.queue()
        started = now()
        site.fill(queue, b"low", headers=[("delay", "100"), ("priority", "1")])
        site.fill(queue, b"high", headers=[("delay", "100"), ("priority", "9")])
        site.fill(queue, b"late", headers=[("delay", "100"), ("priority", "9"), ("expires", str(started + 50))])
        site.fill(queue, b"normal", headers=[("delay", "100")])
        end = now() + 100
        wait_until(end)
        witness = site.consumer()
        other = site.queue()
        witness.subscribe(other)
        site.fill(other, b"x", headers=[("delay", "100")])
        # The same worker has brought what was due before that.
        assert witness.read().body == b"x"
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(3)) == [b"high", b"normal", b"low"]
        site.silent(consumer)

    def test_in_a_transaction(self, site: Site) -> None:
        queue = site.queue()
        consumer, producer = site.consumer(), site.producer()
        consumer.subscribe(queue)
        producer.request("BEGIN", [("transaction", "t")])
        producer.publish(queue, b"later", [("transaction", "t"), ("delay", "300")])
        producer.publish(queue, b"now", [("transaction", "t")])
        started = now()
        producer.request("COMMIT", [("transaction", "t")])
        assert consumer.read().body == b"now"
        check_delayed(consumer.read(), b"later", started + 300)

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("how", ENDS)
    def test_survives_a_restart(self, start_broker: StartBroker, tmp_path: Path, workers: int, how: str) -> None:
        queue = queue_owned_by(workers - 1, workers)
        with life(how, workers=workers, data_dir=tmp_path) as broker, connect_on(broker, 0) as producer:
            started = now()
            first = send(producer, queue, b"soon", [("delay", "1")])
            second = send(producer, queue, b"later", [("delay", "3000")])
            third = send(producer, queue, b"now", [("expires", str(started + 3_600_000))])
        ids = [receipt["message-id"] for receipt in (first, second, third)]
        broker = start_broker(workers=workers, data_dir=tmp_path)
        with connect_on(broker, 0) as consumer:
            consumer.subscribe(queue, ack="client")
            messages = {message["message-id"]: message for message in consumer.read_many(3)}
            assert [messages[id].body for id in ids] == [b"soon", b"later", b"now"]
            check_delayed(messages[ids[1]], b"later", started + 3000)
            consumer.quiet()
