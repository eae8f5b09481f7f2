"""A blocking STOMP client on a raw socket, written from the specifications and strict about what it receives.

It judges the broker, so it shares no line with the broker's codec. `encode` writes a frame as a conforming
client of a version would; `Wire.send` writes any bytes at all. Reading raises `WireFault` for anything a
conforming client could not read, and `TimeoutError` when nothing comes in time. Times are in seconds.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.harness.broker import Broker

__all__ = ["CLOCK_GRAIN", "TIMEOUT", "VERSIONS", "Frame", "Headers", "Wire", "WireFault", "connect_on", "encode"]

VERSIONS = ("1.0", "1.1", "1.2")
TIMEOUT = 10.0
"""How long a test waits for what must come. Long, because only a failing test ever waits so long."""
CLOCK_GRAIN = 0.005
"""By how much less than a whole interval may seem to have passed: the broker's event loop counts in milliseconds."""

Headers = Iterable[tuple[str, str]]

_ESCAPES = {
    "1.0": {},
    "1.1": {"\\": "\\\\", "\n": "\\n", ":": "\\c"},
    "1.2": {"\\": "\\\\", "\n": "\\n", ":": "\\c", "\r": "\\r"},
}
_UNESCAPED_COMMANDS = ("CONNECT", "STOMP", "CONNECTED")


class WireFault(AssertionError):
    """The broker sent what the negotiated version does not allow, or closed when it should not."""


@dataclass(frozen=True)
class Frame:
    """A received frame: headers unescaped, in their order, repetitions kept; `raw` is all of its bytes."""

    command: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    raw: bytes = field(default=b"", compare=False, repr=False)

    def __getitem__(self, name: str) -> str:
        """The first value of a header; `KeyError` if there is none."""
        for key, value in self.headers:
            if key == name:
                return value
        raise KeyError(f"no {name!r} in {self}")

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.headers)

    def get(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key == name]


def escape(text: str, version: str) -> str:
    """`text` as it stands in a header of that version (section Value Encoding of 1.1 and 1.2)."""
    table = _ESCAPES[version]
    return "".join(table.get(character, character) for character in text)


def encode(command: str, headers: Headers = (), body: bytes = b"", *, version: str = "1.2") -> bytes:
    """One frame, escaped for `version`; no header is added, so the body must not need a `content-length`."""
    rules = "1.0" if command in _UNESCAPED_COMMANDS else version
    lines = [command, *(f"{escape(name, rules)}:{escape(value, rules)}" for name, value in headers)]
    return "\n".join(lines).encode() + b"\n\n" + body + b"\0"


def _unescape(text: str, version: str, raw: bytes) -> str:
    table = {written: plain for plain, written in _ESCAPES[version].items()}
    if not table or "\\" not in text:
        return text
    out: list[str] = []
    position = 0
    while position < len(text):
        step = 2 if text[position] == "\\" else 1
        piece = text[position : position + step]
        if step == 2 and piece not in table:
            raise WireFault(f"escape {piece!r} is undefined in {version}: {raw!r}")
        out.append(table.get(piece, piece))
        position += step
    return "".join(out)


class Wire:
    """One connection. `version` decides how frames are read; `connect` sets it."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int | None = None, version: str = "1.2") -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                # Before connecting, or the window has been agreed upon already.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.settimeout(TIMEOUT)
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise
        self.version = version
        self.connected: Frame | None = None
        self.beats: list[float] = []
        """When each end-of-line between frames was read (monotonic)."""
        self._early: list[Frame] = []
        self._buffer = bytearray()
        self._eof = False
        self._receipts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def peer(self) -> str:
        """This end's address as the broker logs it: `host:port`."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def session(self) -> str:
        """The session id, as CONNECTED and the broker's log have it."""
        assert self.connected is not None
        return self.connected["session"]

    @property
    def slot(self) -> int:
        """The worker this session is on."""
        return int(self.session.split("-")[0])

    def close(self) -> None:
        """Close the socket without DISCONNECT."""
        self.socket.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    # --- writing

    def send(self, data: bytes, *, timeout: float = TIMEOUT) -> None:
        """Write these bytes."""
        self.socket.settimeout(timeout)
        self.socket.sendall(data)

    def send_slowly(self, data: bytes) -> None:
        """Write byte by byte, each in a segment of its own as far as the kernel goes along."""
        for position in range(len(data)):
            try:
                self.send(data[position : position + 1])
            except (BrokenPipeError, ConnectionResetError):
                # The broker has closed on what it has seen so far; what it answered can still be read.
                return

    def frame(self, command: str, headers: Headers = (), body: bytes = b"") -> None:
        """Write one frame, escaped for this connection's version."""
        self.send(encode(command, headers, body, version=self.version))

    def widen(self) -> None:
        """Undo a small `receive_buffer`: from here on read as fast as anybody."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    def shut_write(self) -> None:
        """Half-close: end of what this side sends."""
        self.socket.shutdown(socket.SHUT_WR)

    # --- reading

    def read(self, timeout: float = TIMEOUT) -> Frame:
        """The next frame; `WireFault` if the broker closes first, `TimeoutError` if nothing comes."""
        if self._early:
            return self._early.pop(0)
        return self._read(time.monotonic() + timeout)

    def _read(self, deadline: float) -> Frame:
        while True:
            frame = self._parse()
            if frame is not None:
                return frame
            if not self._fill(deadline):
                raise WireFault(f"closed by the broker instead of a frame, after {bytes(self._buffer)!r}")

    def read_many(self, count: int, timeout: float = TIMEOUT) -> list[Frame]:
        """The next `count` frames, all within `timeout`."""
        deadline = time.monotonic() + timeout
        return [self.read(max(0.0, deadline - time.monotonic())) for _ in range(count)]

    def expect(self, command: str, *, timeout: float = TIMEOUT, **headers: str) -> Frame:
        """The next frame, which must have this command and these headers (`receipt_id` for `receipt-id`)."""
        frame = self.read(timeout)
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}
        if frame.command != command or any(frame.get(name) != value for name, value in wanted.items()):
            raise WireFault(f"{command} {wanted} expected, got {frame}")
        return frame

    def read_rest(self, timeout: float = TIMEOUT) -> list[Frame]:
        """All frames up to the broker's end-of-file; `WireFault` if they end within one."""
        deadline = time.monotonic() + timeout
        frames, self._early = self._early, []
        while True:
            while (frame := self._parse()) is not None:
                frames.append(frame)
            if not self._fill(deadline):
                if self._buffer:
                    raise WireFault(f"end of file within a frame: {bytes(self._buffer[:200])!r}")
                return frames

    def expect_closed(self, timeout: float = TIMEOUT) -> None:
        """The broker closes in order (no reset) and sends no further frame."""
        frames = self.read_rest(timeout)
        if frames:
            raise WireFault(f"end of file expected, got {frames}")

    def expect_error(self, code: str, *, timeout: float = TIMEOUT, **headers: str) -> Frame:
        """An ERROR with that code and these headers, then the end of the connection."""
        frame = self.expect("ERROR", timeout=timeout, error_code=code, **headers)
        self.expect_closed(timeout)
        return frame

    def collect_beats(self, seconds: float) -> list[float]:
        """Read for so long; when each heart-beat came. `WireFault` for anything else."""
        self.beats.clear()
        deadline = time.monotonic() + seconds
        while True:
            if (frame := self._parse()) is not None:
                raise WireFault(f"only heart-beats expected, got {frame}")
            try:
                if not self._fill(deadline):
                    raise WireFault("closed by the broker")
            except TimeoutError:
                return list(self.beats)

    def wait_beats(self, count: int, timeout: float = 3 * TIMEOUT) -> list[float]:
        """Read on until `count` heart-beats came; when they did. `WireFault` for anything else."""
        self.beats.clear()
        deadline = time.monotonic() + timeout
        while len(self.beats) < count:
            if (frame := self._parse()) is not None:
                raise WireFault(f"only heart-beats expected, got {frame}")
            if len(self.beats) < count and not self._fill(deadline):
                raise WireFault("closed by the broker")
        return list(self.beats)

    def readable(self) -> bool:
        """Whether bytes, or an end of file, wait to be read."""
        return bool(self._early or select.select([self.socket], [], [], 0)[0])

    def _fill(self, deadline: float) -> bool:
        if self._eof:
            return False
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing came in time; so far {bytes(self._buffer[:200])!r}")
        self.socket.settimeout(left)
        data = self.socket.recv(1 << 18)
        self._eof = not data
        self._buffer += data
        return bool(data)

    def _parse(self) -> Frame | None:
        buffer = self._buffer
        skipped = 0
        while buffer[skipped : skipped + 1] == b"\n":
            skipped += 1
        if skipped:
            self.beats += [time.monotonic()] * skipped
            del buffer[:skipped]
        end = buffer.find(b"\n\n")
        if end < 0:
            return None
        head = bytes(buffer[:end])
        headers, length = self._parse_head(head)
        start = end + 2
        stop = buffer.find(b"\0", start) if length is None else start + length
        if stop < 0 or len(buffer) <= stop:
            return None
        raw = bytes(buffer[: stop + 1])
        if raw[-1:] != b"\0":
            raise WireFault(f"no NUL after {length} bytes of body: {raw[:300]!r}")
        del buffer[: stop + 1]
        return Frame(head.split(b"\n", 1)[0].decode(), headers, raw[start:-1], raw)

    def _parse_head(self, head: bytes) -> tuple[tuple[tuple[str, str], ...], int | None]:
        if b"\0" in head:
            raise WireFault(f"a NUL inside the headers: {head!r}")
        try:
            command, *lines = head.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise WireFault(f"headers that are not UTF-8: {head!r}") from None
        if not command.isalpha() or not command.isupper():
            raise WireFault(f"not a command: {command!r}")
        version = "1.0" if command == "CONNECTED" else self.version
        headers: list[tuple[str, str]] = []
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name:
                raise WireFault(f"not a header line: {line!r} in {head!r}")
            if version != "1.0" and ":" in value:
                raise WireFault(f"an unescaped colon in {line!r}")
            if version == "1.2" and "\r" in line:
                raise WireFault(f"an unescaped carriage return in {line!r}")
            headers.append((_unescape(name, version, head), _unescape(value, version, head)))
        lengths = {value for name, value in headers if name == "content-length"}
        if len(lengths) > 1 or not all(value.isdecimal() for value in lengths):
            raise WireFault(f"content-length {lengths} in {head!r}")
        return tuple(headers), int(lengths.pop()) if lengths else None

    # --- the usual steps

    def connect(self, version: str = "1.2", headers: Headers = (), *, command: str = "CONNECT") -> Frame:
        """Log in with exactly that version and return the CONNECTED frame."""
        wanted = [("accept-version", version), ("host", "localhost"), *headers]
        self.version = version
        self.send(encode(command, wanted))
        self.connected = self.expect("CONNECTED")
        return self.connected

    def next_receipt(self) -> str:
        """A receipt id not used on this connection before."""
        self._receipts += 1
        return f"receipt-{self._receipts}"

    def request(self, command: str, headers: Headers = (), body: bytes = b"") -> None:
        """Write a frame with a receipt and read exactly that RECEIPT as the very next frame."""
        receipt = self.next_receipt()
        self.frame(command, [*headers, ("receipt", receipt)], body)
        self.expect("RECEIPT", receipt_id=receipt)

    def subscribe(
        self, destination: str, *, id: str | None = "0", ack: str | None = None, headers: Headers = ()
    ) -> None:
        """SUBSCRIBE and wait for its RECEIPT; `id=None` leaves the header out (1.0 only).

        What is in a queue may come before the RECEIPT does, and is kept for `read`."""
        wanted = [("destination", destination), *([] if id is None else [("id", id)])]
        wanted += [] if ack is None else [("ack", ack)]
        receipt = self.next_receipt()
        self.frame("SUBSCRIBE", [*wanted, *headers, ("receipt", receipt)])
        deadline = time.monotonic() + TIMEOUT
        while (frame := self._read(deadline)).command == "MESSAGE" and frame.get("subscription") == id:
            self._early.append(frame)
        if frame.command != "RECEIPT" or frame["receipt-id"] != receipt:
            raise WireFault(f"RECEIPT {receipt!r} expected, got {frame}")

    def publish(self, destination: str, body: bytes = b"", headers: Headers = ()) -> None:
        """SEND with a `content-length`, without a receipt."""
        self.frame("SEND", [("destination", destination), ("content-length", str(len(body))), *headers], body)

    def quiet(self) -> None:
        """Prove that nothing comes of what was written so far: a round trip that gets its RECEIPT alone."""
        transaction = self.next_receipt()
        self.request("BEGIN", [("transaction", transaction)])
        self.request("ABORT", [("transaction", transaction)])

    def acknowledge(self, message: Frame, command: str = "ACK", headers: Headers = ()) -> None:
        """ACK or NACK `message` the way the version says, with a receipt that must come next."""
        self.request(command, [*self.acknowledgement(message), *headers])

    def acknowledgement(self, message: Frame) -> list[tuple[str, str]]:
        """The headers by which this version's ACK and NACK name `message`."""
        if self.version == "1.0":
            return [("message-id", message["message-id"])]
        if self.version == "1.1":
            return [("message-id", message["message-id"]), ("subscription", message["subscription"])]
        return [("id", message["ack"])]


def connect_on(
    broker: Broker,
    slot: int | None,
    version: str = "1.2",
    headers: Headers = (),
    *,
    listener: int = 0,
    receive_buffer: int | None = None,
) -> Wire:
    """A session on the worker of that slot (any, if None): the kernel chooses, so try until it does right."""
    headers = list(headers)
    for _ in range(500):
        wire = Wire(broker.addresses[listener], receive_buffer=receive_buffer)
        try:
            wire.connect(version, headers)
        except BaseException:
            wire.close()
            raise
        if slot is None or wire.slot == slot:
            return wire
        wire.close()
    raise WireFault(f"500 connections, and none was given to worker {slot}")
