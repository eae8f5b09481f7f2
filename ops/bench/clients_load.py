"""One client library under load, in a process of its own. Run by `clients.py` with the project's Python.

Prints `{"step": NAME}` and waits for a byte on stdin at both edges of the measured part, then prints its result: one
JSON object with `secs`, `cpu_s` (of all threads of this process), `messages`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_BODY = b"x" * 100
_RECEIPT_SECONDS = 60.0


@dataclass(frozen=True)
class Load:
    """What to do: `messages` SENDs with a receipt each, at most `window` without one; or take that many from a queue
    that holds them, with ack `auto` or `client-individual`, at most `window` of the latter unacknowledged."""

    port: int
    destination: str
    messages: int
    window: int


class Clock:
    """The measured part: from `begin` to `end`. What drives this process samples the broker at both."""

    def __init__(self) -> None:
        self._at = self._cpu = 0.0
        self.result: dict[str, float] = {}

    def begin(self) -> None:
        _step("start")
        self._at, self._cpu = time.perf_counter(), time.process_time()

    def end(self) -> None:
        secs, cpu = time.perf_counter() - self._at, time.process_time() - self._cpu
        self.result = {"secs": secs, "cpu_s": cpu}
        _step("end")


def _step(name: str) -> None:
    sys.stdout.write(json.dumps({"step": name}) + "\n")
    sys.stdout.flush()
    if not os.read(0, 1):
        raise SystemExit("nobody drives this any more")


# --- Stampede's own client


async def stampede_send(load: Load, clock: Clock, idempotent: bool = True) -> None:
    from common.client import Client

    async with Client(f"stomp://127.0.0.1:{load.port}", window=load.window, idempotent=idempotent) as client:
        clock.begin()
        # Not all in one list: looking through it again and again would cost the garbage collector as much as the rest.
        unconfirmed: deque[asyncio.Future[Any]] = deque()
        for _ in range(load.messages):
            unconfirmed.append(await client.post(load.destination, _BODY))
            if len(unconfirmed) > load.window:
                await unconfirmed.popleft()
        while unconfirmed:
            await unconfirmed.popleft()
        clock.end()


async def stampede_send_without_keys(load: Load, clock: Clock) -> None:
    await stampede_send(load, clock, idempotent=False)


async def stampede_receive(load: Load, clock: Clock) -> None:
    from common.client import Client

    async with Client(f"stomp://127.0.0.1:{load.port}") as client:
        clock.begin()
        async with client.subscribe(load.destination) as subscription:
            left = load.messages
            async for _message in subscription:
                left -= 1
                if not left:
                    break
            clock.end()


async def stampede_ack(load: Load, clock: Clock) -> None:
    from common.client import Client

    async with Client(f"stomp://127.0.0.1:{load.port}") as client:
        clock.begin()
        async with client.subscribe(load.destination, ack="client-individual", prefetch=load.window) as subscription:
            left = load.messages
            async for message in subscription:
                await message.ack()
                left -= 1
                if not left:
                    break
            clock.end()


# --- stompman


async def stompman_send(load: Load, clock: Clock) -> None:
    import stompman

    async with stompman.Client([_stompman_server(load)]) as client:

        async def sender(numbers: Iterator[int]) -> None:
            for _ in numbers:
                await client.send(_BODY, load.destination, receipt_timeout=_RECEIPT_SECONDS)

        clock.begin()
        # As many tasks as may wait for a receipt, each for one at a time: cheaper than a task for every message.
        numbers = iter(range(load.messages))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(load.window):
                tasks.create_task(sender(numbers))
        clock.end()


async def stompman_receive(load: Load, clock: Clock) -> None:
    await _stompman_take(load, clock, "auto", {})


async def stompman_ack(load: Load, clock: Clock) -> None:
    await _stompman_take(load, clock, "client-individual", {"prefetch-count": str(load.window)})


async def _stompman_take(load: Load, clock: Clock, ack: Any, headers: dict[str, str]) -> None:
    import stompman

    done = asyncio.Event()
    left = load.messages

    async def handler(_frame: stompman.MessageFrame) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    def failed(error: Exception, _frame: stompman.MessageFrame) -> None:
        raise SystemExit(f"stompman's handler failed: {error}")

    # Its cap on handlers that run at once costs up to a tenth, and these end at once.
    async with stompman.Client([_stompman_server(load)], max_concurrent_handlers=None) as client:
        clock.begin()
        subscription = await client.subscribe(
            load.destination, handler, ack=ack, headers=headers, on_suppressed_exception=failed
        )
        await done.wait()
        clock.end()
        await subscription.unsubscribe()


def _stompman_server(load: Load) -> Any:
    import stompman

    return stompman.ConnectionParameters(host="127.0.0.1", port=load.port, login="", passcode="")


# --- stomp.py


def stomppy_send(load: Load, clock: Clock) -> None:
    import stomp

    window = threading.Semaphore(load.window)

    class Listener(stomp.ConnectionListener):  # type: ignore[misc]
        def on_receipt(self, _frame: Any) -> None:
            window.release()

        def on_error(self, frame: Any) -> None:
            _fail(frame.body)

    connection = _stomppy_connection(load, Listener())
    clock.begin()
    for number in range(load.messages):
        window.acquire()
        connection.send(load.destination, _BODY, receipt=str(number))
    for _ in range(load.window):
        window.acquire()
    clock.end()
    connection.disconnect()


def stomppy_receive(load: Load, clock: Clock) -> None:
    _stomppy_take(load, clock, "auto", {})


def stomppy_ack(load: Load, clock: Clock) -> None:
    _stomppy_take(load, clock, "client-individual", {"prefetch-count": str(load.window)})


def _stomppy_take(load: Load, clock: Clock, ack: str, headers: dict[str, str]) -> None:
    import stomp

    done = threading.Event()

    class Listener(stomp.ConnectionListener):  # type: ignore[misc]
        left = load.messages

        def on_message(self, frame: Any) -> None:
            if ack != "auto":
                connection.ack(frame.headers["ack"])
            self.left -= 1
            if not self.left:
                done.set()

        def on_error(self, frame: Any) -> None:
            _fail(frame.body)

    connection = _stomppy_connection(load, Listener())
    clock.begin()
    connection.subscribe(load.destination, id="1", ack=ack, headers=headers)
    done.wait()
    clock.end()
    connection.disconnect()


def _stomppy_connection(load: Load, listener: Any) -> Any:
    import stomp

    connection = stomp.StompConnection12([("127.0.0.1", load.port)], auto_decode=False)
    connection.set_listener("", listener)
    connection.connect(wait=True)
    return connection


def _fail(why: object) -> None:
    # From a thread that is not the main one, where SystemExit ends nothing.
    sys.stderr.write(f"{why!r}\n")
    sys.stderr.flush()
    os._exit(1)


# --- no library: what the broker can do, with frames written in advance and counted by their NULs


def raw_send(load: Load, clock: Clock) -> None:
    body = b"content-length:%d\nreceipt:1\n\n%b\0" % (len(_BODY), _BODY)
    frame = b"SEND\ndestination:%b\n%b" % (load.destination.encode(), body)
    batch = max(1, load.window // 4)
    with _raw_connection(load) as connection:
        clock.begin()
        sent = confirmed = 0
        while confirmed < load.messages:
            while sent < load.messages and sent - confirmed <= load.window - batch:
                count = min(batch, load.messages - sent)
                connection.sendall(frame * count)
                sent += count
            confirmed += _receive(connection).count(b"\0")
        clock.end()


def raw_receive(load: Load, clock: Clock) -> None:
    with _raw_connection(load) as connection:
        clock.begin()
        connection.sendall(b"SUBSCRIBE\nid:1\ndestination:%b\n\n\0" % load.destination.encode())
        left = load.messages
        while left > 0:
            left -= _receive(connection).count(b"\0")
        clock.end()


def raw_ack(load: Load, clock: Clock) -> None:
    acks = re.compile(rb"\nack:([^\n]*)\n")
    subscribe = b"SUBSCRIBE\nid:1\nack:client-individual\nprefetch-count:%d\ndestination:%b\n\n\0"
    with _raw_connection(load) as connection:
        clock.begin()
        connection.sendall(subscribe % (load.window, load.destination.encode()))
        left, pending = load.messages, b""
        while left > 0:
            whole, nul, pending = (pending + _receive(connection)).rpartition(b"\0")
            found = acks.findall(whole + nul)
            left -= len(found)
            connection.sendall(b"".join([b"ACK\nid:%b\n\n\0" % ack for ack in found]))
        clock.end()


def _raw_connection(load: Load) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", load.port), timeout=_RECEIPT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"CONNECT\naccept-version:1.2\nhost:/\n\n\0")
    answer = _receive(connection)
    if not answer.startswith(b"CONNECTED"):
        raise SystemExit(f"the broker answered {answer!r}")
    return connection


def _receive(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 18)
    if not data or b"ERROR\n" in data:
        raise SystemExit(f"the broker said {data!r}")
    return data


# --- command line

_Task = Callable[[Load, Clock], Awaitable[None] | None]
_TASKS: dict[str, dict[str, _Task]] = {
    "stampede-client": {"send": stampede_send, "receive": stampede_receive, "ack": stampede_ack},
    "stampede-client-no-keys": {"send": stampede_send_without_keys},
    "stompman": {"send": stompman_send, "receive": stompman_receive, "ack": stompman_ack},
    "stomp.py": {"send": stomppy_send, "receive": stomppy_receive, "ack": stomppy_ack},
    "raw-socket": {"send": raw_send, "receive": raw_receive, "ack": raw_ack},
}
_PACKAGES = {"stompman": "stompman", "stomp.py": "stomp.py"}
_PACKAGES |= dict.fromkeys(("stampede-client", "stampede-client-no-keys"), "stampede-broker")


def _version(library: str, loop: str) -> str:
    python = f"Python {platform.python_version()}"
    package = _PACKAGES.get(library)
    if package is None:
        return f"no library ({python})"
    on = f", {loop}" if asyncio.iscoroutinefunction(_TASKS[library]["send"]) else ""
    return f"{package} {version(package)} ({python}{on})"


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    import uvloop

    return uvloop.new_event_loop  # type: ignore[no-any-return]


async def _run(work: Awaitable[None]) -> None:
    await work


def main() -> int:
    """Run the load given on the command line; 0 when all of it is done."""
    parser = argparse.ArgumentParser(prog="clients_load.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("library", choices=sorted(_TASKS))
    parser.add_argument("task", choices=("send", "receive", "ack", "version"))
    parser.add_argument("--port", type=int, default=61613)
    parser.add_argument("--destination", default="/queue/clients")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if options.task == "version":
        sys.stdout.write(_version(options.library, options.loop) + "\n")
        return 0
    load = Load(options.port, options.destination, options.messages, options.window)
    clock = Clock()
    task = _TASKS[options.library].get(options.task)
    if task is None:
        parser.error(f"{options.library} has no task {options.task}")
    work = task(load, clock)
    if work is not None:
        with asyncio.Runner(loop_factory=_loop_factory(options.loop)) as runner:
            runner.run(_run(work))
    sys.stdout.write(json.dumps({**clock.result, "messages": options.messages}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
