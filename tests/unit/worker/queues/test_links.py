"""What an origin hands off to an owner on another worker: in order, again to its next life, and never more than the
owner remembers."""

from __future__ import annotations

from typing import Any

from worker.queues.letters import Outcome
from worker.queues.links import UNDER_WAY, Link


class Far:
    """The owner's end: `sent` are the numbers of what came."""

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.letters: list[Any] = []
        self.full: list[bool] = []
        self.link = Link(
            1, lambda slot, letter: self.letters.append(letter), lambda _, full: self.full.append(full), max_bytes
        )

    @property
    def sent(self) -> list[int]:
        return [letter[1] for letter in self.letters]


def test_nothing_leaves_before_the_owner_is_there_and_then_in_order() -> None:
    far = Far()
    for each in range(3):
        far.link.hand_off([[each]], None, 1)
    assert far.sent == []
    far.link.open()
    far.link.hand_off([[3]], None, 1)
    assert far.sent == [1, 2, 3, 4]


def test_the_next_life_gets_what_is_unconfirmed() -> None:
    far = Far()
    far.link.open()
    ended: list[int] = []
    for each in range(1, 5):
        far.link.hand_off([[each]], lambda outcome, each=each: ended.append(each), 1)  # type: ignore[misc]
    far.link.confirmed([(2, None)])
    far.link.lost()
    far.link.hand_off([[5]], None, 1)
    far.letters.clear()
    far.link.open()
    assert far.sent == [1, 3, 4, 5]
    far.link.confirmed([(1, None), (2, None), (3, Outcome(("code", "why", "")).pack())])
    assert ended == [2, 1, 3]


def test_no_more_are_under_way_than_the_owner_remembers() -> None:
    far = Far()
    far.link.open()
    for each in range(UNDER_WAY + 10):
        far.link.hand_off([[each]], None, 1)
    assert far.sent == list(range(1, UNDER_WAY + 1))
    far.link.confirmed([(number, None) for number in range(2, 100)])
    assert len(far.sent) == UNDER_WAY, "the first is not confirmed, and its number would be used again"
    far.link.confirmed([(1, None)])
    assert far.sent == list(range(1, UNDER_WAY + 11))


def test_bytes_that_are_unconfirmed_are_bounded() -> None:
    far = Far(max_bytes=10)
    far.link.open()
    for _ in range(3):
        far.link.hand_off([], None, 5)
    assert far.full == [True]
    far.link.confirmed([(1, None)])
    assert far.full == [True]
    far.link.confirmed([(2, None)])
    assert far.full == [True, False]


def test_who_waits_for_all_so_far_waits_through_the_next_life_and_for_nothing_later() -> None:
    far = Far()
    far.link.open()
    told: list[str] = []
    far.link.when_confirmed(lambda: told.append("nothing"))
    assert told == ["nothing"]
    far.link.hand_off([[1]], None, 1)
    far.link.hand_off([[2]], lambda outcome: told.append("refused" if outcome.refused else "stored"), 1)
    far.link.when_confirmed(lambda: told.append("two"))
    far.link.hand_off([[3]], None, 1)
    far.link.when_confirmed(lambda: told.append("three"))
    far.link.confirmed([(2, Outcome(("code", "why", "")).pack())])
    far.link.lost()
    far.link.open()
    assert told == ["nothing", "refused"], "the first is not confirmed"
    far.link.confirmed([(1, None)])
    assert told == ["nothing", "refused", "two"]
    far.link.confirmed([(3, None)])
    assert told == ["nothing", "refused", "two", "three"]
