"""Send a message to DESTINATION, or several, and wait until the broker confirms them with a RECEIPT.

    stampede send /queue/orders 'one coffee' -H priority:9
    stampede send /topic/logs --lines < app.log
    stampede send /queue/add '[1, 2]' --request

Without BODY, or with '-', standard input is the body, all of it. When the connection is lost a new one is made, and
what is not confirmed is sent again under the same idempotency-key. With --lines and --count it ends at the first
message that is refused, and says which and how many were confirmed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from broker.commands.client_options import (
    WrongUse,
    add_connection,
    add_format,
    check_destination,
    check_headers,
    check_text,
    count,
    make_client,
    refusing_wrong_use,
)

if TYPE_CHECKING:
    from broker.shell.running import Notices
    from broker.shell.sending import Sending
    from common.client import Client

NAME = "send"
SUMMARY = "send messages"

_PATIENCE = 30.0
_OWN = frozenset({"destination", "content-length", "receipt", "transaction"})
_OF_REQUESTS = frozenset({"reply-to", "correlation-id", "idempotency-key"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # All of the options would take six lines, above every mistake.
    parser.usage = "stampede send DESTINATION [BODY | - | --lines] [options]"
    add = parser.add_argument
    add("destination", metavar="DESTINATION", help="where to, such as /queue/orders or /topic/prices.eur")
    add("body", metavar="BODY", nargs="?", help="what to send (default, and '-': what is on standard input)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--lines", action="store_true", help="each line of standard input is a message, sent as it comes, in order"
    )
    how.add_argument("--count", metavar="N", type=count, default=1, help="send the body N times (default: once)")
    how.add_argument(
        "--request",
        action="store_true",
        help="send it with a reply-to of its own, wait for the reply, and write that to standard output",
    )
    add("--content-type", metavar="TYPE", help="the MIME type of the body, such as application/json (default: none)")
    add(
        "--persistent",
        action=argparse.BooleanOptionalAction,
        help="whether it is kept on disk (default: as the broker has it; Stampede keeps what goes to queues)",
    )
    add("--no-receipt", action="store_true", help="ask for no RECEIPT: faster, and what is lost is not known")
    add_format(parser, "how to write the reply of --request, see stampede subscribe --help (default: text)")
    add_connection(
        parser,
        "give up when the broker confirms nothing, or the reply does not come, for so long; 0 for never"
        f" (default: {_PATIENCE:g})",
    )


@refusing_wrong_use
def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    headers, content_type, idempotency_key = _headers(arguments)
    # Imported late, as all that only one command needs.
    from broker.shell.running import Notices, run_command
    from broker.shell.sending import Sending

    patience = (_PATIENCE if arguments.timeout is None else arguments.timeout) or None
    sending = Sending(
        destination=arguments.destination,
        headers=headers,
        content_type=content_type,
        idempotency_key=idempotency_key,
        receipt=not arguments.no_receipt,
        patience=patience,
        unit="line" if arguments.lines else "message" if arguments.count > 1 else "",
    )
    notices = Notices(arguments.verbose)
    client = make_client(arguments, notices, patience)
    return run_command(_send(arguments, client, sending, notices))


async def _send(arguments: argparse.Namespace, client: Client, sending: Sending, notices: Notices) -> int:
    from broker.shell.reading import read_all, read_lines
    from broker.shell.sending import request, send

    if arguments.lines:
        return await send(client, sending, read_lines(sys.stdin.fileno()), notices)
    if arguments.body in (None, "-"):
        # Read before there is a connection, which need not wait for somebody who types.
        body = await read_all(sys.stdin.fileno())
    else:
        body = os.fsencode(arguments.body)
    if arguments.request:
        return await request(client, sending, body, arguments.format or "text", notices)
    return await send(client, sending, _repeat(body, arguments.count), notices)


def _check(arguments: argparse.Namespace) -> None:
    check_destination(arguments.destination)
    check_text("--content-type", arguments.content_type)
    if arguments.lines and arguments.body not in (None, "-"):
        raise WrongUse("--lines reads the messages from standard input, so it goes with no BODY")
    if arguments.request and arguments.no_receipt:
        raise WrongUse("--no-receipt says nothing about a --request, whose reply is waited for")
    if arguments.format and not arguments.request:
        raise WrongUse("--format is for the reply of --request, which is not asked for")
    if (arguments.lines or arguments.body in (None, "-")) and sys.stdin is None:
        raise WrongUse("standard input is closed: give BODY")
    if arguments.request and sys.stdout is None:
        raise WrongUse("standard output is closed, and the reply of --request goes there")
    if arguments.body is None and not arguments.lines and sys.stdin.isatty():
        raise WrongUse("nothing to send: give BODY, or '-' to type it and end with Ctrl-D")


def _headers(arguments: argparse.Namespace) -> tuple[list[tuple[str, str]], str | None, str | None]:
    """The headers to send, content type and idempotency key. Raises WrongUse."""
    check_headers(arguments.headers, _OWN | _OF_REQUESTS if arguments.request else _OWN)
    headers: list[tuple[str, str]] = []
    content_type, idempotency_key = arguments.content_type, None
    for name, value in arguments.headers:
        if name == "content-type":
            content_type = content_type or value
        elif name == "idempotency-key":
            idempotency_key = idempotency_key or value
        else:
            headers.append((name, value))
    if arguments.persistent is not None:
        headers.append(("persistent", "true" if arguments.persistent else "false"))
    return headers, content_type, idempotency_key


async def _repeat(body: bytes, times: int) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield body
