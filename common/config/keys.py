"""The list of keys, read off the schema: their dotted names, kinds, defaults and environment variables.

A dotted name carries no index (`listener.heart_beat.minimum`). An environment variable for a key of
`listener` is for every listener; `STAMPEDE_BIND` makes the list of listeners and `STAMPEDE_DESTINATION`
holds the whole list of rules, since single keys of a list have no name in an environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from common.config.kinds import Effect, Kind
from common.config.schema import Config

__all__ = ["CLIENT_PASSCODE", "CLIENT_URL", "KEYS", "PREFIX", "SECTIONS", "VARIABLES", "Key", "SectionInfo", "nearest"]

PREFIX = "STAMPEDE_"

CLIENT_URL = f"{PREFIX}URL"
CLIENT_PASSCODE = f"{PREFIX}PASSCODE"
"""These two are for `stampede send` and `subscribe`: no mistakes in the environment of a broker, and none of its
keys. The second must not be shown."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `default` is of no use when `required`; `variable` is the environment variable that sets
    it."""

    name: str
    kind: Kind
    default: Any
    required: bool
    description: str
    variable: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class SectionInfo:
    """One table, at `name` (`listener.heart_beat`); `many` when it is a list of tables (`[[listener]]`)."""

    name: str
    model: type[BaseModel]
    many: bool


def _model_of(field: FieldInfo) -> tuple[type[BaseModel], bool] | None:
    """The model a field holds, and whether it holds many."""
    for many, candidate in ((False, field.annotation), (True, next(iter(get_args(field.annotation)), None))):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, many
    return None


def _variable(name: str) -> str:
    if name == "listener.bind":
        return f"{PREFIX}BIND"
    if name.startswith("destination."):
        return f"{PREFIX}DESTINATION"
    return PREFIX + name.replace(".", "_").upper()


def _walk(model: type[BaseModel], path: str) -> Iterator[Key | SectionInfo]:
    for field_name, field in model.model_fields.items():
        name = f"{path}.{field_name}" if path else field_name
        if (held := _model_of(field)) is not None:
            yield SectionInfo(name, *held)
            yield from _walk(held[0], name)
            continue
        kind = next(item for item in field.metadata if isinstance(item, Kind))
        effect = next(item for item in field.metadata if isinstance(item, Effect))
        required = field.is_required()
        default = None if required else field.default
        yield Key(name, kind, default, required, field.description or "", _variable(name), effect)


_ALL = tuple(_walk(Config, ""))

KEYS: dict[str, Key] = {item.name: item for item in _ALL if isinstance(item, Key)}
"""Every key by its dotted name, in the order of the schema."""

SECTIONS: dict[str, SectionInfo] = {item.name: item for item in _ALL if isinstance(item, SectionInfo)}
"""Every table by its dotted name, in the order of the schema."""

VARIABLES: dict[str, str] = {
    key.variable: "destination" if key.name.startswith("destination.") else key.name for key in KEYS.values()
}
"""The dotted name that each environment variable sets."""


def nearest(name: str, candidates: list[str]) -> str:
    """The candidate most like `name`, by its whole dotted name or by its last word alone."""

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, name, candidate).ratio()
        # A key in the wrong table (`workers` at the top, `limits.high_bytes`) is right in its last word.
        last = difflib.SequenceMatcher(None, name.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return max(whole, 0.95 * last)

    return max(candidates, key=likeness)
