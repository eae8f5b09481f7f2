"""The decoder of STOMP: a stream of bytes to frames. What is right for one frame is in `common.codec`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from common.codec import (
    HEAD_END,
    MAX_LENGTH_DIGITS,
    MAY_HAVE_BODY,
    Limits,
    body_too_large,
    check_partial_head,
    content_length,
    decode_head,
    head_too_large,
    missing_nul,
    refuse_body,
)
from common.frame import CLIENT_COMMANDS, SERVER_COMMANDS, Frame, PlainFrame
from common.negotiation import Version

__all__ = ["Decoder"]

_EOLS = re.compile(rb"[\r\n]+")
_COMMANDS = {name.encode(): name for name in (*CLIENT_COMMANDS, *SERVER_COMMANDS)}
_WITH_BODY = {name.encode(): name for name in MAY_HAVE_BODY}
_V1_0 = Version.V1_0
_PLAIN_HEAD_BYTES = 2048
_PLAIN_LINES = rb"(?:\n(?!content-length:)[^:\n\r\\\0]+:[^\n\r\\\0]*)*+"
_PLAIN_HEAD = re.compile(
    rb"\n?([A-Z]{1,16}+)(%b(?:\ncontent-length:(\d{1,%d}+)(?=\n)%b)?+)\n\n"
    % (_PLAIN_LINES, MAX_LENGTH_DIGITS, _PLAIN_LINES)
)
"""A command, headers with nothing to unescape or to drop, at most one `content-length`; and the blank line."""
_RECEIPT = re.compile(
    rb"RECEIPT(\nreceipt-id:[!-9;-\[\]-~]++(?:\nmessage-id:[!-9;-\[\]-~]++)?+(?:\nrouted:\d++)?+)\n\n\0"
)
"""A whole RECEIPT as Stampede mostly writes it."""
_RECEIPT_HEADERS = 3
_R = b"R"[0]
_MESSAGE_BYTES = len(b"MESSAGE")
_ID = b"\nmessage-id:"
_VARIED = re.compile(rb"[!-9;-\[\]-~]++(?:\nack:[!-9;-\[\]-~]++)?+")
"""What differs from one MESSAGE to the next: its id, and what acknowledges it."""
_MISSES = 16
"""MESSAGEs unlike the last one, of one read, after which none is expected to be like it."""


class _Like(NamedTuple):
    """A MESSAGE without what is `_VARIED` in it: what is `before` and `after` that, with the blank line, and the
    `length` of its body."""

    before: bytes
    after: bytes
    length: int


class Decoder:
    """A stream of bytes to a stream of frames: `feed` bytes in any pieces, get whole frames.

    `version` and `limits` may be set at any time and hold from the next frame on. After an exception the decoder is
    spent.
    """

    def __init__(self, version: Version = Version.V1_2, limits: Limits | None = None) -> None:
        self.version = version
        self.limits = limits or Limits()
        self._buffer: bytes | bytearray = b""
        # Where in the buffer the next frame starts, or the body of `_frame`; and how many bytes from there are known
        # not to hold what is looked for.
        self._start = 0
        self._searched = 0
        self._frame: Frame | None = None
        self._length = -1
        self._like: _Like | None = None

    @property
    def limits(self) -> Limits:
        """The bounds of each frame."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._like = None
        # No line is longer than the head is, and a command is no longer than `_PLAIN_HEAD` has it.
        most = min(limits.head_bytes, limits.header_line_bytes, _PLAIN_HEAD_BYTES)
        self._plain_head_bytes = most if limits.command_bytes >= 16 else 0
        # A header takes three bytes at the least.
        self._few_header_bytes = 3 * limits.header_count

    @property
    def is_within_frame(self) -> bool:
        """Whether a frame has begun that is not whole yet; to be asked when `feed` has come to its end."""
        return self._frame is not None or len(self._buffer) > 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield each frame that `data` completes; raises StompError as `decode_head` and `content_length` do,
        `unexpected-body`, and `bad-frame` where the NUL is missing after a counted body."""
        self._append(data)
        while True:
            if self._frame is None and self.version is not _V1_0:
                yield from self._plain_frames()
            frame = self._any_frame()
            if frame is None:
                self._forget()
                return
            yield frame

    def _append(self, data: bytes) -> None:
        kept = self._buffer
        if len(kept) <= len(data):
            # Slices of bytes cost half of those of a bytearray.
            self._buffer = b"".join((kept, data)) if kept else bytes(data)
            return
        # Many small pieces of one large frame: joining them all each time would cost their square.
        if not isinstance(kept, bytearray):
            self._buffer = kept = bytearray(kept)
        kept += data

    def _forget(self) -> None:
        """Drop what is decoded."""
        if self._start:
            if isinstance(self._buffer, bytearray):
                del self._buffer[: self._start]
            else:
                self._buffer = self._buffer[self._start :]
            self._start = 0

    def _plain_frames(self) -> Iterator[Frame]:
        """Those next frames that are whole and have nothing to unescape, to refuse or to drop. At the first other one
        this ends and has changed nothing: the way through `_any_frame` alone says what is right, this one only is
        several times as fast."""
        limits, version = self._limits, self.version
        buffer: Any = self._buffer
        match, with_body = _PLAIN_HEAD.match, _WITH_BODY
        size, most, few = len(buffer), self._plain_head_bytes, self._few_header_bytes
        is_bytes, body_bytes = isinstance(buffer, bytes), limits.body_bytes
        start = self._start
        like = self._like if is_bytes else None
        misses = 0
        takes_receipts = is_bytes and limits.header_count >= _RECEIPT_HEADERS
        while True:
            if takes_receipts and start < size and buffer[start] == _R:
                receipt = _RECEIPT.match(buffer, start, start + most)
                if receipt is not None:
                    self._start = start = receipt.end()
                    self._searched = 0
                    yield PlainFrame("RECEIPT", receipt[1], b"")
                    if self.version is not version or self._limits is not limits:
                        return
                    continue
            if like is not None:
                # Consumers mostly get one like the other, and three comparisons cost less than taking it apart.
                before, after, body_length = like
                if buffer.startswith(before, start):
                    varied = _VARIED.match(buffer, start + len(before), start + most)
                    if varied is not None and buffer.startswith(after, varied.end()):
                        begin = varied.end() + len(after)
                        end = begin + body_length
                        if end < size and not buffer[end] and begin - start <= most:
                            head = buffer[start + _MESSAGE_BYTES : begin - 2]
                            self._start = start = end + 1
                            self._searched = 0
                            yield PlainFrame("MESSAGE", head, buffer[begin:end])
                            if self.version is not version or self._limits is not limits:
                                return
                            continue
                misses += 1
                if misses == _MISSES:
                    like = None
            found = match(buffer, start, start + most)
            if found is None:
                return
            command, head, length = found.groups()
            start = found.end()
            if len(head) > few and head.count(b"\n") > limits.header_count:
                return
            if not head.isascii() and not _is_utf8(head):
                return
            if length is not None:
                end = start + int(length)
                if end >= size or buffer[end]:
                    return
            elif start < size and not buffer[start]:
                end = start
            else:
                end = buffer.find(0, start)
                if end < 0:
                    return
            if end > start:
                name = with_body.get(command)
                if name is None or end - start > body_bytes:
                    return
                body = buffer[start:end]
            else:
                name = _COMMANDS.get(command) or command.decode()
                body = b""
            self._start = start = end + 1
            self._searched = 0
            if not is_bytes:
                head, body = bytes(head), bytes(body)
            elif misses < _MISSES and length is not None and name == "MESSAGE":
                like = self._like = self._like_of(head, int(length))
            yield PlainFrame(name, head, body)
            if self.version is not version or self._limits is not limits:
                return

    def _like_of(self, head: bytes, length: int) -> _Like | None:
        """What MESSAGEs like this plain one have in common; None if it has nothing that varies, or none of them may
        have an `ack` header more than this one."""
        at = head.find(_ID) + len(_ID)
        varied = _VARIED.match(head, at) if at >= len(_ID) else None
        if varied is None or head.count(b"\n") >= self._limits.header_count:
            return None
        return _Like(b"MESSAGE" + head[:at], head[varied.end() :] + b"\n\n", length)

    def _any_frame(self) -> Frame | None:
        if self._frame is None and not self._read_head():
            return None
        frame = self._frame
        body = self._read_body()
        if frame is None or body is None:
            return None
        if frame.command in MAY_HAVE_BODY:
            frame.body = body
        self._frame = None
        return frame

    def _read_head(self) -> bool:
        start = _EOLS.match(self._buffer, self._start)
        if start is not None:
            self._start = start.end()
        # The blank line may have begun up to three bytes before what is new.
        match = HEAD_END.search(self._buffer, self._start + max(0, self._searched - 3))
        size = (match.end() if match else len(self._buffer)) - self._start
        if size > self._limits.head_bytes:
            raise head_too_large(self._limits)
        if match is None:
            self._forget()
            check_partial_head(self._buffer, self._limits)
            self._searched = size
            return False
        block = bytes(self._buffer[self._start : match.start()])
        self._frame = frame = decode_head(block, self.version, self._limits)
        self._length = content_length(frame, self._limits)
        refuse_body(frame.command, max(self._length, 0), self.version)
        self._start = match.end()
        self._searched = 0
        return True

    def _read_body(self) -> bytes | None:
        buffer, start, length = self._buffer, self._start, self._length
        held = len(buffer) - start
        if length < 0:
            end = buffer.find(0, start + self._searched)
            size = held if end < 0 else end - start
            if self._frame is not None:
                # Before its end is known, or what may have no body could still make us hold a large one.
                refuse_body(self._frame.command, size, self.version)
            if size > self._limits.body_bytes:
                raise body_too_large(size, self._limits)
            if end < 0:
                self._searched = size
                return None
            length = size
        elif held <= length:
            return None
        elif buffer[start + length]:
            raise missing_nul(length)
        self._start = start + length + 1
        self._searched = 0
        return bytes(buffer[start : start + length])


def _is_utf8(head: bytes | bytearray) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError:
        return False
    return True
