"""`stampede subscribe` as a process, against a real broker: what it writes, what it acknowledges, how it ends."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import IO

import pytest

from tests.cluster.actors import wait_until
from tests.conftest import Connect
from tests.harness.broker import ROOT, Broker
from tests.harness.command import TIMEOUT, Done, Running, run
from tests.harness.wire import Wire, connect_on

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    return f"subscribe-command.{next(_numbers)}"


def put(wire: Wire, destination: str, *bodies: bytes, headers: list[tuple[str, str]] | None = None) -> None:
    for body in bodies[:-1]:
        wire.publish(destination, body, headers or [])
    wire.request(
        "SEND", [("destination", destination), ("content-length", str(len(bodies[-1]))), *(headers or [])], bodies[-1]
    )


def left(wire: Wire, queue: str) -> list[bytes]:
    """What is in a queue, or with one of its consumers and not acknowledged."""
    wire.subscribe(queue, id="left", headers=[("browser", "true")])
    found = []
    while (frame := wire.expect("MESSAGE")).get("browser") != "end":
        found.append(frame.body)
    wire.request("UNSUBSCRIBE", [("id", "left")])
    return found


def errors(done: Done) -> list[str]:
    return done.stderr.decode().splitlines()


def read_lines(running: Running, count: int) -> list[bytes]:
    return [running.stdout.readline() for _ in range(count)]


def waiting_in(pipe: IO[bytes]) -> int:
    """Bytes written and not read."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


def test_formats(broker: Broker, name: str, connect: Connect) -> None:
    queue, wire = f"/queue/{name}", connect()
    written = {}
    for form in ("text", "json", "raw", "headers"):
        put(wire, queue, "gr\u00fc\u00df\n\x1b[31m".encode(), headers=[("a:b", "c\nd"), ("a:b", "second")])
        put(wire, queue, b"\xff\0")
        done = run(broker.address, "subscribe", queue, "--format", form, "--count", "2")
        assert (done.returncode, done.stderr) == (0, b"")
        written[form] = done.stdout
    assert written["text"] == "gr\u00fc\u00df\n\x1b[31m\n".encode() + b"\xff\0\n"
    assert written["raw"] == "gr\u00fc\u00df\n\x1b[31m".encode() + b"\xff\0"
    text, binary = map(json.loads, written["json"].splitlines())
    assert text["body"] == "gr\u00fc\u00df\n\x1b[31m" and text["headers"]["a:b"] == "c\nd"
    assert text["headers"]["destination"] == queue and "body64" not in text
    assert base64.b64decode(binary["body64"]) == b"\xff\0" and "body" not in binary
    head, body = written["headers"].split(b"\n\n")[:2]
    assert f"destination:{queue}".encode() in head.split(b"\n") and b"a\\cb:c\\nd" in head.split(b"\n")
    assert body == "gr\u00fc\u00df\n\x1b[31m".encode()


