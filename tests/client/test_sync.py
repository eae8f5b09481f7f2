"""`connect_sync`: the same, for scripts and threads."""

from __future__ import annotations

import threading
import time

import pytest

from common.client import BrokerError, ClientClosed, ConnectFailed, connect_sync
from tests.client.shared import queue, url_of
from tests.conftest import BEATING
from tests.harness.broker import Broker
from tests.harness.wire import TIMEOUT


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name == "stampede client"}


def test_what_a_script_does(broker: Broker) -> None:
    name = queue()
    with connect_sync(url_of(broker)) as client:
        assert client.send(name, {"id": 0}).routed == 1
        futures = [client.post(name, {"id": number}) for number in range(1, 50)]
        assert len({future.result(TIMEOUT).message_id for future in futures}) == 49
        with client.subscribe(name, browse=True) as browsed:
            assert [message.json()["id"] for message in browsed] == list(range(50))
        with client.subscribe(name, ack="client-individual") as subscription:
            for expected, message in enumerate(subscription):
                assert message.json() == {"id": expected}
                if expected == 48:
                    message.nack(requeue=False, receipt=True)
                    continue
                message.ack(receipt=True)
                if expected == 49:
                    break
            with pytest.raises(TimeoutError):
                subscription.get(timeout=0.05)
        with client.subscribe(f"/queue/dlq.{name.removeprefix('/queue/')}", ack="client") as dead:
            message = dead.get(TIMEOUT)
            with client.transaction() as transaction:
                transaction.send(name, b"again")
                message.ack(transaction=transaction)
            assert transaction.receipt is not None
        with pytest.raises(RuntimeError), client.transaction() as transaction:
            transaction.send(name, b"never")
            raise RuntimeError
        with client.subscribe(name) as subscription:
            assert subscription.get(TIMEOUT).body == b"again"
        with pytest.raises(TypeError, match="on_message"):
            client.subscribe(name, on_message=print)
        with pytest.raises(BrokerError):
            client.send(name, headers={"priority": "99"})
        assert client.send(name, b"").routed == 1
    assert not threads()
    with pytest.raises(ClientClosed):
        client.subscribe(name)


def test_request_and_reply_between_threads(broker: Broker) -> None:
    name = queue()
    with connect_sync(url_of(broker)) as client, client.subscribe(name, ack="client-individual") as asked:

        def serve() -> None:
            for _ in range(3):
                message = asked.get(TIMEOUT)
                message.reply(message.text.upper())
                message.ack()

        server = threading.Thread(target=serve)
        server.start()
        assert [client.request(name, text).text for text in ("a", "b", "c")] == ["A", "B", "C"]
        server.join()


def test_heart_beats_go_on_while_the_script_computes(broker: Broker) -> None:
    # Twice the interval may pass before the broker gives a silent client up: the beats have half a second to be late.
    with connect_sync(url_of(broker, BEATING), heart_beat=0.5, backoff=None) as client:
        time.sleep(2.0)
        assert client.connected
        assert client.send(queue()).routed == 1


def test_who_cannot_connect_says_so_and_leaves_nothing() -> None:
    with pytest.raises(ConnectFailed, match=r"refused by 127\.0\.0\.1:1"):
        connect_sync("stomp://127.0.0.1:1")
    assert not threads()


def test_closing_twice_and_leaving_by_an_exception(broker: Broker) -> None:
    client = connect_sync(url_of(broker))
    client.close()
    client.close()
    with pytest.raises(KeyError), connect_sync(url_of(broker)) as client:
        client.post(queue(), b"")
        raise KeyError
    assert not threads()


def test_a_prefetch_that_bounds_nothing_is_a_mistake(broker: Broker) -> None:
    with connect_sync(url_of(broker)) as client, pytest.raises(ValueError, match="prefetch was 1 with ack='auto'"):
        client.subscribe(queue(), prefetch=1)


def test_what_did_not_come_is_said(broker: Broker) -> None:
    name = queue()
    with connect_sync(url_of(broker)) as client, client.subscribe(queue()) as subscription:
        with pytest.raises(
            TimeoutError, match=f"no message from {subscription.subscription.destination} within 0.05 s"
        ):
            subscription.get(timeout=0.05)
        with pytest.raises(TimeoutError, match=f"no reply within 0.05 s for a request to {name}"):
            client.request(name, timeout=0.05)
