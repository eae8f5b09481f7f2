"""stomp.py with a memory: what its listener is told, kept until a test asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import stomp
from stomp.utils import Frame

from tests.harness.wire import TIMEOUT

__all__ = ["StompPy", "connect_stomp_py"]

_CONNECTIONS = {"1.0": stomp.StompConnection10, "1.1": stomp.StompConnection11, "1.2": stomp.StompConnection12}


class _Memory(stomp.ConnectionListener):  # type: ignore[misc]  # the package has no types
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.told: list[tuple[str, Frame | None]] = []

    def _keep(self, what: str, frame: Frame | None = None) -> None:
        with self.changed:
            self.told.append((what, frame))
            self.changed.notify_all()

    def on_connected(self, frame: Frame) -> None:
        self._keep("connected", frame)

    def on_message(self, frame: Frame) -> None:
        self._keep("message", frame)

    def on_receipt(self, frame: Frame) -> None:
        self._keep("receipt", frame)

    def on_error(self, frame: Frame) -> None:
        self._keep("error", frame)

    def on_heartbeat(self) -> None:
        self._keep("beat")

    def on_heartbeat_timeout(self) -> None:
        self._keep("beat-missed")

    def on_disconnected(self) -> None:
        self._keep("disconnected")


class StompPy:
    """One connection of stomp.py, whose own methods are those of `connection`."""

    def __init__(self, address: tuple[str, int], version: str = "1.2", *, heartbeats: tuple[int, int] = (0, 0)) -> None:
        # Bodies stay bytes; a lost connection is the test's to see, so nothing is tried twice.
        options: dict[str, Any] = {"auto_decode": False, "reconnect_attempts_max": 1}
        if version != "1.0":
            options |= {"heartbeats": heartbeats}
        self.version = version
        self.connection = _CONNECTIONS[version]([address], **options)
        self._memory = _Memory()
        self._receipts = 0
        self.connection.set_listener("memory", self._memory)
        self.connection.connect(wait=True)
        self.connected = self.wait("connected")

    @property
    def slot(self) -> int:
        return int(self.connected.headers["session"].split("-")[0])

    def told(self, what: str) -> list[Frame]:
        """The frames of all calls of `on_<what>` so far."""
        with self._memory.changed:
            return [frame for kind, frame in self._memory.told if kind == what]

    def wait(self, what: str, count: int = 1, timeout: float = TIMEOUT) -> Frame:
        """The frame of the `count`th call of `on_<what>`."""
        return self.wait_until(lambda: self.told(what)[:count] if len(self.told(what)) >= count else None, timeout)[-1]

    def wait_until(self, look: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
        """What `look` finds, once that is not None."""
        deadline = time.monotonic() + timeout
        with self._memory.changed:
            while (found := look()) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"stomp.py was not told in time; so far {self._memory.told}")
                self._memory.changed.wait(left)
        return found

    def receipt(self) -> str:
        self._receipts += 1
        return f"r:{self._receipts}"

    def settled(self, receipt: str) -> None:
        """Wait for that RECEIPT."""
        self.wait_until(lambda: any(frame.headers["receipt-id"] == receipt for frame in self.told("receipt")) or None)

    def subscribe(self, destination: str, id: str = "0", ack: str = "auto") -> None:
        """SUBSCRIBE, and wait for its RECEIPT."""
        receipt = self.receipt()
        self.connection.subscribe(destination, id, ack, receipt=receipt)
        self.settled(receipt)

    def unsubscribe(self, id: str = "0") -> None:
        receipt = self.receipt()
        self.connection.unsubscribe(id=id, receipt=receipt)
        self.settled(receipt)

    def send(self, destination: str, body: bytes | str, **headers: Any) -> None:
        """SEND, and wait for its RECEIPT."""
        receipt = self.receipt()
        self.connection.send(destination, body, receipt=receipt, **headers)
        self.settled(receipt)

    def bodies(self, count: int) -> list[bytes]:
        """The bodies of exactly the first `count` messages, once they are there."""
        self.wait("message", count)
        return [frame.body for frame in self.told("message")]

    def quiet(self) -> None:
        """Prove by a round trip that nothing more is on its way to this client."""
        transaction = self.connection.begin(receipt=(receipt := self.receipt()))
        self.settled(receipt)
        self.connection.abort(transaction)

    def close(self) -> None:
        if self.connection.is_connected():
            self.connection.disconnect(receipt=self.receipt())
            self.wait("disconnected")


def connect_stomp_py(
    address: tuple[str, int], slot: int | None = None, version: str = "1.2", **options: Any
) -> StompPy:
    """A connection on the worker of that slot (any, if None): the kernel chooses, so try until it does right."""
    for _ in range(500):
        client = StompPy(address, version, **options)
        if slot is None or client.slot == slot:
            return client
        client.close()
    raise AssertionError(f"500 connections, and none was given to worker {slot}")
