"""Transactions over queues of several owners, and topics: all of it with COMMIT, nothing of it with ABORT."""

from __future__ import annotations

import pytest

from tests.harness.wire import VERSIONS, Frame, Wire
from tests.protocol.site import Site, bodies, receipted, send

ALL = pytest.mark.parametrize("version", VERSIONS)
NEWER = pytest.mark.parametrize("version", VERSIONS[1:])
IN = ("transaction", "t")


def topic_of(queue: str) -> str:
    return queue.replace("/queue/", "/topic/")


def subscribed(site: Site, *destinations: str) -> list[Wire]:
    """A reader of each."""
    readers = [site.consumer() for _ in destinations]
    for reader, destination in zip(readers, destinations, strict=True):
        reader.subscribe(destination)
    return readers


def taken(wire: Wire, queue: str, count: int, *, mode: str = "client-individual") -> list[Frame]:
    wire.subscribe(queue, ack=mode)
    return wire.read_many(count)


class TestCommit:
    @ALL
    def test_everything_at_once(self, site: Site, version: str) -> None:
        one, two, source = site.queues(3)
        site.fill(source, b"a", b"b", b"c")
        readers = subscribed(site, one, two, topic_of(one))
        client = site.consumer(version)
        a, b, c = taken(client, source, 3)
        client.request("BEGIN", [IN])
        for number in range(3):
            client.publish(one, b"one %d" % number, [IN])
            client.publish(two, b"two %d" % number, [IN])
            client.publish(topic_of(one), b"topic %d" % number, [IN])
        client.request("ACK", [*client.acknowledgement(a), IN])
        if version == "1.0":
            client.request("ACK", [*client.acknowledgement(c), IN])
        else:
            client.request("NACK", [*client.acknowledgement(c), IN, ("requeue", "false")])
        site.silent(client)
        for reader in readers:
            site.silent(reader)
        client.request("COMMIT", [IN])
        for reader, name in zip(readers, (b"one", b"two", b"topic"), strict=True):
            assert bodies(reader.read_many(3)) == [b"%b %d" % (name, number) for number in range(3)]
            site.silent(reader)
        if version != "1.0":
            (dead,) = subscribed(site, f"/queue/dlq.{source.removeprefix('/queue/')}")
            assert dead.read().body == b"c"
        client.acknowledge(b)
        client.close()
        site.gone(client)
        (reader,) = subscribed(site, source)
        site.silent(reader)

    @NEWER
    def test_a_nack_gives_back_with_the_commit_not_before(self, site: Site, version: str) -> None:
        queue = site.queue()
        site.fill(queue, b"x")
        client, other = site.consumer(version), site.consumer()
        (message,) = taken(client, queue, 1)
        other.subscribe(queue)
        client.request("BEGIN", [IN])
        client.request("NACK", [*client.acknowledgement(message), IN])
        site.silent(other)
        client.request("COMMIT", [IN])
        again = other.read()
        assert (again.body, again["redelivered"], again["delivery-count"]) == (b"x", "true", "2")

    @ALL
    def test_a_cumulative_ack(self, site: Site, version: str) -> None:
        queue = site.queue()
        site.fill(queue, b"a", b"b", b"c")
        client = site.consumer(version)
        messages = taken(client, queue, 3, mode="client")
        client.request("BEGIN", [IN])
        client.request("ACK", [*client.acknowledgement(messages[1]), IN])
        client.request("COMMIT", [IN])
        client.close()
        site.gone(client)
        (reader,) = subscribed(site, queue)
        assert reader.read().body == b"c"
        site.silent(reader)

    @ALL
    def test_the_order_is_that_of_the_commits(self, site: Site, version: str) -> None:
        one, two = site.queues()
        readers = subscribed(site, one, two)
        client = site.producer(version)
        client.request("BEGIN", [("transaction", "late")])
        client.request("BEGIN", [("transaction", "early")])
        for name in ("late", "early"):
            for queue in (one, two):
                client.publish(queue, name.encode(), [("transaction", name)])
        for queue in (one, two):
            client.publish(queue, b"first")
        client.request("COMMIT", [("transaction", "early")])
        client.request("COMMIT", [("transaction", "late")])
        for queue in (one, two):
            client.publish(queue, b"last")
        for reader in readers:
            assert bodies(reader.read_many(4)) == [b"first", b"early", b"late", b"last"]

    def test_many(self, site: Site) -> None:
        queues = site.queues(4)
        readers = subscribed(site, *queues)
        client = site.producer()
        for number in range(20):
            client.frame("BEGIN", [("transaction", str(number))])
            for queue in queues:
                client.publish(queue, b"%d" % number, [("transaction", str(number))])
            client.frame("COMMIT", [("transaction", str(number)), ("receipt", str(number))])
        for number in range(20):
            client.expect("RECEIPT", receipt_id=str(number))
        for reader in readers:
            assert bodies(reader.read_many(20)) == [b"%d" % number for number in range(20)]
            site.silent(reader)

    @ALL
    def test_an_idempotency_key_counts_in_it(self, site: Site, version: str) -> None:
        one, two = site.queues()
        readers = subscribed(site, one, two)
        client = site.producer(version)
        for _ in range(2):
            client.request("BEGIN", [IN])
            for queue in (one, two):
                client.publish(queue, b"once", [IN, ("idempotency-key", "k")])
            client.request("COMMIT", [IN])
        for reader in readers:
            assert reader.read().body == b"once"
            site.silent(reader)


