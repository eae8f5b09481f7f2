"""Subscribe to DESTINATION, and write each message to standard output as it comes.

    stampede subscribe '/topic/prices.#'
    stampede subscribe /queue/orders --format json | jq .body
    stampede subscribe /queue/orders --count 1 --timeout 5

When the connection is lost a new one is made, as often as need be, and standard error says so. Ctrl-C and SIGTERM leave
in order; without --count that is success.

formats:
  text     the body, and a line feed
  json     an object a line: "headers", and "body", or "body64" in Base64 if it is not UTF-8
  raw      the body as it is, and nothing between one and the next
  headers  the headers, one a line, a blank line, the body, and another blank line

acknowledgement:
  client-individual  a message is acknowledged when it is written; if standard output is a pipe, when the reader has
                     read it. What was not goes back to the queue: with '| head -1' all but one
  auto               a message is gone from its queue when it is sent here, whether it is written or not
"""

from __future__ import annotations

import argparse
import sys

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

NAME = "subscribe"
SUMMARY = "write messages to standard output"

_OWN = frozenset({"destination", "id", "ack", "receipt"})
_PREFETCH = 100
"""What the broker takes by default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # All of the options would take six lines, above every mistake.
    parser.usage = "stampede subscribe DESTINATION [options]"
    add = parser.add_argument
    add("destination", metavar="DESTINATION", help="what to, such as /queue/orders or '/topic/prices.*'")
    add(
        "--ack",
        choices=("auto", "client-individual"),
        help="see above (default: auto for a /topic/ that is neither --durable nor --shared, and for --browse;"
        " client-individual for the rest)",
    )
    add("--count", metavar="N", type=count, help="end after N messages (default: go on)")
    add(
        "--prefetch",
        metavar="N",
        type=count,
        help="messages that may be on their way here from a queue, and so from nobody else; not with ack:auto (default:"
        " as the broker has it, and no more than --count)",
    )
    add("--selector", metavar="CONDITION", help="only messages whose headers fulfil it: \"color = 'blue'\"")
    add("--durable", metavar="NAME", help="a durable subscription to a topic, which the broker keeps by that name")
    add("--shared", action="store_true", help="split the messages of a topic with others who do the same")
    add("--browse", action="store_true", help="a copy of what is in a queue, then end")
    add_format(parser, "how to write a message, see above (default: text)")
    add_connection(parser, "end when no message comes for so long (default: go on)")


@refusing_wrong_use
def run(arguments: argparse.Namespace) -> int:
    check_destination(arguments.destination)
    for option in ("selector", "durable"):
        check_text(option, getattr(arguments, option))
    check_headers(arguments.headers, _OWN)
    if sys.stdout is None:
        raise WrongUse("standard output is closed, and messages go there")
    # Imported late, as all that only one command needs.
    from broker.shell.receiving import Receiving, receive
    from broker.shell.running import Notices, run_command

    ack = arguments.ack or _ack_for(arguments)
    prefetch = arguments.prefetch
    if prefetch is not None and ack == "auto":
        raise WrongUse(
            f"--prefetch {prefetch} with ack:auto, where nothing holds the broker back; use --ack client-individual,"
            " or leave --prefetch out"
        )
    if prefetch is None and arguments.count is not None and ack != "auto":
        prefetch = min(arguments.count, _PREFETCH)
    receiving = Receiving(
        destination=arguments.destination,
        ack=ack,
        count=arguments.count,
        form=arguments.format or "text",
        patience=arguments.timeout or None,
        options={
            "prefetch": prefetch,
            "selector": arguments.selector,
            "durable": arguments.durable,
            "shared": arguments.shared,
            "browse": arguments.browse,
            "headers": arguments.headers,
        },
    )
    notices = Notices(arguments.verbose)
    client = make_client(arguments, notices, None)
    return run_command(receive(client, receiving, notices), endless=arguments.count is None)


def _ack_for(arguments: argparse.Namespace) -> str:
    """Whatever loses nothing: a topic keeps nothing for a subscriber that is just there."""
    keeps = arguments.durable is not None or arguments.shared
    plain_topic = arguments.destination.startswith("/topic/") and not keeps
    return "auto" if plain_topic or arguments.browse else "client-individual"
