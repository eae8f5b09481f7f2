"""Acknowledged, refused, given back: what becomes of a message of a queue once a consumer has it."""

from __future__ import annotations

import pytest

from tests.harness.wire import VERSIONS, Frame, Wire
from tests.protocol.site import Site, bodies, now, receipted, send

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
FIVE = [b"0", b"1", b"2", b"3", b"4"]


def marks(messages: list[Frame]) -> list[tuple[bytes, str | None, str | None]]:
    """The body of each, whether it is a redelivery, and which delivery it is."""
    return [(message.body, message.get("redelivered"), message.get("delivery-count")) for message in messages]


def again(*bodies: bytes, count: int = 2) -> list[tuple[bytes, str | None, str | None]]:
    """`marks` of redeliveries."""
    return [(body, "true", str(count)) for body in bodies]


def filled(site: Site, version: str, *, mode: str = "client-individual", kind: str = "q") -> tuple[str, Wire]:
    """A queue with `FIVE` in it, and a consumer of it that has yet to read them."""
    queue = site.queue(kind)
    site.fill(queue, *FIVE)
    consumer = site.consumer(version)
    consumer.subscribe(queue, ack=mode)
    return queue, consumer


def left_over(site: Site, queue: str, consumer: Wire) -> list[Frame]:
    """What is in the queue once this consumer is gone; a last message of our own behind it is left out."""
    consumer.close()
    site.gone(consumer)
    site.fill(queue, b"end")
    reader = site.consumer()
    reader.subscribe(queue)
    found: list[Frame] = []
    while (message := reader.read()).body != b"end":
        found.append(message)
    return found


class TestAck:
    @ALL
    def test_client_individual_settles_one(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version)
        messages = consumer.read_many(5)
        consumer.acknowledge(messages[3])
        consumer.acknowledge(messages[1])
        assert marks(left_over(site, queue, consumer)) == again(b"0", b"2", b"4")

    @ALL
    def test_client_settles_all_up_to_it(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version, mode="client")
        messages = consumer.read_many(5)
        consumer.acknowledge(messages[2])
        assert marks(left_over(site, queue, consumer)) == again(b"3", b"4")

    @ALL
    def test_client_settles_within_its_own_subscription_alone(self, site: Site, version: str) -> None:
        """Another broker settles all of the connection, and so loses what nobody has handled."""
        one, two = site.queues()
        consumer = site.consumer(version)
        consumer.subscribe(one, id="1", ack="client")
        consumer.subscribe(two, id="2", ack="client")
        messages = {}
        for body, queue in ((b"a", one), (b"b", two), (b"c", one), (b"d", two)):
            site.fill(queue, body)
            messages[body] = consumer.read()
        consumer.acknowledge(messages[b"d"])
        consumer.close()
        site.gone(consumer)
        readers = [site.consumer(), site.consumer()]
        for reader, queue in zip(readers, (one, two), strict=True):
            site.fill(queue, b"end")
            reader.subscribe(queue)
        assert bodies(readers[0].read_many(3)) == [b"a", b"c", b"end"]
        assert bodies(readers[1].read_many(1)) == [b"end"]

    @ALL
    def test_two_subscriptions_to_one_queue_are_settled_apart(self, site: Site, version: str) -> None:
        queue = site.queue()
        consumer = site.consumer(version)
        consumer.subscribe(queue, id="1", ack="client")
        consumer.subscribe(queue, id="2", ack="client")
        site.fill(queue, *FIVE)
        messages = {message.body: message for message in consumer.read_many(5)}
        assert [messages[body]["subscription"] for body in FIVE] == ["1", "2", "1", "2", "1"]
        consumer.acknowledge(messages[b"4"])
        assert bodies(left_over(site, queue, consumer)) == [b"1", b"3"]

    @pytest.mark.parametrize("mode", ["client", "client-individual"])
    def test_1_2_takes_the_message_id_as_well(self, site: Site, mode: str) -> None:
        queue, consumer = filled(site, "1.2", mode=mode)
        messages = consumer.read_many(5)
        consumer.request("ACK", [("id", messages[0]["message-id"])])
        consumer.request("ACK", [("id", messages[1]["ack"])])
        assert bodies(left_over(site, queue, consumer)) == [b"2", b"3", b"4"]

    @ALL
    @pytest.mark.parametrize("mode", ["client", "client-individual"])
    def test_twice_is_an_error(self, site: Site, version: str, mode: str) -> None:
        queue, consumer = filled(site, version, mode=mode)
        messages = consumer.read_many(5)
        consumer.acknowledge(messages[2])
        consumer.frame("ACK", [*consumer.acknowledgement(messages[2]), ("receipt", "r")])
        consumer.expect_error("unknown-message", frame="ACK", receipt_id="r")
        expected = [b"0", b"1", b"3", b"4"] if mode == "client-individual" else [b"3", b"4"]
        assert bodies(left_over(site, queue, consumer)) == expected

    @ALL
    def test_auto_has_nothing_to_settle(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version, mode="auto")
        messages = consumer.read_many(5)
        frame = {"1.2": [("id", messages[0]["message-id"])]}.get(version) or consumer.acknowledgement(messages[0])
        consumer.frame("ACK", frame)
        consumer.expect_error("unknown-message", frame="ACK")
        assert left_over(site, queue, consumer) == []

    @ALL
    def test_what_another_connection_has_is_not_ours(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version)
        message = consumer.read_many(5)[0]
        stranger = site.consumer(version)
        stranger.subscribe(queue, ack="client-individual")
        stranger.frame("ACK", stranger.acknowledgement(message))
        stranger.expect_error("unknown-message", frame="ACK")
        consumer.acknowledge(message)


