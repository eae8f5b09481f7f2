"""What differs between two configurations, and whether a running broker can go from one to the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.config.keys import KEYS, SECTIONS
from common.config.kinds import Effect
from common.config.mistakes import ConfigError, Location, Mistake, dotted
from common.config.schema import Config

__all__ = ["changes", "check_reload"]


def changes(old: Config, new: Config) -> list[str]:
    """The dotted keys whose values differ, in the order of the schema; where there are more or fewer tables of a
    list than before, the list's name alone."""
    return [dotted(place) for place, *_ in _differences(old, new)]


def check_reload(old: Config, new: Config) -> None:
    """Raises `ConfigError` with a mistake for each cold key that differs."""
    refused = [
        Mistake("", f"needs a restart; the broker runs with {was}", dotted(place), now)
        for place, effect, was, now in _differences(old, new)
        if effect is Effect.COLD
    ]
    if refused:
        raise ConfigError(refused)


def _differences(old: Config, new: Config) -> Iterator[tuple[Location, Effect, str, str]]:
    """Where, when it would take effect, and both values as one would write them."""
    resized = []
    for name, section in SECTIONS.items():
        before, after = (getattr(config, name) if section.many else () for config in (old, new))
        if len(before) != len(after):
            resized.append(f"{name}.")
            effects = [key.effect for key in KEYS.values() if key.name.startswith(f"{name}.")]
            effect = Effect.COLD if Effect.COLD in effects else Effect.HOT
            yield (name,), effect, _tables(before), _tables(after)
    for name, key in KEYS.items():
        if name.startswith(tuple(resized)):
            continue
        for (place, was), (_, now) in zip(_values(old, name), _values(new, name), strict=True):
            if was != now:
                yield place, key.effect, key.kind.show(was), key.kind.show(now)


def _tables(found: tuple[Any, ...]) -> str:
    return f"{len(found)} table{'' if len(found) == 1 else 's'}"


def _values(config: Config, name: str) -> list[tuple[Location, Any]]:
    """Every value of the key: one, or one per table of its list."""
    found: list[tuple[Location, Any]] = [((), config)]
    path = ""
    for part in name.split("."):
        path = f"{path}.{part}" if path else part
        inner = [((*place, part), getattr(holder, part)) for place, holder in found]
        if path in SECTIONS and SECTIONS[path].many:
            inner = [((*place, i), table) for place, tables in inner for i, table in enumerate(tables)]
        found = inner
    return found
