"""Several backplanes in one process and one loop, for the contract tests of every implementation."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvloop

from worker.backplane.interface import Backplane, BackplaneEvents, Batch, Member
from worker.backplane.zeromq import ZmqBackplane

SECONDS = 20.0
"""How long a test waits for what must come; it is there within milliseconds."""

KEPT_BYTES = 256 << 10
KEPT_TOTAL_BYTES = 4 << 20
"""What every implementation is given as its bounds."""

Make = Callable[[asyncio.AbstractEventLoop, int, int, str, BackplaneEvents], Backplane]


def zeromq(
    loop: asyncio.AbstractEventLoop,
    slot: int,
    incarnation: int,
    directory: str,
    events: BackplaneEvents,
    *,
    high_water_mark: int = 4,
    retry_interval: float = 0.02,
) -> Backplane:
    return ZmqBackplane(
        loop,
        slot,
        incarnation,
        directory,
        events,
        high_water_mark=high_water_mark,
        retry_interval=retry_interval,
        kept_bytes=KEPT_BYTES,
        kept_total_bytes=KEPT_TOTAL_BYTES,
    )


IMPLEMENTATIONS: dict[str, Make] = {"zeromq": zeromq}


class Owner:
    """Takes everything and does nothing."""

    def on_batch(self, destination: bytes, batch: Batch) -> None: ...
    def on_round_end(self) -> None: ...
    def on_message(self, slot: int, message: Any) -> None: ...
    def on_blocked(self, destination: bytes) -> None: ...
    def on_unblocked(self, destination: bytes) -> None: ...
    def on_sibling_lost(self, slot: int, incarnation: int) -> None: ...


class Node:
    """One backplane and all it reported, in order."""

    def __init__(self, mesh: Mesh, slot: int, incarnation: int) -> None:
        self.slot = slot
        self.batches: list[tuple[bytes, Batch]] = []
        self.events: list[tuple[Any, ...]] = []
        self.rounded = 0
        self.in_call = self.closed = False
        self.raises: Exception | None = None
        self.closes = False
        self._mesh = mesh
        self._backplane = mesh.make(mesh.loop, slot, incarnation, mesh.directory, self)
        self.member = Member(slot, incarnation, self._backplane.bind())

    def close(self) -> None:
        self.closed = True
        self._backplane.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backplane, name)

        def call(*arguments: Any) -> Any:
            self.in_call = True
            try:
                return method(*arguments)
            finally:
                self.in_call = False

        return call

    def _note(self, *event: Any) -> None:
        assert not self.in_call, f"{event} from within a call"
        self.events.append(event)
        self._mesh.changed.set()

    def on_batch(self, destination: bytes, batch: Batch) -> None:
        self.batches.append((destination, batch))
        self._note("batch", destination)
        if self.closes:
            self.close()
        if self.raises is not None:
            error, self.raises = self.raises, None
            raise error

    def on_round_end(self) -> None:
        assert not self.in_call, "a round ended within a call"
        assert not self.closed, "a round ended after close"
        self.rounded = len(self.batches)
        self._mesh.changed.set()

    def on_message(self, slot: int, message: Any) -> None:
        self._note("message", slot, message)

    def on_blocked(self, destination: bytes) -> None:
        self._note("blocked", destination)

    def on_unblocked(self, destination: bytes) -> None:
        self._note("unblocked", destination)

    def on_sibling_lost(self, slot: int, incarnation: int) -> None:
        self._note("lost", slot, incarnation)

    def start(self, method: Callable[[Callable[[], None]], None]) -> asyncio.Future[None]:
        """Call a method that takes `done`."""
        called = self._mesh.loop.create_future()

        def done() -> None:
            assert not self.in_call, "done from within the call"
            called.set_result(None)

        method(done)
        return called

    async def routed(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self.start(self.barrier)

    def items(self, destination: bytes) -> list[bytes]:
        return [item for name, batch in self.batches if name == destination for item in batch.items]

    async def until_has(self, destination: bytes, count: int) -> None:
        await self._mesh.until(lambda: len(self.items(destination)) == count)

    async def until_told(self, slot: int, message: Any) -> None:
        await self._mesh.until(lambda: (slot, message) in self.said("message"))

    def said(self, kind: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == kind]


class Mesh:
    """The nodes of one test and their roster."""

    def __init__(self, make: Make, directory: str) -> None:
        self.make = make
        self.directory = directory
        self.loop = asyncio.get_running_loop()
        self.changed = asyncio.Event()
        self.nodes: list[Node] = []
        self._incarnations = itertools.count(1)

    def node(self, slot: int) -> Node:
        """A bound one that is on nobody's roster yet."""
        node = Node(self, slot, next(self._incarnations))
        self.nodes.append(node)
        return node

    def tell_roster(self) -> None:
        for node in self.nodes:
            if not node.closed:
                node.set_roster([other.member for other in self.nodes])

    async def join(self, *slots: int) -> list[Node]:
        nodes = [self.node(slot) for slot in slots]
        self.tell_roster()
        async with asyncio.timeout(SECONDS):
            for node in nodes:
                await node.start(node.when_joined)
        return nodes

    def drop(self, node: Node) -> None:
        self.nodes.remove(node)
        self.tell_roster()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self.changed.clear()
                # Some conditions are about what changes without an event of ours, such as lost interest.
                with_limit = asyncio.ensure_future(self.changed.wait())
                await asyncio.wait([with_limit], timeout=0.01)
                with_limit.cancel()

    def close(self) -> None:
        for node in self.nodes:
            node.close()


Scenario = Callable[[Mesh], Awaitable[None]]
Run = Callable[[Scenario], None]


def run_in_mesh(make: Make, scenario: Scenario) -> None:
    """A mesh of its own for a scenario, which has to leave no file and no unhandled error behind."""

    async def main(directory: str) -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        mesh = Mesh(make, directory)
        try:
            await scenario(mesh)
        finally:
            mesh.close()
        await asyncio.sleep(0)
        assert failures == []

    # Not tmp_path: a Unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="bp-") as directory:
        uvloop.run(main(directory))
        assert os.listdir(directory) == []


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario on each implementation."""
    return partial(run_in_mesh, IMPLEMENTATIONS[request.param])


def batch(*items: bytes) -> Batch:
    return Batch(b"ID:1-", list(items))
