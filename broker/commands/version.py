"""Print the version of Stampede, and of what it runs on for the sake of fault reports."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

from broker.commands.output import write
from common.exitcodes import ExitCode
from common.release import VERSION

NAME = "version"
SUMMARY = "print the version"

_PACKAGES = ("msgpack", "pydantic", "pyzmq", "uvloop")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(arguments: argparse.Namespace) -> int:
    del arguments
    parts = [f"Python {platform.python_version()}", *(f"{name} {_version_of(name)}" for name in _PACKAGES)]
    write(f"stampede {VERSION} ({', '.join(parts)})")
    return ExitCode.OK


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
