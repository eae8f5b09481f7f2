"""One worker's two ZeroMQ sockets and when to look at them. Knows nothing of what is said.

The descriptor of a ZeroMQ socket is edge-triggered, and any call on the socket may take the edge. So a
socket is read until it has nothing, which libzmq answers only after it has looked at everything; a read
that is cut short goes on in the next turn; after sends, connects and disconnects somebody looks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

import zmq

__all__ = ["Sockets"]

NOBLOCK = int(zmq.NOBLOCK)
EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)

ENDPOINT_BYTES = 107
"""What a Unix socket's path may be long."""
TURN_MESSAGES = 256
TURN_BYTES = 1 << 20
"""Read from the siblings per loop turn, so that clients have theirs."""
TURN_NOTIFICATIONS = 1000
QUEUED_CONNECTIONS = 256
LAST_WORDS = 100
"""Milliseconds `close` waits for ZeroMQ to hand the kernel what was sent: the confirmation a sibling waits
for may be among it. With no full link it takes none of them."""


class Sockets:
    """An XPUB to publish on and a SUB to connect to siblings; both are made at once, read from `bind` on.

    `on_notification` gets what an XPUB reports (1 or 0, then the topic), `on_notified` follows each round
    of them; `on_message` gets what a sibling published, `on_round_end` follows each round of that.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        *,
        high_water_mark: int,
        on_notification: Callable[[bytes], None],
        on_notified: Callable[[], None],
        on_message: Callable[[bytes], None],
        on_round_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._path = path
        self._on_notification = on_notification
        self._on_notified = on_notified
        self._on_message = on_message
        self._on_round_end = on_round_end
        self._xpub_goes_on = False
        self._sub_goes_on = False
        self._bound = False
        self._closed = False
        self._context = zmq.Context(io_threads=1)
        self._xpub: zmq.Socket[bytes] = self._context.socket(zmq.XPUB)
        self._xpub.set(zmq.XPUB_NODROP, 1)
        self._xpub.set(zmq.SNDHWM, high_water_mark)
        self._xpub.set(zmq.BACKLOG, QUEUED_CONNECTIONS)
        self._sub: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        self._sub.set(zmq.RCVHWM, high_water_mark)
        self._sub.set(zmq.SNDHWM, 0)  # a subscription over the mark would be lost
        self._sub.set(zmq.LINGER, 0)
        self._xpub.set(zmq.LINGER, LAST_WORDS)
        for socket in (self._xpub, self._sub):
            # After the default 30 s a connection to a stopped sibling would be made anew, and all
            # subscriptions sent again in no useful order. Whether a sibling lives is for the front to say,
            # not for a timeout here.
            socket.set(zmq.HANDSHAKE_IVL, 0)
        self._descriptors = int(self._xpub.get(zmq.FD)), int(self._sub.get(zmq.FD))
        self._xpub_events: Callable[[int], Any] = self._xpub.get
        self.send: Callable[[bytes, int], object] = self._xpub.send

    def bind(self) -> str:
        """Listen and begin to read; returns the endpoint. Raises OSError."""
        if len(os.fsencode(self._path)) > ENDPOINT_BYTES:
            limit = f"the path of a Unix socket has at most {ENDPOINT_BYTES} bytes"
            raise OSError(errno.ENAMETOOLONG, f"{limit}; choose a shorter broker.runtime_dir", self._path)
        endpoint = f"ipc://{self._path}"
        try:
            self._xpub.bind(endpoint)
        except zmq.ZMQError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), self._path) from error
        self._bound = True
        self._loop.add_reader(self._descriptors[0], self._xpub_readable)
        self._loop.add_reader(self._descriptors[1], self._sub_readable)
        self._look_at_xpub()
        self._look_at_sub()
        return endpoint

    def connect(self, endpoint: str) -> None:
        self._sub.connect(endpoint)
        self._look_at_sub()

    def disconnect(self, endpoint: str) -> None:
        self._sub.disconnect(endpoint)
        self._look_at_sub()

    def subscribe(self, topic: bytes) -> None:
        if not self._closed:
            self._sub.set(zmq.SUBSCRIBE, topic)

    def unsubscribe(self, topic: bytes) -> None:
        if not self._closed:
            self._sub.set(zmq.UNSUBSCRIBE, topic)

    def look_again(self) -> None:
        """To be called after sends."""
        if not self._xpub_goes_on and self._xpub_events(EVENTS) & POLLIN:
            self._look_at_xpub()

    def close(self) -> None:
        """Leaves no thread, no descriptor and no file behind."""
        if self._closed:
            return
        self._closed = True
        if self._bound:
            for descriptor in self._descriptors:
                self._loop.remove_reader(descriptor)
            # libzmq leaves the file of a named endpoint behind.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        self._sub.close()
        self._xpub.close()
        self._context.term()

    def _look_at_xpub(self) -> None:
        if not self._xpub_goes_on:
            self._xpub_goes_on = True
            self._loop.call_soon(self._read_xpub)

    def _look_at_sub(self) -> None:
        if not self._sub_goes_on:
            self._sub_goes_on = True
            self._loop.call_soon(self._read_sub)

    def _xpub_readable(self) -> None:
        if not self._xpub_goes_on:
            self._read_xpub()

    def _sub_readable(self) -> None:
        if not self._sub_goes_on:
            self._read_sub()

    def _read_xpub(self) -> None:
        self._xpub_goes_on = False
        if self._closed:
            return
        receive, take = self._xpub.recv, self._on_notification
        exhausted = False
        try:
            for _ in range(TURN_NOTIFICATIONS):
                try:
                    notification = receive(NOBLOCK)
                except zmq.Again:
                    exhausted = True
                    break
                take(notification)
        finally:
            if not exhausted:
                self._look_at_xpub()
        self._on_notified()

    def _read_sub(self) -> None:
        self._sub_goes_on = False
        receive, take = self._sub.recv, self._on_message
        messages = size = 0
        exhausted = False
        try:
            while messages < TURN_MESSAGES and size < TURN_BYTES and not self._closed:
                try:
                    message = receive(NOBLOCK)
                except zmq.Again:
                    exhausted = True
                    break
                messages += 1
                size += len(message)
                take(message)
        finally:
            # Also when the owner raised: nothing else would wake us for what is left.
            if not exhausted:
                self._look_at_sub()
            if messages and not self._closed:
                self._on_round_end()