class TestAbort:
    @ALL
    @pytest.mark.parametrize("mode", ["client", "client-individual"])
    def test_restores_what_was_settled(self, site: Site, version: str, mode: str) -> None:
        queue, target = site.queues()
        site.fill(queue, b"a", b"b", b"c")
        (reader,) = subscribed(site, target)
        client = site.consumer(version)
        messages = taken(client, queue, 3, mode=mode)
        client.request("BEGIN", [IN])
        client.publish(target, b"never", [IN])
        client.request("ACK", [*client.acknowledgement(messages[1]), IN])
        if version != "1.0":
            client.request("NACK", [*client.acknowledgement(messages[2]), IN])
        client.request("ABORT", [IN])
        # They are still this consumer's, which may settle them now, one by one or all at once.
        site.silent(client)
        client.acknowledge(messages[1])
        client.close()
        site.gone(client)
        (rest,) = subscribed(site, queue)
        left = [b"c"] if mode == "client" else [b"a", b"c"]
        assert [(m.body, m["delivery-count"]) for m in rest.read_many(len(left))] == [(body, "2") for body in left]
        site.silent(rest)
        site.silent(reader)

    @ALL
    @pytest.mark.parametrize("end", ["disconnect", "close", "error"])
    def test_what_is_open_at_the_end_is_aborted(self, site: Site, version: str, end: str) -> None:
        queue, target = site.queues()
        site.fill(queue, b"a", b"b")
        (reader,) = subscribed(site, target)
        client = site.consumer(version)
        messages = taken(client, queue, 2)
        client.request("BEGIN", [IN])
        client.publish(target, b"never", [IN])
        client.request("ACK", [*client.acknowledgement(messages[0]), IN])
        if end == "disconnect":
            client.request("DISCONNECT")
        elif end == "error":
            client.frame("COMMIT", [("transaction", "other")])
            client.expect_error("unknown-transaction")
        client.close()
        site.gone(client)
        (rest,) = subscribed(site, queue)
        assert [(m.body, m["delivery-count"]) for m in rest.read_many(2)] == [(b"a", "2"), (b"b", "2")]
        site.silent(reader)

    @ALL
    def test_unsubscribed_in_between(self, site: Site, version: str) -> None:
        """What went back with the subscription is another's: neither COMMIT nor ABORT can touch it any more."""
        queue, target = site.queues()
        for end in ("COMMIT", "ABORT"):
            site.fill(queue, end.encode())
            client, (reader,) = site.consumer(version), subscribed(site, target)
            (message,) = taken(client, queue, 1)
            client.request("BEGIN", [IN])
            client.publish(target, b"sent", [IN])
            client.request("ACK", [*client.acknowledgement(message), IN])
            receipted(client, "UNSUBSCRIBE", [("id", "0")])
            client.request(end, [IN])
            if end == "COMMIT":
                assert reader.read().body == b"sent"
            reader.close()
            site.gone(reader)
            if end == "ABORT":
                (other,) = subscribed(site, queue)
                assert other.read().body == b"ABORT"

    @ALL
    def test_it_can_be_begun_again(self, site: Site, version: str) -> None:
        queue = site.queue()
        (reader,) = subscribed(site, queue)
        client = site.producer(version)
        client.request("BEGIN", [IN])
        client.publish(queue, b"never", [IN])
        client.request("ABORT", [IN])
        client.request("BEGIN", [IN])
        client.publish(queue, b"now", [IN])
        client.request("COMMIT", [IN])
        send(client, queue, b"end")
        assert bodies(reader.read_many(2)) == [b"now", b"end"]
