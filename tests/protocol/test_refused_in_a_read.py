"""Of what one read brings, nothing counts that comes after what ended the connection: refused there and then, or a
DISCONNECT."""

from __future__ import annotations

import pytest

from tests.protocol.site import Site, bodies, send


def frame(command: str, *headers: str) -> bytes:
    return "\n".join((command, *headers, "\n\0")).encode()


def committed_over_all(site: Site) -> bytes:
    """BEGIN to COMMIT, after which the rest of the read has to wait."""
    sends = [frame("SEND", f"destination:{each}", "transaction:t") for each in (*site.queues(), "/topic/t")]
    return b"".join((frame("BEGIN", "transaction:t"), *sends, frame("COMMIT", "transaction:t")))


class TestAfterARefusal:
    @pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-a-commit"])
    def test_a_subscription_takes_nothing(self, site: Site, waits: bool) -> None:
        few, queue = site.queue("few"), site.queue()
        site.fill(few, b"1", b"2", b"3")
        client = site.producer()
        client.send(
            (committed_over_all(site) if waits else b"")
            + frame("SEND", f"destination:{few}")
            + frame("SUBSCRIBE", "id:1", f"destination:{queue}", "ack:client-individual")
        )
        client.expect_error("queue-full")
        client.close()
        site.gone(client)
        consumer = site.consumer()
        consumer.subscribe(queue)
        messages = [b"%d" % number for number in range(6)]
        site.fill(queue, *messages)
        assert bodies(consumer.read_many(6)) == messages

    @pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-a-commit"])
    def test_nothing_is_sent(self, site: Site, waits: bool) -> None:
        if site.place.owner != site.place.producer:
            pytest.skip("the refusal comes from another worker, later than the rest of the read")
        few, queue = site.queue("few"), site.queue()
        site.fill(few, b"1", b"2", b"3")
        client = site.producer()
        client.send(
            (committed_over_all(site) if waits else b"")
            + frame("SEND", f"destination:{few}")
            + frame("BEGIN", "transaction:u")
            + frame("SEND", f"destination:{queue}")
        )
        client.expect_error("queue-full")
        client.close()
        site.gone(client)
        send(site.producer(), queue, b"end")
        consumer = site.consumer()
        consumer.subscribe(queue)
        assert consumer.read().body == b"end"


@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "after-a-commit"])
def test_nothing_is_sent_after_disconnect(site: Site, waits: bool) -> None:
    queue = site.queue()
    client = site.producer()
    client.send(
        (committed_over_all(site) if waits else b"")
        + frame("DISCONNECT", "receipt:bye")
        + frame("SEND", f"destination:{queue}")
    )
    client.expect("RECEIPT", receipt_id="bye")
    client.expect_closed()
    site.gone(client)
    send(site.producer(), queue, b"end")
    consumer = site.consumer()
    consumer.subscribe(queue)
    assert consumer.read().body == b"end"
