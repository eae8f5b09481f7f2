"""Puts the configuration together: defaults, then the file, then the environment, then the command line.

All mistakes of all sources are found in one go, also in a value that a later source replaces: a file that
only works because of today's environment is a trap.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.config.check import check_across, check_keys
from common.config.keys import CLIENT_PASSCODE, CLIENT_URL, KEYS, PREFIX, VARIABLES, nearest
from common.config.mistakes import ConfigError, Location, Mistake, render
from common.config.schema import Config

__all__ = ["load_config"]

COMMAND_LINE = "command line"
_POSITION = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def load_config(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
    """The configuration from the TOML file at `path` (none: defaults), `environ` and `overrides`.

    Of `environ` only `RUNTIME_DIRECTORY` and the `STAMPEDE_` variables that are not for clients are looked at.
    `overrides` are
    dotted keys (`broker.workers`; `listener.bind` with a list of addresses); one that is `None` is not set.
    Later sources win. Raises `ConfigError` with every mistake.
    """
    return _Loader(path).load(environ, overrides)


class _Loader:
    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._data: dict[str, Any] = {}
        self._sources: dict[Location, str] = {}
        self._mistakes: list[Mistake] = []
        self._seen: set[tuple[str, str, str, str]] = set()

    def load(self, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Config:
        self._read_file()
        readable = not self._mistakes
        _, found = check_keys(self._data, self._source)
        self._report(mistake for _, mistake in found)
        self._apply_environment(environ)
        _, found = check_keys(self._data, self._source)
        self._report_new(mistake for _, mistake in found)
        self._apply_overrides(overrides)
        config, found = check_keys(self._data, self._source)
        self._report_new(mistake for _, mistake in found)
        if readable:
            wrong = [location for location, _ in found]
            self._report(check_across(config, self._data, self._source, wrong))
        if self._mistakes:
            raise ConfigError(self._mistakes)
        return config

    def _source(self, location: Location) -> str:
        for length in range(len(location), 0, -1):
            if location[:length] in self._sources:
                return self._sources[location[:length]]
        return "default" if self._path is None else str(self._path)

    def _report(self, mistakes: Iterable[Mistake]) -> None:
        for mistake in mistakes:
            self._seen.add(_gist(mistake))
            self._mistakes.append(mistake)

    def _report_new(self, mistakes: Iterable[Mistake]) -> None:
        """Leave out what an earlier source had already, and all but one where one variable is for all
        listeners."""
        for mistake in mistakes:
            if _gist(mistake) not in self._seen:
                self._report([mistake])

    # --- the file

    def _read_file(self) -> None:
        if self._path is None:
            return
        try:
            content = self._path.read_bytes()
        except OSError as error:
            self._mistakes.append(Mistake(str(self._path), f"cannot be read: {error.strerror or error}"))
            return
        text = ""
        try:
            text = content.decode("utf-8")
            self._data = tomllib.loads(text)
        except UnicodeDecodeError as error:
            self._syntax(content[: error.start].decode("utf-8"), "a byte that is not UTF-8")
        except RecursionError:
            self._mistakes.append(Mistake(str(self._path), "not valid TOML: nested too deeply"))
        except ValueError as error:
            # Not only TOMLDecodeError: an integer of thousands of digits is a plain ValueError.
            match = _POSITION.fullmatch(str(error))
            if match is None:
                self._mistakes.append(Mistake(str(self._path), f"not valid TOML: {error}"))
            elif match[2] is None:
                self._syntax(text, match[1])
            else:
                self._syntax_at(match[2], match[3], match[1])

    def _syntax(self, before: str, problem: str) -> None:
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        self._syntax_at(line, column, problem)

    def _syntax_at(self, line: object, column: object, problem: str) -> None:
        where = f"{self._path}, line {line}, column {column}"
        self._mistakes.append(Mistake(where, f"not valid TOML: {problem}"))

    # --- the environment

    def _apply_environment(self, environ: Mapping[str, str]) -> None:
        values = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        for name in sorted(values.keys() - {CLIENT_URL, CLIENT_PASSCODE}):
            if name not in VARIABLES:
                self._unknown_variable(name, values[name])
            elif VARIABLES[name] == "destination":
                self._set_destinations(values[name], name)
            elif VARIABLES[name] == "listener.bind":
                addresses = [address.strip() for address in values[name].split(",")]
                self._set_binds(addresses if values[name].strip() else [], name)
            else:
                self._set(VARIABLES[name], values[name], name)
        runtime_directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        broker = self._data.get("broker", {})
        if runtime_directory and isinstance(broker, dict) and "runtime_dir" not in broker:
            self._set("broker.runtime_dir", runtime_directory, "RUNTIME_DIRECTORY")

    def _unknown_variable(self, name: str, value: str) -> None:
        plain = name.removeprefix(PREFIX).lower()
        meant = [key.variable for key in KEYS.values() if key.name.replace(".", "_") == plain]
        known = meant[0] if meant else nearest(name.upper(), list(VARIABLES))
        self._mistakes.append(Mistake("environment", "unknown variable", name, render(value), nearest=known))

    def _set_destinations(self, text: str, source: str) -> None:
        try:
            self._data["destination"] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            allowed = """a TOML list such as [{pattern = "/topic/ticks.>", slow_consumer = "drop"}]"""
            self._mistakes.append(Mistake(source, "not valid TOML", "destination", render(text), allowed=allowed))
            return
        self._sources[("destination",)] = source

    # --- the command line

    def _apply_overrides(self, overrides: Mapping[str, object]) -> None:
        given = {key: value for key, value in overrides.items() if value is not None}
        for key in sorted(given):
            value = given[key]
            if key == "listener.bind":
                self._set_binds(list(value) if isinstance(value, list | tuple) else [value], COMMAND_LINE)
            elif key == "destination":
                self._data["destination"] = value
                self._sources[("destination",)] = COMMAND_LINE
            elif key in KEYS and not key.startswith("destination."):
                self._set(key, value, COMMAND_LINE)
            else:
                known = nearest(key, list(KEYS))
                self._mistakes.append(Mistake(COMMAND_LINE, "unknown key", key, render(value), nearest=known))

    # --- both

    def _set(self, key: str, value: object, source: str) -> None:
        """Set `key` in its table; a key of `listener` in every one."""
        first, *middle, last = key.split(".")
        tables: list[tuple[Location, Any]]
        if first == "listener":
            listeners = self._data.setdefault(first, [{}])
            # What is no list of tables was reported with its own source, and there is nothing to set a key
            # in.
            tables = [((first, i), table) for i, table in enumerate(listeners)] if isinstance(listeners, list) else []
        else:
            tables = [((first,), self._data.setdefault(first, {}))]
        for location, table in tables:
            for part in middle:
                table = table.setdefault(part, {}) if isinstance(table, dict) else None
                location = (*location, part)
            if isinstance(table, dict):
                table[last] = value
                self._sources[(*location, last)] = source

    def _set_binds(self, addresses: list[Any], source: str) -> None:
        """One listener for each address, with everything else as in the first listener there is."""
        listeners = self._data.get("listener", [{}])
        first = listeners[0] if isinstance(listeners, list) and listeners else {}
        template = first if isinstance(first, dict) else {}
        inherited = {place: name for place, name in self._sources.items() if place[:2] == ("listener", 0)}
        self._sources = {place: name for place, name in self._sources.items() if place[0] != "listener"}
        self._data["listener"] = [{**copy.deepcopy(template), "bind": address} for address in addresses]
        for index in range(len(addresses)):
            for place, name in inherited.items():
                self._sources[("listener", index, *place[2:])] = name
            self._sources[("listener", index, "bind")] = source
        if not addresses:
            self._sources[("listener",)] = source


def _gist(mistake: Mistake) -> tuple[str, str, str, str]:
    return mistake.source, re.sub(r"\[[0-9]+\]", "", mistake.key), mistake.value, mistake.problem
