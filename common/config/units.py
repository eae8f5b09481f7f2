"""Durations and sizes as people write them: `"500ms"`, `"2m"`, `"64KiB"`.

A plain number is seconds or bytes. Fractions are exact (`"1.5MiB"` is 1,572,864 bytes), and what
`format_duration` and `format_size` write is read back as the very same value.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

__all__ = ["DURATION_UNITS", "SIZE_UNITS", "format_duration", "format_size", "parse_duration", "parse_size"]

DURATION_UNITS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}

# The digits are bounded because a number of a million digits takes Python seconds to read.
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,350})?) ?([A-Za-z]*)", re.ASCII)


def parse_duration(value: object) -> float:
    """Seconds from a number of seconds or a string such as `"500ms"`, `"10s"`, `"2m"`, `"1h"` or `"10"`.

    Raises `ValueError` with what is wrong, in a few words.
    """
    if isinstance(value, str):
        number, unit = _split(value, "duration", list(DURATION_UNITS))
        return float(number * DURATION_UNITS[unit or "s"])
    return float(_plain_number(value, "duration"))


def parse_size(value: object) -> int:
    """Bytes from a whole number of bytes or a string such as `"64KiB"`, `"10kB"`, `"1.5MiB"` or `"4096"`.

    Raises `ValueError` with what is wrong, in a few words.
    """
    if isinstance(value, str):
        number, unit = _split(value, "size", list(SIZE_UNITS))
        size = number * SIZE_UNITS[unit or "B"]
    else:
        size = Fraction(_plain_number(value, "size"))
    if size.denominator != 1:
        raise ValueError("not a whole number of bytes")
    return size.numerator


def format_duration(seconds: float) -> str:
    """The shortest exact form, in the largest unit that divides it: 0.5 is `500ms`, 120 is `2m`."""
    exact = Fraction(repr(float(seconds)))
    for unit in ("h", "m", "s", "ms"):
        count = exact / DURATION_UNITS[unit]
        if count.denominator == 1 and (count or unit == "s"):
            return f"{count.numerator}{unit}"
    return f"{_decimal(exact)}s"


def format_size(size: int) -> str:
    """The exact form in the largest unit that divides it: 65536 is `64KiB`, 10000 is `10kB`, 1025 is
    `1025B`."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "kB"):
        if size and size % SIZE_UNITS[unit] == 0:
            return f"{size // SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def _split(text: str, what: str, units: list[str]) -> tuple[Fraction, str]:
    match = _NUMBER_AND_UNIT.fullmatch(text.strip(" "))
    if match is None:
        raise ValueError(f"not a {what}")
    unit = match[2]
    if unit and unit not in units:
        raise ValueError(f"unknown unit {unit!r} (units: {', '.join(units)})")
    return Fraction(match[1]), unit


def _plain_number(value: object, what: str) -> int | float:
    # bool is an int to Python, but `true` is no size to anyone.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"not a {what}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    if abs(value) >= 10**20:
        raise ValueError(f"not a {what} of this world")
    if value < 0:
        raise ValueError("negative")
    return value


def _decimal(exact: Fraction) -> str:
    """`exact`, whose denominator divides a power of ten, in full without an exponent."""
    places = 0
    while (exact * 10**places).denominator != 1:
        places += 1
    digits = str((exact * 10**places).numerator).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits
