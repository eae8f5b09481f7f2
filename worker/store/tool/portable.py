"""The lines of an export: one JSON object each, of which the first says what it is, and the last that it is whole.

    {"kind": "stampede-export", "version": 1, "release": "0.1.0", "workers": 2}
    {"kind": "message", "queue": "/queue/a", "id": "...", "headers": [["destination", "/queue/a"], ...], "body": "...",
     "priority": 4, "count": 1, "expires": 1795000000000, "due": 1795000000000}
    {"kind": "subscription", "queue": "/durable/a", "options": "..."}
    {"kind": "key", "queue": "/queue/a", "key": "order-7", "id": "...", "at": 1795000000000}
    {"kind": "retained", "destination": "/topic/a", "id": "...", "headers": [...], "body": "..."}
    {"kind": "end"}

`headers` are as a client sent and gets them, without escapes; `id` is the message-id; a body that is no UTF-8 is
`body64`, in Base64. `count` is how often a message was delivered, `due` until when it is put off; times are in ms since
the epoch; what is left out is 0, `priority` 4. `options` are what a queue takes from topics,
in the broker's own form. Lines of a queue are in the order in which it delivers.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Final

from common.codec import encode_headers, unescape
from common.errors import StompError
from common.negotiation import Version
from common.release import VERSION
from worker.store.interface import StoreError

__all__ = [
    "END",
    "FORMAT",
    "Fields",
    "Malformed",
    "encode_frame",
    "header",
    "line",
    "number",
    "portable",
    "read",
    "text",
]

FORMAT: Final = 1
END: Final = {"kind": "end"}

Fields = dict[str, Any]

_NUL = re.compile("\0")
_MOST: Final = 1 << 53
"""No number is higher: other programs read JSON's as floats."""


class Malformed(Exception):
    """A line is not what it should be; the text says what is wrong with it."""


def header(workers: int) -> Fields:
    return {"kind": "stampede-export", "version": FORMAT, "release": VERSION, "workers": workers}


def line(fields: Fields) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def portable(frame: bytes) -> Fields:
    """`id`, `headers` and the body of a stored frame. Raises `StoreError`."""
    end = frame.find(b"\n\n")
    try:
        id, *lines = frame[:end].decode().split("\n")
        pairs = [each.partition(":") for each in lines]
        headers = [[unescape(name, Version.V1_2), unescape(value, Version.V1_2)] for name, _, value in pairs]
    except (UnicodeDecodeError, StompError) as error:
        raise StoreError(f"a message of the store cannot be read ({error}): {frame[:80]!r}") from error
    if end < 0 or not frame.endswith(b"\0"):
        raise StoreError(f"a message of the store cannot be read: {frame[:80]!r}")
    body = frame[end + 2 : -1]
    try:
        return {"id": id, "headers": headers, "body": body.decode()}
    except UnicodeDecodeError:
        return {"id": id, "headers": headers, "body64": base64.b64encode(body).decode()}


def read(raw: bytes) -> Fields:
    """The fields of a line, which has a `kind`. Raises `Malformed`."""
    try:
        fields = json.loads(raw)
    except ValueError as error:
        raise Malformed(f"no JSON ({error})") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise Malformed('no JSON object with a "kind"')
    return fields


def text(fields: Fields, name: str, *, lines: bool = False) -> str:
    """A value that must be there, not empty, and fit into a header, as several `lines` only escaped. Raises
    `Malformed`."""
    value = fields.get(name)
    if not isinstance(value, str) or not value or (not lines and ("\n" in value or "\r" in value)):
        raise Malformed(f"{name!r} must be text{'' if lines else ' of one line'}, it is {value!r:.80}")
    _check(value)
    return value


def number(fields: Fields, name: str, default: int = 0, most: int = _MOST) -> int:
    """Raises `Malformed` if it is none from 0 to `most`."""
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Malformed(f"{name!r} must be a whole number from 0 to {most}, it is {value!r:.80}")
    return value


def encode_frame(fields: Fields) -> bytes:
    """The frame as it is stored; its `content-length` is that of the body, whatever the headers say. Raises
    `Malformed`."""
    id = text(fields, "id")
    body = _body(fields)
    pairs = fields.get("headers")
    if not isinstance(pairs, list):
        raise Malformed("'headers' must be a list of pairs")
    headers: list[tuple[str, str]] = []
    for pair in pairs:
        match pair:
            case [str(name), str(value)] if name:
                _check(name + value)
                headers.append((name, value))
            case _:
                raise Malformed(f"a header must be a pair of a name and a value, this is {pair!r:.80}")
    length = ("content-length", str(len(body)))
    if any(name == "content-length" for name, _ in headers):
        headers = [length if name == "content-length" else (name, value) for name, value in headers]
    elif body:
        headers.append(length)
    expires = number(fields, "expires")
    if expires and not any(name == "expires" for name, _ in headers):
        headers.append(("expires", str(expires)))
    return b"%b\n%b\n%b\0" % (id.encode(), encode_headers(headers, Version.V1_2), body)


def _body(fields: Fields) -> bytes:
    try:
        match fields:
            case {"body": str(body)}:
                return body.encode()
            case {"body64": str(body)}:
                return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise Malformed(f"the body cannot be read ({error})") from error
    raise Malformed("there must be a 'body' or a 'body64', of text")


def _check(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{value!r:.80} is no Unicode text ({error.reason})") from error
    if _NUL.search(value):
        raise Malformed(f"{value!r:.80} has a NUL, which no header can hold")
