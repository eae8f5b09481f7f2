"""Writes messages to standard output: their formats, and a writer that knows what its reader has taken."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import re
import select
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Self

from broker.shell.running import CommandFailed
from common.client import Message
from common.codec import encode_headers
from common.negotiation import Version

__all__ = ["Output", "ReaderGone", "render"]

_RETRY = 0.01
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def render(message: Message, form: str, *, terminal: bool) -> bytes:
    """`message` in the format `form`, see the help of `stampede subscribe`. On a `terminal` control characters are
    written as escapes, except in `raw`."""
    if form == "raw":
        return message.body
    if form == "json":
        return json.dumps(_fields(message), ensure_ascii=False).encode() + b"\n"
    text = message.body + b"\n"
    if form == "headers":
        text = encode_headers(message.frame.headers, Version.V1_2) + b"\n" + text + b"\n"
    return _harmless(text) if terminal else text


def _fields(message: Message) -> dict[str, object]:
    fields: dict[str, object] = {"headers": message.headers}
    try:
        fields["body"] = message.body.decode()
    except UnicodeDecodeError:
        # As in what `stampede store export` writes.
        fields["body64"] = base64.b64encode(message.body).decode()
    return fields


def _harmless(data: bytes) -> bytes:
    text = data.decode(errors="backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text).encode()


class ReaderGone(Exception):
    """Whoever read standard output reads no more."""


class Output:
    """Writes to `fd`, which stays in the mode it is in: others may have it open. A context manager.

    `stepwise`: a pipe holds no more than one message, so that `taken` can tell when its reader has it. `on_gone` is
    called when the reader of a pipe has closed it, which is `gone` from then on.
    """

    def __init__(self, fd: int, *, stepwise: bool, on_gone: Callable[[], None] | None = None) -> None:
        self.gone = False
        self.is_terminal = os.isatty(fd)
        self._fd = fd
        self._stepwise = stepwise
        self._on_gone = on_gone
        self._pipe_size = 0
        self._watched = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def __enter__(self) -> Self:
        mode = fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE
        if stat.S_ISFIFO(os.fstat(self._fd).st_mode) and mode == os.O_WRONLY:
            # There is nothing to be read from this end, so what comes is the end of the other one.
            asyncio.get_running_loop().add_reader(self._fd, self._reader_gone)
            self._watched = True
            if self._stepwise:
                self._shrink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watched:
            asyncio.get_running_loop().remove_reader(self._fd)
        if self._pipe_size:
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, self._pipe_size)

    def _shrink(self) -> None:
        # A pipe of one page can be written to again when all that was written is read, and not before.
        size = fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
        except OSError:
            # What another program has written fills more than that: `taken` then means no more than written.
            return
        self._pipe_size = size

    def _reader_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        self.gone = True
        if self._on_gone is not None:
            self._on_gone()

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Raises ReaderGone, and CommandFailed for a disk that is full and the like."""
        rest = memoryview(data)
        while rest:
            await self._writable()
            try:
                # What is writable takes so much without blocking (POSIX, poll and PIPE_BUF).
                rest = rest[os.write(self._fd, rest[: select.PIPE_BUF]) :]
            except BrokenPipeError:
                self.gone = True
                raise ReaderGone from None
            except BlockingIOError:
                # A terminal, or a socket, that was left in that mode.
                await asyncio.sleep(_RETRY)
            except OSError as error:
                raise CommandFailed(f"cannot write to standard output: {error.strerror or error}") from None

    async def taken(self) -> None:
        """Wait until the reader of a pipe has read all that was written; anything else has it when it is written.

        Raises ReaderGone.
        """
        if self._pipe_size and not await self._writable() & select.POLLOUT:
            self.gone = True
            raise ReaderGone

    @property
    def is_taken(self) -> bool:
        """Whether there is nothing left to wait for in `taken`."""
        return not self._pipe_size or any(events & select.POLLOUT for _, events in self._poll.poll(0))

    async def _writable(self) -> int:
        """Wait until something can be written, or the reader is gone; the events of poll(2) that say which."""
        while not (ready := self._poll.poll(0)):
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            loop.add_writer(self._fd, _wake, waiter)
            try:
                await waiter
            finally:
                loop.remove_writer(self._fd)
        return ready[0][1]


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
