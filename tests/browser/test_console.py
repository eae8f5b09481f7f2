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
