"""Durations and sizes: exact both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import format_duration, format_size, parse_duration, parse_size

SIZES = st.integers(0, 10**19) | st.builds(
    lambda n, unit: n * unit,
    st.integers(0, 5000),
    st.sampled_from([1, 1000, 1024, 10**6, 1 << 20, 10**9, 1 << 30]),
)
SECONDS = (
    st.floats(0, 1e15) | st.integers(0, 10**7).map(lambda n: n / 1000) | st.integers(0, 10**4).map(lambda n: n * 3600.0)
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1.5s", 1.5),
        ("0.5 h", 1800.0),
        ("7", 7.0),
        ("0s", 0.0),
        (10, 10.0),
        (0.25, 0.25),
        ("0.1s", 0.1),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("4MiB", 4 << 20),
        ("1GiB", 1 << 30),
        ("10kB", 10_000),
        ("5MB", 5_000_000),
        ("1GB", 10**9),
        ("32B", 32),
        ("1.5MiB", 3 << 19),
        ("4096", 4096),
        (4096, 4096),
        (4096.0, 4096),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "ten",
        "-1s",
        "1e3s",
        "1s2",
        "1d",
        "1S",
        "1MS",
        "٣s",
        "1_000",
        "1\n",
        "." + "1" * 9,
        "1" * 5000,
        True,
        None,
        [],
        {},
        -1,
        -0.5,
        float("nan"),
        float("inf"),
        10**400,
        1e300,
    ],
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a|unknown unit|negative"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "many",
        "-1B",
        "1kb",
        "1Kib",
        "1 k",
        "1Mb",
        "0.5B",
        "1.0001kB",
        "0x10",
        "1\n",
        False,
        None,
        [],
        0.5,
        -1,
        float("nan"),
        float("inf"),
        10**400,
    ],
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a|unknown unit|negative"):
        parse_size(text)


def test_an_unknown_unit_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'parsecs' \(units: ms, s, m, h\)"):
        parse_duration("12 parsecs")


@given(SIZES)
def test_a_size_is_read_back_as_it_was_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(SECONDS)
def test_a_duration_is_read_back_as_it_was_written(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(alphabet="0123456789. -+_eEmshkKMGiBb\n", max_size=12))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value >= 0


@given(st.integers(0, 10**6), st.sampled_from([("kB", 1000), ("KiB", 1024), ("MB", 10**6), ("MiB", 1 << 20)]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "500ms"), (120, "2m"), (7200, "2h"), (90, "90s"), (0, "0s"), (1.5, "1500ms"), (0.0001, "0.0001s")],
)
def test_durations_are_written_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(65536, "64KiB"), (10_000, "10kB"), (1025, "1025B"), (0, "0B"), (1 << 30, "1GiB"), (5 * 10**6, "5MB")],
)
def test_sizes_are_written_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text
