"""Batches of units, and the pieces that statements are made of."""

from __future__ import annotations

import apsw
from hypothesis import given
from hypothesis import strategies as st

from worker.store.batch import runs
from worker.store.statements import _COLUMN, _column, _integers

KEYS = st.one_of(st.sets(st.integers(1, 40), max_size=40), st.sets(st.integers(1, (1 << 63) - 1), max_size=20)).map(
    sorted
)


def naive_runs(keys: list[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for key in keys:
        if found and found[-1][-1] == key - 1:
            found[-1].append(key)
        else:
            found.append([key])
    return found


@given(KEYS, st.integers(0, 12))
def test_runs_are_found_if_they_are_few(keys: list[int], most: int) -> None:
    expected = naive_runs(keys)
    found = runs(keys, most)
    if len(expected) > most:
        assert found is None
    else:
        assert found is not None
        assert [keys[start:stop] for start, stop in found] == expected


def test_a_long_run_costs_few_looks() -> None:
    class Counted(list[int]):
        looks = 0

        def __getitem__(self, index: int) -> int:  # type: ignore[override]
            self.looks += 1
            return super().__getitem__(index)

    keys = Counted(range(1, 100_001))
    assert runs(keys, 8) == [(0, 100_000)]
    assert keys.looks < 50


def test_numbers_come_out_of_a_column_as_they_went_in() -> None:
    connection = apsw.Connection(":memory:")

    @given(st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=20))
    def check(values: list[int]) -> None:
        rows = connection.execute(
            f"SELECT {_COLUMN.format(blob='?2')} FROM carray(?1) a", (_integers(values), _column(values))
        )
        assert [value for (value,) in rows] == values

    check()
