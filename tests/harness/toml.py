"""Writes the configuration dictionaries of the tests as TOML (the standard library only reads it)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

__all__ = ["dump_toml"]


def dump_toml(config: Mapping[str, object]) -> str:
    """`config` as a TOML document: nested mappings become tables, lists of mappings arrays of tables.

    Values may be strings, numbers, booleans and lists of these; anything else raises `TypeError`.
    """
    return "\n".join(_table((), config)) + "\n"


def _table(path: tuple[str, ...], table: Mapping[str, object]) -> Iterator[str]:
    nested: list[tuple[str, object]] = []
    for key, value in table.items():
        if isinstance(value, Mapping) or _is_table_list(value):
            nested.append((key, value))
        else:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in nested:
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, Mapping):
            yield f"[{name}]"
            yield from _table((*path, key), value)
        elif isinstance(value, list):
            for entry in value:
                yield f"[[{name}]]"
                yield from _table((*path, key), entry)


def _is_table_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # A TOML basic string escapes as JSON does, but for the DEL character, which no test needs.
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    raise TypeError(f"no TOML form for {value!r}")
