"""Print the reference of the configuration, in Markdown: every key with its type, unit, default, bounds and
reason."""

from __future__ import annotations

import argparse

from broker.commands.output import write
from common.config import render_reference
from common.exitcodes import ExitCode

NAME = "config-reference"
SUMMARY = "print the reference of all configuration keys"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(arguments: argparse.Namespace) -> int:
    del arguments
    write(render_reference().removesuffix("\n"))
    return ExitCode.OK
