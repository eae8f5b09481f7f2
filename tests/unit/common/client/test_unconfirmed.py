"""The frames that await a RECEIPT, without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from common.client.errors import BrokerError, ConnectFailed, ConnectionLost, OutcomeUnknown
from common.client.receipt import Receipt
from common.client.unconfirmed import SEND_BYTES, OnLoss, Unconfirmed
from common.decoder import Decoder
from common.frame import Frame

LOST = ConnectionLost("gone")


def running(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(5):
            await main()

    asyncio.run(timed())


def future() -> asyncio.Future[Receipt]:
    return asyncio.get_running_loop().create_future()


def send(unconfirmed: Unconfirmed, body: bytes = b"", key: bytes | None = b"k-") -> asyncio.Future[Receipt]:
    made = future()
    unconfirmed.add_send(b"destination:/queue/a\n", body, key, made)
    return made


def receipt(id: object) -> Frame:
    return Frame("RECEIPT", [("receipt-id", str(id))])


def decoded(frames: list[Frame | bytes]) -> list[Frame]:
    return [next(iter(Decoder().feed(frame))) if isinstance(frame, bytes) else frame for frame in frames]


def test_a_receipt_settles_its_own_frame_whatever_the_order() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        first, second = send(unconfirmed), send(unconfirmed)
        unconfirmed.confirm(receipt(2))
        assert (first.done(), second.done()) == (False, True)
        unconfirmed.confirm(receipt(2))
        unconfirmed.confirm(receipt(77))
        unconfirmed.confirm(Frame("RECEIPT"))
        assert len(unconfirmed) == unconfirmed.sends == 1
        unconfirmed.confirm(receipt(1))
        assert (len(unconfirmed), unconfirmed.sends) == (0, 0)

    running(main)


def test_what_is_written_again_is_the_same_bytes_in_the_same_order() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        written = [unconfirmed.add_send(b"destination:/queue/a\n", b"%d" % n, b"k-", future()) for n in range(4)]
        unconfirmed.confirm(receipt(2))
        unconfirmed.lost(LOST)
        assert unconfirmed.again() == [written[0], written[2], written[3]]
        frames = decoded(unconfirmed.again())
        assert [frame.body for frame in frames] == [b"0", b"2", b"3"]
        assert len({frame.get("idempotency-key") for frame in frames}) == 3

    running(main)


def test_a_loss_settles_the_others_each_in_its_way() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        futures = {on_loss: future() for on_loss in OnLoss}
        for on_loss, made in futures.items():
            unconfirmed.add(Frame("SEND", [("destination", "/queue/a")]), made, on_loss)
        unconfirmed.lost(LOST)
        assert not futures[OnLoss.AGAIN].done()
        assert futures[OnLoss.FORGET].cancelled()
        assert isinstance(futures[OnLoss.DONE].result(), Receipt)
        error = futures[OnLoss.UNKNOWN].exception()
        assert isinstance(error, OutcomeUnknown)
        assert error.__cause__ is LOST
        assert "/queue/a" in str(error)
        assert len(unconfirmed.again()) == 1

    running(main)


def test_the_end_fails_what_is_left_but_for_what_is_over_anyway() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        futures = {on_loss: future() for on_loss in OnLoss}
        for on_loss, made in futures.items():
            unconfirmed.add(Frame("SEND"), made, on_loss, 1)
        end = ConnectFailed([])
        unconfirmed.end(end)
        assert {on_loss for on_loss, made in futures.items() if made.exception() is end} == {*OnLoss} - {OnLoss.DONE}
        assert (len(unconfirmed), unconfirmed.sends) == (0, 0)

    running(main)


def test_an_end_by_a_refusal_tells_what_was_written_that_nobody_knows() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        before = send(unconfirmed, b"before")
        unconfirmed.lost(LOST)
        late = send(unconfirmed, b"late")
        unconfirmed.lost(LOST)
        end = BrokerError(Frame("ERROR", [("message", "not you")]))
        unconfirmed.end(end)
        error = before.exception()
        assert isinstance(error, OutcomeUnknown)
        assert (error.frame.body, error.__cause__) == (b"before", end)
        assert late.exception() is end

    running(main)


def test_only_what_is_written_can_be_refused() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        first, second = send(unconfirmed, b"1"), send(unconfirmed, b"2")
        unconfirmed.lost(LOST)
        error = BrokerError(Frame("ERROR"))
        assert not unconfirmed.refuse(None, error)
        found = unconfirmed.next_again(2)
        assert found is not None
        assert found[0] == 1
        assert unconfirmed.next_again(0) is None
        assert unconfirmed.refuse(None, error)
        assert (first.done(), second.done()) == (True, False)

    running(main)


def test_a_refusal_is_of_the_frame_it_names_or_of_the_only_one() -> None:
    async def main() -> None:
        error = BrokerError(Frame("ERROR"))
        unconfirmed = Unconfirmed(10, 1 << 20)
        first, second = send(unconfirmed), send(unconfirmed)
        assert not unconfirmed.refuse(None, error)
        assert not unconfirmed.refuse("77", error)
        assert unconfirmed.refuse("1", error)
        assert first.exception() is error
        assert unconfirmed.refuse(None, error)
        assert second.exception() is error
        assert not unconfirmed.refuse(None, error)

    running(main)


def test_a_future_that_was_cancelled_takes_nothing_back() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        for settle in (
            lambda: unconfirmed.confirm(receipt(1)),
            lambda: unconfirmed.refuse("2", BrokerError(Frame("ERROR"))),
            lambda: unconfirmed.end(LOST),
        ):
            made = send(unconfirmed)
            made.cancel()
            unconfirmed.lost(LOST)
            assert len(unconfirmed.again()) == 1
            settle()
            assert len(unconfirmed) == 0

    running(main)


def test_what_was_sent_without_a_receipt_is_unknown_until_a_later_frame_is_confirmed() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        unconfirmed.add_blind()
        send(unconfirmed)
        unconfirmed.add_blind()
        assert unconfirmed.unknown == 2
        unconfirmed.confirm(receipt(1))
        assert unconfirmed.unknown == 1
        unconfirmed.lost(LOST)
        assert unconfirmed.unknown == 0

    running(main)


def test_a_refusal_without_a_name_is_of_the_command_it_says_and_of_nothing_that_has_no_receipt() -> None:
    def error(frame: str | None = None) -> BrokerError:
        return BrokerError(Frame("ERROR", [] if frame is None else [("frame", frame)]))

    async def main() -> None:
        for frame, acks, add, refused in (
            (None, False, "", False),
            ("SEND", False, "", True),
            ("SEND", True, "", True),
            ("ACK", False, "", False),
            ("SEND", False, "unnamed", False),
            ("SEND", False, "blind", False),
            ("COMMIT", True, "unnamed", True),
            ("SUBSCRIBE", False, "", False),
        ):
            unconfirmed = Unconfirmed(10, 1 << 20)
            unconfirmed.add(Frame("COMMIT"), future(), OnLoss.UNKNOWN)
            send(unconfirmed)
            if add:
                getattr(unconfirmed, f"add_{add}")()
            assert unconfirmed.unknown == (add == "blind")
            assert unconfirmed.refuse(None, error(frame), acks=acks) == refused, frame
        unconfirmed = Unconfirmed(10, 1 << 20)
        send(unconfirmed)
        assert not unconfirmed.refuse(None, error(), acks=True)
        unconfirmed.add_unnamed()
        send(unconfirmed)
        unconfirmed.confirm(receipt(2))
        assert unconfirmed.refuse(None, error())

    running(main)


def test_a_commit_behind_what_was_refused_has_failed_too() -> None:
    def error(frame: str | None) -> BrokerError:
        return BrokerError(Frame("ERROR", [] if frame is None else [("frame", frame)]))

    async def main() -> None:
        for before, after, frame, acks, failed, known in (
            ("unnamed", "", "SEND", False, True, True),
            ("unnamed", "", "SEND", True, True, True),
            ("unnamed", "", "ACK", True, False, False),
            ("unnamed", "", None, False, False, False),
            ("unnamed", "unnamed", "SEND", False, False, False),
            ("unnamed", "blind", "SEND", False, False, False),
            ("unnamed send", "", "SEND", False, True, False),
            ("unnamed", "send", "SEND", False, False, False),
            ("", "", "SUBSCRIBE", False, False, False),
        ):
            unconfirmed = Unconfirmed(10, 1 << 20)

            def write(what: str, unconfirmed: Unconfirmed = unconfirmed) -> None:
                for each in what.split():
                    if each == "send":
                        send(unconfirmed)
                    else:
                        getattr(unconfirmed, f"add_{each}")()

            write(before)
            commit = future()
            unconfirmed.add(Frame("COMMIT"), commit, OnLoss.UNKNOWN)
            write(after)
            refused = error(frame)
            assert unconfirmed.refuse(None, refused, acks=acks) == known, (before, after, frame)
            assert commit.done() == failed, (before, after, frame)
            assert not failed or commit.exception() is refused

    running(main)


# --- the window


@pytest.mark.parametrize(("window", "window_bytes"), [(2, 1 << 30), (1000, 2 * SEND_BYTES)])
def test_room_comes_in_the_order_of_asking(window: int, window_bytes: int) -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(window, window_bytes)
        done: list[int] = []

        async def ask(number: int) -> None:
            await unconfirmed.room(SEND_BYTES)
            done.append(number)
            send(unconfirmed)
            assert unconfirmed.sends <= 2

        tasks = [asyncio.create_task(ask(number)) for number in range(8)]
        for id in range(1, 9):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            unconfirmed.confirm(receipt(id))
        await asyncio.gather(*tasks)
        assert done == list(range(8))

    running(main)


def test_a_single_one_has_room_whatever_its_size() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 10)
        assert unconfirmed.has_room
        send(unconfirmed, bytes(1000))
        assert not unconfirmed.has_room
        unconfirmed.confirm(receipt(1))
        assert unconfirmed.has_room

    running(main)


@pytest.mark.parametrize("turns", range(3))
def test_who_leaves_the_line_harms_nobody(turns: int) -> None:
    """Cancelled while waiting, in the turn in which its place comes free, and after it."""

    async def main() -> None:
        unconfirmed = Unconfirmed(1, 1 << 20)
        send(unconfirmed)
        leaving, staying = (asyncio.create_task(unconfirmed.room(SEND_BYTES)) for _ in range(2))
        await asyncio.sleep(0)
        if turns == 0:
            leaving.cancel()
            await asyncio.sleep(0)
            unconfirmed.confirm(receipt(1))
        elif turns == 1:
            leaving.cancel()
            unconfirmed.confirm(receipt(1))
        else:
            unconfirmed.confirm(receipt(1))
            leaving.cancel()
        await staying
        assert leaving.cancelled()
        assert unconfirmed.is_open

    running(main)


def test_the_end_wakes_all_who_wait() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(1, 1 << 20)
        made = send(unconfirmed)
        waits = [asyncio.create_task(unconfirmed.room(SEND_BYTES)) for _ in range(3)]
        waits.append(asyncio.create_task(unconfirmed.idle()))
        await asyncio.sleep(0)
        waits[1].cancel()
        unconfirmed.end(LOST)
        await asyncio.gather(*waits, return_exceptions=True)
        assert made.exception() is LOST

    running(main)


def test_idle_is_when_no_send_is_left() -> None:
    async def main() -> None:
        unconfirmed = Unconfirmed(10, 1 << 20)
        send(unconfirmed)
        # That of a SUBSCRIBE, which is no SEND.
        unconfirmed.add(Frame("SUBSCRIBE"), future(), OnLoss.FORGET)
        waiting = asyncio.create_task(unconfirmed.idle())
        await asyncio.sleep(0)
        unconfirmed.confirm(receipt(1))
        await waiting
        assert len(unconfirmed) == 1

    running(main)
