"""What every backplane promises its router about links that are full, and about batches that would fill one.

A further implementation is one more entry in `tests.unit.worker.mesh.IMPLEMENTATIONS`. What takes real processes and
signals is in `tests/cluster/test_backplane_processes.py`.
"""

from __future__ import annotations

import asyncio

from tests.unit.worker.mesh import KEPT_BYTES, KEPT_TOTAL_BYTES, Mesh, Run, batch
from worker.backplane.interface import Batch


def test_full_link_loses_nothing(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        # More than the mark and all buffers take while the loop, and so the reader, does not get its turn.
        names = [b"/topic/a", b"/topic/b"]
        for number in range(60):
            for name in names:
                one.publish(name, batch(b"%d " % number + b"x" * 200_000, b"%d" % number))
        # Only counted from here: a few letters and small batches join what is kept.
        one.send(1, "aside")
        for number in range(60, 90):
            one.publish(names[0], batch(b"%d " % number, b"%d" % number))
        await mesh.until(lambda: len(one.said("unblocked")) == 2)
        await mesh.until(lambda: len(two.items(names[0])) == 180 and len(two.items(names[1])) == 120)
        assert two.items(names[0])[1::2] == [b"%d" % number for number in range(90)]
        assert two.items(names[1])[1::2] == [b"%d" % number for number in range(60)]
        assert two.said("message") == [(0, "aside")]
        assert sorted(one.said("blocked")) == sorted(one.said("unblocked")) == [(name,) for name in names]
        for name in names:
            assert one.events.index(("blocked", name)) < one.events.index(("unblocked", name))

    run(scenario)


def test_a_little_that_is_kept_blocks_nobody(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        for number in range(200):
            # More than a link takes while its reader does not get its turn, less than all may keep.
            if number < 20:
                one.publish(b"/topic/full", batch(b"x" * 200_000))
            one.publish(b"/topic/little", batch(b"%d" % number, b"x" * (KEPT_BYTES // 400)))
            if number > 15:
                await asyncio.sleep(0)
        await mesh.until(lambda: one.said("unblocked") and len(two.items(b"/topic/full")) == 20)
        await two.until_has(b"/topic/little", 400)
        assert two.items(b"/topic/little")[::2] == [b"%d" % number for number in range(200)]
        assert set(one.said("blocked")) == {(b"/topic/full",)}
        assert one.said("blocked") == one.said("unblocked")

    run(scenario)


def test_much_that_is_kept_for_all_blocks_each(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe_prefix(b"/topic/")
        await two.routed()
        # No one of them passes its own bound.
        size = KEPT_BYTES // 4
        names = [b"/topic/%d" % number for number in range(4 * KEPT_TOTAL_BYTES // size)]
        for number in range(2):
            for name in names:
                one.publish(name, batch(b"%d " % number + b"x" * size))
        await mesh.until(lambda: len(two.batches) == 2 * len(names))
        await one.routed()
        blocked = {name for (name,) in one.said("blocked")}
        # All but what the link took, or what had gone before the total was reached.
        assert len(blocked) * 2 * size > KEPT_TOTAL_BYTES
        assert sorted(one.said("blocked")) == sorted((name,) for name in blocked) == sorted(one.said("unblocked"))
        for name in names:
            assert [item[:2] for item in two.items(name)] == [b"0 ", b"1 "]
            if name in blocked:
                assert one.events.index(("blocked", name)) < one.events.index(("unblocked", name))

    run(scenario)


def test_a_giant_batch_fills_a_link_like_many_small_ones(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        for subscriber in (two, three):
            subscriber.subscribe(b"/topic/a")
            await subscriber.routed()
        giant = [b"%d " % number + b"x" * 6_000_000 for number in range(2)]
        for publisher in (one, two):
            publisher.publish(b"/topic/a", batch(b"first"))
            publisher.publish(b"/topic/a", batch(b"y", *giant))
            publisher.publish(b"/topic/a", Batch(b"", [b"2"], ([b"0"], [b"1"], [b"2"])))
        await mesh.until(lambda: len(three.batches) == 6 and len(two.batches) == 3)
        await mesh.until(lambda: one.said("unblocked") and two.said("unblocked"))
        for publisher in (one, two):
            assert len(publisher.said("blocked")) == len(publisher.said("unblocked")) == 1
        assert two.items(b"/topic/a") == [b"first", b"y", *giant, b"2"]
        assert sorted(three.items(b"/topic/a")) == sorted(2 * [b"first", b"y", *giant, b"2"])

    run(scenario)


def test_subscribed_and_unsubscribed_while_a_giant_batch_travels(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        for subscriber in (two, three):
            subscriber.subscribe(b"/topic/a")
            await subscriber.routed()
        giant = b"x" * 12_000_000
        for _ in range(5):
            two.batches.clear()
            three.batches.clear()
            one.publish(b"/topic/a", batch(giant))
            two.unsubscribe(b"/topic/a")
            await two.routed()
            two.subscribe_prefix(b"/topic/")
            two.subscribe(b"/topic/a")
            await two.routed()
            two.unsubscribe_prefix(b"/topic/")
            one.publish(b"/topic/a", batch(giant, b"y"))
            await mesh.until(lambda: len(three.batches) == 2)
            await mesh.until(lambda: two.batches and len(two.batches[-1][1].items) == 2)
            assert two.items(b"/topic/a")[-2:] == [giant, b"y"]
            assert three.items(b"/topic/a") == [giant, giant, b"y"]

    run(scenario)


def test_barrier_is_answered_over_a_full_link(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe(b"/topic/a")
        await two.routed()
        for number in range(100):
            one.publish(b"/topic/a", batch(b"%d " % number + b"x" * 200_000))
            two.subscribe(b"/topic/%d" % number)
        await two.routed()
        assert all(one.interested(b"/topic/%d" % number) for number in range(100))
        # A few messages are ahead of the answer, but not all that was kept.
        assert len(two.batches) < 100
        await mesh.until(lambda: len(two.batches) == 100 and one.said("unblocked"))

    run(scenario)
