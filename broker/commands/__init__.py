"""The subcommands of `stampede`, one module each; `COMMANDS` lists them in the order of the help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Protocol, cast

from broker.commands import check_config, config_reference, requeue, send, serve, store, subscribe, version

__all__ = ["COMMANDS", "Command"]


class Command(Protocol):
    """What a module of this package holds. Its docstring is the description in its help."""

    __doc__: str | None
    NAME: str
    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments of the command."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Carry the command out and return the exit code."""


COMMANDS: Sequence[Command] = cast(
    Sequence[Command], (serve, send, subscribe, check_config, config_reference, requeue, store, version)
)
