"""Run the broker in the foreground until SIGTERM or SIGINT; SIGHUP makes it read its configuration again.

It prints one line with the real addresses on standard output once clients can connect, and logs to standard
error. Flags win over STAMPEDE_ environment variables, and those over the file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from broker.commands.output import write_mistakes
from common.config import Config, ConfigError, load_config
from common.exitcodes import ExitCode

NAME = "serve"
SUMMARY = "run the broker"

# The destination of each flag is the dotted key it overrides.
_KEYS = (
    "broker.workers",
    "listener.bind",
    "broker.data_dir",
    "broker.runtime_dir",
    "management.bind",
    "log.format",
    "log.level",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    workers, bind, data_dir, runtime_dir, management, log_format, log_level = _KEYS
    add = parser.add_argument
    add("--config", metavar="FILE", type=Path, help="the TOML file (default: none, every key has a default)")
    add("--workers", metavar="N|auto", dest=workers, help="worker processes (default: one per core)")
    add(
        "--bind",
        metavar="HOST:PORT",
        action="append",
        dest=bind,
        help="an address to listen at, [::1]:61613 for IPv6, port 0 for a free one; may be repeated"
        " (default: 127.0.0.1:61613)",
    )
    add(
        "--data-dir",
        metavar="DIR",
        dest=data_dir,
        help="what must survive a restart; made if need be (default: stampede-data, here)",
    )
    add(
        "--runtime-dir",
        metavar="DIR",
        dest=runtime_dir,
        help="sockets between workers (default: a private one)",
    )
    add(
        "--management",
        metavar="HOST:PORT",
        dest=management,
        help="health checks, metrics and console over HTTP, on a loopback address (default: off)",
    )
    add(
        "--log-format",
        metavar="console|json",
        dest=log_format,
        help="for people or programs (default: console)",
    )
    add("--log-level", metavar="LEVEL", dest=log_level, help="debug, info, warning or error (default: info)")


def run(arguments: argparse.Namespace) -> int:
    given = vars(arguments)

    def load() -> Config:
        return load_config(arguments.config, os.environ, {key: given[key] for key in _KEYS})

    try:
        config = load()
    except ConfigError as error:
        write_mistakes(error)
        return ExitCode.USAGE
    # Imported late, so that a mistake in the configuration is told before anything of the broker is loaded.
    from broker import service

    return service.run(config, load)