class TestNack:
    @NEWER
    def test_delivered_again_at_once(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version)
        messages = consumer.read_many(5)
        (first,) = receipted(consumer, "NACK", consumer.acknowledgement(messages[1])) or [consumer.read()]
        assert marks([first]) == again(b"1")
        assert first["message-id"] == messages[1]["message-id"]
        consumer.acknowledge(first)
        assert marks(left_over(site, queue, consumer)) == again(b"0", b"2", b"3", b"4")

    @NEWER
    def test_of_client_refuses_all_up_to_it(self, site: Site, version: str) -> None:
        _, consumer = filled(site, version, mode="client")
        messages = consumer.read_many(5)
        consumer.frame("NACK", consumer.acknowledgement(messages[2]))
        assert marks(consumer.read_many(3)) == again(b"0", b"1", b"2")
        site.silent(consumer)

    def test_1_2_takes_the_message_id_as_well(self, site: Site) -> None:
        _, consumer = filled(site, "1.2")
        messages = consumer.read_many(5)
        consumer.frame("NACK", [("id", messages[4]["message-id"])])
        assert marks([consumer.read()]) == again(b"4")

    @NEWER
    def test_to_another_consumer_if_there_is_one(self, site: Site, version: str) -> None:
        queue = site.queue()
        first, second = site.consumer(version), site.consumer(version)
        for consumer in (first, second):
            consumer.subscribe(queue, ack="client-individual")
        site.fill(queue, b"a", b"b")
        message = first.read()
        assert (message.body, second.read().body) == (b"a", b"b")
        first.frame("NACK", first.acknowledgement(message))
        assert marks([second.read()]) == again(b"a")
        site.silent(first)

    @NEWER
    def test_after_a_delay(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version)
        messages = consumer.read_many(5)
        refused_at = now()
        consumer.frame("NACK", [*consumer.acknowledgement(messages[0]), ("delay", "400")])
        site.fill(queue, b"meanwhile")
        assert consumer.read().body == b"meanwhile"
        message = consumer.read()
        assert now() >= refused_at + 400
        assert marks([message]) == again(b"0")

    @NEWER
    def test_the_pauses_grow(self, site: Site, version: str) -> None:
        queue = site.queue()
        site.fill(queue, b"x")
        consumer = site.consumer(version)
        consumer.subscribe(queue, ack="client-individual")
        message = consumer.read()
        for count, pause in ((2, 0), (3, 100), (4, 200), (5, 400)):
            refused_at = now()
            consumer.frame("NACK", consumer.acknowledgement(message))
            message = consumer.read()
            assert marks([message]) == again(b"x", count=count)
            assert now() >= refused_at + pause

    @NEWER
    @pytest.mark.parametrize("reason", [None, "no such customer: 4711\n\\"])
    def test_without_requeue_a_dead_letter(self, site: Site, version: str, reason: str | None) -> None:
        queue = site.queue()
        headers = [("color", "red"), ("color", "blue"), ("content-type", "text/plain")]
        (id,) = site.fill(queue, b"x\0y", headers=headers)
        consumer = site.consumer(version)
        consumer.subscribe(queue, ack="client-individual")
        message = consumer.read()
        started = now()
        why = [] if reason is None else [("reason", reason)]
        consumer.request("NACK", [*consumer.acknowledgement(message), ("requeue", "false"), *why])
        site.silent(consumer)
        reader = site.consumer(version)
        dead = f"/queue/dlq.{queue.removeprefix('/queue/')}"
        reader.subscribe(dead, ack="client-individual")
        letter = reader.read()
        assert (letter.body, letter["destination"], letter["message-id"]) == (b"x\0y", dead, id)
        assert letter.all("color") == ["red", "blue"]
        assert letter["content-type"] == "text/plain"
        assert (letter["dlq-reason"], letter["dlq-from"], letter["dlq-count"]) == ("rejected", queue, "1")
        assert started <= int(letter["dlq-time"]) <= now()
        assert letter.get("dlq-detail") == reason
        assert "redelivered" not in letter
        reader.acknowledge(letter)

    @NEWER
    def test_of_a_dead_letter(self, site: Site, version: str) -> None:
        queue = site.queue("dlq")
        site.fill(queue, b"x")
        consumer = site.consumer(version)
        consumer.subscribe(queue, ack="client-individual")
        message = consumer.read()
        consumer.frame("NACK", consumer.acknowledgement(message))
        message = consumer.read()
        assert marks([message]) == again(b"x")
        # There is no dead letter queue behind a dead letter queue: what is refused for good is gone.
        consumer.request("NACK", [*consumer.acknowledgement(message), ("requeue", "false")])
        assert left_over(site, queue, consumer) == []


