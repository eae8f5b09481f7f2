"""What every backplane promises its router about what is published and sent, and about its own life.

A further implementation is one more entry in `tests.unit.worker.mesh.IMPLEMENTATIONS`. What takes real processes and
signals is in `tests/cluster/test_backplane_processes.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.unit.worker.mesh import IMPLEMENTATIONS, Mesh, Owner, Run, batch
from worker.backplane.interface import Batch


def test_batch_arrives_as_it_was_published(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        two.subscribe(b"/topic/a")
        await two.routed()
        one.publish(b"/topic/a", Batch(b"ID:7-", [b"", b"\0\xff", b"x" * 70000]))
        versions = ([b"a0", b"b0"], [b"a1", b"b1"], [b"a2", b"b2"])
        one.publish(b"/topic/a", Batch(b"ID:8-", versions[2], versions))
        one.broadcast("over")
        await mesh.until(lambda: len(two.batches) == 2 and three.said("message"))
        plain, versioned = (batch for _, batch in two.batches)
        assert (plain.id_prefix, plain.items, plain.by_version) == (b"ID:7-", [b"", b"\0\xff", b"x" * 70000], None)
        assert (versioned.id_prefix, versioned.items, versioned.by_version) == (b"ID:8-", versions[2], versions)
        assert {name for name, _ in two.batches} == {b"/topic/a"}
        assert one.batches == three.batches == []

    run(scenario)


def test_batch_is_encoded_before_publish_returns(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe(b"/topic/a")
        await two.routed()
        items = [b"first"]
        one.publish(b"/topic/a", Batch(b"ID:", items))
        items[0] = b"second"
        await mesh.until(lambda: two.batches)
        assert two.items(b"/topic/a") == [b"first"]

    run(scenario)


def test_exact_subscription_is_to_nothing_else(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe(b"/topic/a")
        await two.routed()
        assert [one.interested(name) for name in (b"/topic/a", b"/topic/", b"/topic/ab", b"")] == [
            True,
            False,
            False,
            False,
        ]
        for name in (b"/topic/ab", b"/topic/", b"/topic/a"):
            one.publish(name, batch(name))
        await mesh.until(lambda: two.batches)
        assert [name for name, _ in two.batches] == [b"/topic/a"]

    run(scenario)


def test_prefix_subscription(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        two.subscribe_prefix(b"/topic/a.")
        three.subscribe_prefix(b"")
        await two.routed()
        await three.routed()
        assert two.interested(b"anything") and not three.interested(b"anything")
        assert three.interested(b"/topic/a.b")
        for name in (b"/topic/a", b"/topic/a.", b"/topic/a.b.c", b"/topic/b"):
            one.publish(name, batch(name))
        one.broadcast("over")
        await mesh.until(lambda: len(three.batches) == 4 and two.said("message"))
        assert sorted(name for name, _ in two.batches) == [b"/topic/a.", b"/topic/a.b.c"]
        three.unsubscribe_prefix(b"")
        await three.routed()
        assert not two.interested(b"anything") and one.interested(b"/topic/a.x")

    run(scenario)


def test_batch_matched_twice_comes_once(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe(b"/topic/a")
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        one.publish(b"/topic/a", batch(b"x"))
        one.publish(b"/topic/a", batch(b"y"))
        await mesh.until(lambda: len(two.batches) >= 2)
        assert two.items(b"/topic/a") == [b"x", b"y"]

    run(scenario)


def test_subscriptions_are_counted(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        for subscribe, unsubscribe in (
            (two.subscribe, two.unsubscribe),
            (two.subscribe_prefix, two.unsubscribe_prefix),
        ):
            subscribe(b"/topic/a")
            subscribe(b"/topic/a")
            unsubscribe(b"/topic/a")
            await two.routed()
            assert one.interested(b"/topic/a")
            unsubscribe(b"/topic/a")
            unsubscribe(b"/topic/a")
            await two.routed()
            assert not one.interested(b"/topic/a")
            subscribe(b"/topic/a")
            await two.routed()
            assert one.interested(b"/topic/a")
            unsubscribe(b"/topic/a")

    run(scenario)


def test_order_within_a_destination_from_each_publisher(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        three.subscribe(b"/topic/a")
        three.subscribe_prefix(b"/topic/b")
        await three.routed()
        for number in range(600):
            for publisher in (one, two):
                for name in (b"/topic/a", b"/topic/b.c"):
                    publisher.publish(name, batch(b"%d %d" % (publisher.slot, number)))
            if number % 7 == 0:
                await asyncio.sleep(0)
        await mesh.until(lambda: len(three.items(b"/topic/a")) == len(three.items(b"/topic/b.c")) == 1200)
        for name in (b"/topic/a", b"/topic/b.c"):
            items = three.items(name)
            for slot in (b"0", b"1"):
                assert [item for item in items if item[:1] == slot] == [b"%s %d" % (slot, n) for n in range(600)]

    run(scenario)


def test_messages_keep_their_order_and_form(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        value = {"text": "é", 5: [b"bytes", None, True, 1.5, -(2**40)], "none": {}}
        one.send(1, value)
        for number in range(200):
            one.send(1, number)
            if number % 50 == 0:
                one.broadcast(["all", number])
                await asyncio.sleep(0)
        await mesh.until(lambda: len(two.said("message")) == 205 and len(three.said("message")) == 4)
        expected: list[Any] = [value]
        for number in range(200):
            expected.append(number)
            if number % 50 == 0:
                expected.append(["all", number])
        assert two.said("message") == [(0, message) for message in expected]
        assert three.said("message") == [(0, ["all", number]) for number in (0, 50, 100, 150)]
        assert one.events == []

    run(scenario)


def test_message_to_a_slot_that_is_not_there(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        one.send(0, "myself")
        one.send(5, "nobody")
        one.send(1, "somebody")
        await mesh.until(lambda: two.said("message"))
        assert two.said("message") == [(0, "somebody")] and one.events == []

    run(scenario)


def test_close_is_silent_and_may_come_twice(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe(b"/topic/a")
        await two.routed()
        called = [one.start(method) for method in (one.barrier, one.finish, one.when_joined)]
        for _ in range(50):
            one.publish(b"/topic/a", batch(b"x" * 300_000))
        mesh.drop(two)
        one.close()
        one.close()
        two.close()
        for destination in (b"/topic/b", b"/topic/c"):
            one.subscribe(destination)
            one.subscribe_prefix(destination)
            one.publish(destination, batch(b"x"))
            one.unsubscribe(destination)
        one.send(1, "x")
        one.broadcast("x")
        one.set_roster([])
        called += [one.start(method) for method in (one.barrier, one.finish, one.when_joined)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert one.events == [] and not any(future.done() for future in called)

    run(scenario)


def test_never_bound_can_be_closed(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        unbound = mesh.make(mesh.loop, 9, 1, mesh.directory, Owner())
        unbound.close()

    run(scenario)


def test_each_batch_is_followed_by_the_end_of_a_round(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        for number in range(1000):
            one.publish(b"/topic/%d" % number, batch(b"x"))
        await mesh.until(lambda: two.rounded == 1000)
        one.publish(b"/topic/a", batch(b"x"))
        await mesh.until(lambda: two.rounded == 1001)

    run(scenario)


def test_closed_from_within_a_callback(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        two.closes = True
        for number in range(100):
            one.publish(b"/topic/%d" % number, batch(b"x"))
        await mesh.until(lambda: two.closed and not one.interested(b"/topic/a"))
        assert len(two.batches) == 1

    run(scenario)


def test_failing_owner_does_not_stop_the_reading(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        failures: list[Any] = []
        mesh.loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        two.raises = RuntimeError("of the owner")
        for number in range(300):
            one.publish(b"/topic/%d" % number, batch(b"x"))
        await mesh.until(lambda: two.rounded == 300)
        assert [str(failure) for failure in failures] == ["of the owner"]

    run(scenario)


@pytest.mark.parametrize("implementation", sorted(IMPLEMENTATIONS))
@pytest.mark.parametrize("directory", ["missing", "long" * 30])
def test_cannot_bind(implementation: str, directory: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / directory
        if directory != "missing":
            path.mkdir()
        backplane = IMPLEMENTATIONS[implementation](
            asyncio.get_running_loop(),
            0,
            1,
            str(path),
            Owner(),
        )
        with pytest.raises(OSError, match=directory):
            backplane.bind()
        backplane.close()

    uvloop.run(main())