def test_a_terminal_gets_no_control_characters_of_others(broker: Broker, name: str, connect: Connect) -> None:
    put(connect(), f"/queue/{name}", b"\x1b]0;evil\x07\tok\xff")
    ours, theirs = pty.openpty()
    try:
        done = run(broker.address, "subscribe", f"/queue/{name}", "--count", "1", stdout=theirs)
        assert done.returncode == 0 and select.select([ours], [], [], 10)[0]
        assert os.read(ours, 100) == b"\\x1b]0;evil\\x07\tok\\xff\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_count_takes_no_more_than_that(broker: Broker, name: str, connect: Connect) -> None:
    queue, wire = f"/queue/{name}", connect()
    put(wire, queue, *(b"%d" % number for number in range(10)))
    done = run(broker.address, "subscribe", queue, "--count", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n1\n2\n", b"")
    wire.subscribe(queue, id="rest", ack="client")
    rest = [wire.expect("MESSAGE") for _ in range(7)]
    assert [frame.body for frame in rest] == [b"%d" % number for number in range(3, 10)]
    # No more than three at a time were on their way, so these never were.
    assert not any("redelivered" in frame for frame in rest[3:])


def test_the_end_for_want_of_messages(broker: Broker, name: str, connect: Connect) -> None:
    queue, wire = f"/queue/{name}", connect()
    put(wire, queue, b"1")
    done = run(broker.address, "subscribe", queue, "--timeout", "0.3")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")
    put(wire, queue, b"2")
    done = run(broker.address, "subscribe", queue, "--timeout", "0.3", "--count", "2")
    assert (done.returncode, done.stdout, errors(done)) == (4, b"2\n", ["stampede: 1 of 2 messages came"])
    assert left(wire, queue) == []


def test_head_takes_one_message_off_the_queue(broker: Broker, name: str, connect: Connect) -> None:
    queue, wire = f"/queue/{name}", connect()
    bodies = [b"%d" % number for number in range(500)]
    put(wire, queue, *bodies)
    for number in range(3):
        done = run(broker.address, "subscribe", queue, shell='| head -1; exit "${PIPESTATUS[0]}"')
        assert (done.returncode, done.stdout, done.stderr) == (0, b"%d\n" % number, b"")
    done = run(broker.address, "subscribe", queue, shell="| head -5")
    assert done.stdout == b"3\n4\n5\n6\n7\n"
    assert left(wire, queue) == bodies[8:]


def test_a_message_is_acknowledged_once_its_reader_has_it(broker: Broker, name: str, connect: Connect) -> None:
    queue, wire = f"/queue/{name}", connect()
    put(wire, queue, b"1", b"2", b"x" * 100_000, b"4")
    with Running(broker.address, "subscribe", queue) as reader:
        assert select.select([reader.stdout], [], [], 10)[0]
        # Written, but not read yet.
        reader.process.kill()
        reader.process.wait()
        assert reader.stdout.read() == b"1\n"
    with Running(broker.address, "subscribe", queue) as reader:
        assert read_lines(reader, 2) == [b"1\n", b"2\n"]
        # The third fills the pipe, over and over.
        assert len(reader.stdout.read(4096)) == 4096
        assert select.select([reader.stdout], [], [], 10)[0]
        wait_until(lambda: left(wire, queue) == [b"x" * 100_000, b"4"], "what was read is acknowledged")
        reader.process.kill()
    again, last = take(wire, queue, 2)
    assert again.body == b"x" * 100_000 and last.body == b"4" and again["redelivered"] == "true"


def take(wire: Wire, queue: str, count: int) -> list:
    wire.subscribe(queue, id="take", ack="client")
    return [wire.expect("MESSAGE") for _ in range(count)]


def test_it_ends_when_its_reader_does(broker: Broker, name: str) -> None:
    with Running(broker.address, "subscribe", f"/topic/{name}", "-v") as reader:
        reader.told("subscribed to")
        reader.stdout.close()
        reader.process.stdout = None
        done = reader.end()
    assert done.returncode == 0 and "gone" not in done.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("counted", [False, True])
def test_signals_end_it_in_order(
    broker: Broker, name: str, connect: Connect, number: signal.Signals, counted: bool
) -> None:
    wire, since = connect(), broker.position
    options = ["--count", "100"] if counted else []
    with Running(broker.address, "subscribe", f"/queue/{name}", "-v", *options) as reader:
        reader.told("subscribed to")
        put(wire, f"/queue/{name}", b"one")
        assert read_lines(reader, 1) == [b"one\n"]
        done = reader.stop(number)
    assert done.returncode == (128 + number if counted else 0)
    assert done.stdout == b"" and len(errors(done)) == 2
    # Connections of the test before may close only now, but for another reason.
    assert broker.wait_event("connection.closed", since=since, reason="disconnect")
    assert left(wire, f"/queue/{name}") == []


def test_a_reader_that_does_not_read_blocks_nothing(mortal: Callable[..., Broker]) -> None:
    broker = mortal(workers=1)
    with Running(broker.address, "subscribe", "/topic/a", "-v") as reader:
        reader.told("subscribed to")
        with connect_on(broker, 0) as wire:
            put(wire, "/topic/a", *[b"x" * 50_000] * 10)
        wait_until(lambda: waiting_in(reader.stdout) > 60_000, "the pipe is full")
        # It sees to its connection, and to signals, all the same.
        os.kill(broker.worker_pids()[0], signal.SIGKILL)
        reader.told("the connection is lost, connecting again: ")
        reader.process.send_signal(signal.SIGTERM)
        assert reader.process.wait(TIMEOUT) == 0


def test_a_full_disk_is_told_and_loses_nothing(broker: Broker, name: str, connect: Connect) -> None:
    wire = connect()
    put(wire, f"/queue/{name}", b"1", b"2")
    with open("/dev/full", "wb") as full:
        done = run(broker.address, "subscribe", f"/queue/{name}", stdout=full)
    assert (done.returncode, errors(done)) == (
        1,
        ["stampede: cannot write to standard output: No space left on device"],
    )
    assert left(wire, f"/queue/{name}") == [b"1", b"2"]
    done = run(broker.address, "subscribe", f"/queue/{name}", shell=">&-")
    assert (done.returncode, errors(done)) == (2, ["stampede: standard output is closed, and messages go there"])


def test_a_selector_and_browsing(broker: Broker, name: str, connect: Connect) -> None:
    queue, wire = f"/queue/{name}", connect()
    put(wire, queue, b"red", headers=[("color", "red")])
    put(wire, queue, b"blue", headers=[("color", "blue")])
    done = run(broker.address, "subscribe", queue, "--browse")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"red\nblue\n", b"")
    done = run(broker.address, "subscribe", queue, "--selector", "color = 'blue'", "--count", "1")
    assert (done.returncode, done.stdout) == (0, b"blue\n")
    assert left(wire, queue) == [b"red"]
    done = run(broker.address, "subscribe", queue, "--selector", "color =")
    assert done.returncode == 1 and len(errors(done)) == 1
    assert errors(done)[0].startswith("stampede: bad selector: ")


