"""`python -m worker.store COMMAND DIR`: run by `stampede store` and by the front, which hold the locks it needs."""

from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from common.exitcodes import ExitCode
from worker.store.interface import StoreError
from worker.store.tool.check import check
from worker.store.tool.export import export
from worker.store.tool.importing import Imported, import_lines
from worker.store.tool.progress import Bar, Paced
from worker.store.tool.reshard import reshard
from worker.store.tool.stats import stats
from worker.store.tool.text import count

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit code, see `ExitCode`."""
    arguments = _parser().parse_args(argv)
    # The command that runs this leaves Ctrl-C to it, and ignores it itself.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except StoreError as error:
        sys.stderr.write(f"stampede: {error}\n")
        return ExitCode.FAILED
    except BrokenPipeError:
        # A reader that has gone (`| head`) is no fault; the interpreter flushes again at exit and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.store", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True)

    def command(name: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, allow_abbrev=False)
        subparser.add_argument("directory", type=Path)
        return subparser

    command("check").set_defaults(run=_check)
    parser_of_stats = command("stats")
    parser_of_stats.add_argument("--top", type=int, default=0)
    parser_of_stats.add_argument("--json", action="store_true")
    parser_of_stats.set_defaults(run=_stats)
    parser_of_export = command("export")
    parser_of_export.add_argument("--queue", action="append", default=[])
    parser_of_export.set_defaults(run=_export)
    parser_of_import = command("import")
    parser_of_import.add_argument("--skip", type=int, default=0)
    parser_of_import.add_argument("--continue", action="store_true", dest="go_on")
    parser_of_import.add_argument("--workers", type=int, default=1)
    parser_of_import.set_defaults(run=_import)
    parser_of_reshard = command("reshard")
    parser_of_reshard.add_argument("workers", type=int)
    parser_of_reshard.set_defaults(run=_reshard)
    return parser


def _write(line: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _check(arguments: argparse.Namespace) -> int:
    return ExitCode.OK if check(arguments.directory, _write) else ExitCode.FAILED


def _stats(arguments: argparse.Namespace) -> int:
    stats(arguments.directory, _write, top=arguments.top, as_json=arguments.json)
    return ExitCode.OK


def _export(arguments: argparse.Namespace) -> int:
    output = sys.stdout.buffer

    def write(line: bytes) -> None:
        output.write(line)

    export(arguments.directory, write, arguments.queue, time.time_ns() // 1_000_000)
    output.flush()
    return ExitCode.OK


def _import(arguments: argparse.Namespace) -> int:
    source = Input()
    stdin = os.fstat(sys.stdin.fileno())
    total = stdin.st_size if stat.S_ISREG(stdin.st_mode) else 0
    bar = Bar(sys.stderr, "importing", "bytes" if total else "messages") if sys.stderr.isatty() else None

    def progress(imported: Imported, bytes_read: int) -> None:
        if bar is not None:
            bar(bytes_read if total else imported.messages, total)

    try:
        imported = import_lines(
            arguments.directory,
            source,
            workers=arguments.workers,
            now=time.time_ns() // 1_000_000,
            skip=arguments.skip,
            go_on=arguments.go_on,
            progress=progress,
            is_stopped=lambda: source.is_stopped,
        )
    finally:
        if bar is not None:
            bar.clear()
    _write(f"imported {count(imported.messages, 'message')} into {arguments.directory}")
    return ExitCode.OK


class Input:
    """The lines of standard input, until SIGINT or SIGTERM. They end it between two lines, so that what was read can
    still be stored."""

    def __init__(self) -> None:
        self.is_stopped = False
        self._is_waiting = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.is_stopped = True
        if self._is_waiting:
            raise KeyboardInterrupt

    def __iter__(self) -> Iterator[bytes]:
        while not self.is_stopped:
            try:
                self._is_waiting = True
                line = sys.stdin.buffer.readline()
                self._is_waiting = False
            except KeyboardInterrupt:
                return
            if not line:
                return
            yield line


def _reshard(arguments: argparse.Namespace) -> int:
    """For the front: JSON lines with `done` and `total` messages, then one with what was done, or the `error`. A bar on
    standard error if that is a terminal."""
    bar = Bar(sys.stderr, "moving queues", "messages") if sys.stderr.isatty() else None
    tell = Paced(lambda done, total: _tell({"done": done, "total": total}))

    def progress(done: int, total: int) -> None:
        # Ends, with a BrokenPipeError, what nobody waits for any more.
        tell(done, total)
        if bar is not None:
            bar(done, total)

    try:
        done = reshard(arguments.directory, arguments.workers, progress)
    except StoreError as error:
        _tell({"error": str(error)})
        return ExitCode.FAILED
    finally:
        if bar is not None:
            bar.clear()
    _tell(asdict(done))
    return ExitCode.OK


def _tell(fields: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
