"""What `stampede send` and `stampede subscribe` have in common: how they find the broker, log in, and take headers."""

from __future__ import annotations

import argparse
import functools
import math
import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from broker.commands.output import write_error
from common.config import CLIENT_PASSCODE, CLIENT_URL
from common.exitcodes import ExitCode

if TYPE_CHECKING:
    from broker.shell.running import Notices
    from common.client import Client

__all__ = [
    "WrongUse",
    "add_connection",
    "add_format",
    "check_destination",
    "check_headers",
    "check_text",
    "count",
    "make_client",
    "refusing_wrong_use",
    "seconds",
]

_DEFAULT_URL = "stomp://127.0.0.1:61613"
_CONNECT = 10.0
_CLOSE = 5.0
"""Seconds to connect to one address, and to leave in order."""
_KINDS = frozenset({"queue", "topic", "temp-queue", "temp-topic"})
_FORMATS = ("text", "json", "raw", "headers")


class WrongUse(Exception):
    """A mistake on the command line or in the environment; the text is for the user."""


def refusing_wrong_use(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command's `run` that writes what WrongUse says, and ends in order on Ctrl-C before there is a loop."""

    @functools.wraps(run)
    def refusing(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except WrongUse as error:
            write_error(str(error))
            return ExitCode.USAGE
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED

    return refusing


def add_connection(parser: argparse.ArgumentParser, timeout: str) -> None:
    """Declare what is the same for both; `timeout` is the help of --timeout."""
    add = parser.add_argument
    add(
        "--url",
        metavar="URL",
        help="where the broker is, or several: stomp://login@host1:61613,host2:61613/virtual-host, stomps:// for TLS,"
        f" stomp+unix:///path, ws:// and wss:// (default: {CLIENT_URL} of the environment, or {_DEFAULT_URL})",
    )
    add("--login", metavar="NAME", help="log in as (default: the login in the URL, if any)")
    add(
        "--passcode-file",
        metavar="FILE",
        type=Path,
        help="a file that holds the passcode (default: the one in the URL,"
        f" or {CLIENT_PASSCODE} of the environment). On the command line every user of the machine could read it",
    )
    add("--client-id", metavar="ID", help="the client-id of CONNECT, which some brokers want for --durable")
    add(
        "-H",
        "--header",
        metavar="NAME:VALUE",
        dest="headers",
        action="append",
        default=[],
        type=_header,
        help="a header of the frame; may be repeated. It is taken as it is, spaces count",
    )
    add("--timeout", metavar="SECONDS", type=seconds, help=timeout)
    add("-v", "--verbose", action="store_true", help="tell on standard error what it is doing")


def add_format(parser: argparse.ArgumentParser, help: str) -> None:
    """Declare --format, with its `help`."""
    parser.add_argument("--format", choices=_FORMATS, help=help)


def make_client(arguments: argparse.Namespace, notices: Notices, patience: float | None) -> Client:
    """The client that the arguments and the environment ask for, which waits at most `patience` seconds for its first
    connection, and goes on trying if it loses that. Raises WrongUse."""
    from common.client import Backoff, Client, parse_target

    source, url = "--url", arguments.url
    if url is None:
        source, url = CLIENT_URL, os.environ.get(CLIENT_URL) or _DEFAULT_URL
    try:
        passcode = None
        if arguments.passcode_file is not None:
            passcode = _read_passcode(arguments.passcode_file)
        elif parse_target(url).passcode is None:
            passcode = os.environ.get(CLIENT_PASSCODE)
        for option, value in (("--login", arguments.login), ("--client-id", arguments.client_id)):
            check_text(option, value)
        return Client(
            url,
            login=arguments.login,
            passcode=passcode,
            client_id=arguments.client_id,
            connect_timeout=_CONNECT if patience is None else min(_CONNECT, patience),
            close_timeout=_CLOSE,
            backoff=Backoff(give_up_after=None),
            on_event=notices.on_event,
        )
    except ValueError as error:
        raise WrongUse(f"{source}: {error}") from None


def _read_passcode(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise WrongUse(f"--passcode-file: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise WrongUse(f"--passcode-file: {path} is not UTF-8") from None
    passcode = text.removesuffix("\n").removesuffix("\r")
    if not passcode or "\n" in passcode or "\0" in passcode:
        raise WrongUse(f"--passcode-file: {path} does not hold one line")
    return passcode


def check_text(what: str, value: str | None) -> None:
    """Raises WrongUse if `value` cannot stand in a frame."""
    if value is None:
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WrongUse(f"{what}: not valid UTF-8") from None


def check_destination(destination: str) -> None:
    """Raise WrongUse as `check_text` does; warn of a topic that is called like a queue."""
    check_text("DESTINATION", destination)
    kind, slash, name = destination.partition("/")
    if slash and kind in _KINDS:
        # Any text is a destination, and a message to a topic that nobody has subscribed to is gone without a word.
        write_error(
            f"warning: without a leading slash {destination!r} is a topic of that name; the {kind} {name!r} is"
            f" '/{destination}'"
        )


def check_headers(headers: Sequence[tuple[str, str]], own: Container[str]) -> None:
    """Raises WrongUse if one of `headers` is among those that the command sets itself."""
    for name, _ in headers:
        if name in own:
            raise WrongUse(f"-H {name}: the command sets this header itself")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    try:
        check_text(f"{text!r}", text)
    except WrongUse as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, value


def count(text: str) -> int:
    """A number of messages, from 1."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:19]) < 1 << 53):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds, 0 for as long as it takes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