def test_durable_and_shared_subscriptions_lose_nothing_in_between(broker: Broker, name: str, connect: Connect) -> None:
    wire, options = connect(), ["--durable", name, "--shared"]
    assert run(broker.address, "subscribe", f"/topic/{name}", *options, "--timeout", "0.1").returncode == 0
    put(wire, f"/topic/{name}", b"1", b"2", b"3")
    done = run(broker.address, "subscribe", f"/topic/{name}", *options, "--count", "1")
    assert done.stdout == b"1\n"
    done = run(broker.address, "subscribe", f"/topic/{name}", *options, "--count", "2")
    assert done.stdout == b"2\n3\n"


def test_headers_of_the_frame(broker: Broker, name: str, connect: Connect) -> None:
    wire = connect()
    put(wire, f"/queue/{name}", b"red", headers=[("color", "red")])
    put(wire, f"/queue/{name}", b"blue", headers=[("color", "blue")])
    done = run(broker.address, "subscribe", f"/queue/{name}", "-H", "selector:color = 'blue'", "--count", "1")
    assert (done.returncode, done.stdout) == (0, b"blue\n")


def test_it_comes_back_with_its_subscription(mortal: Callable[..., Broker]) -> None:
    broker = mortal(workers=1)
    with Running(broker.address, "subscribe", "/queue/a", "-v") as reader:
        reader.told("subscribed to")
        os.kill(broker.worker_pids()[0], signal.SIGKILL)
        reader.told("the connection is lost, connecting again: ")
        reader.told("connected again, to stomp://127.0.0.1:")
        assert run(broker.address, "send", "/queue/a", "after").returncode == 0
        assert read_lines(reader, 1) == [b"after\n"]
        done = reader.stop(signal.SIGINT)
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_examples_of_the_readme(broker: Broker) -> None:
    section = (ROOT / "README.md").read_text("utf-8").partition("\n## From the shell\n")[2]
    examples = section.partition("```sh\n")[2].partition("```")[0]
    script = f'stampede() {{ "{sys.executable}" -m broker "$@"; }}\n{examples}'
    host, port = broker.address
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=ROOT,
        env={**os.environ, "STAMPEDE_URL": f"stomp://{host}:{port}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"one coffee\n1\n23")
    assert errors(done) == ["stampede: 3 messages confirmed"]
