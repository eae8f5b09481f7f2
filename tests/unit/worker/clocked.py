"""A worker whose clock the test sets: the real `Core` and `Connection` on a loop and transports that only pretend.

Time passes in `Worker.at` alone, where timers are called in their order, each as late as the test says. Seconds.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from common.config import Config
from common.log import EventLog
from tests.unit.worker.memory_store import MemoryStore
from worker.assembly import MessageIds
from worker.backplane.interface import Backplane, Batch
from worker.connection import Connection
from worker.core import Core
from worker.queues.service import Queues
from worker.settings import Settings

__all__ = ["EPSILON", "READ_FIRST", "TICK", "Client", "Worker", "send"]

TICK = 0.02
"""How late the worker may be by itself: what is due within a tick shares a timer."""
READ_FIRST = 0.001
"""What a late worker grants itself to read what its clients sent meanwhile."""
EPSILON = 1e-6
"""What adding up fractions of seconds may lose."""
START = 1000.0


class Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False
        self.punctual = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as `Core` uses."""

    def __init__(self) -> None:
        self.now = START
        self.timers: list[Timer] = []
        self._soon: deque[Callable[[], None]] = deque()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self._soon.append(lambda: callback(*arguments))

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(when, callback)
        self.timers.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = self.call_at(self.now + delay, callback)
        # Asked for when the delay of the others is known already.
        timer.punctual = True
        return timer

    def settle(self) -> None:
        while self._soon:
            self._soon.popleft()()

    def run_until(self, when: float, late: float) -> None:
        """Let time pass; a timer is called `late` seconds after it was due, or waits for the next run."""
        self.settle()
        while True:
            self.timers = [timer for timer in self.timers if not timer.cancelled]
            timer = min(self.timers, key=lambda timer: timer.when, default=None)
            called = when if timer is None else timer.when + (0 if timer.punctual else late)
            if timer is None or called > when:
                break
            self.timers.remove(timer)
            self.now = max(self.now, called)
            timer.callback()
            self.settle()
            assert all(other.when > self.now for other in self.timers if not other.cancelled), "wakes without end"
        self.now = max(self.now, when)


class LonelyBackplane:
    """There is no other worker."""

    def subscribe(self, destination: bytes) -> None: ...
    def unsubscribe(self, destination: bytes) -> None: ...
    def subscribe_prefix(self, prefix: bytes) -> None: ...
    def unsubscribe_prefix(self, prefix: bytes) -> None: ...
    def broadcast(self, message: Any) -> None: ...
    def publish(self, destination: bytes, batch: Batch) -> None: ...

    def interested(self, destination: bytes) -> bool:
        return False

    def barrier(self, done: Callable[[], None]) -> None:
        done()


class Transport:
    """Takes everything at once and writes down when. With `small` it is full after each write."""

    def __init__(self, loop: Loop, connection: Connection) -> None:
        self._loop = loop
        self._connection = connection
        self.reading = True
        self.small = False
        self.written: list[tuple[float, bytes]] = []
        self.eof_at: float | None = None
        self.closed_at: float | None = None
        self.aborted_at: float | None = None

    def write(self, data: bytes) -> None:
        assert data and self.eof_at is None
        self.written.append((self._loop.now, data))
        if self.small:
            self._connection.pause_writing()

    def write_eof(self) -> None:
        assert self.eof_at is None
        self.eof_at = self._loop.now

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        # Idempotent, as asyncio has it.
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed_at is not None or self.aborted_at is not None

    def close(self) -> None:
        self.closed_at = self._loop.now
        self._loop.call_soon(self._connection.connection_lost, None)

    def abort(self) -> None:
        self.aborted_at = self._loop.now
        self._loop.call_soon(self._connection.connection_lost, None)

    def get_extra_info(self, name: str) -> None:
        return None


class Client:
    """One connection as its client sees it."""

    def __init__(self, worker: Worker) -> None:
        self._loop = worker.loop
        self.connection = Connection(worker.core, worker.listener)
        self.transport = Transport(worker.loop, self.connection)
        self.connection.connection_made(cast(asyncio.Transport, self.transport))

    def read(self, data: bytes) -> None:
        """The worker reads this from it."""
        assert self.transport.reading, "nothing is read from a client while that is paused"
        self.connection.data_received(data)
        self._loop.settle()

    def eof(self) -> None:
        """It has sent its last byte."""
        if not self.connection.eof_received():
            self.transport.close()
        self._loop.settle()

    @property
    def wrote_at(self) -> list[float]:
        """When each piece was written to it."""
        return [when for when, _ in self.transport.written]

    @property
    def beats(self) -> list[float]:
        """When each heart-beat was."""
        return [when for when, data in self.transport.written if data == b"\n"]

    @property
    def error(self) -> tuple[float, str] | None:
        """When the ERROR was written, and its code."""
        for when, data in self.transport.written:
            if data.startswith(b"ERROR\n"):
                found = re.search(rb"\nerror-code:(\S+)\n", data)
                assert found is not None
                return when, found[1].decode()
        return None


class Worker:
    """One worker with one listener. Timers are called `late` seconds after they were due."""

    def __init__(
        self,
        *,
        late: float = 0.0,
        connect_timeout: float = 10.0,
        heart_beat: Mapping[str, object] | None = None,
        outbox: Mapping[str, object] | None = None,
    ) -> None:
        listener = {"connect_timeout": connect_timeout, "heart_beat": heart_beat or {}}
        config = Config.model_validate({"listener": [listener], "outbox": outbox or {}})
        self.late = late
        self.loop = Loop()
        self.listener = Settings.listener(config, 0, "test")
        self.store = MemoryStore(self.loop.call_soon)
        self.core = Core(
            cast(asyncio.AbstractEventLoop, self.loop),
            Settings.of(config, "0", 1024),
            EventLog("worker-0", stream=io.StringIO()),
            MessageIds(0, "boot", 1),
            "0-",
            lambda _: cast(Backplane, LonelyBackplane()),
            lambda core: Queues(core, 0, 1, "0-boot.1", self.store, core.log),
        )
        self.core.queues.siblings.expect([])

    @property
    def now(self) -> float:
        return self.loop.now

    def at(self, when: float) -> None:
        """Let time pass until then."""
        self.loop.run_until(when, self.late)

    def after(self, seconds: float) -> None:
        """Let so much time pass."""
        self.at(self.now + seconds)

    def hold(self, destination: bytes) -> None:
        """A subscriber at another worker cannot take what is sent to `destination`."""
        self.core.flow.block(destination, "sibling", local=False)

    def release(self, destination: bytes) -> None:
        self.core.flow.unblock(destination, "sibling", local=False)
        self.loop.settle()

    def open(self) -> Client:
        return Client(self)

    def login(self, heart_beat: str | None = None, version: str = "1.2") -> Client:
        client = self.open()
        beats = "" if heart_beat is None else f"heart-beat:{heart_beat}\n"
        client.read(f"CONNECT\naccept-version:{version}\nhost:h\n{beats}\n\0".encode())
        assert client.transport.written[0][1].startswith(b"CONNECTED\n")
        return client


def send(destination: bytes, body: bytes = b"") -> bytes:
    """One SEND."""
    return b"SEND\ndestination:%b\ncontent-length:%d\n\n%b\0" % (destination, len(body), body)
