"""Publishers and subscribers that work in threads of their own, as a loaded broker has them, and check as they go.

A publisher numbers its messages and ends with how many there were; a subscriber proves that of each publisher
every number came, once, in order. What goes wrong in a thread is raised where the test joins it.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from tests.harness.wire import TIMEOUT, Frame, Wire, WireFault, encode

__all__ = ["LONG", "Publisher", "Subscriber", "join_all", "wait_standstill", "wait_until"]

LONG = 60.0
"""Seconds for what takes long only on a loaded machine."""


def wait_until(holds: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """What `holds` returns once that is true; for conditions nobody announces."""
    deadline = time.monotonic() + timeout
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain: {what}")
        time.sleep(0.005)
    return found


class Actor(threading.Thread):
    """A thread on one connection. `changed` is notified of all progress."""

    def __init__(self, wire: Wire, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.wire = wire
        self.changed = threading.Condition()
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as fault:  # noqa: BLE001  # raised again by `finish`, in the test's own thread
            self.fault = fault
        finally:
            with self.changed:
                self.changed.notify_all()

    def work(self) -> None:
        raise NotImplementedError

    def finish(self, timeout: float = LONG) -> None:
        """Wait for the end of the work; raises what went wrong in it."""
        self.join(timeout)
        if self.is_alive():
            raise AssertionError(f"{self.name} is not done after {timeout} s: {self}")
        if self.fault is not None:
            raise self.fault

    def _wait(self, holds: Callable[[], bool], what: str, timeout: float) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: holds() or not self.is_alive(), timeout):
                raise AssertionError(f"{self.name}: waited {timeout} s in vain for {what}: {self}")
        if self.fault is not None:
            raise self.fault
        if not holds():
            raise AssertionError(f"{self.name} ended before {what}: {self}")


class Publisher(Actor):
    """Sends numbered messages in writes of a random number of frames: `count` of them, or until `stop`."""

    def __init__(
        self,
        wire: Wire,
        name: str,
        destination: str,
        *,
        count: int | None = None,
        padding: int = 0,
        most_at_once: int = 20,
        receipts: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(wire, name)
        self.destination = destination
        self.sent = 0
        self.receipted = 0
        """With `receipts`: numbers below this were sent with a receipt that has come."""
        self._count = count
        self._padding = b" " + b"." * padding
        self._most_at_once = most_at_once
        self._receipts = receipts
        self._random = random.Random(f"{seed} {name}")
        self._stopping = threading.Event()

    def __repr__(self) -> str:
        return f"<{self.name} sent {self.sent}>"

    def stop(self) -> None:
        self._stopping.set()

    def work(self) -> None:
        while not self._stopping.is_set() and (self._count is None or self.sent < self._count):
            size = self._random.randint(1, self._most_at_once)
            if self._count is not None:
                size = min(size, self._count - self.sent)
            numbers = range(self.sent, self.sent + size)
            frames = [self._frame(number) for number in numbers[:-1]]
            frames.append(self._frame(numbers[-1], receipt=self._receipts))
            self.wire.send(b"".join(frames), timeout=LONG)
            with self.changed:
                self.sent = numbers.stop
                self.changed.notify_all()
            if self._receipts:
                self.wire.expect("RECEIPT", timeout=LONG, receipt_id=str(numbers[-1]))
                self.receipted = numbers.stop
        self._end()

    def _frame(self, number: int, *, receipt: bool = False) -> bytes:
        headers = [("destination", self.destination), *([("receipt", str(number))] if receipt else [])]
        return encode("SEND", headers, b"%s %d" % (self.name.encode(), number) + self._padding)

    def _end(self) -> None:
        # The RECEIPT says that all before was taken; whoever reads the broker's answers must not read this one.
        self.wire.send(
            encode(
                "SEND",
                [("destination", self.destination), ("receipt", f"{self.name} end")],
                b"%s end %d" % (self.name.encode(), self.sent),
            ),
            timeout=LONG,
        )
        self.wire.expect("RECEIPT", timeout=LONG, receipt_id=f"{self.name} end")

    def wait_sent(self, count: int, timeout: float = LONG) -> None:
        """Until `count` messages were written."""
        self._wait(lambda: self.sent >= count, f"{count} messages sent", timeout)

    def is_held_up(self) -> bool:
        """Whether its socket takes nothing more."""
        return not select.select([], [self.wire.socket], [], 0)[1]


class Subscriber(Actor):
    """Reads until the end of every publisher named; `pace` is called before each message with its number."""

    def __init__(
        self,
        wire: Wire,
        name: str,
        publishers: Iterable[str],
        *,
        pace: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(wire, name)
        self.next = dict.fromkeys(publishers, 0)
        self.received = 0
        self._open = set(self.next)
        self._pace = pace

    def __repr__(self) -> str:
        return f"<{self.name} expects {self.next}, open {self._open}>"

    def work(self) -> None:
        while self._open:
            if self._pace is not None:
                self._pace(self.received)
            self.take(self.wire.read(LONG))

    def take(self, frame: Frame) -> None:
        """Judge one frame."""
        if frame.command != "MESSAGE":
            raise WireFault(f"{self.name}: MESSAGE expected, got {frame}")
        publisher, *rest = frame.body.decode().split(" ", 3)
        expected = self.next[publisher]
        if rest[0] == "end":
            if int(rest[1]) != expected:
                raise WireFault(f"{self.name}: {publisher} sent {rest[1]} messages, {expected} came")
            self._open.discard(publisher)
        elif int(rest[0]) != expected or publisher not in self._open:
            raise WireFault(f"{self.name}: message {expected} of {publisher} expected, {rest[0]} came")
        with self.changed:
            self.next[publisher] += rest[0] != "end"
            self.received += 1
            self.changed.notify_all()

    def wait_received(self, count: int, timeout: float = LONG) -> None:
        """Until `count` messages came, of all publishers together."""
        self._wait(lambda: self.received >= count, f"{count} messages", timeout)


def wait_standstill(publishers: Iterable[Publisher], subscribers: Iterable[Subscriber], timeout: float = LONG) -> None:
    """Until the broker reads from none of `publishers` any more though `subscribers` have all there is.

    A second without progress of anybody is the proof: what holds the publishers up is then none of these subscribers.
    """
    publishers, subscribers = list(publishers), list(subscribers)

    def progress() -> list[int]:
        return [publisher.sent for publisher in publishers] + [subscriber.received for subscriber in subscribers]

    deadline = time.monotonic() + timeout
    seen, since = progress(), time.monotonic()
    while time.monotonic() - since < 1.0:
        if time.monotonic() > deadline:
            raise AssertionError(f"never held up: {publishers} {subscribers}")
        for actor in (*publishers, *subscribers):
            if not actor.is_alive():
                actor.finish()
                raise AssertionError(f"{actor} has ended")
        time.sleep(0.02)
        if seen != progress() or not all(publisher.is_held_up() for publisher in publishers):
            seen, since = progress(), time.monotonic()


def join_all(actors: Iterable[Actor], timeout: float = LONG) -> None:
    """Wait for all; the first fault is raised, and the sockets of the others are shut so that none is left behind."""
    actors = list(actors)
    deadline = time.monotonic() + timeout
    try:
        while any(actor.is_alive() for actor in actors):
            for actor in actors:
                actor.join(0.05)
                if not actor.is_alive():
                    actor.finish()
            if time.monotonic() > deadline:
                raise AssertionError(f"not done after {timeout} s: {[a for a in actors if a.is_alive()]}")
        for actor in actors:
            actor.finish()
    finally:
        for actor in actors:
            if actor.is_alive():
                with contextlib.suppress(OSError):
                    actor.wire.socket.shutdown(socket.SHUT_RDWR)
