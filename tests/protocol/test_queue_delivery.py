"""Queues: each message to one consumer, in turn, as much as it asked for, and kept while nobody listens."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS, Headers, Wire, encode
from tests.protocol.site import Site, bodies, queue_owned_by, receipted, send

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
MODES = pytest.mark.parametrize("mode", ["auto", "client", "client-individual"])
CLIENT_MODES = pytest.mark.parametrize("mode", ["client", "client-individual"])


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def send_at_once(wire: Wire, queue: str, items: list[bytes], headers: Headers = ()) -> None:
    """All in one write, the last with a receipt that is waited for."""
    frames = [
        encode("SEND", [("destination", queue), ("content-length", str(len(body))), *headers], body)
        for body in items[:-1]
    ]
    wire.send(b"".join(frames))
    send(wire, queue, items[-1], headers)


class TestWhoGetsWhat:
    @ALL
    @MODES
    def test_kept_while_nobody_listens(self, site: Site, version: str, mode: str) -> None:
        queue = site.queue()
        ids = site.fill(queue, *numbered(5))
        consumer = site.consumer(version)
        consumer.subscribe(queue, ack=mode)
        messages = consumer.read_many(5)
        assert bodies(messages) == numbered(5)
        assert [message["message-id"] for message in messages] == ids
        for message in messages:
            assert message["destination"] == queue
            assert message["subscription"] == "0"
            assert ("ack" in message) == (version == "1.2" and mode != "auto")
            assert "redelivered" not in message and "delivery-count" not in message
        site.silent(consumer)

    @MODES
    def test_in_turn_in_the_order_of_arrival(self, site: Site, mode: str) -> None:
        queue = site.queue()
        consumers = [site.consumer() for _ in range(3)]
        for consumer in consumers:
            consumer.subscribe(queue, ack=mode)
        send_at_once(site.producer(), queue, numbered(9))
        for place, consumer in enumerate(consumers):
            assert bodies(consumer.read_many(3)) == numbered(9)[place::3]
            site.silent(consumer)

    def test_turns_go_on_from_one_message_to_the_next(self, site: Site) -> None:
        queue = site.queue()
        first, second = site.consumer(), site.consumer()
        first.subscribe(queue)
        second.subscribe(queue)
        for body in numbered(6):
            site.fill(queue, body)
        assert bodies(first.read_many(3)) == [b"0", b"2", b"4"]
        assert bodies(second.read_many(3)) == [b"1", b"3", b"5"]

    def test_two_subscriptions_of_one_connection_are_two_consumers(self, site: Site) -> None:
        queue = site.queue()
        consumer = site.consumer()
        consumer.subscribe(queue, id="a")
        consumer.subscribe(queue, id="b")
        site.fill(queue, *numbered(4))
        messages = consumer.read_many(4)
        assert sorted((each["subscription"], each.body) for each in messages) == [
            ("a", b"0"),
            ("a", b"2"),
            ("b", b"1"),
            ("b", b"3"),
        ]

    def test_consumers_on_several_workers(self, site: Site) -> None:
        queue = site.queue()
        consumers = [site.producer(), site.consumer()]
        for consumer in consumers:
            consumer.subscribe(queue)
        site.fill(queue, *numbered(6))
        assert [bodies(consumer.read_many(3)) for consumer in consumers] == [numbered(6)[0::2], numbered(6)[1::2]]

    def test_nothing_is_lost_on_the_way_to_the_next_consumer(self, site: Site) -> None:
        queue = site.queue()
        first = site.consumer()
        first.subscribe(queue)
        site.fill(queue, *numbered(3))
        assert bodies(first.read_many(3)) == numbered(3)
        first.request("UNSUBSCRIBE", [("id", "0")])
        site.fill(queue, *numbered(3, 3))
        second = site.consumer()
        second.subscribe(queue)
        assert bodies(second.read_many(3)) == numbered(3, 3)
        site.silent(second)
        site.silent(first)

    def test_a_queue_is_no_topic_of_the_same_name(self, site: Site) -> None:
        queue = site.queue()
        consumer = site.consumer()
        consumer.subscribe(queue.replace("/queue/", "/topic/"), id="topic")
        consumer.subscribe("#", id="all")
        consumer.subscribe(queue, id="queue")
        site.fill(queue, b"x")
        assert consumer.read()["subscription"] == "queue"
        site.silent(consumer)


class TestPrefetch:
    @ALL
    @CLIENT_MODES
    @pytest.mark.parametrize(
        ("header", "count"), [((), 100), ((("prefetch-count", "3"),), 3), ((("activemq.prefetchSize", "2"),), 2)]
    )
    def test_no_more_than_was_asked_for(self, site: Site, version: str, mode: str, header: Headers, count: int) -> None:
        queue = site.queue()
        total = count + 5
        send_at_once(site.producer(), queue, numbered(total))
        consumer = site.consumer(version)
        consumer.subscribe(queue, ack=mode, headers=header)
        messages = consumer.read_many(count)
        site.silent(consumer)
        another = site.consumer()
        another.subscribe(queue)
        assert bodies(messages + another.read_many(5)) == numbered(total)
        # Each acknowledgement makes room for as much.
        consumer.frame("ACK", consumer.acknowledgement(messages[0]))
        another.request("UNSUBSCRIBE", [("id", "0")])
        send_at_once(site.producer(), queue, [b"next", b"not yet"])
        assert consumer.read().body == b"next"
        site.silent(consumer)

    @CLIENT_MODES
    def test_by_policy(self, site: Site, mode: str) -> None:
        queue = site.queue("one")
        site.fill(queue, *numbered(3))
        consumer = site.consumer()
        consumer.subscribe(queue, ack=mode)
        for body in numbered(3):
            message = consumer.read()
            assert message.body == body
            site.silent(consumer)
            consumer.frame("ACK", consumer.acknowledgement(message))

    def test_auto_needs_none(self, site: Site) -> None:
        queue = site.queue("one")
        send_at_once(site.producer(), queue, numbered(3000))
        consumer = site.consumer()
        consumer.subscribe(queue, headers=[("prefetch-count", "1")])
        assert bodies(consumer.read_many(3000)) == numbered(3000)

    def test_the_consumer_without_credit_is_left_out(self, site: Site) -> None:
        queue = site.queue()
        slow, fast = site.consumer(), site.consumer()
        slow.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "1")])
        fast.subscribe(queue)
        site.fill(queue, *numbered(5))
        message = slow.read()
        assert bodies([message, *fast.read_many(4)]) == numbered(5)
        slow.frame("ACK", slow.acknowledgement(message))
        site.silent(slow)
        site.fill(queue, *numbered(2, 5))
        assert sorted(bodies([slow.read(), fast.read()])) == numbered(2, 5)


class TestPriority:
    def test_the_highest_first_and_within_one_in_the_order_of_arrival(self, site: Site) -> None:
        queue = site.queue()
        producer = site.producer()
        for round in range(2):
            for priority in (5, 0, None, 9, 4, 3):
                # One that says something else, but not its priority, has that of all others.
                headers = [("ttl", "0")] if priority is None else [("priority", str(priority))]
                send(producer, queue, b"%d of %s" % (round, str(priority).encode()), headers)
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert bodies(consumer.read_many(12)) == [
            *(b"0 of 9", b"1 of 9", b"0 of 5", b"1 of 5"),
            *(b"0 of None", b"0 of 4", b"1 of None", b"1 of 4"),
            *(b"0 of 3", b"1 of 3", b"0 of 0", b"1 of 0"),
        ]

    def test_what_consumers_have_is_theirs(self, site: Site) -> None:
        queue = site.queue("one")
        consumer = site.consumer()
        consumer.subscribe(queue, ack="client-individual")
        site.fill(queue, b"low", b"lower", headers=[("priority", "1")])
        message = consumer.read()
        assert message.body == b"low"
        site.fill(queue, b"high", headers=[("priority", "9")])
        consumer.frame("ACK", consumer.acknowledgement(message))
        message = consumer.read()
        assert message.body == b"high"
        consumer.frame("ACK", consumer.acknowledgement(message))
        assert consumer.read().body == b"lower"


class TestReceipts:
    @ALL
    def test_the_id_and_how_many_take_it(self, site: Site, version: str) -> None:
        queue = site.queue()
        receipt = send(site.producer(version), queue, b"x")
        assert receipt["routed"] == "1"
        assert "duplicate" not in receipt
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert consumer.read()["message-id"] == receipt["message-id"]

    def test_all_of_one_write_in_their_order(self, site: Site) -> None:
        one, two = site.queues()
        producer = site.producer()
        names = [one, two, one, one, two]
        producer.send(
            b"".join(
                encode("SEND", [("destination", name), ("receipt", str(place))], b"%d" % place)
                for place, name in enumerate(names)
            )
        )
        receipts = [producer.expect("RECEIPT", receipt_id=str(place), routed="1") for place in range(5)]
        consumer = site.consumer()
        consumer.subscribe(one)
        another = site.consumer()
        another.subscribe(two)
        messages = consumer.read_many(3) + another.read_many(2)
        found = {message.body: message["message-id"] for message in messages}
        assert [found[b"%d" % place] for place in range(5)] == [receipt["message-id"] for receipt in receipts]

    def test_of_topics(self, site: Site) -> None:
        topic = site.queue().replace("/queue/", "/topic/")
        producer, subscriber = site.producer(), site.producer()
        assert send(producer, topic, b"x")["routed"] == "0"
        subscriber.subscribe(topic)
        receipt = send(producer, topic, b"y")
        assert receipt["routed"] == "1"
        assert subscriber.read()["message-id"] == receipt["message-id"]


class TestTranslation:
    @pytest.mark.parametrize("sender", VERSIONS)
    @pytest.mark.parametrize("receiver", VERSIONS)
    @MODES
    def test_names_and_headers_with_characters_that_are_escaped(
        self, site: Site, sender: str, receiver: str, mode: str
    ) -> None:
        queue = site.queue() + ":a"
        if sender != "1.0":
            queue += "\\b"
        headers = [("x:y" if sender != "1.0" else "x", "a:b")]
        if sender != "1.0" and receiver != "1.0":
            headers.append(("back\\slash", "\\c"))
        send(site.producer(sender), queue, b"\0body", headers)
        consumer = site.consumer(receiver)
        consumer.subscribe(queue, ack=mode)
        message = consumer.read()
        assert message.body == b"\0body"
        assert message["destination"] == queue
        if receiver != "1.0":
            for name, value in headers:
                assert message[name] == value
        if mode != "auto":
            receipted(consumer, "ACK", consumer.acknowledgement(message))

    def test_carriage_returns_reach_1_2_alone(self, site: Site) -> None:
        queue = site.queue()
        site.fill(queue, b"x", headers=[("cr", "a\rb")])
        site.fill(queue, b"x", headers=[("cr", "a\rb")])
        for version in ("1.2", "1.1"):
            consumer = site.consumer(version)
            consumer.subscribe(queue, ack="client", headers=[("prefetch-count", "1")])
            assert consumer.read()["cr"].replace("\r", "") == "ab"


class TestSelectors:
    def test_each_message_to_one_that_selects_it(self, site: Site) -> None:
        queue = site.queue()
        site.fill(queue, b"red", headers=[("color", "red")])
        site.fill(queue, b"none")
        site.fill(queue, b"blue", headers=[("color", "blue")])
        blue, red, rest = site.consumer(), site.consumer(), site.consumer()
        blue.subscribe(queue, headers=[("selector", "color = 'blue'")])
        assert blue.read().body == b"blue"
        site.silent(blue)
        red.subscribe(queue, headers=[("selector", "color IN ('red', 'pink')")])
        assert red.read().body == b"red"
        site.fill(queue, b"pink", headers=[("color", "pink")])
        assert red.read().body == b"pink"
        site.silent(red)
        rest.subscribe(queue)
        assert rest.read().body == b"none"
        site.silent(rest)

    def test_in_turn_with_those_that_take_anything(self, site: Site) -> None:
        queue = site.queue()
        even, anything = site.consumer(), site.consumer()
        even.subscribe(queue, headers=[("selector", "even = TRUE")])
        anything.subscribe(queue)
        for number, flag in enumerate(["true", "true", "true", "true", "false", "true"]):
            site.fill(queue, b"%d" % number, headers=[("even", flag)])
        # The one that was served longest ago is next, of those that take it at all.
        assert bodies(even.read_many(3)) == [b"0", b"2", b"5"]
        assert bodies(anything.read_many(3)) == [b"1", b"3", b"4"]

    @ALL
    def test_one_that_is_none(self, site: Site, version: str) -> None:
        consumer = site.consumer(version)
        consumer.frame("SUBSCRIBE", [("destination", site.queue()), ("id", "0"), ("selector", "a ="), ("receipt", "r")])
        consumer.expect_error("bad-value", frame="SUBSCRIBE", receipt_id="r")


class TestExclusive:
    @NEWER
    def test_the_first_one_gets_all_then_the_next(self, site: Site, version: str) -> None:
        queue = site.queue()
        plain, first, second = site.consumer(version), site.consumer(version), site.consumer(version)
        plain.subscribe(queue)
        first.subscribe(queue, ack="client-individual", headers=[("exclusive", "true")])
        second.subscribe(queue, headers=[("exclusive", "true")])
        site.fill(queue, *numbered(4))
        messages = first.read_many(4)
        assert bodies(messages) == numbered(4)
        site.silent(plain)
        site.silent(second)
        receipted(first, "ACK", first.acknowledgement(messages[0]))
        first.close()
        again = second.read_many(3)
        assert bodies(again) == numbered(3, 1)
        assert {message["redelivered"] for message in again} == {"true"}
        site.silent(plain)
        second.request("UNSUBSCRIBE", [("id", "0")])
        site.fill(queue, b"for all")
        assert plain.read().body == b"for all"

    def test_false_is_the_default(self, site: Site) -> None:
        queue = site.queue()
        consumers = [site.consumer(), site.consumer()]
        for consumer in consumers:
            consumer.subscribe(queue, headers=[("exclusive", "false")])
        site.fill(queue, *numbered(2))
        assert [bodies([consumer.read()]) for consumer in consumers] == [[b"0"], [b"1"]]


class TestGroups:
    def test_a_group_sticks_to_its_consumer_while_that_lives(self, site: Site) -> None:
        queue = site.queue()
        first, second = site.consumer(), site.consumer()
        for consumer in (first, second):
            consumer.subscribe(queue, ack="client-individual")
        for group in ("a", "b"):
            site.fill(queue, group.encode(), headers=[("group-id", group)])
        assert (first.read().body, second.read().body) == (b"a", b"b")
        for number in range(3):
            site.fill(queue, b"a%d" % number, headers=[("group-id", "a")])
        messages = first.read_many(3)
        assert bodies(messages) == [b"a0", b"a1", b"a2"]
        site.silent(second)
        first.close()
        again = second.read_many(4)
        assert bodies(again) == [b"a", b"a0", b"a1", b"a2"]
        third = site.consumer()
        third.subscribe(queue)
        site.fill(queue, b"a3", headers=[("group-id", "a")])
        assert second.read().body == b"a3"
        site.silent(third)

    def test_a_group_waits_for_its_consumer_and_others_pass(self, site: Site) -> None:
        queue = site.queue()
        first, second = site.consumer(), site.consumer()
        first.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "1")])
        second.subscribe(queue, ack="client-individual", headers=[("prefetch-count", "10")])
        site.fill(queue, b"a0", b"a1", headers=[("group-id", "a")])
        site.fill(queue, b"plain")
        message = first.read()
        assert message.body == b"a0"
        assert second.read().body == b"plain"
        site.silent(second)
        first.frame("ACK", first.acknowledgement(message))
        assert first.read().body == b"a1"


BAD_SENDS = [
    *[("persistent", value) for value in ("yes", "TRUE", "0", "")],
    *[("priority", value) for value in ("-1", "10", "high", "4.0", "")],
    *[
        (name, value)
        for name in ("ttl", "expires", "delay", "deliver-at")
        for value in ("-1", "soon", "1.5", "1e3", "")
    ],
    ("delay", str((1 << 53) + 1)),
    ("idempotency-key", "k" * 257),
]
BAD_SUBSCRIBES = [
    *[("prefetch-count", value) for value in ("-1", "many", "1.5", str(1 << 40))],
    ("activemq.prefetchSize", "x"),
    ("exclusive", "yes"),
    ("ack", "never"),
]
BAD_NACKS = [("delay", "-1"), ("delay", "soon"), ("delay", str(10**15)), ("requeue", "no"), ("requeue", "")]


class TestBadValues:
    @pytest.mark.parametrize(("name", "value"), BAD_SENDS)
    def test_of_send(self, connect: Connect, name: str, value: str) -> None:
        queue = queue_owned_by(1, 2)
        producer = connect()
        producer.publish(queue, b"x", [(name, value), ("receipt", "r")])
        error = producer.expect_error("bad-value", frame="SEND", receipt_id="r")
        assert name in error["message"]
        assert value[:20].encode() in error.body or name == "idempotency-key"
        consumer = connect()
        consumer.subscribe(queue)
        consumer.quiet()

    @pytest.mark.parametrize(("name", "value"), BAD_SUBSCRIBES)
    def test_of_subscribe(self, connect: Connect, name: str, value: str) -> None:
        consumer = connect()
        consumer.frame(
            "SUBSCRIBE", [("destination", queue_owned_by(1, 2)), ("id", "0"), (name, value), ("receipt", "r")]
        )
        error = consumer.expect_error("bad-value", frame="SUBSCRIBE", receipt_id="r")
        assert value.encode() in error.body

    @NEWER
    @pytest.mark.parametrize(("name", "value"), BAD_NACKS)
    def test_of_nack(self, connect: Connect, version: str, name: str, value: str) -> None:
        queue = queue_owned_by(1, 2)
        send(connect(), queue, b"x")
        consumer = connect(version)
        consumer.subscribe(queue, ack="client-individual")
        message = consumer.read()
        consumer.frame("NACK", [*consumer.acknowledgement(message), (name, value), ("receipt", "r")])
        error = consumer.expect_error("bad-value", frame="NACK", receipt_id="r")
        assert name in error["message"]
        # The NACK did nothing; the end of the connection gave it back.
        another = connect()
        another.subscribe(queue)
        assert another.read()["delivery-count"] == "2"