class TestGivenBack:
    @ALL
    @pytest.mark.parametrize("end", ["unsubscribe", "disconnect", "close", "reset", "error"])
    def test_to_the_head_in_order(self, site: Site, version: str, end: str) -> None:
        queue, consumer = filled(site, version)
        site.fill(queue, b"5", b"6")
        messages = consumer.read_many(7)
        consumer.acknowledge(messages[2])
        # After the RECEIPTs nothing has to be waited for, not even the end of the connection.
        if end == "unsubscribe":
            consumer.request("UNSUBSCRIBE", [("id", "0")])
        elif end == "disconnect":
            consumer.request("DISCONNECT")
        else:
            if end == "error":
                consumer.frame("NONSENSE")
            elif end == "reset":
                consumer.reset()
            else:
                consumer.close()
            site.gone(consumer)
        site.fill(queue, b"7")
        reader = site.consumer(version)
        reader.subscribe(queue, ack="client-individual")
        found = reader.read_many(7)
        assert marks(found) == [*again(b"0", b"1", b"3", b"4", b"5", b"6"), (b"7", None, None)]
        reader.acknowledge(found[0])
        assert marks(left_over(site, queue, reader)) == [*again(b"1", b"3", b"4", b"5", b"6", count=3), *again(b"7")]

    @ALL
    def test_to_those_that_wait(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version)
        consumer.read_many(5)
        waiting = site.consumer(version)
        waiting.subscribe(queue)
        site.silent(waiting)
        consumer.close()
        assert marks(waiting.read_many(5)) == again(*FIVE)

    def test_in_the_order_of_priority(self, site: Site) -> None:
        queue = site.queue()
        site.fill(queue, b"high", headers=[("priority", "8")])
        site.fill(queue, b"normal")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client")
        assert bodies(consumer.read_many(2)) == [b"high", b"normal"]
        site.fill(queue, b"higher", headers=[("priority", "9")])
        assert bodies(left_over(site, queue, consumer)) == [b"higher", b"high", b"normal"]

    @ALL
    def test_what_auto_has_read_does_not_come_back(self, site: Site, version: str) -> None:
        queue, consumer = filled(site, version, mode="auto")
        consumer.read_many(5)
        assert left_over(site, queue, consumer) == []

    def test_what_auto_never_read_is_given_back(self, site: Site) -> None:
        queue = site.queue()
        reader = site.consumer()
        body = b"." * 50_000
        total = 400
        producer = site.producer()
        for number in range(total):
            producer.publish(queue, b"%03d" % number + body)
        send(producer, queue, b"end")
        stuck = site.stuck_consumer()
        stuck.subscribe(queue)
        first = stuck.read()
        assert first.body[:3] == b"000"
        stuck.reset()
        site.gone(stuck)
        reader.subscribe(queue, ack="client-individual")
        seen = [reader.read().body[:3]]
        reader.frame("UNSUBSCRIBE", [("id", "0")])
        # Megabytes were never written to its socket; they are here, in order.
        assert b"000" < seen[0] < b"%03d" % (total - 1)


