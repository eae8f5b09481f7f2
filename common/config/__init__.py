"""The configuration: its schema, how it is put together from file, environment and command line, and its
reference."""

from __future__ import annotations

from common.config.load import load_config
from common.config.mistakes import ConfigError, Mistake
from common.config.reference import render_reference
from common.config.schema import (
    MAX_WORKERS,
    Backplane,
    Broker,
    Cache,
    Config,
    Destination,
    HeartBeat,
    Limits,
    Listener,
    Log,
    LogFormat,
    LogLevel,
    Outbox,
    SlowConsumer,
    Supervision,
)
from common.config.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "MAX_WORKERS",
    "Backplane",
    "Broker",
    "Cache",
    "Config",
    "ConfigError",
    "Destination",
    "HeartBeat",
    "Limits",
    "Listener",
    "Log",
    "LogFormat",
    "LogLevel",
    "Mistake",
    "Outbox",
    "SlowConsumer",
    "Supervision",
    "format_duration",
    "format_size",
    "load_config",
    "parse_duration",
    "parse_size",
    "render_reference",
]
