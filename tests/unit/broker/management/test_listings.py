"""Pages over several workers: every entry once, in pieces, also when one does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.management.listings import PIECES, Cursor, Page, list_connections, list_destinations, list_queues
from broker.management.questions import MAX_OPEN, NoAnswer, Questions
from common.messages import Message, Query

SCAN = 3


class Workers:
    """Answers as `worker.inspection` does, three objects at a time; `stuck` ones do not."""

    def __init__(
        self, numbers: list[list[int]], names: list[dict[str, int]], stuck: frozenset[int] = frozenset()
    ) -> None:
        self.numbers = [sorted(each) for each in numbers]
        self.names = names
        self.stuck = stuck
        self.asked = 0

    async def ask(self, slot: int, what: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        self.asked += 1
        if slot in self.stuck:
            raise NoAnswer("stuck")
        if what == "connections":
            left = [number for number in self.numbers[slot] if number > arguments["after"]]
            seen = left[:SCAN]
            found = [number for number in seen if arguments["text"] in str(number)][: arguments["limit"]]
            last = found[-1] if len(found) == arguments["limit"] else (seen[-1] if seen else 0)
            more = any(number > last for number in left)
            return {"connections": [{"session": number} for number in found], "next": last if more else None}
        names = list(self.names[slot])
        if what == "queues":
            chosen = names[arguments["offset"] :][: min(SCAN, arguments["limit"])]
            end = arguments["offset"] + len(chosen)
            return {"queues": [{"name": name} for name in chosen], "next": end if end < len(names) else None}
        if what == "counts":
            chosen = [name for name in arguments["names"] if name in names]
            return {"destinations": [self._named(slot, name) for name in chosen]}
        chosen = names[arguments["offset"] :][: min(SCAN, arguments["limit"])]
        end = arguments["offset"] + len(chosen)
        return {
            "destinations": [self._named(slot, name) for name in chosen],
            "next": end if end < len(names) else None,
        }

    def _named(self, slot: int, name: str) -> dict[str, Any]:
        return {"name": name, "pattern": False, "subscribers": self.names[slot][name], "blocked": False}


def all_pages(turn: Any) -> tuple[list[Any], list[Page]]:
    """Every entry, page by page."""
    start, entries, pages = Cursor(), [], []
    while True:
        page = asyncio.run(turn(start))
        pages.append(page)
        entries += page.entries
        if page.next is None:
            return entries, pages
        start = Cursor.parse(str(page.next))


NUMBERS = st.lists(st.lists(st.integers(1, 99), unique=True, max_size=12), min_size=1, max_size=4)
NAMES = st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9), max_size=8), min_size=1, max_size=4)


@given(NUMBERS, st.integers(1, 9), st.sampled_from(["", "1", "x"]))
def test_every_connection_once_and_in_order(numbers: list[list[int]], limit: int, text: str) -> None:
    workers = Workers(numbers, [])
    slots = range(len(numbers))
    entries, pages = all_pages(lambda start: list_connections(workers.ask, slots, start, limit, text=text))
    expected = [(slot, number) for slot in slots for number in sorted(numbers[slot]) if text in str(number)]
    assert [(entry["worker"], entry["session"]) for entry in entries] == expected
    assert all(len(page.entries) <= limit for page in pages)


@given(NAMES, st.integers(1, 9))
def test_every_destination_once_with_all_of_its_subscribers(names: list[dict[str, int]], limit: int) -> None:
    workers = Workers([], names)
    entries, _ = all_pages(lambda start: list_destinations(workers.ask, range(len(names)), start, limit))
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        counts = [each[entry["name"]] for each in names if entry["name"] in each]
        assert (entry["subscribers"], entry["workers"]) == (sum(counts), len(counts))
    assert {entry["name"] for entry in entries} == {name for each in names for name in each}


@given(NAMES, st.integers(1, 9))
def test_every_queue_once_with_its_owner(names: list[dict[str, int]], limit: int) -> None:
    workers = Workers([], names)
    entries, pages = all_pages(lambda start: list_queues(workers.ask, range(len(names)), start, limit))
    expected = [{"owner": slot, "name": name} for slot, each in enumerate(names) for name in each]
    assert entries == expected and all(len(page.entries) <= limit for page in pages)


def test_what_a_page_asks_for_is_bounded() -> None:
    workers = Workers([list(range(1, 1000))], [])
    page = asyncio.run(list_connections(workers.ask, [0], Cursor(), 10, text="none"))
    assert workers.asked == PIECES
    assert page.entries == [] and page.next == Cursor(0, PIECES * SCAN)


def test_a_worker_that_does_not_answer_is_named_and_the_others_are_listed() -> None:
    workers = Workers([[1], [2], [3]], [{"a": 1}, {"a": 5}, {"a": 2}], stuck=frozenset({1}))
    page = asyncio.run(list_connections(workers.ask, range(3), Cursor(), 10))
    assert [entry["session"] for entry in page.entries] == [1, 3] and page.unanswered == {1}
    page = asyncio.run(list_destinations(workers.ask, range(3), Cursor(), 10))
    assert [entry["subscribers"] for entry in page.entries] == [3] and page.unanswered == {1}


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "1.2.3", "-1.2", "1.x", "1.2 ", "٣.1", "1." + "9" * 16])
def test_no_cursor_of_ours(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.parse(text)


class TestQuestions:
    def ask(self, *, timeout: float = 5.0, has_worker: bool = True) -> tuple[Questions, list[Query]]:
        sent: list[Query] = []

        def send(slot: int, message: Message) -> bool:
            assert isinstance(message, Query)
            sent.append(message)
            return has_worker

        return Questions(send, timeout=timeout), sent

    def test_answers_find_their_questions(self) -> None:
        questions, sent = self.ask()

        async def run() -> list[Any]:
            asked = [asyncio.ensure_future(questions.ask(0, "x", {"n": n})) for n in range(3)]
            await asyncio.sleep(0)
            questions.answered(1, sent[0].number, {"of": "another worker"})
            for query in reversed(sent):
                questions.answered(0, query.number, query.arguments)
                questions.answered(0, query.number, {"again": 1})
            return await asyncio.gather(*asked)

        assert asyncio.run(run()) == [{"n": 0}, {"n": 1}, {"n": 2}]

    @pytest.mark.parametrize(
        ("timeout", "has_worker", "why"), [(0.01, True, "did not answer"), (5, False, "not there")]
    )
    def test_no_answer_is_said(self, timeout: float, has_worker: bool, why: str) -> None:
        questions, _ = self.ask(timeout=timeout, has_worker=has_worker)
        with pytest.raises(NoAnswer, match=why):
            asyncio.run(questions.ask(0, "x", {}))

    def test_a_worker_that_dies_answers_nothing_more_and_questions_do_not_pile_up(self) -> None:
        questions, sent = self.ask()

        async def run() -> list[Any]:
            asked = [asyncio.ensure_future(questions.ask(0, "x", {})) for _ in range(MAX_OPEN)]
            await asyncio.sleep(0)
            with pytest.raises(NoAnswer, match="already"):
                await questions.ask(0, "x", {})
            questions.lost(0)
            return await asyncio.gather(*asked, return_exceptions=True)

        assert {str(error) for error in asyncio.run(run())} == {"worker 0 is gone"}
        assert len(sent) == MAX_OPEN
