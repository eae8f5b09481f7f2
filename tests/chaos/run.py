"""A run: clients under load, processes killed at random, and in the end every queue drained and the history judged."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence

from tests.chaos.actors import Actor
from tests.chaos.checker import Verdict, judge
from tests.chaos.history import Acknowledged, AcknowledgementReceipted, Calm, Killed, Recovered
from tests.chaos.mortal import Mortal
from tests.chaos.session import CLIENT_PATIENCE, Frame, Lost, Session, frame
from tests.chaos.world import QUEUE, World

__all__ = ["ROUNDS", "SEED", "MakeActors", "rounds", "run"]

ROUNDS = int(os.environ.get("STAMPEDE_CHAOS_ROUNDS", "0"))
"""How many kills, instead of what a test's authors found bearable on every change."""
SEED = int(os.environ.get("STAMPEDE_CHAOS_SEED", "20261123"))

_EPOCH = 15
"""After so many kills the queues are drained and the history is judged."""

MakeActors = Callable[[World], list[Actor]]

KINDS = {"worker": 12, "worker, and its successor": 3, "two workers": 3, "front": 2, "all": 3, "all, workers first": 1}
"""What is killed, and how often compared to the others."""


def rounds(usual: int) -> int:
    return ROUNDS or usual


def run(
    mortal: Mortal,
    queues: list[str],
    make_actors: MakeActors,
    *,
    count: int,
    seed: int = SEED,
    certain: Sequence[str] = (),
) -> Counter[str]:
    """`count` kills under the load of those actors, among them those `certain` KINDS; what was counted. AssertionError
    with the lives of the messages that went wrong."""
    counts: Counter[str] = Counter()
    killer = random.Random(seed)
    left = count
    for epoch in itertools.count():
        if left <= 0:
            return counts
        world = World(mortal.address, queues, seed=seed + epoch)
        world.connections = epoch * 1_000_000
        kinds = killer.choices(list(KINDS), list(KINDS.values()), k=min(left, _EPOCH))
        if epoch == 0:
            kinds[: len(certain)] = certain
            killer.shuffle(kinds)
        verdict = asyncio.run(_epoch(mortal, world, make_actors(world), killer, kinds))
        left -= _EPOCH
        if verdict.faults:
            raise AssertionError(f"seed {seed}, epoch {epoch}: {verdict.explain(world.history)}")
        counts += verdict.counts
    return counts


async def _epoch(
    mortal: Mortal, world: World, actors: Sequence[Actor], killer: random.Random, kinds: Sequence[str]
) -> Verdict:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(actor.run()) for actor in actors]
        for kind in kinds:
            await asyncio.sleep(killer.uniform(0.02, 0.25))
            await kill_something(mortal, world, killer, kind)
        await asyncio.sleep(0.1)
        world.is_over = True
        await asyncio.wait(tasks)
    await drain(mortal, world)
    # What was settled in the end must stay so.
    await _whole_broker(mortal, world, "all", mortal.kill_all)
    return await drain(mortal, world)


# --- killing


async def kill_something(mortal: Mortal, world: World, pick: random.Random, kind: str) -> None:
    """One of the KINDS, in a slot of random choice, and wait until all is well again."""
    slot = pick.randrange(mortal.workers)
    world.note(Killed(f"{kind}, {slot}"))
    match kind:
        case "front":
            await _restart(mortal, mortal.kill_front)
        case "all":
            await _restart(mortal, mortal.kill_all)
        case "all, workers first":
            await _restart(mortal, lambda: mortal.kill_all(front_first=False))
        case "two workers":
            other = pick.randrange(mortal.workers)
            victims = {slot: mortal.kill_worker(slot)}
            if other != slot:
                await asyncio.sleep(pick.uniform(0, 0.3))
                victims[other] = mortal.kill_worker(other)
            for each, incarnation in victims.items():
                await asyncio.to_thread(mortal.wait_worker, each, incarnation)
        case "worker, and its successor":
            incarnation = mortal.kill_worker(slot)
            await _spawned(mortal, slot, incarnation + 1)
            # Anywhere in its start: imports, the opening of its store, its meeting with the others, its first load.
            await asyncio.sleep(pick.uniform(0, 0.6))
            await asyncio.to_thread(mortal.wait_worker, slot, mortal.kill_worker(slot))
        case _:
            await asyncio.to_thread(mortal.wait_worker, slot, mortal.kill_worker(slot))
    world.note(Recovered(kind))


async def _spawned(mortal: Mortal, slot: int, incarnation: int) -> None:
    wait = mortal.broker.wait_event
    await asyncio.to_thread(wait, "worker.spawned", slot=slot, incarnation=incarnation, timeout=CLIENT_PATIENCE)


async def _restart(mortal: Mortal, kill: Callable[[], None]) -> None:
    kill()
    await asyncio.to_thread(mortal.start_again)


async def _whole_broker(mortal: Mortal, world: World, what: str, kill: Callable[[], None]) -> None:
    world.note(Killed(what))
    await _restart(mortal, kill)
    world.note(Recovered(what))


# --- the end


async def drain(mortal: Mortal, world: World) -> Verdict:
    """Receive and acknowledge all there is, and judge. Nobody else may be at work."""
    world.is_over = False
    await _mark_the_end(mortal, world)
    drainer = _Drainer(world)
    session = await world.connect(drainer.on_message)
    drainer.session = session
    try:
        for index, queue in enumerate(world.queues):
            headers = [("destination", QUEUE + queue), ("id", str(index)), ("ack", "client-individual")]
            session.write(frame("SUBSCRIBE", [*headers, ("prefetch-count", "1000")]))
        return await _receive_the_rest(world, session)
    finally:
        world.is_over = True
        for index in range(len(world.queues)):
            world.closed(f"{drainer.name}/{index}")
        session.close()


async def _mark_the_end(mortal: Mortal, world: World) -> None:
    """A last message to each queue from each worker: whatever that worker had still to hand to the owner of the queue
    has arrived when it is receipted."""
    open_slots = set(range(mortal.workers))
    while open_slots:
        session = await world.connect()
        if session.slot in open_slots:
            open_slots.discard(session.slot)
            name = world.name("end")
            for number, queue in enumerate(world.queues):
                session.write(world.send(session, name, number, queue))
            await session.room(1)
        session.close()
    world.note(Calm())


async def _receive_the_rest(world: World, session: Session) -> Verdict:
    deadline = asyncio.get_running_loop().time() + CLIENT_PATIENCE
    while True:
        try:
            async with asyncio.timeout(0.1):
                while True:
                    await session.progress()
        except TimeoutError:
            if session.outstanding:
                continue
        except Lost:
            raise AssertionError("the connection was lost that drained the queues") from None
        verdict = judge(world.history)
        if not verdict.awaited or asyncio.get_running_loop().time() > deadline:
            return verdict


class _Drainer:
    def __init__(self, world: World) -> None:
        self.name = world.name("drain")
        self.session: Session | None = None
        self._world = world

    def on_message(self, message: Frame) -> None:
        assert self.session is not None
        headers = message[1]
        ids = (self._world.delivered(f"{self.name}/{headers['subscription']}", message),)
        self._world.note(Acknowledged(ids))
        receipt = self.session.expect(lambda: self._world.note(AcknowledgementReceipted(ids)))
        self.session.write(frame("ACK", [("id", headers["ack"]), receipt]))