class TestRedeliveryLimit:
    @NEWER
    @pytest.mark.parametrize("end", ["nack", "close"])
    def test_then_a_dead_letter(self, site: Site, version: str, end: str) -> None:
        queue = site.queue("often")
        (id,) = site.fill(queue, b"poison", headers=[("color", "green")])
        dead = site.consumer(version)
        dead.subscribe(f"/queue/dlq.{queue.removeprefix('/queue/')}")
        started = now()
        consumer = site.consumer(version)
        consumer.subscribe(queue, ack="client-individual")
        for count in range(1, 5):
            message = consumer.read()
            assert message.get("delivery-count") == (None if count == 1 else str(count))
            if end == "nack":
                consumer.frame("NACK", [*consumer.acknowledgement(message), ("reason", "no")])
            else:
                consumer.close()
                site.gone(consumer)
                consumer = site.consumer(version)
                consumer.subscribe(queue, ack="client-individual")
        letter = dead.read()
        assert (letter.body, letter["message-id"], letter["color"]) == (b"poison", id, "green")
        assert (letter["dlq-reason"], letter["dlq-from"], letter["dlq-count"]) == ("redelivery-limit", queue, "4")
        assert started <= int(letter["dlq-time"]) <= now()
        assert letter["dlq-detail"] == ("no" if end == "nack" else "its consumers left without settling it")
        site.silent(consumer)

    @NEWER
    @pytest.mark.parametrize("end", ["unsubscribe", "disconnect", "hasty disconnect"])
    def test_does_not_count_what_is_given_back(self, site: Site, version: str, end: str) -> None:
        """Take one, and go: what else came was not looked at by anyone."""
        queue = site.queue("often")
        site.fill(queue, *[b"%d" % number for number in range(8)])
        for number in range(8):
            consumer = site.consumer(version)
            consumer.subscribe(queue, ack="client-individual")
            message = consumer.read_many(8 - number)[0]
            assert message.body == b"%d" % number
            assert message.get("delivery-count") == (str(number + 1) if number else None)
            consumer.acknowledge(message)
            if end == "unsubscribe":
                consumer.request("UNSUBSCRIBE", [("id", "0")])
            elif end == "disconnect":
                consumer.request("DISCONNECT")
            else:
                consumer.frame("DISCONNECT", [("receipt", "never read")])
                consumer.close()
                site.gone(consumer)
        dead = site.consumer(version)
        dead.subscribe(f"/queue/dlq.{queue.removeprefix('/queue/')}")
        site.silent(dead)

    @NEWER
    def test_does_not_count_what_came_in_advance(self, site: Site, version: str) -> None:
        queue = site.queue("often")
        site.fill(queue, b"poison", b"good", b"better")
        for _ in range(4):
            consumer = site.consumer(version)
            consumer.subscribe(queue, ack="client-individual")
            assert bodies(consumer.read_many(3)) == [b"poison", b"good", b"better"]
            consumer.reset()
            site.gone(consumer)
        consumer = site.consumer(version)
        consumer.subscribe(queue, ack="client-individual")
        found = consumer.read_many(2)
        assert [(each.body, each["delivery-count"]) for each in found] == [(b"good", "5"), (b"better", "5")]
        site.silent(consumer)

    def test_is_on_by_default(self, site: Site) -> None:
        queue = site.queue()
        site.fill(queue, b"poison", b"good")
        dead = site.consumer()
        dead.subscribe(f"/queue/dlq.{queue.removeprefix('/queue/')}")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "1")])
        for count in range(1, 22):
            message = consumer.read()
            assert (message.body, message.get("delivery-count") or "1") == (b"poison", str(count))
            consumer.frame("NACK", [*consumer.acknowledgement(message), ("delay", "0")])
        assert dead.read()["dlq-count"] == "21"
        assert consumer.read().body == b"good"

    @pytest.mark.parametrize("requeue", [True, False])
    def test_without_a_dead_letter_queue_it_is_gone(self, site: Site, requeue: bool) -> None:
        queue = site.queue("nowhere")
        site.fill(queue, b"poison", b"good")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "1")])
        for _ in range(2 if requeue else 1):
            message = consumer.read()
            assert message.body == b"poison"
            how = [] if requeue else [("requeue", "false")]
            consumer.frame("NACK", [*consumer.acknowledgement(message), *how])
        assert consumer.read().body == b"good"
        dead = site.consumer()
        dead.subscribe(f"/queue/dlq.{queue.removeprefix('/queue/')}")
        site.silent(dead)

    def test_a_dead_letter_queue_for_several(self, site: Site) -> None:
        dead = site.consumer()
        dead.subscribe("/queue/failed")
        queue = site.queue("elsewhere")
        site.fill(queue, b"x")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual")
        consumer.frame("NACK", [*consumer.acknowledgement(consumer.read()), ("requeue", "false")])
        letter = dead.read()
        assert (letter.body, letter["dlq-from"]) == (b"x", queue)
