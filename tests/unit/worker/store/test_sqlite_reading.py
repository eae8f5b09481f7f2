"""What the thread that reads does when it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from tests.unit.worker.store.harness import NEVER, Row, SqliteOpened, key, run
from worker.store import reader
from worker.store.interface import SetExpiry

Open = Callable[..., SqliteOpened]


def events(s: SqliteOpened) -> list[str]:
    return [json.loads(line)["event"] for line in s.log.getvalue().splitlines()]


def test_a_failed_read_is_tried_again(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        faults = [apsw.IOError("injected"), apsw.CorruptError("injected")]
        original = reader.page

        def fail_first(*arguments: Any, **options: Any) -> Any:
            if faults:
                raise faults.pop()
            return original(*arguments, **options)

        monkeypatch.setattr(reader, "page", fail_first)
        async with sqlite(retry_interval=0.0) as s:
            await s.write(inserts=[(key(1), b"x")])
            assert await s.page() == [(key(1), b"x", 0)]
            assert events(s).count("store.failing") == 2

    run(main)


def test_what_cannot_be_read_holds_up_nothing_else(sqlite: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        original = reader.page

        def damaged(connection: apsw.Connection, after: int, **options: Any) -> Any:
            if after == 7:
                raise apsw.CorruptError("injected")
            return original(connection, after, **options)

        monkeypatch.setattr(reader, "page", damaged)
        async with sqlite(retry_interval=NEVER) as s:
            answers: list[list[Row]] = []
            for _ in range(3):
                s.store.page(7, 1 << 62, 10, 10, answers.append)
            await s.write(inserts=[(key(1), b"x")], changes=[SetExpiry(key(1), 5)])
            for _ in range(3):
                assert await s.page() == [(key(1), b"x", 0)]
                assert await s.expired(5) == [key(1)]
            assert not answers
            # One line an interval, not one for each.
            assert events(s).count("store.failing") == 1

    run(main)
