"""A process with nothing but a backplane, driven over a socketpair: `python -m tests.cluster.backplane_peer FD ...`.

A command is a msgpack array `[number, name, argument, ...]`, answered with `[number, result]` when it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import msgpack
import uvloop

from worker.backplane.interface import Batch, Member
from worker.backplane.zeromq import ZmqBackplane


class Peer:
    """The backplane's owner. Items are numbered per publisher and destination, so it can tell what is missing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slot: int, incarnation: int, directory: str, mark: int) -> None:
        self.loop = loop
        self.backplane = ZmqBackplane(
            loop,
            slot,
            incarnation,
            directory,
            self,
            high_water_mark=mark,
            retry_interval=0.02,
            kept_bytes=1 << 20,
            kept_total_bytes=4 << 20,
        )
        self.slot = slot
        self.prefix = b"%d.%d" % (slot, incarnation)
        self.published: Counter[bytes] = Counter()
        self.received: Counter[bytes] = Counter()
        self.expected: Counter[tuple[bytes, bytes]] = Counter()
        self.disorder: list[list[bytes]] = []
        self.blocked: list[bytes] = []
        self.unblocked: list[bytes] = []
        self.lost: list[list[int]] = []
        self.siblings: list[int] = []
        self.joined = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.waiting: dict[bytes, tuple[int, asyncio.Future[str]]] = {}

    # --- events

    def on_batch(self, destination: bytes, batch: Batch) -> None:
        self.received[destination] += len(batch.items)
        key = (destination, batch.id_prefix)
        for item in batch.items:
            number = int(item[:10])
            if number != self.expected[key]:
                self.disorder.append([destination, batch.id_prefix, b"%d %d" % (self.expected[key], number)])
            self.expected[key] = number + 1
        self._round_over(destination, "received")

    def on_round_end(self) -> None: ...

    def on_message(self, slot: int, message: Any) -> None:
        what, destination = message
        if what == "publish":
            # As in the worker, nobody publishes here before it joined.
            task = self.loop.create_task(self._publish_for(slot, destination))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self._round_over(destination, what)

    def on_blocked(self, destination: bytes) -> None:
        self.blocked.append(destination)
        self.room.clear()

    def on_unblocked(self, destination: bytes) -> None:
        self.unblocked.append(destination)
        if len(self.unblocked) == len(self.blocked):
            self.room.set()

    def on_sibling_lost(self, slot: int, incarnation: int) -> None:
        self.lost.append([slot, incarnation])
        for destination, (publisher, _) in list(self.waiting.items()):
            if publisher == slot:
                self._round_over(destination, "abandoned")

    # --- commands

    def roster(self, members: list[list[Any]]) -> None:
        self.siblings = [slot for slot, _, _ in members if slot != self.slot]
        self.backplane.set_roster([Member(*member) for member in members])

    async def join(self) -> None:
        await self._done(self.backplane.when_joined)
        self.joined.set()

    async def subscribe(self, *destinations: bytes) -> None:
        for destination in destinations:
            self.backplane.subscribe(destination)
        await self.barrier()

    async def barrier(self) -> None:
        await self._done(self.backplane.barrier)

    async def publish(self, destination: bytes, batches: int, per_turn: int, polite: bool) -> None:
        """16 items of 100 bytes a batch; `polite` pauses while the destination is blocked, as the worker does."""
        for number in range(batches):
            if polite:
                await self.room.wait()
            self._publish(destination, 16)
            if number % per_turn == 0:
                await asyncio.sleep(0)

    def state(self) -> dict[str, Any]:
        return {
            "received": dict(self.received),
            "disorder": self.disorder[:5],
            "blocked": self.blocked,
            "unblocked": self.unblocked,
            "lost": self.lost,
        }

    async def finish(self) -> None:
        await self._done(self.backplane.finish)

    async def rounds(self, rounds: int, lanes: int) -> dict[str, int]:
        """Subscribe, wait for the barrier, have a sibling publish; counts what came of it."""
        counts: Counter[str] = Counter()
        numbers = iter(range(rounds))

        async def lane() -> None:
            for number in numbers:
                counts[await self._round(number)] += 1

        await asyncio.gather(*(lane() for _ in range(lanes)))
        return dict(counts)

    # --- how

    async def _round(self, number: int) -> str:
        destination = b"/topic/%s/%d" % (self.prefix, number)
        by_prefix = number % 3 == 0
        if by_prefix:
            self.backplane.subscribe_prefix(destination)
        else:
            self.backplane.subscribe(destination)
        await self.barrier()
        if not self.siblings:
            return "alone"
        publisher = self.siblings[number % len(self.siblings)]
        over: asyncio.Future[str] = self.loop.create_future()
        self.waiting[destination] = publisher, over
        self.backplane.send(publisher, ["publish", destination])
        result = await over
        if by_prefix:
            self.backplane.unsubscribe_prefix(destination)
        else:
            self.backplane.unsubscribe(destination)
        return result

    def _round_over(self, destination: bytes, result: str) -> None:
        _, over = self.waiting.pop(destination, (0, None))
        if over is not None:
            over.set_result(result)

    async def _publish_for(self, slot: int, destination: bytes) -> None:
        await self.joined.wait()
        if self.backplane.interested(destination):
            self._publish(destination, 1)
        else:
            self.backplane.send(slot, ["missed", destination])

    def _publish(self, destination: bytes, count: int) -> None:
        start = self.published[destination]
        self.published[destination] += count
        items = [b"%010d" % number + b"x" * 90 for number in range(start, start + count)]
        self.backplane.publish(destination, Batch(self.prefix, items))

    async def _done(self, method: Any) -> None:
        called = self.loop.create_future()
        method(lambda: called.set_result(None))
        await called


async def main(control_fd: int, slot: int, incarnation: int, directory: str, mark: int) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=control_fd))
    peer = Peer(loop, slot, incarnation, directory, mark)

    def answer(number: int, result: Any) -> None:
        writer.write(msgpack.packb([number, result]))

    async def answer_later(number: int, result: Coroutine[Any, Any, Any]) -> None:
        answer(number, await result)

    tasks: set[asyncio.Task[None]] = set()
    answer(0, peer.backplane.bind())
    unpacker = msgpack.Unpacker()
    with contextlib.suppress(ConnectionResetError):
        while data := await reader.read(65536):
            unpacker.feed(data)
            for number, name, *arguments in unpacker:
                if name == "close":
                    reader.feed_eof()
                    break
                result = getattr(peer, name)(*arguments)
                if asyncio.iscoroutine(result):
                    # Others, the roster above all, have to be heard while this one waits.
                    task = loop.create_task(answer_later(number, result))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    answer(number, result)
    peer.backplane.close()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


if __name__ == "__main__":
    fd, slot, incarnation, directory, mark = sys.argv[1:]
    uvloop.run(main(int(fd), int(slot), int(incarnation), directory, int(mark)))
