"""@stomp/stompjs from Python: a Node.js process that runs its clients, and a memory of what they were told."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tests.harness.wire import TIMEOUT

__all__ = ["Node", "StompJs", "Told", "require_node"]

HERE = Path(__file__).parent
START_TIMEOUT = 30.0


def require_node() -> None:
    """Skip without Node.js and the client's package; as root that is a failure, since `ops/test` can install them."""
    if shutil.which("node") is None:
        missing = "Node.js is missing: apt-get install nodejs npm, then ops/test"
    elif not (HERE / "node_modules" / "@stomp" / "stompjs").is_dir():
        missing = "@stomp/stompjs is missing: run ops/test, or npm ci in tests/interop"
    else:
        return
    if os.geteuid() == 0:
        pytest.fail(missing)
    pytest.skip(missing)


@dataclass(frozen=True)
class Told:
    """One callback of a client."""

    event: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: str = ""


class Node:
    """The process; a context manager. Clients are told apart by a name of their own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(HERE / "stompjs_driver.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.changed = threading.Condition()
        self._told: dict[str, list[Told]] = {}
        self._noise: list[str] = []
        self._names = 0
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_noise, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        # If it has ended already, why shows below.
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        try:
            code = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for thread in self._threads:
            thread.join(TIMEOUT)
        stdout.close()
        stderr.close()
        if code != 0 or self._noise:
            raise AssertionError(f"the driver ended with {code} and said: " + "\n".join(self._noise))

    def order(self, op: str, client: str, **arguments: Any) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps({"op": op, "client": client, **arguments}) + "\n")
        stdin.flush()

    def new_name(self) -> str:
        self._names += 1
        return f"client-{self._names}"

    def told(self, client: str) -> list[Told]:
        with self.changed:
            return list(self._told.get(client, ()))

    def wait_until(self, client: str, look: Callable[[list[Told]], Any], timeout: float = TIMEOUT) -> Any:
        """What `look` finds among the callbacks of `client`, once that is not None."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while (found := look(self._told.get(client, []))) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        f"stompjs was not told in time; so far {str(self._told.get(client))[:4000]} {self._noise}"
                    )
                self.changed.wait(left)
        return found

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            record = json.loads(line)
            told = Told(
                record["event"],
                record.get("headers", {}),
                base64.b64decode(record.get("body", "")),
                record.get("version", ""),
            )
            with self.changed:
                self._told.setdefault(record["client"], []).append(told)
                self.changed.notify_all()

    def _read_noise(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self.changed:
                self._noise.append(line.rstrip())
                self.changed.notify_all()


class StompJs:
    """One client. `version` None offers all three."""

    def __init__(
        self,
        node: Node,
        address: tuple[str, int],
        version: str | None = "1.2",
        *,
        heartbeats: tuple[int, int] = (0, 0),
        reconnect_ms: int = 0,
    ) -> None:
        self._node = node
        self._name = node.new_name()
        self._receipts = 0
        outgoing, incoming = heartbeats
        self._order(
            "connect",
            host=address[0],
            port=address[1],
            version=version,
            outgoing=outgoing,
            incoming=incoming,
            reconnect=reconnect_ms,
        )
        self.connected = self.wait("connected", timeout=START_TIMEOUT)

    @classmethod
    def on(cls, node: Node, address: tuple[str, int], slot: int, version: str | None = "1.2", **options: Any) -> Self:
        """A client on the worker of that slot: the kernel chooses, so try until it does right."""
        for _ in range(500):
            client = cls(node, address, version, **options)
            if client.slot == slot:
                return client
            client.close()
        raise AssertionError(f"500 connections, and none was given to worker {slot}")

    @property
    def slot(self) -> int:
        return int(self.connected.headers["session"].split("-")[0])

    def told(self, event: str) -> list[Told]:
        return [told for told in self._node.told(self._name) if told.event == event]

    def wait(self, event: str, count: int = 1, timeout: float = TIMEOUT) -> Told:
        """The `count`th callback of that kind."""

        def look(all_told: list[Told]) -> Told | None:
            found = [told for told in all_told if told.event == event]
            return found[count - 1] if len(found) >= count else None

        found = self._node.wait_until(self._name, look, timeout)
        assert isinstance(found, Told)
        return found

    def bodies(self, count: int) -> list[bytes]:
        """The bodies of all messages, once there are `count`."""
        self.wait("message", count)
        return [told.body for told in self.told("message")]

    def subscribe(self, destination: str, id: str = "0", ack: str = "auto") -> None:
        """SUBSCRIBE, and wait for its RECEIPT."""
        self._confirmed("subscribe", {"id": id, "ack": ack}, destination=destination)

    def unsubscribe(self, id: str = "0") -> None:
        self._confirmed("unsubscribe", {}, id=id)

    def publish(
        self, destination: str, body: bytes, headers: Mapping[str, str] | None = None, *, binary: bool = False
    ) -> None:
        """SEND without a receipt."""
        encoded = base64.b64encode(body).decode()
        self._order("publish", destination=destination, headers=dict(headers or {}), body=encoded, binary=binary)

    def send(
        self, destination: str, body: bytes, headers: Mapping[str, str] | None = None, *, binary: bool = False
    ) -> None:
        """SEND, and wait for its RECEIPT."""
        encoded = base64.b64encode(body).decode()
        self._confirmed("publish", dict(headers or {}), destination=destination, body=encoded, binary=binary)

    def settle(self, command: str, message: int, headers: Mapping[str, str] | None = None) -> None:
        """`ack` or `nack` a message, by its place in the order of arrival, and wait for the RECEIPT."""
        self._confirmed(command, dict(headers or {}), message=message)

    def order(self, op: str, **arguments: Any) -> None:
        """Any other operation of the driver, without a receipt."""
        self._order(op, **arguments)

    def close(self) -> None:
        """DISCONNECT with a receipt, and wait for the end of the connection."""
        if self.told("closed"):
            return
        self._order("deactivate")
        self.wait("disconnected")
        self.wait("closed")

    def _confirmed(self, op: str, headers: dict[str, str], **arguments: Any) -> None:
        self._receipts += 1
        receipt = f"r{self._receipts}"
        self._order(op, headers={**headers, "receipt": receipt}, **arguments)

        def look(all_told: list[Told]) -> bool | None:
            found = any(told.event == "receipt" and told.headers["receipt-id"] == receipt for told in all_told)
            return found or None

        self._node.wait_until(self._name, look)

    def _order(self, op: str, **arguments: Any) -> None:
        self._node.order(op, self._name, **arguments)
