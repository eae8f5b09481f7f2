"""The kinds of value a key can hold: how each is read, bounded, described and written.

A kind annotates a field of the schema. Validation, error messages and the reference all ask the same
object, so what is documented is what is enforced. `parse` takes what TOML, an environment variable, a flag,
or a dumped `Config` holds; every kind therefore also reads strings.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from common.config.units import format_duration, format_size, parse_duration, parse_size
from common.destination import is_pattern, split

__all__ = [
    "COLD",
    "HOT",
    "BindAddress",
    "Choice",
    "Count",
    "DeadLetterQueue",
    "Directory",
    "Duration",
    "Effect",
    "Factor",
    "Flag",
    "HostNames",
    "Kind",
    "LoopbackAddress",
    "Pattern",
    "Size",
    "quote",
    "split_address",
]

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


def quote(text: str) -> str:
    """`text` as a TOML string on one line, whatever it holds."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in quoted)


class Effect(Enum):
    """When a changed value takes effect. Every key of the schema is marked with one of the two."""

    HOT = "when the configuration is reloaded (SIGHUP)"
    COLD = "after a restart"


HOT = Effect.HOT
COLD = Effect.COLD


class Kind(ABC):
    """One kind of value. `name` and `unit` are for the reference; a kind without unit has the empty
    string."""

    name: str
    unit: str = ""

    @abstractmethod
    def parse(self, value: object) -> Any:
        """The value as the schema holds it; raises `ValueError` with what is wrong, in a few words."""

    @abstractmethod
    def allowed(self) -> str:
        """What is allowed, as it follows "allowed: " in a message."""

    def show(self, value: Any) -> str:
        """`value` as one would write it in the TOML file."""
        return quote(str(value))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))


def _bounded(value: Any, low: Any, high: Any) -> Any:
    if value < low:
        raise ValueError("too small")
    if value > high:
        raise ValueError("too large")
    return value


@dataclass(frozen=True, slots=True)
class Duration(Kind):
    """Seconds, from `low` to `high`."""

    low: float
    high: float
    name = "duration"
    unit = "seconds"

    def parse(self, value: object) -> float:
        return float(_bounded(parse_duration(value), self.low, self.high))

    def allowed(self) -> str:
        return (
            f"a duration from {format_duration(self.low)} to {format_duration(self.high)},"
            ' such as "500ms", "10s", "2m", "1h", or a number of seconds'
        )

    def show(self, value: Any) -> str:
        return quote(format_duration(value))


@dataclass(frozen=True, slots=True)
class Size(Kind):
    """Bytes, from `low` to `high`."""

    low: int
    high: int
    name = "size"
    unit = "bytes"

    def parse(self, value: object) -> int:
        return int(_bounded(parse_size(value), self.low, self.high))

    def allowed(self) -> str:
        return (
            f"a size from {format_size(self.low)} to {format_size(self.high)},"
            ' such as "10kB", "64KiB", "4MiB", or a number of bytes'
        )

    def show(self, value: Any) -> str:
        return quote(format_size(value))


@dataclass(frozen=True, slots=True)
class Count(Kind):
    """A whole number of `unit` from `low` to `high`, or `"auto"` where that is allowed."""

    low: int
    high: int
    unit: str
    auto: bool = False
    name = "whole number"

    def parse(self, value: object) -> int | str:
        if self.auto and value == "auto":
            return "auto"
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value.strip(" "), re.ASCII):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("not a whole number")
        return int(_bounded(value, self.low, self.high))

    def allowed(self) -> str:
        return f"a whole number from {self.low} to {self.high}" + (' or "auto"' if self.auto else "")

    def show(self, value: Any) -> str:
        return quote(value) if isinstance(value, str) else str(value)


