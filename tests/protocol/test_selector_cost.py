"""What the selectors of a connection cost is given back with their subscriptions, to queues and topics alike."""

from __future__ import annotations

import pytest

from tests.harness.broker import Broker
from tests.harness.wire import Wire

SELECTOR = " OR ".join(f"kind = 'k{number}'" for number in range(60))
assert 4096 / 10 < len(SELECTOR) < 4096


@pytest.mark.parametrize(
    ("destination", "durable"),
    [("/queue/selected", False), ("/topic/selected", False), ("/topic/selected", True)],
)
def test_selectors_come_and_go(broker: Broker, destination: str, durable: bool) -> None:
    name = {"durable": "true", "durable-name": "selected"} if durable else {}
    with Wire(broker.address) as client:
        client.connect()
        for _ in range(10):
            client.request("SUBSCRIBE", {"id": "1", "destination": destination, "selector": SELECTOR, **name}.items())
            client.request("UNSUBSCRIBE", [("id", "1")])
        if durable:
            client.request("UNSUBSCRIBE", {"durable": "true", "id": "1", **name}.items())
