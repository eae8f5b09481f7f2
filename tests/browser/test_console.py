"""The console in a real browser: it shows what happens, and does what its button says."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.browser.chromium import Page, find_chromium, open_page
from tests.cluster.conftest import ConnectOn
from tests.cluster.conftest import on as on
from tests.conftest import StartBroker
from tests.harness.broker import Broker

MANAGED = {"listener": [{"bind": "127.0.0.1:0"}], "management": {"bind": "127.0.0.1:0"}}


@pytest.fixture
def chromium() -> str:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    return path


def console_of(broker: Broker) -> str:
    return f"http://{broker.wait_event('management.bound')['address']}/"


async def shows(page: Page, section: str, text: str) -> None:
    await page.wait(f"document.getElementById({json.dumps(section)}).textContent.includes({json.dumps(text)})")


def test_a_connection_appears_and_can_be_closed(start_broker: StartBroker, on: ConnectOn, chromium: str) -> None:
    broker = start_broker(workers=2, config=MANAGED)

    async def watch() -> None:
        async with open_page(chromium, console_of(broker)) as page:
            await page.wait("document.getElementById('status').textContent === 'ready'")
            await page.wait("document.querySelectorAll('#workers tr').length === 2")
            assert await page.run("document.querySelectorAll('#connections tr').length") == 0
            # In a thread: the client waits for its answers, and the page must not wait with it.
            wire = await asyncio.to_thread(on, broker, 1)
            # Names that clients choose are text to the page, never markup.
            name = "/topic/<img src=x onerror=document.title='owned'>"
            await asyncio.to_thread(wire.subscribe, name)
            await shows(page, "connections", wire.session)
            await shows(page, "connections", wire.peer)
            await shows(page, "destinations", name)
            assert await page.run("document.title") == "Stampede"
            await page.run("document.querySelector('#connections button').click()")
            await shows(page, "detail-subscriptions", name)
            await page.run("document.getElementById('detail-end').click()")
            await asyncio.to_thread(wire.expect_error, "closed-by-operator")
            await asyncio.to_thread(wire.close)
            await shows(page, "detail-note", "Closed.")
            await page.wait("document.querySelectorAll('#connections tr').length === 0")
            await shows(page, "ends", "closed-by-operator")
            assert page.faults == []

    asyncio.run(watch())


def test_a_queue_appears_and_its_dead_letters_go_back(start_broker: StartBroker, on: ConnectOn, chromium: str) -> None:
    broker = start_broker(workers=2, config=MANAGED)
    name = "/queue/<b>of: 1%2F"

    def reject() -> None:
        wire = on(broker, 1)
        wire.request("SEND", [("destination", name)], b"poison")
        wire.subscribe(name, ack="client")
        wire.acknowledge(wire.expect("MESSAGE"), "NACK", [("requeue", "false")])
        wire.request("UNSUBSCRIBE", [("id", "0")])
        wire.subscribe("/queue/other")

    async def watch() -> None:
        async with open_page(chromium, console_of(broker)) as page:
            await asyncio.to_thread(reject)
            dead = "/queue/dlq." + name.removeprefix("/queue/")
            await shows(page, "queues", dead)
            row = f"[...document.querySelectorAll('#queues tr')].find((row) => row.dataset.key === {json.dumps(dead)})"
            await page.wait(f"{row}.querySelector('[data-name=Messages]').textContent === '1'")
            await page.run(f"{row}.querySelector('button').click()")
            await page.wait("!document.getElementById('queue-requeue').disabled")
            await page.run("document.getElementById('queue-requeue').click()")
            await shows(page, "queue-message", "1 sent back.")
            await page.run("document.getElementById('queue-done').click()")
            row = row.replace(json.dumps(dead), json.dumps(name))
            await page.wait(f"{row}.querySelector('[data-name=Messages]').textContent === '1'")
            await page.run(f"{row}.querySelector('button').click()")
            await page.wait("!document.getElementById('queue-purge').disabled")
            await page.run("document.getElementById('queue-purge').click()")
            # Once is not enough.
            await shows(page, "queue-purge", "Yes, throw all away")
            await page.run("document.getElementById('queue-purge').click()")
            await shows(page, "queue-message", "1 thrown away.")
            await page.run("document.getElementById('queue-done').click()")
            row = row.replace(json.dumps(name), json.dumps("/queue/other"))
            await page.run(f"{row}.querySelector('button').click()")
            await shows(page, "queue-consumers", "worker 1")
            assert await page.run("document.querySelectorAll('#queues b').length") == 0
            assert page.faults == []

    asyncio.run(watch())
