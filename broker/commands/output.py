"""Writes the answers of commands."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from common.config import ConfigError

__all__ = ["write", "write_error", "write_mistakes"]


def write(text: str) -> None:
    """Write `text` and a newline to standard output. A reader that has gone (`| head`) is no fault."""
    _write(sys.stdout, text)


def write_error(text: str) -> None:
    """Write one line to standard error that says what went wrong."""
    _write(sys.stderr, f"stampede: {text}")


def write_mistakes(error: ConfigError) -> None:
    """Write every mistake to standard error, one a line."""
    _write(sys.stderr, "\n".join(f"stampede: {mistake}" for mistake in error.mistakes))


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        # It was closed before the start, as by `2>&-`.
        return
    encoding = stream.encoding or "utf-8"
    printable = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(printable + "\n")
        stream.flush()
    except BrokenPipeError:
        # The interpreter flushes again at exit and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
