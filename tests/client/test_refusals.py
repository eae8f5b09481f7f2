"""SENDs that are refused, or never confirmed, and that nobody waits for: told once, and neither lost nor shouted."""

from __future__ import annotations

import asyncio
import gc

import pytest

from common.client import BrokerError, ClientEvent, Refused, connect_sync
from tests.client.faults import LOOPS, Talk, run, serving
from tests.client.shared import on, queue, url_of
from tests.client.test_servers import client_of
from tests.harness.broker import Broker

BAD = {"delay": "soon"}


@pytest.mark.parametrize("loop", LOOPS)
def test_leaving_raises_the_first_refusal_that_nobody_has_asked_for(broker: Broker, loop: str) -> None:
    async def main() -> None:
        first, second = queue(), queue()
        with pytest.raises(BrokerError, match="delay was 'first'"):
            async with on(broker) as client:
                heard = await client.post(first, headers=BAD)
                with pytest.raises(BrokerError):
                    await heard
                await client.post(first, headers={"delay": "first"})
                other = await client.post(second, headers={"delay": "second"})
        # Only the first is raised: the other is still its future's to tell.
        with pytest.raises(BrokerError, match="delay was 'second'"):
            await other

    run(main, loop)


def test_what_somebody_has_asked_for_is_raised_no_more(broker: Broker) -> None:
    async def main() -> None:
        async with on(broker) as client:
            futures = [await client.post(queue(), headers=BAD) for _ in range(3)]
            await asyncio.gather(*futures, return_exceptions=True)

    run(main)


def test_with_events_a_refusal_is_one(broker: Broker) -> None:
    async def main() -> None:
        events: list[ClientEvent] = []
        name = queue()
        async with on(broker, on_event=events.append) as client:
            await client.post(name, headers=BAD)
            # Something is escaped in this one.
            await client.post(name, headers={**BAD, "colon": ":"})
            await client.send(name)
        told = [event for event in events if isinstance(event, Refused)]
        assert [event.destination for event in told] == [name, name]
        assert "delay was 'soon'" in str(told[0].error)

    run(main)


def test_an_exception_in_the_block_is_all_that_is_told() -> None:
    """Not one more for each of what was under way: `run` fails if asyncio reports any."""

    async def script(talk: Talk) -> None:
        await talk.log_in()
        await talk.gone()

    async def main() -> None:
        async with serving(script) as fake:
            with pytest.raises(KeyError, match="mine"):
                async with client_of(fake) as client:
                    for _ in range(5):
                        await client.post("/queue/a")
                    raise KeyError("mine")
        gc.collect()

    run(main)


def test_leaving_a_script_raises_it_too(broker: Broker) -> None:
    name = queue()
    with pytest.raises(BrokerError, match="delay was 'first'"), connect_sync(url_of(broker)) as client:
        with pytest.raises(BrokerError):
            client.post(name, headers=BAD).result()
        assert client.post(name, headers=BAD).exception() is not None
        client.post(name, headers={"delay": "first"})
        client.post(name, headers={"delay": "second"})
        client.send(name)


def test_leaving_a_script_otherwise_raises_nothing_more(broker: Broker) -> None:
    name = queue()
    events: list[ClientEvent] = []
    with connect_sync(url_of(broker), on_event=events.append) as client:
        client.post(name, headers=BAD)
        client.send(name)
    assert [event.destination for event in events if isinstance(event, Refused)] == [name]
    with pytest.raises(KeyError, match="mine"), connect_sync(url_of(broker)) as client:
        client.post(name, headers=BAD)
        client.send(name)
        raise KeyError("mine")
