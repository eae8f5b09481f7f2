"""Check a configuration file, together with the STAMPEDE_ environment variables, and start nothing.

Every mistake is told on a line of its own, with its key, its value and what is allowed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from broker.commands.output import write, write_mistakes
from common.config import CLIENT_PASSCODE, CLIENT_URL, ConfigError, load_config
from common.exitcodes import ExitCode

NAME = "check-config"
SUMMARY = "tell every mistake in a configuration file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the TOML file to check")


def run(arguments: argparse.Namespace) -> int:
    try:
        config = load_config(arguments.file, os.environ, {})
    except ConfigError as error:
        write_mistakes(error)
        return ExitCode.USAGE
    variables = sum(name.startswith("STAMPEDE_") for name in os.environ.keys() - {CLIENT_URL, CLIENT_PASSCODE})
    binds = ", ".join(listener.bind for listener in config.listener)
    write(
        f"{arguments.file}: OK, with {_count(variables, 'environment variable')}:"
        f" {_count(config.broker.worker_count(), 'worker')} on {binds},"
        f" {_count(len(config.destination), 'destination rule')}"
    )
    return ExitCode.OK


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
