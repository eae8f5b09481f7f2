"""Send dead letters back to the queues they came from, or the messages of any queue to another one.

QUEUE is its destination, of which /queue/ may be left out: dlq.orders. The running broker does it, asked through its
management interface, in an order that loses and doubles nothing whatever dies meanwhile. What consumers hold stays.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from broker.commands.output import write, write_error, write_mistakes
from common.config import ConfigError, load_config
from common.exitcodes import ExitCode

NAME = "requeue"
SUMMARY = "send dead letters back to where they came from"

_STEP = 10_000
"""Messages of one request, so that none takes long and an interrupted command is known to have got so far."""
_TIMEOUT = 120.0
_BIND = "management.bind"


class _Refused(Exception):
    """The broker will not; the text is its own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("queue", metavar="QUEUE", help="whose messages are moved")
    add("--to", metavar="QUEUE", default="", help="move them there (default: each to the queue it came from)")
    add("--limit", metavar="N", type=_count, help="move at most so many, the first ones (default: all there are)")
    add("--config", metavar="FILE", type=Path, help="the configuration of the broker, which says where it answers")
    add("--management", metavar="HOST:PORT", dest=_BIND, help="where its management interface answers")


def run(arguments: argparse.Namespace) -> int:
    try:
        config = load_config(arguments.config, os.environ, {_BIND: getattr(arguments, _BIND)})
    except ConfigError as error:
        write_mistakes(error)
        return ExitCode.USAGE
    management = config.management
    if not management.bind or not management.port:
        write_error(
            "it is not known where the broker's management interface answers: give --management HOST:PORT, or a"
            " --config FILE whose management.bind has a port"
        )
        return ExitCode.USAGE
    moved = 0
    answer: dict[str, Any] = {"left": 0, "why": ""}
    wanted: int | None = arguments.limit
    try:
        while wanted is None or moved < wanted:
            limit = _STEP if wanted is None else min(_STEP, wanted - moved)
            answer = _ask(management.host, management.port, arguments.queue, arguments.to, limit)
            if wanted is None:
                # What fails again and comes back meanwhile is for another time.
                wanted = answer["moved"] + answer["left"]
            moved += answer["moved"]
            if answer["why"] or not answer["moved"]:
                break
    except _Refused as error:
        write_error(f"{error}{_so_far(moved)}")
        return ExitCode.FAILED
    except OSError as error:
        write_error(f"no answer from {management.bind}: {error}{_so_far(moved)}")
        return ExitCode.FAILED
    write(f"{_messages(moved)} moved, {answer['left']} left in the queue")
    if answer["why"]:
        write_error(str(answer["why"]))
        return ExitCode.FAILED
    return ExitCode.OK


def _ask(host: str, port: int, queue: str, to: str, limit: int) -> dict[str, Any]:
    query = urlencode({"limit": limit, **({"to": to} if to else {})})
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    try:
        connection.request("POST", f"/api/queues/{quote(queue, safe='')}/requeue?{query}")
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (http.client.HTTPException, ValueError) as error:
        raise _Refused(f"{host}:{port} is no management interface of Stampede: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise _Refused(str(answer.get("error", response.reason)))
    found: dict[str, Any] = answer
    return found


def _so_far(moved: int) -> str:
    return f" ({_messages(moved)} had been moved by then)" if moved else ""


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 10**9):
        raise argparse.ArgumentTypeError("takes a whole number from 1")
    return int(text)
