"""Reads standard input, as a whole or line by line, without blocking the loop."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator

from broker.shell.running import CommandFailed

__all__ = ["read_all", "read_lines"]

_CHUNK = 1 << 16
_RETRY = 0.01


async def read_all(fd: int) -> bytes:
    """All that comes from `fd` until its end. Raises CommandFailed."""
    return b"".join([chunk async for chunk in _read_chunks(fd)])


async def read_lines(fd: int) -> AsyncIterator[bytes]:
    """The lines that come from `fd` until its end, without their line feeds; the last one needs none.

    Raises CommandFailed.
    """
    parts: list[bytes] = []
    async for chunk in _read_chunks(fd):
        first, *others = chunk.split(b"\n")
        parts.append(first)
        if others:
            yield b"".join(parts)
            for line in others[:-1]:
                yield line
            parts = [others[-1]]
    if any(parts):
        yield b"".join(parts)


async def _read_chunks(fd: int) -> AsyncIterator[bytes]:
    """`fd` is left in the mode it is in: others may have it open."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        # A file is readable always, and the loop has more to do.
        await (asyncio.sleep(0) if poll.poll(0) else _readable(fd))
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            # Somebody else was faster, or it is a terminal that was left in that mode.
            await asyncio.sleep(_RETRY)
            continue
        except OSError as error:
            raise CommandFailed(f"cannot read standard input: {error.strerror or error}") from None
        if not chunk:
            return
        yield chunk


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(fd)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
