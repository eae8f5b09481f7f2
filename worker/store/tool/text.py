"""Numbers for people."""

from __future__ import annotations

__all__ = ["count", "printable", "size"]


def count(number: int, what: str) -> str:
    """`1 message`, `1,200 messages`."""
    if number == 1:
        return f"1 {what}"
    if what.startswith("count of"):
        return f"{number:,} counts{what.removeprefix('count')}"
    if what.endswith("y"):
        return f"{number:,} {what[:-1]}ies"
    return f"{number:,} {what}s"


def size(number: int) -> str:
    """`1.5 MiB`; bytes as they are below a KiB."""
    value = float(number)
    if value < 1024:
        return count(number, "byte")
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:,.1f} {unit}"
    return f"{value / 1024:,.1f} TiB"


def printable(name: str) -> str:
    """`name`, in quotes and with escapes if a client chose it to upset a terminal."""
    return name if name.isprintable() else repr(name)
