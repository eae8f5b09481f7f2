"""The judge itself: it finds each kind of broken history, and nothing in those that are allowed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.checker import Kind, judge
from tests.chaos.history import (
    Acknowledged,
    AcknowledgementReceipted,
    Calm,
    Closed,
    CommitReceipted,
    Committed,
    Delivered,
    Event,
    History,
    Killed,
    Receipted,
    Recovered,
    Refused,
    Returned,
    Sent,
)

CRASH: History = [Killed("worker 0"), Recovered("worker 0")]


def sent(number: int, *, queue: str = "q", transaction: str | None = None, receipted: bool = True) -> History:
    id = f"m{number}"
    receipts: History = [Receipted(id)] if receipted and transaction is None else []
    return [Sent(id, queue, "p", number, transaction), *receipts]


def came(number: int, *, queue: str = "q", to: str = "c", count: int = 1) -> list[Delivered]:
    """Delivered for the `count`th time, and says so."""
    return [Delivered(f"m{number}", queue, to, count > 1, count if count > 1 else 0, f"id{number}")]


def done(number: int, *, receipted: bool = True) -> History:
    ids = (f"m{number}",)
    receipts: History = [AcknowledgementReceipted(ids)] if receipted else []
    return [Acknowledged(ids), *receipts]


def consumed(number: int, **how: object) -> History:
    return [*came(number, **how), *done(number)]  # type: ignore[arg-type]


def committed(name: str, *, receipted: bool = True) -> History:
    return [Committed(name), *([CommitReceipted(name)] if receipted else [])]


TRANSACTION: History = [
    *sent(1),
    *came(1),
    *sent(2, queue="a", transaction="t"),
    *sent(3, queue="b", transaction="t"),
    Acknowledged(("m1",), "t"),
]
"""Receives m1, and in transaction t acknowledges that and sends m2 to a and m3 to b."""


GOOD: dict[str, History] = {
    "delivered and acknowledged": [*sent(1), *sent(2), *consumed(1), *consumed(2)],
    "unreceipted, there": [*sent(1, receipted=False), *consumed(1)],
    "unreceipted, not there": [*sent(1, receipted=False), *CRASH],
    "unreceipted, delivered from memory, gone": [*sent(1, receipted=False), *came(1), *CRASH],
    "acknowledged without a receipt, comes again": [
        *sent(1),
        *came(1),
        *done(1, receipted=False),
        *CRASH,
        *consumed(1, count=2),
    ],
    "acknowledged without a receipt, gone": [*sent(1), *came(1), *done(1, receipted=False), *CRASH],
    "again after a crash": [*sent(1), *came(1), *CRASH, *consumed(1, count=2)],
    "again before the successor is there": [*sent(1), *came(1), Killed("x"), *consumed(1, count=2), Recovered("x")],
    "read late": [*sent(1), Killed("x"), *came(1), Recovered("x"), *consumed(1, count=2, to="d")],
    "first delivery read last": [*sent(1), Killed("x"), *came(1, count=2, to="d"), *came(1), *CRASH, *done(1)],
    "again after the consumer closed": [*sent(1), *came(1), Closed("c"), *consumed(1, count=2, to="d")],
    "left over when the consumer closed": [*sent(1), Closed("c"), *came(1), *consumed(1, count=2, to="d")],
    "left over, read last": [*sent(1), Closed("c"), *came(1, count=2, to="d"), *came(1), *done(1)],
    "again after NACK": [*sent(1), *came(1), Returned(("m1",)), *consumed(1, count=2)],
    "marked at first": [*sent(1), *CRASH, *consumed(1, count=2)],
    "redelivered ones out of order": [*sent(1), *sent(2), *came(1), *CRASH, *consumed(2), *consumed(1, count=2)],
    "two consumers": [*sent(1), *sent(2), *consumed(2, to="d"), *consumed(1, to="c")],
    "COMMIT receipted": [*TRANSACTION, *committed("t"), *consumed(2, queue="a"), *consumed(3, queue="b")],
    "COMMIT unreceipted, no effect": [
        *TRANSACTION,
        *committed("t", receipted=False),
        *CRASH,
        Calm(),
        *consumed(1, count=2),
    ],
    "COMMIT unreceipted, effect": [
        *TRANSACTION,
        *committed("t", receipted=False),
        *CRASH,
        Calm(),
        *consumed(2, queue="a"),
        *consumed(3, queue="b"),
    ],
    "COMMIT of an ACK alone, unreceipted": [*sent(1), *came(1), Acknowledged(("m1",), "t"), Committed("t"), *CRASH],
    "COMMIT unreceipted, delivered from memory, all gone": [
        *TRANSACTION,
        *committed("t", receipted=False),
        *came(2, queue="a"),
        *CRASH,
        *consumed(1, count=2),
    ],
    "COMMIT unreceipted, effect, nothing receipted": [
        *TRANSACTION,
        *committed("t", receipted=False),
        *came(2, queue="a"),
        *done(2, receipted=False),
        *came(3, queue="b"),
        *done(3, receipted=False),
        *CRASH,
    ],
    "not committed": [*TRANSACTION, Closed("c"), *consumed(1, count=2)],
}

BAD: dict[str, tuple[Kind, History]] = {
    "receipted and never there": (Kind.LOST, [*sent(1), *sent(2), *CRASH, *consumed(2)]),
    "delivered and not given back": (Kind.LOST, [*sent(1), *came(1), *CRASH]),
    "not committed and not given back": (Kind.LOST, [*TRANSACTION, *CRASH]),
    "ACK receipted, comes again": (Kind.UNDONE, [*sent(1), *consumed(1), *CRASH, *consumed(1, count=2)]),
    "second delivery without a mark": (Kind.UNMARKED, [*sent(1), *came(1), *CRASH, *consumed(1)]),
    "unmarked after a marked one": (
        Kind.UNMARKED,
        [*CRASH, *sent(1), *came(1, count=2), Closed("c"), *consumed(1, to="d")],
    ),
    "mark without a count": (
        Kind.UNMARKED,
        [*sent(1), *CRASH, Delivered("m1", "q", "c", True, 0, "id1"), *done(1)],
    ),
    "count without a mark": (
        Kind.UNMARKED,
        [*sent(1), *CRASH, Delivered("m1", "q", "c", False, 2, "id1"), *done(1)],
    ),
    "a count of 1 with the mark": (
        Kind.UNMARKED,
        [*sent(1), *CRASH, Delivered("m1", "q", "c", True, 1, "id1"), *done(1)],
    ),
    "to two consumers": (Kind.UNPROVOKED, [*sent(1), *came(1), *consumed(1, count=2, to="d")]),
    "again after an older crash": (Kind.UNPROVOKED, [*CRASH, *sent(1), *came(1), *consumed(1, count=2)]),
    "twice after one NACK": (
        Kind.UNPROVOKED,
        [*sent(1), *came(1), Returned(("m1",)), *came(1, count=2), *consumed(1, count=3)],
    ),
    "out of order": (Kind.ORDER, [*sent(1), *sent(2), *consumed(2), *consumed(1)]),
    "out of order to one of two": (
        Kind.ORDER,
        [*sent(1), *sent(2), *sent(3), *consumed(3), *consumed(1, to="d"), *consumed(2)],
    ),
    "only left over when the consumer closed": (Kind.LOST, [*sent(1), Closed("c"), *came(1)]),
    "never sent": (Kind.PHANTOM, consumed(1)),
    "another queue's": (Kind.PHANTOM, [*sent(1), *consumed(1, queue="other")]),
    "of a transaction never committed": (Kind.PHANTOM, [*TRANSACTION, *consumed(2, queue="a"), *done(1)]),
    "another message-id": (
        Kind.IDENTITY,
        [*sent(1), *came(1), *CRASH, replace(came(1, count=2)[0], message_id="new"), *done(1)],
    ),
    "one message-id for two": (
        Kind.IDENTITY,
        [*sent(1), *sent(2), *consumed(1), replace(came(2)[0], message_id="id1"), *done(2)],
    ),
    "an ERROR": (Kind.REFUSED, [Refused("internal-error")]),
    "COMMIT receipted, a SEND missing": (Kind.LOST, [*TRANSACTION, *committed("t"), *consumed(2, queue="a")]),
    "COMMIT receipted, ACK undone": (
        Kind.UNDONE,
        [
            *TRANSACTION,
            *committed("t"),
            *consumed(2, queue="a"),
            *consumed(3, queue="b"),
            *CRASH,
            *consumed(1, count=2),
        ],
    ),
    "COMMIT unreceipted, half of the SENDs": (
        Kind.SPLIT,
        [*TRANSACTION, *committed("t", receipted=False), *CRASH, *consumed(2, queue="a"), *done(1)],
    ),
    "COMMIT unreceipted, ACK without SENDs": (Kind.LOST, [*TRANSACTION, *committed("t", receipted=False), *CRASH]),
    "COMMIT unreceipted, SENDs without ACK": (
        Kind.SPLIT,
        [
            *TRANSACTION,
            *committed("t", receipted=False),
            *CRASH,
            Calm(),
            *consumed(2, queue="a"),
            *consumed(3, queue="b"),
            *consumed(1, count=2),
        ],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_allowed(name: str) -> None:
    verdict = judge(GOOD[name])
    assert not verdict.faults, verdict.explain(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_what_is_not(name: str) -> None:
    kind, history = BAD[name]
    verdict = judge(history)
    assert kind in verdict.kinds(), f"{kind} not found: {verdict}"
    assert verdict.kinds() == {kind}, verdict.explain(history)


def test_it_counts_what_it_grants() -> None:
    counts = judge(GOOD["marked at first"]).counts
    assert counts["marked at first"] == 1
    counts = judge(GOOD["unreceipted, not there"]).counts
    assert counts["unreceipted, not there"] == 1


def test_what_still_has_to_come_is_awaited() -> None:
    history = [*sent(1), *sent(2), *came(1), *sent(3, receipted=False)]
    assert judge(history).awaited == {"m1", "m2"}
    assert judge([*history, *done(1), *consumed(2)]).awaited == set()


def test_the_explanation_shows_the_life_of_the_message() -> None:
    kind, history = BAD["ACK receipted, comes again"]
    text = judge(history).explain(history)
    assert kind in text and "Receipted(id='m1')" in text and "AcknowledgementReceipted" in text and "Killed" in text


# --- histories of a broker that is a list, with faults put in


def simulated(seed: int) -> History:
    """A correct broker with two queues, whose process is killed now and then, and its clients."""
    pick = random.Random(seed)
    stored: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    held: dict[str, tuple[str, str, int]] = {}
    history: History = []
    life = 0

    def deliver(queue: str) -> None:
        id, count = stored[queue].pop(0)
        held[id] = queue, f"c{life}.{queue}", count + 1
        mark = count + 1 if count else 0
        history.append(Delivered(id, queue, f"c{life}.{queue}", count > 0, mark, f"x{id}"))

    def settle(id: str) -> None:
        del held[id]
        history.extend([Acknowledged((id,)), AcknowledgementReceipted((id,))])

    def crash() -> None:
        nonlocal life
        history.extend([Killed("all"), *(Closed(f"c{life}.{queue}") for queue in stored), Recovered("all")])
        life += 1
        for id, (queue, _, count) in sorted(held.items(), key=lambda item: int(item[0][1:]), reverse=True):
            stored[queue].insert(0, (id, count))
        held.clear()

    for number in range(400):
        id, queue = f"m{number}", pick.choice("ab")
        history.append(Sent(id, queue, f"p{life}", number))
        if pick.random() < 0.9:
            stored[queue].append((id, 0))
            if pick.random() < 0.9:
                history.append(Receipted(id))
        for _ in range(pick.randrange(3)):
            if stored[queue := pick.choice("ab")]:
                deliver(queue)
        for id in list(held):
            if pick.random() < 0.3:
                settle(id)
        if pick.random() < 0.05:
            crash()
    crash()
    history.append(Calm())
    for queue in stored:
        while stored[queue]:
            deliver(queue)
    for id in list(held):
        settle(id)
    return history


def never_delivered(history: History, pick: random.Random) -> tuple[Kind, History]:
    """A receipted message is lost."""
    receipted = {event.id for event in history if isinstance(event, Receipted)}
    victim = pick.choice(sorted(receipted))
    return Kind.LOST, [event for event in history if isinstance(event, Sent | Receipted) or not _names(event, victim)]


def delivered_once_more(history: History, pick: random.Random) -> tuple[Kind, History]:
    """A message comes again although its ACK was receipted."""
    last = [event for event in history if isinstance(event, Delivered)]
    victim = pick.choice(last)
    again = replace(victim, consumer="drain", redelivered=True, count=9)
    return Kind.UNDONE, [*history, *CRASH, again]


def mark_removed(history: History, pick: random.Random) -> tuple[Kind, History]:
    marked = [index for index, event in enumerate(history) if isinstance(event, Delivered) and event.redelivered]
    index = pick.choice(marked)
    event = history[index]
    assert isinstance(event, Delivered)
    return Kind.UNMARKED, [*history[:index], replace(event, redelivered=False, count=0), *history[index + 1 :]]


def swapped(history: History, pick: random.Random) -> tuple[Kind, History]:
    """Two first deliveries to one consumer change places."""
    found: dict[tuple[str, str], list[int]] = {}
    producers = {event.id: event.producer for event in history if isinstance(event, Sent)}
    for index, event in enumerate(history):
        if isinstance(event, Delivered) and not event.redelivered:
            found.setdefault((event.consumer, producers[event.id]), []).append(index)
    one, other, *_ = pick.choice([places for places in found.values() if len(places) > 1])
    ids = {_id(history[one]): history[other], _id(history[other]): history[one]}
    return Kind.ORDER, [ids.get(_id(e), e) if isinstance(e, Delivered) and not e.redelivered else e for e in history]


def _id(event: Event) -> str:
    assert isinstance(event, Delivered)
    return event.id


def _names(event: Event, id: str) -> bool:
    return id in getattr(event, "ids", ()) or getattr(event, "id", None) == id


@pytest.mark.parametrize("seed", range(5))
def test_a_correct_broker_is_found_so(seed: int) -> None:
    history = simulated(seed)
    verdict = judge(history)
    assert not verdict.faults, verdict.explain(history)
    assert verdict.counts["redeliveries"] and verdict.counts["unreceipted, not there"]


@pytest.mark.parametrize("break_it", [never_delivered, delivered_once_more, mark_removed, swapped])
@pytest.mark.parametrize("seed", range(5))
def test_one_fault_among_thousands_of_events(
    seed: int, break_it: Callable[[History, random.Random], tuple[Kind, History]]
) -> None:
    kind, history = break_it(simulated(seed), random.Random(seed))
    assert kind in judge(history).kinds()
