"""Finds every mistake in the plain data of a configuration: key by key, then what keys have to do with each
other."""

from __future__ import annotations

import copy
import ipaddress
import os
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common.config.keys import KEYS, SECTIONS, nearest
from common.config.mistakes import Location, Mistake, dotted, render
from common.config.rules import rule_mistakes
from common.config.schema import Config, Listener, Management

__all__ = ["RUNTIME_DIR_BYTES", "check_across", "check_keys"]

RUNTIME_DIR_BYTES = 80
"""The longest absolute `broker.runtime_dir`: 107 bytes of `sun_path`, less the name of a worker's socket."""

Source = Callable[[Location], str]
"""Says where the value at a location came from."""


def check_keys(data: dict[str, Any], source: Source) -> tuple[Config, list[tuple[Location, Mistake]]]:
    """The configuration in `data`, with defaults in place of what is wrong, and what is wrong."""
    found: list[tuple[Location, Mistake]] = []
    repaired = copy.deepcopy(data)
    while True:
        # More than once, because pydantic counts a list only when its items are sound.
        try:
            return Config.model_validate(repaired), found
        except ValidationError as error:
            details = error.errors(include_url=False)
        for item in details:
            if not _counts_only_sound(item):
                found.append((item["loc"], _mistake(item, source)))
                _repair(repaired, item["loc"])


def _counts_only_sound(item: ErrorDetails) -> bool:
    """Whether a list is called too short only because pydantic does not count the items that are wrong."""
    return item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]


def _names(location: Location) -> str:
    return ".".join(part for part in location if isinstance(part, str))


def _mistake(item: ErrorDetails, source: Source) -> Mistake:
    location, name = item["loc"], _names(item["loc"])
    key, value, origin = dotted(location), render(item["input"]), source(location)
    if item["type"] == "extra_forbidden":
        # Where a table is unknown, only another table can have been meant.
        parts = item["input"] if isinstance(item["input"], list) else [item["input"]]
        tables = bool(parts) and all(isinstance(part, dict) for part in parts)
        candidates = list(SECTIONS) if tables else list(KEYS)
        return Mistake(origin, "unknown key", key, value, nearest=nearest(name, candidates))
    if item["type"] == "missing":
        return Mistake(origin, "is missing", key, allowed=KEYS[name].kind.allowed())
    if name in KEYS:
        known = KEYS[name].kind
        problem = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]
        return Mistake(origin, problem, key, value, allowed=known.allowed())
    many = SECTIONS[name].many and not isinstance(location[-1], int)
    if item["type"] in ("too_short", "too_long"):
        limits = item["ctx"]
        allowed = f"at {'least' if 'min_length' in limits else 'most'} "
        allowed += f"{limits.get('min_length', limits.get('max_length'))} [[{name}]] tables"
        return Mistake(origin, item["type"].replace("_", " "), key, value, allowed=allowed)
    problem = "not a list of tables" if many else "not a table"
    header = f"[[{name}]]" if SECTIONS[name].many else f"[{name}]"
    return Mistake(origin, problem, key, value, allowed=f"settings under the line {header}")


def _repair(data: dict[str, Any], location: Location) -> None:
    """Remove the value at `location`, without shifting the rest of a list."""
    if not _is_set(data, location[:-1]):
        return
    holder: Any = data
    for part in location[:-1]:
        holder = holder[part]
    last = location[-1]
    if isinstance(last, int):
        holder[last] = {"pattern": "/"} if location[0] == "destination" else {}
    elif _names(location) == "destination.pattern":
        holder[last] = "/"
    else:
        holder.pop(last, None)


