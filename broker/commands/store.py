"""Look after what the broker stored, in the data directory DIR.

All but import work while the broker runs, too: they read each database as it was at one moment.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from broker.commands.output import write_error
from common.config import Config
from common.exitcodes import ExitCode

NAME = "store"
SUMMARY = "check, list, export or import what is stored"

# Only the worker's package knows the databases, and it runs in a process of its own.
_PROGRAM = (sys.executable, "-P", "-m", "worker.store")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, description: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(
            name,
            help=summary,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        subparser.add_argument("directory", metavar="DIR", type=Path, help="the data directory (broker.data_dir)")
        subparser.set_defaults(store_command=name)
        return subparser

    command(
        "check",
        "tell whether the stored is whole",
        "Read every page of every database, and tell what is damaged or does not agree with the rest.\n"
        "Exit code 0 if nothing is wrong, 1 if something is.",
    )
    stats = command("stats", "list queues by their depth", "List the queues by their depth, and the databases.")
    stats.add_argument("--top", metavar="N", type=_count, help="only the N deepest queues (default: all)")
    stats.add_argument("--json", action="store_true", help="for programs")
    export = command(
        "export",
        "write all messages to standard output",
        "Write all messages to standard output, one JSON object a line: messages in the order of their queue, those\n"
        "put off, idempotency keys and retained messages. Nothing is changed.",
    )
    export.add_argument(
        "--queue", metavar="NAME", action="append", help="only this queue, by its destination; may be repeated"
    )
    importing = command(
        "import",
        "read messages from standard input",
        "Read what export wrote from standard input, and put it at the tails of the queues, in its order and with its\n"
        "message-ids. The broker must be stopped. A new directory is made if need be. When it cannot go on it says\n"
        "how far it came.",
    )
    importing.add_argument("--skip", metavar="N", type=_count, help="leave out the first N lines: they are in already")
    importing.add_argument(
        "--continue", action="store_true", dest="go_on", help="complete an import that was killed; same input"
    )
    importing.add_argument(
        "--workers",
        metavar="N",
        type=_count,
        help="lay a new directory out for so many (default: one per core, as serve does)",
    )


def run(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.directory
    if arguments.store_command == "import":
        return _import(arguments)
    if not directory.is_dir():
        write_error(f"{directory} is no directory")
        return ExitCode.USAGE
    given = [arguments.store_command, str(directory.absolute())]
    match arguments.store_command:
        case "stats":
            given += [f"--top={arguments.top}"] if arguments.top else []
            given += ["--json"] if arguments.json else []
        case "export":
            given += [f"--queue={name}" for name in arguments.queue or ()]
    return _execute(given)


def _import(arguments: argparse.Namespace) -> int:
    from broker.data_dir import DataDir
    from broker.errors import CannotStartError

    try:
        data_dir = DataDir(arguments.directory)
    except CannotStartError as error:
        write_error(str(error))
        return ExitCode.CANNOT_START
    try:
        if not data_dir.try_take():
            write_error(
                f"{data_dir.path} is still used by workers of a broker that was killed; try again when they end"
            )
            return ExitCode.CANNOT_START
        given = ["import", str(data_dir.path), f"--skip={arguments.skip or 0}"]
        given += [f"--workers={arguments.workers or Config().broker.worker_count()}"]
        given += ["--continue"] if arguments.go_on else []
        # Inherited, so that it is in use as long as the program runs, whatever becomes of this process.
        return _execute(given, inherited=(data_dir.workers_lock,))
    except CannotStartError as error:
        write_error(str(error))
        return ExitCode.CANNOT_START
    finally:
        data_dir.close()


def _execute(arguments: Sequence[str], inherited: Sequence[int] = ()) -> int:
    # Imported late, as all that only one command needs.
    from broker.workers import worker_environment

    # Ctrl-C is for both, and it is the program that has something to say about it.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with subprocess.Popen(
            [*_PROGRAM, *arguments],
            env=worker_environment(),
            pass_fds=inherited,
        ) as process:
            signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
            code = process.wait()
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
    return code if code >= 0 else ExitCode.FAILED


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
