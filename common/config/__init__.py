"""The configuration: its schema, how it is put together from file, environment and command line, what of it may
change while the broker runs, and its reference."""

from __future__ import annotations

from common.config.change import changes, check_reload
from common.config.delivery import (
    Backplane,
    Cache,
    Destination,
    Expired,
    Outbox,
    Queue,
    Retain,
    SlowConsumer,
    Store,
    WhenFull,
)
from common.config.keys import CLIENT_PASSCODE, CLIENT_URL
from common.config.load import load_config
from common.config.mistakes import ConfigError, Mistake
from common.config.reference import render_reference
from common.config.schema import (
    MAX_WORKERS,
    Broker,
    Config,
    HeartBeat,
    Limits,
    Listener,
    Log,
    LogFormat,
    LogLevel,
    Management,
    Supervision,
)
from common.config.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "CLIENT_PASSCODE",
    "CLIENT_URL",
    "MAX_WORKERS",
    "Backplane",
    "Broker",
    "Cache",
    "Config",
    "ConfigError",
    "Destination",
    "Expired",
    "HeartBeat",
    "Limits",
    "Listener",
    "Log",
    "LogFormat",
    "LogLevel",
    "Management",
    "Mistake",
    "Outbox",
    "Queue",
    "Retain",
    "SlowConsumer",
    "Store",
    "Supervision",
    "WhenFull",
    "changes",
    "check_reload",
    "format_duration",
    "format_size",
    "load_config",
    "parse_duration",
    "parse_size",
    "render_reference",
]