@dataclass(frozen=True, slots=True)
class Factor(Kind):
    """A number without unit, from `low` to `high`."""

    low: float
    high: float
    name = "number"

    def parse(self, value: object) -> float:
        if isinstance(value, str):
            if not re.fullmatch(r" *[0-9]{1,20}(\.[0-9]{1,20})? *", value, re.ASCII):
                raise ValueError("not a number")
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError("not a number")
        return float(_bounded(value, self.low, self.high))

    def allowed(self) -> str:
        return f"a number from {self.low} to {self.high}"

    def show(self, value: Any) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """`true` or `false`."""

    name = "true or false"

    def parse(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value in ("true", "false"):
            return value == "true"
        raise ValueError("neither true nor false")

    def allowed(self) -> str:
        return "true or false"

    def show(self, value: Any) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One word of a closed list."""

    options: tuple[str, ...]
    name = "choice"

    def parse(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.options:
            raise ValueError("not one of the choices")
        return value

    def allowed(self) -> str:
        *others, last = (quote(option) for option in self.options)
        return f"{', '.join(others)} or {last}"


@dataclass(frozen=True, slots=True)
class BindAddress(Kind):
    """`HOST:PORT`, an IPv6 address in brackets."""

    name = "address"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not an address")
        split_address(value)
        return value

    def allowed(self) -> str:
        return 'HOST:PORT, such as "127.0.0.1:61613", "localhost:61613" or "[::1]:61613", with a port from 0 to 65535'


def split_address(text: str) -> tuple[str, int]:
    """Host (without brackets) and port of `HOST:PORT`; raises `ValueError` with what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port or port.endswith("]"):
        raise ValueError("no port")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("not a port")
    if not host:
        raise ValueError("no host (0.0.0.0 or [::] stand for every address)")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise ValueError("not an IPv6 address") from error
    elif ":" in host:
        raise ValueError("an IPv6 address without brackets")
    elif re.fullmatch(r"[0-9.]+", host, re.ASCII):
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:
            raise ValueError("not an IPv4 address") from error
    elif len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise ValueError("not a host name")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class LoopbackAddress(Kind):
    """`HOST:PORT` of this machine alone, or the empty string for none."""

    name = "address"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not an address")
        if not value:
            return value
        host, _ = split_address(value)
        if host.lower() != "localhost":
            try:
                is_loopback = ipaddress.ip_address(host).is_loopback
            except ValueError:
                is_loopback = False
            if not is_loopback:
                raise ValueError("not a loopback address: there is no password to keep strangers out")
        return value

    def allowed(self) -> str:
        return (
            'a loopback address and a port, such as "127.0.0.1:15613", "[::1]:15613" or "localhost:15613"; "" for off'
        )


@dataclass(frozen=True, slots=True)
class HostNames(Kind):
    """A list of names; as a string, separated by commas."""

    name = "list of names"

    def parse(self, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",")] if value.strip() else []
        if not isinstance(value, list | tuple):
            raise ValueError("not a list")
        for name in value:
            if not isinstance(name, str) or not name:
                raise ValueError("a name is missing or no string")
            if not name.isprintable() or " " in name or "," in name:
                raise ValueError(f"{quote(name)} is no host name")
        return tuple(value)

    def allowed(self) -> str:
        return 'a list of host names, such as ["stomp.example.org"]; empty for any'

    def show(self, value: Any) -> str:
        return f"[{', '.join(quote(name) for name in value)}]"


@dataclass(frozen=True, slots=True)
class Directory(Kind):
    """A path; relative ones count from where the broker is started."""

    optional: bool = False
    name = "directory"

    def parse(self, value: object) -> Path | None:
        if value is None and self.optional:
            return None
        if not isinstance(value, str | Path):
            raise ValueError("not a path")
        text = str(value)
        if not text:
            raise ValueError("empty")
        # Paths travel to the workers as UTF-8, and into log lines.
        if not text.isprintable():
            raise ValueError("holds a character that cannot be printed")
        return Path(text)

    def allowed(self) -> str:
        return "the path of a directory"

    def show(self, value: Any) -> str:
        return "unset" if value is None else quote(str(value))


@dataclass(frozen=True, slots=True)
class Pattern(Kind):
    """A destination, or a pattern with wildcards over its dot-separated words."""

    name = "destination pattern"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not a destination pattern")
        if not value:
            raise ValueError("empty")
        if not value.isprintable():
            raise ValueError("holds a character that cannot be printed")
        if b">" in split(value.encode())[:-1]:
            raise ValueError("'>' is not its last word")
        return value

    def allowed(self) -> str:
        return (
            'a destination such as "/topic/ticks", with "*" for one of its dot-separated words,'
            ' "#" for any number of them, and ">" as its last word for the rest'
        )


@dataclass(frozen=True, slots=True)
class DeadLetterQueue(Kind):
    """A queue, in whose name `{name}` stands for the name of another; or the empty string for none."""

    name = "queue"

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError("not a queue")
        if not value:
            return value
        if not value.isprintable():
            raise ValueError("holds a character that cannot be printed")
        before, _, after = value.partition("{name}")
        if "{" in before + after or "}" in before + after:
            raise ValueError("has braces for something else than one {name}")
        if not value.startswith("/queue/") or value == "/queue/":
            raise ValueError("not a queue")
        if value == "/queue/{name}":
            raise ValueError("each queue would be its own")
        if is_pattern(value.encode()):
            raise ValueError("a pattern, where one queue is needed")
        return value

    def allowed(self) -> str:
        return (
            'a name that starts with /queue/, such as "/queue/failed" or "/queue/dlq.{name}",'
            ' where {name} is the name of the queue without its /queue/; "" for none'
        )
