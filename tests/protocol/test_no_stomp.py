"""Bytes that are no STOMP at all: at most one ERROR to the stranger and one line in the log."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from tests.harness.broker import Broker
from tests.harness.wire import Wire, connect_on


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker that logs what a broker logs in production, and gives up on strangers soon."""
    config = {"listener": [{"bind": "127.0.0.1:0", "connect_timeout": "1s"}]}
    with Broker(config=config) as started:
        yield started


def tls_hello() -> bytes:
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


HTTP = b"GET / HTTP/1.1\r\nHost: localhost:61613\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
STRANGERS: dict[str, Callable[[], bytes]] = {
    "tls": tls_hello,
    "http-get": lambda: HTTP,
    "http-post": lambda: b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    "http-websocket": lambda: HTTP.replace(b"Accept", b"Upgrade: websocket\r\nConnection: Upgrade\r\nAccept"),
    "http2": lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
    "ssh": lambda: b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "redis": lambda: b"*1\r\n$4\r\nPING\r\n",
    "redis-inline": lambda: b"PING\r\n\r\n",
    "amqp": lambda: b"AMQP\0\0\x09\x01",
    "mqtt": lambda: b"\x10\x10\0\x04MQTT\x04\x02\0<\0\x04test",
    "postgres": lambda: b"\0\0\0\x08\x04\xd2\x16/",
    "smtp": lambda: b"EHLO localhost\r\n\r\n",
    "proxy-protocol": lambda: b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + HTTP,
    "nul": lambda: b"\0",
    "nuls": lambda: b"\0" * 100_000,
    "colon": lambda: b":\n\n\0",
    "high-bytes": lambda: b"\xff" * 50,
    "long-line": lambda: b"A" * 1_000_000,
    "blank": lambda: b" \n\n\0",
    **{f"noise-{seed}": lambda seed=seed: noise(seed, 5000) for seed in range(12)},  # type: ignore[misc]
    **{f"frames-of-noise-{seed}": lambda seed=seed: noise(seed, 200) + b"\n\n\0" for seed in range(12)},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("slowly", [False, True], ids=["whole", "in-pieces"])
def test_a_stranger_gets_at_most_one_error_and_one_line(broker: Broker, name: str, slowly: bool) -> None:
    data = STRANGERS[name]()
    before = broker.position
    with Wire(broker.address) as wire:
        try:
            for piece in (data[at : at + 7] for at in range(0, min(len(data), 700), 7)) if slowly else [data]:
                wire.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        frames = wire.read_rest()
        assert [frame.command for frame in frames] in ([], ["ERROR"])
        peer = wire.peer
    with connect_on(broker, None) as client:
        client.quiet()
    lines = [event for event in broker.events(since=before) if event.get("peer") == peer]
    assert len(lines) <= 1
    if frames:
        # Nothing of the noise is repeated at length, to the stranger or in the log.
        assert len(frames[0].raw) < 500
    assert all(len(str(line)) < 700 for line in lines)
    assert broker.stderr_noise == []


@pytest.mark.parametrize("name", ["http-get", "http-post", "tls", "amqp", "postgres", "redis-inline", "smtp", "nul"])
def test_a_stranger_is_told_at_once(broker: Broker, name: str) -> None:
    with Wire(broker.address) as wire:
        wire.send(STRANGERS[name]())
        # Not the connect timeout's ERROR: what was sent can become no frame.
        assert wire.read()["error-code"] != "connect-timeout"
        wire.expect_closed()


@pytest.mark.parametrize("end", ["close", "reset", "half-close"])
def test_a_port_scan_leaves_no_trace(broker: Broker, end: str) -> None:
    before = broker.position
    peers = []
    for _ in range(50):
        with Wire(broker.address) as wire:
            peers.append(wire.peer)
            if end == "reset":
                wire.reset()
            elif end == "half-close":
                wire.shut_write()
                wire.expect_closed()
    with connect_on(broker, None) as client:
        client.quiet()
    assert all(len([e for e in broker.events(since=before) if e.get("peer") == peer]) <= 1 for peer in peers)
    assert broker.stderr_noise == []


def test_a_stranger_who_never_reads_or_stops_is_cut_off(broker: Broker) -> None:
    gone = pytest.raises((BrokenPipeError, ConnectionResetError))
    with Wire(broker.address, receive_buffer=4096) as wire, gone:
        # However fast it is: a bound of bytes could be used up before the time to linger is.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            wire.send(noise(1, 4096))
    with connect_on(broker, None) as client:
        client.quiet()
