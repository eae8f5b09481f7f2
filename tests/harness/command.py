"""The commands `stampede send` and `subscribe` as processes of their own, and a broker made by hand to test them on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Self

from tests.harness.broker import ROOT
from tests.harness.wire import Headers, encode

__all__ = ["TIMEOUT", "ByHand", "Done", "Running", "run"]

TIMEOUT = 30.0

Done = subprocess.CompletedProcess[bytes]


class Running:
    """`stampede ARGUMENTS`; `address` is where its broker is, None for what the arguments and `environment` say.

    A context manager: what still runs after it is killed.
    """

    def __init__(
        self,
        address: tuple[str, int] | None,
        *arguments: str,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
        shell: str = "",
    ) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STAMPEDE_")}
        if address is not None:
            environ["STAMPEDE_URL"] = f"stomp://{address[0]}:{address[1]}"
        command = [sys.executable, "-m", "broker", *arguments]
        self.process = subprocess.Popen(
            ["bash", "-c", f'"$@" {shell}', "bash", *command] if shell else command,
            cwd=ROOT,
            env={**environ, **(environment or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._told = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def told(self, text: str) -> str:
        """Wait for a line on standard error with `text` in it, and return that."""
        while line := self.stderr.readline():
            self._told += line
            if text in line.decode():
                return line.decode()
        raise AssertionError(f"it ended without {text!r}: {self._told!r}")

    @property
    def stderr(self) -> IO[bytes]:
        assert self.process.stderr is not None
        return self.process.stderr

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def stop(self, number: signal.Signals) -> Done:
        """Its standard input stays open meanwhile."""
        self.process.send_signal(number)
        self.process.wait(TIMEOUT)
        return self.end()

    def end(self, given: bytes | None = None) -> Done:
        """Wait for its end; `given` goes to its standard input first. There is never a traceback."""
        out, err = self.process.communicate(given, timeout=TIMEOUT)
        err = self._told + err
        assert b"Traceback" not in err and b"Exception" not in err, err.decode()
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out or b"", err)


def run(address: tuple[str, int] | None, *arguments: str, given: bytes | None = None, **options: Any) -> Done:
    """Run it to its end with `given` on its standard input."""
    if given is not None:
        options["stdin"] = subprocess.PIPE
    with Running(address, *arguments, **options) as running:
        return running.end(given)


class ByHand:
    """A broker whose frames the test writes itself; for one connection at a time."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(TIMEOUT)
        self.address: tuple[str, int] = self._listening.getsockname()
        self._connection: socket.socket | None = None
        self._buffer = b""

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        broker = cls()
        try:
            yield broker
        finally:
            broker.drop()
            broker._listening.close()

    def accept(self) -> str:
        """Take the next connection, confirm its CONNECT, and return that."""
        self._connection, _ = self._listening.accept()
        self._connection.settimeout(TIMEOUT)
        connect = self.read()
        self.write("CONNECTED", [("version", "1.2"), ("session", "by-hand")])
        return connect

    def read(self) -> str:
        """The next frame as it came, without its NUL."""
        assert self._connection is not None
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            assert time.monotonic() < deadline
            data = self._connection.recv(1 << 16)
            assert data, f"closed after {self._buffer!r}"
            self._buffer += data
        frame, _, self._buffer = self._buffer.lstrip(b"\n").partition(b"\0")
        return frame.decode()

    def write(self, command: str, headers: Headers = (), body: bytes = b"") -> None:
        assert self._connection is not None
        self._connection.sendall(encode(command, headers, body))

    def confirm(self, frame: str) -> None:
        """Write the RECEIPT that `frame` asks for."""
        (receipt,) = [line for line in frame.split("\n") if line.startswith("receipt:")]
        self.write("RECEIPT", [("receipt-id", receipt.removeprefix("receipt:"))])

    def drop(self) -> None:
        """Cut the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._buffer = b""
