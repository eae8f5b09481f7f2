"""stomp.py, stompman and stompjs on one topic, each on a worker of its own: everybody understands everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack

import pytest

from tests.harness.broker import Broker
from tests.interop.stomp_py import connect_stomp_py
from tests.interop.stompjs import Node, StompJs, require_node
from tests.interop.stompman_client import stompman_on

ROUNDS = 30


@pytest.mark.parametrize("versions", [("1.0", "1.1"), ("1.1", "1.0"), ("1.2", "1.2")], ids="-".join)
def test_the_three_clients_talk_to_each_other(
    versions: tuple[str, str], cluster: Broker, topic: Callable[[], str]
) -> None:
    require_node()

    async def run() -> None:
        name = topic()
        places = [number % cluster.workers for number in range(3)]
        async with AsyncExitStack() as async_stack:
            stack = async_stack.enter_context(ExitStack())
            node = stack.enter_context(Node())
            man = await async_stack.enter_async_context(stompman_on(cluster.address, places[0]))
            py = connect_stomp_py(cluster.address, places[1], versions[0])
            stack.callback(py.close)
            js = StompJs.on(node, cluster.address, places[2], versions[1])
            stack.callback(js.close)
            subscription = await man.subscribe(name)
            py.subscribe(name)
            js.subscribe(name)
            for number in range(ROUNDS):
                # stompjs escapes nothing in 1.1, so what all of them agree on is free of colons and backslashes.
                headers = {"number": str(number), "emoji": "🐎"}
                await man.send(b"man\0%d" % number, name, headers=headers)
                py.send(name, b"py\0%d" % number, headers=dict(headers))
                js.send(name, b"js\0%d" % number, headers, binary=True)
            wanted = [b"%s\0%d" % (who, number) for number in range(ROUNDS) for who in (b"man", b"py", b"js")]
            # Each SEND waited for its RECEIPT, yet workers may be passed on different ways: order holds per sender.
            for bodies in (await man.received(len(wanted)), py.bodies(len(wanted)), js.bodies(len(wanted))):
                assert sorted(bodies) == sorted(wanted)
                for who in (b"man", b"py", b"js"):
                    assert [each for each in bodies if each.startswith(who)] == [
                        each for each in wanted if each.startswith(who)
                    ]
            numbers = [str(number) for number in range(ROUNDS) for _ in range(3)]
            for headers in (
                [message.headers for message in man.messages],
                [frame.headers for frame in py.told("message")],
                [told.headers for told in js.told("message")],
            ):
                assert sorted(each["number"] for each in headers) == sorted(numbers)
                assert {each["emoji"] for each in headers} == {"🐎"}
            await subscription.unsubscribe()

    asyncio.run(run())
