"""The STOMP codec: bytes to frames and back, for 1.0, 1.1 and 1.2. No I/O, no clock, no policy.

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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version

__all__ = [
    "HEAD_END",
    "Decoder",
    "Limits",
    "content_length",
    "decode_head",
    "encode",
    "encode_headers",
    "escape",
    "refuse_body",
    "unescape",
]

HEAD_END = re.compile(rb"\n\r?\n")
"""The blank line after the headers; its match ends where the body starts."""

_EOLS = re.compile(rb"[\r\n]+")
_MAY_HAVE_BODY = frozenset({"SEND", "MESSAGE", "ERROR"})
_UNESCAPED = frozenset({"CONNECT", "STOMP", "CONNECTED"})
_MAX_LENGTH_DIGITS = 18

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
    unspeakable = _UNSPEAKABLE[version]
    return "".join(
        [
            f"{escape(name, version)}:{escape(value, version)}\n"
            for name, value in headers
            if name and not unspeakable.search(name)
        ]
    ).encode()


def encode(frame: Frame, version: Version = Version.V1_2) -> bytes:
    """The wire form of `frame`. `content-length` is added when there is a body and the frame has none."""
    if frame.command in _UNESCAPED:
        version = Version.V1_0
    head = encode_headers(frame.headers, version)
    if frame.body and frame.get("content-length") is None:
        head += b"content-length:%d\n" % len(frame.body)
    return b"%b\n%b\n%b\0" % (frame.command.encode(), head, frame.body)


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
    if values or not (text.isascii() and text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS):
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
    if length and command not in _MAY_HAVE_BODY and version is not Version.V1_0:
        raise StompError(
            ErrorCode.UNEXPECTED_BODY,
            f"{command} takes no body"[:64],
            f"{length} bytes of body; only SEND, MESSAGE and ERROR frames have one",
        )


class Decoder:
    """A stream of bytes to a stream of frames: `feed` bytes in any pieces, get whole frames.

    `version` may be set once negotiated and holds from the next frame on. After an exception the decoder is spent.
    """

    def __init__(self, version: Version = Version.V1_2, limits: Limits | None = None) -> None:
        self.version = version
        self.limits = limits or Limits()
        self._buffer = bytearray()
        self._searched = 0
        self._frame: Frame | None = None
        self._length = -1

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield each frame that `data` completes; raises StompError as `decode_head` and `content_length` do,
        `unexpected-body`, and `bad-frame` where the NUL is missing after a counted body."""
        self._buffer += data
        while True:
            if self._frame is None and not self._read_head():
                return
            frame = self._frame
            body = self._read_body()
            if frame is None or body is None:
                return
            if frame.command in _MAY_HAVE_BODY:
                frame.body = body
            self._frame = None
            yield frame

    def _read_head(self) -> bool:
        buffer = self._buffer
        start = _EOLS.match(buffer)
        if start is not None:
            del buffer[: start.end()]
        # The blank line may have begun up to three bytes before what is new.
        match = HEAD_END.search(buffer, max(0, self._searched - 3))
        size = match.end() if match else len(buffer)
        if size > self.limits.head_bytes:
            raise head_too_large(self.limits)
        if match is None:
            check_partial_head(buffer, self.limits)
            self._searched = len(buffer)
            return False
        self._frame = frame = decode_head(bytes(buffer[: match.start()]), self.version, self.limits)
        self._length = content_length(frame, self.limits)
        refuse_body(frame.command, max(self._length, 0), self.version)
        del buffer[:size]
        self._searched = 0
        return True

    def _read_body(self) -> bytes | None:
        buffer, length = self._buffer, self._length
        if length < 0:
            length = buffer.find(0, self._searched)
            size = len(buffer) if length < 0 else length
            if self._frame is not None:
                # Before its end is known, or what may have no body could still make us hold a large one.
                refuse_body(self._frame.command, size, self.version)
            if size > self.limits.body_bytes:
                raise body_too_large(size, self.limits)
            if length < 0:
                self._searched = size
                return None
        elif len(buffer) <= length:
            return None
        elif buffer[length]:
            raise missing_nul(length)
        body = bytes(buffer[:length])
        del buffer[: length + 1]
        self._searched = 0
        return body


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
