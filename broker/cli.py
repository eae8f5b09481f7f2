"""The command `stampede`: finds the subcommand and turns what happens into an exit code.

Each command is a module of `broker.commands` with a `NAME`, a `SUMMARY`, `add_arguments(parser)` and
`run(arguments) -> int`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from broker.commands import COMMANDS
from common.exitcodes import ExitCode
from common.release import VERSION

__all__ = ["build_parser", "main"]

_EXIT_CODES = """\
exit codes:
    0  done; serve: stopped in order
    1  internal fault, or a stop forced by a second signal; store: something is wrong with the data;
       send, subscribe: the broker cannot be reached, or refused it
    2  mistake on the command line or in the configuration
    3  cannot start: a port is taken, a directory cannot be written
    4  send: no answer within --timeout; subscribe: fewer than --count messages came
  130  send, subscribe --count: interrupted by Ctrl-C before that was done; 143 by SIGTERM

Run "stampede COMMAND --help" for the arguments of a command.
"""


class _Parser(argparse.ArgumentParser):
    """Takes options and positional arguments in any order, an optional one too: `send QUEUE -H a:b BODY`."""

    _mixes = True

    def add_subparsers(self, **options: Any) -> Any:
        # argparse cannot do both.
        self._mixes = False
        return super().add_subparsers(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if not self._mixes:
            return super().parse_known_args(args, namespace)
        # It calls this method again for what it is made of.
        self._mixes = False
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixes = True


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="stampede",
        description="Stampede is a STOMP 1.0, 1.1 and 1.2 message broker for one machine with many cores.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"stampede {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit code, see `ExitCode`."""
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as stop:
        # argparse ends the process itself after --help and after a usage error, which it numbers 0 and 2 as
        # we do.
        return ExitCode.OK if stop.code in (0, None) else ExitCode.USAGE
    return int(arguments.run(arguments))
