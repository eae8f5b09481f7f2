"""What is wrong with a configuration, in a form that can be printed line by line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from common.config.kinds import quote

__all__ = ["ConfigError", "Location", "Mistake", "dotted", "render"]

Location = tuple[str | int, ...]
"""Where a value stands: `("listener", 0, "bind")`."""

MAX_SHOWN = 80
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `str()` of it is one line.

    `source` is the file (with line and column for a syntax error), the environment variable, or the command
    line; `key` the dotted key, empty when no key is concerned; `value` the offending value as TOML;
    `problem` what is wrong; `allowed` what is allowed instead; `nearest` the known key or variable most
    like an unknown one.
    """

    source: str
    problem: str
    key: str = ""
    value: str = ""
    allowed: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        subject = f"{self.key} = {self.value}" if self.key and self.value else self.key
        line = ": ".join(part for part in (self.source, subject, self.problem) if part)
        if self.allowed:
            line += f"; allowed: {self.allowed}"
        if self.nearest:
            line += f"; the nearest known one is {self.nearest}"
        return line


class ConfigError(Exception):
    """The configuration cannot be used; `mistakes` holds all that is wrong with it, in the order it was
    found."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


def dotted(location: Location) -> str:
    """`listener[0].heart_beat.minimum`; names that are no bare TOML keys are quoted."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else _cut(quote(part)))
    return text


def render(value: object) -> str:
    """`value` as TOML would have it, on one line and not too long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to write integers of thousands of digits, which TOML's 0x... can hold.
        return str(value) if abs(value) < 10**40 else "a number of more than 40 digits"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return _cut(f"[{', '.join(render(item) for item in value[:MAX_SHOWN])}]")
    return _cut(quote(value)) if isinstance(value, str) else _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
