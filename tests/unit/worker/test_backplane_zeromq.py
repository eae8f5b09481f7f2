"""What only the ZeroMQ backplane has to prove: its sockets, its endpoints, strangers on them."""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.unit.worker.mesh import Mesh, Owner, batch, run_in_mesh, zeromq
from worker.backplane.interface import Member
from worker.backplane.wire import COALESCED_BYTES, Peer, WireError, assemble, pack, pack_batch, pieces_of
from worker.backplane.zeromq import ZmqBackplane


def test_room_on_a_link_is_noticed_without_the_timer() -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        for number in range(100):
            one.publish(b"/topic/a", batch(b"%d " % number + b"x" * 200_000))
            one.publish(b"/topic/b", batch(b"%d " % number + b"x" * 200_000))
        await mesh.until(lambda: len(two.batches) == 200)
        assert len(one.said("blocked")) == 2

    run_in_mesh(partial(zeromq, retry_interval=3600.0), scenario)


def test_what_a_dead_sibling_had_sent_is_still_read() -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        one.subscribe(b"/topic/a")
        await one.routed()
        # Each fills a turn of reading with its pieces, so most of them are unread when the roster changes.
        for number in range(4):
            two.publish(b"/topic/a", batch(b"%d " % number + b"x" * (1 << 20)))
        await asyncio.sleep(0)
        two.close()
        mesh.drop(two)
        await mesh.until(lambda: len(one.batches) == 4)
        assert one.said("lost") == [(1, 2)]

    run_in_mesh(partial(zeromq, high_water_mark=64), scenario)


def test_stranger_on_an_endpoint_cannot_stop_the_reading() -> None:
    async def scenario(mesh: Mesh) -> None:
        failures: list[Any] = []
        mesh.loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        path = os.path.join(mesh.directory, "stranger")
        with zmq.Context() as context, context.socket(zmq.XPUB) as stranger:
            stranger.bind(f"ipc://{path}")
            node = mesh.node(0)
            node.set_roster([node.member, Member(1, 7, f"ipc://{path}")])
            node.subscribe(b"/topic/a")
            wanted = {b"\x01i0/1\0", b"\x01t/topic/a\0"}
            while wanted:
                wanted.discard(await asyncio.to_thread(stranger.recv))
            for payload in (b"\xc1", b"", b"\x91", pack("x"), pack([["ID:"]]), pack([["ID:", []]]) + b"x"):
                stranger.send(b"t/topic/a\0" + payload)
            stranger.send(b"i0/1\0" + pack([[1, 7, 0, "hello"]]))
            await mesh.until(lambda: node.said("message"))
            assert node.said("message") == [(1, "hello")] and node.batches == []
            assert [type(failure) for failure in failures] == [WireError] * 6
            stranger.close(linger=0)
        os.unlink(path)

    run_in_mesh(zeromq, scenario)


def test_pieces_whose_rest_will_not_come_are_not_kept() -> None:
    topic = b"t/topic/a\0"
    pieces = list(pieces_of(pack_batch(batch(b"x" * COALESCED_BYTES, b"y")), Peer(1, 7)))

    async def scenario(mesh: Mesh) -> None:
        path = os.path.join(mesh.directory, "sibling")
        with zmq.Context() as context, context.socket(zmq.XPUB) as sibling:
            sibling.bind(f"ipc://{path}")
            node = mesh.node(0)
            roster = [node.member, Member(1, 7, f"ipc://{path}")]

            async def hears(*notifications: bytes) -> None:
                wanted = set(notifications)
                while wanted:
                    wanted.discard(await asyncio.to_thread(sibling.recv))

            async def says(piece: bytes) -> None:
                sibling.send(assemble(topic, [piece]))
                told = len(node.said("message"))
                sibling.send(b"i0/1\0" + pack([[1, 7, 0, "after it"]]))
                await mesh.until(lambda: len(node.said("message")) > told)

            node.set_roster(roster)
            node.subscribe(b"/topic/a")
            node.subscribe_prefix(b"/topic/")
            await hears(b"\x01i0/1\0", b"\x01" + topic, b"\x01t/topic/")
            await says(pieces[0])
            # It is still subscribed to.
            node.unsubscribe(b"/topic/a")
            await hears(b"\0" + topic)
            await says(pieces[1])
            assert len(node.batches) == 1 and node.items(b"/topic/a")[1:] == [b"y"]
            await says(pieces[0])
            node.unsubscribe_prefix(b"/topic/")
            node.subscribe(b"/topic/a")
            await hears(b"\0t/topic/", b"\x01" + topic)
            await says(pieces[1])
            assert len(node.batches) == 1
            await says(pieces[0])
            node.set_roster([node.member])
            await hears(b"\0i0/1\0", b"\0" + topic)
            node.set_roster(roster)
            await hears(b"\x01i0/1\0", b"\x01" + topic)
            await says(pieces[1])
            assert len(node.batches) == 1
            sibling.close(linger=0)
        os.unlink(path)

    run_in_mesh(zeromq, scenario)


def test_close_does_not_wait_for_a_link_that_is_stuck() -> None:
    async def scenario(mesh: Mesh) -> None:
        (one,) = await mesh.join(0)
        with zmq.Context() as context, context.socket(zmq.SUB) as stuck:
            stuck.set(zmq.RCVHWM, 1)
            stuck.set(zmq.SUBSCRIBE, b"t")
            stuck.connect(one.member.endpoint)
            await mesh.until(lambda: one.interested(b"/topic/a"))
            while not one.said("blocked"):
                one.publish(b"/topic/a", batch(b"x" * 300_000))
                await asyncio.sleep(0)
            started = time.monotonic()
            one.close()
            assert time.monotonic() - started < 2.0
            stuck.close(linger=0)

    run_in_mesh(zeromq, scenario)


def endpoint(slot: int, incarnation: int, directory: str) -> str:
    async def bind() -> str:
        loop = asyncio.get_running_loop()
        backplane = ZmqBackplane(
            loop,
            slot,
            incarnation,
            directory,
            Owner(),
            high_water_mark=1,
            retry_interval=1.0,
            kept_bytes=1,
            kept_total_bytes=1,
        )
        try:
            return backplane.bind()
        finally:
            backplane.close()

    return asyncio.run(bind())


def test_no_endpoint_is_used_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lives = [(0, 1), (0, 2), (1, 1), (11, 1), (1, 11)]
    assert len({endpoint(*life, ".") for life in lives}) == len(lives)


def test_longest_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = len(endpoint(0, 1, ".").removeprefix("ipc://./"))
    directory = "d" * (107 - name - 1)
    for path in (directory, directory + "d"):
        os.mkdir(path)
    assert len(endpoint(0, 1, directory)) == len("ipc://") + 107
    with pytest.raises(OSError, match=r"at most 107 bytes; choose a shorter broker\.runtime_dir"):
        endpoint(0, 1, directory + "d")