def check_across(config: Config, data: dict[str, Any], source: Source, wrong: list[Location]) -> Iterator[Mistake]:
    """What is wrong between keys that are sound by themselves; `wrong` ones are left out."""

    def usable(*locations: Location) -> bool:
        return not any(place[: len(bad)] == bad for bad in wrong for place in locations)

    def ordered(low: Location, high: Location, *, strictly: bool = False) -> Iterator[Mistake]:
        if not usable(low, high):
            return
        below, above = _value(config, low), _value(config, high)
        if below < above or (below == above and not strictly):
            return
        # Blame the key somebody set: a default is right until something else is changed.
        if _is_set(data, low) or not _is_set(data, high):
            blamed, other, problem, bound = low, high, "too large", "less than" if strictly else "at most"
        else:
            blamed, other, problem, bound = high, low, "too small", "more than" if strictly else "at least"
        allowed = f"{bound} {dotted(other)}, which is {_show(config, other)}"
        yield Mistake(source(blamed), problem, dotted(blamed), _show(config, blamed), allowed=allowed)

    yield from ordered(("outbox", "low_bytes"), ("outbox", "high_bytes"))
    yield from ordered(("outbox", "high_bytes"), ("outbox", "max_bytes"))
    yield from ordered(("limits", "header_line_bytes"), ("limits", "head_bytes"))
    yield from ordered(("limits", "login_head_bytes"), ("limits", "head_bytes"))
    yield from ordered(("limits", "destination_bytes"), ("limits", "header_line_bytes"))
    yield from ordered(("supervision", "ping_interval"), ("supervision", "hang_timeout"), strictly=True)
    yield from ordered(("supervision", "backoff_initial"), ("supervision", "backoff_max"))
    for index, listener in enumerate(config.listener):
        beat: Location = ("listener", index, "heart_beat")
        if listener.heart_beat.wish:
            yield from ordered((*beat, "minimum"), (*beat, "wish"))
            yield from ordered((*beat, "wish"), (*beat, "maximum"))
        else:
            yield from ordered((*beat, "minimum"), (*beat, "maximum"))
    for index, listener in enumerate(config.listener):
        place: Location = ("listener", index, "bind")
        for earlier in range(index):
            other: Location = ("listener", earlier, "bind")
            if usable(place, other) and _collide(listener, config.listener[earlier]):
                problem = f"taken by {dotted(other)}, which is {_show(config, other)}"
                allowed = "each address and port once, or port 0"
                yield Mistake(source(place), problem, dotted(place), _show(config, place), allowed=allowed)
                break
    place = ("management", "bind")
    if config.management.bind:
        for index, listener in enumerate(config.listener):
            other = ("listener", index, "bind")
            if usable(place, other) and _collide(config.management, listener):
                problem = f"taken by {dotted(other)}, which is {_show(config, other)}"
                yield Mistake(source(place), problem, dotted(place), _show(config, place), allowed="a port of its own")
                break
    for index in range(len(config.destination)):
        where: Location = ("destination", index)
        yield from ordered((*where, "redelivery_delay"), (*where, "redelivery_delay_max"))
        if _is_set(data, (*where, "prefetch")):
            yield from ordered((*where, "prefetch"), ("limits", "unacknowledged"))
    for place, problem, allowed in rule_mistakes(config.destination):
        if usable(place) and usable((*place[:-1], "pattern")):
            yield Mistake(source(place), problem, dotted(place), _show(config, place), allowed=allowed)
    place = ("broker", "runtime_dir")
    if config.broker.runtime_dir is not None and usable(place):
        if os.path.abspath(config.broker.runtime_dir) == os.path.abspath(config.broker.data_dir):
            problem = "the same as broker.data_dir"
            yield Mistake(source(place), problem, dotted(place), _show(config, place), allowed="a directory of its own")
        length = len(os.fsencode(os.path.abspath(config.broker.runtime_dir)))
        if length > RUNTIME_DIR_BYTES:
            problem = f"too long ({length} bytes as an absolute path)"
            allowed = f"at most {RUNTIME_DIR_BYTES} bytes, so that the sockets in it have paths the kernel takes"
            yield Mistake(source(place), problem, dotted(place), _show(config, place), allowed=allowed)


def _value(config: Config, location: Location) -> Any:
    value: Any = config
    for part in location:
        value = value[part] if isinstance(part, int) else getattr(value, part)
    return value


def _show(config: Config, location: Location) -> str:
    return KEYS[_names(location)].kind.show(_value(config, location))


def _is_set(data: dict[str, Any], location: Location) -> bool:
    holder: Any = data
    for part in location:
        if isinstance(holder, dict):
            known = part in holder
        else:
            known = isinstance(holder, list | tuple) and isinstance(part, int) and part < len(holder)
        if not known:
            return False
        holder = holder[part]
    return True


def _collide(one: Listener | Management, other: Listener) -> bool:
    """Whether both ask for the same port of the same address, also where one of them asks for every
    address."""
    if one.port != other.port or one.port == 0:
        return False
    first, second = _canonical(one.host), _canonical(other.host)
    if isinstance(first, str) or isinstance(second, str):
        return first == second
    return first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)


def _canonical(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
