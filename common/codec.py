"""The STOMP codec: what is right for one frame, in bytes and decoded, for 1.0, 1.1 and 1.2. A stream of them is
`common.decoder`. No I/O, no clock, no policy.

Grammar (1.2 section Augmented BNF; the other versions where they differ):

    frame   = command EOL *( header EOL ) EOL *OCTET NUL *( EOL )
    header  = name ":" value
    EOL     = [CR] LF

Deliberate deviations, each lax in what it accepts and never in what it sends:

* EOL: a CR before the LF ends the line in 1.0 and 1.1 too. Taken as part of the value, as 1.1 has it, it would be
  echoed to clients that then mistake it for their own line end.
* A raw colon in a value is data in every version (1.1 and 1.2 would have it escaped): the first colon splits.
* 1.0: one blank after the colon is dropped, since the examples of that specification write one.
* An empty value is legal in 1.0 too; its BNF says otherwise, its examples do not.
* A body on a frame other than SEND, MESSAGE or ERROR is refused in 1.1 and 1.2 and dropped in 1.0.
* What a version cannot express is left out rather than forged. CR has no escape before 1.2 and is dropped from values;
  in 1.0, which escapes nothing, LF in a value becomes a blank. A header whose name the version cannot express is left
  out whole: without its CR or its colon it would pass for another header, such as content-length.

CONNECT, STOMP and CONNECTED are never escaped (1.2 section Value Encoding).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version

__all__ = [
    "HEAD_END",
    "MAX_LENGTH_DIGITS",
    "MAY_HAVE_BODY",
    "Limits",
    "body_too_large",
    "check_partial_head",
    "content_length",
    "decode_head",
    "encode",
    "encode_headers",
    "escape",
    "head_too_large",
    "missing_nul",
    "refuse_body",
    "unescape",
]

HEAD_END = re.compile(rb"\n\r?\n")
"""The blank line after the headers; its match ends where the body starts."""

MAY_HAVE_BODY = frozenset({"SEND", "MESSAGE", "ERROR"})
MAX_LENGTH_DIGITS = 18
"""Of a `content-length`."""

_UNESCAPED = frozenset({"CONNECT", "STOMP", "CONNECTED"})
_V1_0 = Version.V1_0

_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_DECODED: tuple[dict[str, str], ...] = (
    {},
    {"n": "\n", "c": ":", "\\": "\\"},
    {"n": "\n", "c": ":", "\\": "\\", "r": "\r"},
)
_ENCODED = (
    str.maketrans({"\r": None, "\n": " ", "\0": None}),
    str.maketrans({"\\": "\\\\", "\n": "\\n", ":": "\\c", "\r": None, "\0": None}),
    str.maketrans({"\\": "\\\\", "\n": "\\n", ":": "\\c", "\r": "\\r", "\0": None}),
)
_NEEDS_ESCAPE = re.compile(r"[\\\r\n:\0]")
_UNSPEAKABLE = tuple(re.compile(chars) for chars in (r"[\r\n:\0]", r"[\r\0]", r"\0"))
"""Per version, what no header name may hold."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one frame, in bytes and counts. `head_bytes` covers all before the body: the command, the headers and
    the blank line."""

    command_bytes: int = 32
    header_count: int = 128
    header_line_bytes: int = 16 << 10
    head_bytes: int = 64 << 10
    body_bytes: int = 16 << 20


def unescape(text: str, version: Version) -> str:
    """Undo the escapes of `version`; raises StompError `bad-escape` on one it does not define."""
    if version is Version.V1_0 or "\\" not in text:
        return text
    known = _DECODED[version]

    def plain(match: re.Match[str]) -> str:
        char = known.get(match[1])
        if char is None:
            allowed = ", ".join(f"\\{key}" for key in known)
            raise StompError(
                ErrorCode.BAD_ESCAPE,
                "undefined escape sequence in a header",
                f"{match[0]!r} is not defined in STOMP {version.label}, which has {allowed}",
            )
        return char

    return _ESCAPE.sub(plain, text)


def escape(text: str, version: Version) -> str:
    """`text` as a header name or value of `version`: the reverse of `unescape`."""
    return text.translate(_ENCODED[version]) if _NEEDS_ESCAPE.search(text) else text


def encode_headers(headers: Iterable[tuple[str, str]], version: Version) -> bytes:
    """The header lines, each with its LF, escaped for `version`; without those whose name it cannot express."""
    return _header_lines(list(headers), version).encode()


def _header_lines(headers: list[tuple[str, str]], version: Version) -> str:
    lines = [f"{name}:{value}\n" for name, value in headers if name]
    text = "".join(lines)
    # One search through all the lines instead of one through each name and each value.
    if text.count(":") == text.count("\n") == len(lines) and not ("\\" in text or "\r" in text or "\0" in text):
        return text
    unspeakable = _UNSPEAKABLE[version]
    return "".join(
        [
            f"{escape(name, version)}:{escape(value, version)}\n"
            for name, value in headers
            if name and not unspeakable.search(name)
        ]
    )


def encode(frame: Frame, version: Version = Version.V1_2) -> bytes:
    """The wire form of `frame`. `content-length` is added when there is a body and the frame has none."""
    command, body = frame.command, frame.body
    lines = _header_lines(frame.headers, _V1_0 if command in _UNESCAPED else version)
    if not body:
        return f"{command}\n{lines}\n\0".encode()
    if f"\n{lines}".find("\ncontent-length:") < 0:
        lines = f"{lines}content-length:{len(body)}\n"
    return b"%b\n%b\0" % (f"{command}\n{lines}".encode(), body)


def decode_head(block: bytes, version: Version, limits: Limits) -> Frame:
    """Decode command and headers. `block` runs from the command up to, not including, the EOL of the last header
    line. The frame's body is empty.

    Raises StompError: `bad-frame`, `bad-encoding`, `too-many-headers`, `header-too-large`, `bad-header`,
    `bad-escape`.
    """
    if b"\0" in block:
        raise StompError(
            ErrorCode.BAD_FRAME,
            "NUL inside the headers",
            "a blank line must end the headers before the body and its NUL",
        )
    try:
        lines = block.decode().split("\n")
    except UnicodeDecodeError as error:
        raise StompError(
            ErrorCode.BAD_ENCODING,
            "headers are not valid UTF-8",
            f"byte {block[error.start]:#04x} at offset {error.start} of the frame",
        ) from None
    command = lines[0].removesuffix("\r")
    command_size = len(command) if command.isascii() else len(command.encode())
    if command_size > limits.command_bytes:
        raise StompError(
            ErrorCode.BAD_FRAME,
            "command line too long",
            f"{command_size} bytes, the limit is {limits.command_bytes} (limits.command_bytes)",
        )
    if len(lines) - 1 > limits.header_count:
        raise StompError(
            ErrorCode.TOO_MANY_HEADERS,
            "too many headers",
            f"{len(lines) - 1} headers, the limit is {limits.header_count} (limits.header_count)",
        )
    escapes = Version.V1_0 if command in _UNESCAPED else version
    headers = []
    for number, line in enumerate(lines[1:], 1):
        if len(line) > limits.header_line_bytes // 4:
            _check_line(line, limits)
        name, colon, value = line.removesuffix("\r").partition(":")
        if not colon or not name:
            raise StompError(
                ErrorCode.BAD_HEADER,
                "malformed header line",
                # Its text is not repeated: it may be a passcode.
                f"header line {number} takes a name, a colon and a value; it has no {'name' if colon else 'colon'}",
            )
        if version is Version.V1_0:
            value = value.removeprefix(" ")
        headers.append((unescape(name, escapes), unescape(value, escapes)))
    return Frame(command, headers)


def _check_line(line: str, limits: Limits) -> None:
    size = len(line.removesuffix("\r").encode())
    if size > limits.header_line_bytes:
        raise StompError(
            ErrorCode.HEADER_TOO_LARGE,
            "header line too long",
            f"a line of {size} bytes, the limit is {limits.header_line_bytes} (limits.header_line_bytes)",
        )


def content_length(frame: Frame, limits: Limits) -> int:
    """The value of `content-length`, or -1 without one.

    Raises StompError `bad-content-length` for anything but at most 18 digits, and for two different values;
    `body-too-large` over `limits.body_bytes`.
    """
    values = {value for name, value in frame.headers if name == "content-length"}
    if not values:
        return -1
    text = values.pop()
    if values or not (text.isascii() and text.isdigit() and len(text) <= MAX_LENGTH_DIGITS):
        shown = text if not values else f"{text}, {', '.join(values)}"
        raise StompError(
            ErrorCode.BAD_CONTENT_LENGTH,
            "bad content-length",
            f"content-length was {shown[:80]!r}; it takes one number of bytes, in digits only",
        )
    length = int(text)
    if length > limits.body_bytes:
        raise body_too_large(length, limits)
    return length


def body_too_large(size: int, limits: Limits) -> StompError:
    """The error for a body of at least `size` bytes."""
    return StompError(
        ErrorCode.BODY_TOO_LARGE,
        "body too large",
        f"a body of {size} bytes or more, the limit is {limits.body_bytes} (limits.body_bytes)",
    )


def refuse_body(command: str, length: int, version: Version) -> None:
    """Raise StompError `unexpected-body` if `command` may not carry `length` bytes (1.2 section Body)."""
    if length and command not in MAY_HAVE_BODY and version is not Version.V1_0:
        raise StompError(
            ErrorCode.UNEXPECTED_BODY,
            f"{command} takes no body"[:64],
            f"{length} bytes of body; only SEND, MESSAGE and ERROR frames have one",
        )


def check_partial_head(data: bytes | bytearray, limits: Limits) -> None:
    """Refuse what can no longer become a frame: `data` starts at a command and has no blank line yet.

    Raises StompError `header-too-large` or `bad-frame`.
    """
    if len(data) > limits.head_bytes:
        raise head_too_large(limits)
    line = data.find(b"\n", 0, limits.command_bytes + 2)
    if line < 0 and len(data) > limits.command_bytes + 1:
        raise StompError(
            ErrorCode.BAD_FRAME,
            "command line too long",
            f"no end of line in the first {limits.command_bytes} bytes (limits.command_bytes)",
        )
    if b"\0" in data:
        raise StompError(
            ErrorCode.BAD_FRAME,
            "NUL inside the headers",
            "a blank line must end the headers before the body and its NUL",
        )


def head_too_large(limits: Limits) -> StompError:
    """The error for command and headers that are too long together."""
    return StompError(
        ErrorCode.HEADER_TOO_LARGE,
        "headers too large",
        f"command and headers together are over the limit of {limits.head_bytes} bytes (limits.head_bytes)",
    )


def missing_nul(length: int) -> StompError:
    """The error for a body of `content-length` bytes that no NUL follows."""
    return StompError(
        ErrorCode.BAD_FRAME,
        "no NUL after the body",
        f"content-length was {length}, but the byte after that is not NUL; it counts bytes of the body, not characters",
    )
