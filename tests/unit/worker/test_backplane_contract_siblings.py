"""What every backplane promises its router about siblings: barriers, joining, losing one, ending.

A further implementation is one more entry in `tests.unit.worker.mesh.IMPLEMENTATIONS`. What takes real processes and
signals is in `tests/cluster/test_backplane_processes.py`.
"""

from __future__ import annotations

import asyncio
from functools import partial

from tests.unit.worker.mesh import SECONDS, Mesh, Run, batch


def test_interest_lasts_as_long_as_one_sibling_has_it(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        two.subscribe(b"/topic/a")
        three.subscribe(b"/topic/a")
        await two.routed()
        await three.routed()
        two.unsubscribe(b"/topic/a")
        await two.routed()
        assert one.interested(b"/topic/a") and not three.interested(b"/topic/a")
        mesh.drop(three)
        three.close()
        await mesh.until(lambda: not one.interested(b"/topic/a"))

    run(scenario)


def test_barrier_alone(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        (one,) = await mesh.join(0)
        called = one.start(one.barrier)
        assert not called.done()
        async with asyncio.timeout(SECONDS):
            await called

    run(scenario)


def test_what_a_barrier_proved_is_routed(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        nodes = await mesh.join(0, 1, 2)
        for number in range(200):
            name = b"/topic/%d" % number
            subscriber = nodes[number % 3]
            siblings = [node for node in nodes if node is not subscriber]
            if number % 2:
                subscriber.subscribe(name)
            else:
                subscriber.subscribe_prefix(name[:-1])
            await subscriber.routed()
            for node in siblings:
                assert node.interested(name)
                node.publish(name, batch(b"%d" % node.slot))
            await subscriber.until_has(name, 2)
            if number % 2:
                subscriber.unsubscribe(name)
            else:
                subscriber.unsubscribe_prefix(name[:-1])
            await subscriber.routed()
            assert not any(node.interested(name) for node in siblings)

    run(scenario)


def test_barrier_proves_thousands_of_subscriptions(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        for number in range(5000):
            two.subscribe(b"/topic/%d" % number)
        await two.routed()
        assert all(one.interested(b"/topic/%d" % number) for number in range(5000))

    run(scenario)


def test_barriers_asked_for_while_one_is_under_way(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        proved: list[tuple[bytes, bool]] = []

        def prove(name: bytes, _: object) -> None:
            proved.append((name, one.interested(name)))

        for number in range(300):
            name = b"/topic/%d" % number
            two.subscribe(name)
            called = two.start(two.barrier)
            called.add_done_callback(partial(prove, name))
            if number % 3 == 0:
                await asyncio.sleep(0)
        await mesh.until(lambda: len(proved) == 300)
        assert proved == [(b"/topic/%d" % number, True) for number in range(300)]

    run(scenario)


def test_barrier_waits_for_each_sibling_until_it_leaves(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, silent = await mesh.join(0, 1, 2)
        silent.close()
        called = [two.start(two.barrier)]
        await asyncio.sleep(0)
        called.append(two.start(two.barrier))
        # The one that lives has answered long before these have gone to and fro.
        for number in range(20):
            one.send(1, number)
            await two.until_told(0, number)
        assert not any(future.done() for future in called)
        mesh.drop(silent)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*called)

    run(scenario)


def test_joined_alone_but_not_before_the_first_roster(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one = mesh.node(0)
        called = one.start(one.when_joined)
        await one.routed()
        assert not called.done()
        one.set_roster([one.member])
        async with asyncio.timeout(SECONDS):
            await called
            await one.start(one.when_joined)

    run(scenario)


def test_joined_only_when_each_sibling_routes_to_it(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        one.subscribe(b"/topic/a")
        two.subscribe(b"/topic/b")
        three = mesh.node(2)
        roster = [node.member for node in mesh.nodes]
        three.set_roster(roster)
        one.set_roster(roster)
        joined = three.start(three.when_joined)
        # Round trips between 2 and both others work; still the second has not heard of it.
        await three.routed()
        await three.routed()
        assert not joined.done()
        two.set_roster(roster)
        async with asyncio.timeout(SECONDS):
            await joined
        assert three.interested(b"/topic/a") and three.interested(b"/topic/b")
        three.publish(b"/topic/b", batch(b"x"))
        await mesh.until(lambda: two.items(b"/topic/b") == [b"x"])

    run(scenario)


def test_joined_only_when_it_is_routed_to_by_each_sibling(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        (one,) = await mesh.join(0)
        two = mesh.node(1)
        for number in range(20000):
            two.subscribe(b"/topic/%d" % number)
        mesh.tell_roster()
        async with asyncio.timeout(SECONDS):
            await two.start(two.when_joined)
        assert all(one.interested(b"/topic/%d" % number) for number in range(20000))

    run(scenario)


def test_joining_does_not_wait_for_a_sibling_that_left(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        _, silent = await mesh.join(0, 1)
        silent.close()
        three = mesh.node(2)
        mesh.tell_roster()
        joined = three.start(three.when_joined)
        await asyncio.sleep(0)
        mesh.drop(silent)
        async with asyncio.timeout(SECONDS):
            await joined

    run(scenario)


def test_new_life_of_a_slot(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        one.subscribe(b"/topic/a")
        await one.routed()
        for lives in range(1, 6):
            mesh.drop(two)
            two.close()
            (two,) = await mesh.join(1)
            assert two.interested(b"/topic/a")
            two.publish(b"/topic/a", batch(b"%d" % two.member.incarnation))
            one.send(1, "you")
            await two.until_told(0, "you")
            await one.until_has(b"/topic/a", lives)
        assert one.items(b"/topic/a") == [b"3", b"4", b"5", b"6", b"7"]
        assert one.said("lost") == [(1, incarnation) for incarnation in (2, 3, 4, 5, 6)]

    run(scenario)


def test_messages_sent_as_soon_as_the_roster_is_known(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        (one,) = await mesh.join(0)
        two = mesh.node(1)
        one.set_roster([node.member for node in mesh.nodes])
        one.send(1, "first")
        one.broadcast("second")
        await one.routed()
        two.set_roster([node.member for node in mesh.nodes])
        two.send(0, "back")
        one.send(1, "third")
        await mesh.until(lambda: len(two.said("message")) == 3 and one.said("message"))
        assert two.said("message") == [(0, "first"), (0, "second"), (0, "third")]

    run(scenario)


def test_lost_sibling_is_told_once_and_sends_no_message_after(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, three = await mesh.join(0, 1, 2)
        mesh.drop(two)
        two.send(0, "too late")
        await mesh.until(lambda: one.said("lost") and three.said("lost"))
        three.send(0, "other")
        await mesh.until(lambda: one.said("message"))
        mesh.tell_roster()
        await one.routed()
        assert one.events == [("lost", 1, two.member.incarnation), ("message", 2, "other")]
        two.close()

    run(scenario)


def test_finish_waits_until_all_read_all(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        nodes = await mesh.join(0, 1, 2)
        for node in nodes:
            node.subscribe(b"/topic/a")
        for node in nodes:
            await node.routed()
        ends = []
        for node in nodes[:2]:
            for number in range(40):
                node.publish(b"/topic/a", batch(b"%d " % number + b"x" * 100_000))
            ends.append(node.start(node.finish))
        third = nodes[2]
        await mesh.until(lambda: len(third.batches) == 80)
        await nodes[0].routed()
        assert not any(end.done() for end in ends)
        third.publish(b"/topic/a", batch(b"last"))
        ends.append(third.start(third.finish))
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*ends)
        assert [len(node.batches) for node in nodes] == [41, 41, 80]

    run(scenario)


def test_one_that_ends_is_read_to_its_end(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two = await mesh.join(0, 1)
        two.subscribe(b"/topic/a")
        await two.routed()
        two.start(two.finish)
        for number in range(40):
            one.publish(b"/topic/a", batch(b"%d " % number + b"x" * 100_000))
        async with asyncio.timeout(SECONDS):
            await one.start(one.finish)
        one.close()
        assert len(two.batches) == 40

    run(scenario)


def test_finish_does_not_wait_for_one_that_leaves(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        one, two, silent = await mesh.join(0, 1, 2)
        silent.close()
        ends = [one.start(one.finish), two.start(two.finish)]
        one.send(1, "x")
        await mesh.until(lambda: two.said("message"))
        assert not any(end.done() for end in ends)
        mesh.drop(silent)
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*ends)

    run(scenario)


def test_finish_alone(run: Run) -> None:
    async def scenario(mesh: Mesh) -> None:
        (one,) = await mesh.join(0)
        async with asyncio.timeout(SECONDS):
            await one.start(one.finish)

    run(scenario)
