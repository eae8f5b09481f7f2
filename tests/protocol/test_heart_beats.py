"""Heart-beats in both directions, exactly as negotiated. Statements 46 to 54 and 109.

How late a beat may be, and how early a silent client is closed, is a matter of tests/unit/worker/test_deadlines.py,
whose clock does as it is told. A machine that is short of time delays client and broker as it likes, so that nothing
here depends on it: what comes, what comes not too soon, and which of two things comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import pytest

from tests.conftest import BEATING, MAIN, Connect
from tests.harness.broker import Broker
from tests.harness.wire import CLOCK_GRAIN, VERSIONS, Wire, WireFault, encode

NEWER = pytest.mark.parametrize("version", VERSIONS[1:])

SERVER = 0.2
"""What the beating listener offers and wishes for, in seconds."""
EVERY = SERVER / 2
"""How often the broker beats that promised `SERVER`."""
SILENCE = 2 * SERVER
"""After this silence the listener takes a client for dead (receive_factor 2)."""


class Punctual:
    """A client that must not be taken for dead, unless it was silent itself for as long as that takes.

    Entered before it connects. Excuses an end for want of heart-beats if the machine kept us from sending, for all we
    know, for `SILENCE`: between the moment before one `send` and the moment after the next.
    """

    def __init__(self) -> None:
        self._before = time.monotonic()
        self._longest = 0.0

    def send(self, wire: Wire, data: bytes) -> None:
        now = time.monotonic()
        wire.send(data)
        self._longest = max(self._longest, time.monotonic() - self._before)
        self._before = now

    def send_for(self, wire: Wire, seconds: float, pieces: Sequence[bytes], interval: float) -> int:
        """Send the pieces in turn, one every `interval`, for that long; returns how many."""
        started = time.monotonic()
        count = 0
        while time.monotonic() - started < seconds:
            self.send(wire, pieces[count % len(pieces)])
            count += 1
            time.sleep(max(0.0, started + count * interval - time.monotonic()))
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        silent = max(self._longest, time.monotonic() - self._before)
        closed = isinstance(error, ConnectionError) or (
            isinstance(error, WireFault) and "heart-beat-timeout" in str(error)
        )
        return closed and silent >= SILENCE - CLOCK_GRAIN


@pytest.mark.statement(46)
@NEWER
def test_without_the_header_nobody_beats(connect: Connect, version: str) -> None:
    wire, other = connect(version, listener=BEATING), connect(version, [("heart-beat", "0,1")], listener=BEATING)
    other.wait_beats(3 * round(SILENCE / EVERY))
    # Not a byte came, neither of beats nor of an end.
    assert not wire.readable()
    wire.quiet()


@pytest.mark.statement(46, 47)
@NEWER
@pytest.mark.parametrize("header", ["0,0", "1,0"])
def test_zero_means_the_broker_never_beats(connect: Connect, version: str, header: str) -> None:
    wire = connect(version, [("heart-beat", header)], listener=MAIN)
    # The same listener beats for others twice a second.
    other = connect(version, [("heart-beat", "0,1")], listener=MAIN)
    other.wait_beats(3)
    assert not wire.readable()


@pytest.mark.statement(47)
@NEWER
def test_zero_means_the_client_need_not_beat(connect: Connect, version: str) -> None:
    wire = connect(version, [("heart-beat", "0,200")], listener=BEATING)
    wire.wait_beats(3 * round(SILENCE / EVERY))
    wire.quiet()


@pytest.mark.statement(47)
@NEWER
@pytest.mark.parametrize(("listener", "offered"), [(MAIN, "500,10000"), (BEATING, "200,200")])
def test_connected_offers_what_is_configured(connect: Connect, version: str, listener: int, offered: str) -> None:
    connected = connect(version, [("heart-beat", "0,0")], listener=listener).connected
    assert connected is not None and connected["heart-beat"] == offered


def test_1_0_has_no_heart_beats(connect: Connect) -> None:
    wire = connect("1.0", [("heart-beat", "100,100")], listener=BEATING)
    other = connect("1.2", [("heart-beat", "0,1")], listener=BEATING)
    assert wire.connected is not None and "heart-beat" not in wire.connected
    other.wait_beats(3 * round(SILENCE / EVERY))
    assert not wire.readable()
    wire.quiet()


@pytest.mark.statement(47, 48, 49, 50)
@NEWER
@pytest.mark.parametrize(("wish", "interval"), [(1, SERVER), (200, 0.2), (500, 0.5)])
def test_the_broker_beats_at_its_interval(connect: Connect, version: str, wish: int, interval: float) -> None:
    started = time.monotonic()
    wire = connect(version, [("heart-beat", f"0,{wish}")], listener=BEATING)
    # Anything but line feeds would be a fault of the frame parser. Beats come at half the interval, not as a flood.
    for number, beat in enumerate(wire.wait_beats(6), 1):
        assert beat - started >= number * interval / 2 - CLOCK_GRAIN


@pytest.mark.statement(48)
@NEWER
def test_data_is_a_beat_too_and_beats_never_cut_a_frame(connect: Connect, version: str) -> None:
    wire, other = (connect(version, [("heart-beat", "0,200")], listener=BEATING) for _ in range(2))
    wire.subscribe("/topic/beats")
    for _ in range(8):
        other.wait_beats(1)
        for _ in range(5):
            wire.publish("/topic/beats", b"x" * 50_000)
            assert wire.expect("MESSAGE").body == b"x" * 50_000


@pytest.mark.statement(47, 51)
@NEWER
def test_a_silent_client_is_dead_after_twice_its_promise(broker: Broker, connect: Connect, version: str) -> None:
    started = time.monotonic()
    wire = connect(version, [("heart-beat", "100,0")], listener=BEATING)
    wire.expect_error("heart-beat-timeout")
    # The larger of the client's 100 ms and the broker's 200 ms counts.
    assert time.monotonic() - started >= SILENCE - CLOCK_GRAIN
    assert broker.wait_event("connection.closed", session=wire.session)["reason"] == "heart-beat-timeout"


@pytest.mark.statement(47)
@NEWER
def test_the_slower_of_the_two_decides(connect: Connect, version: str) -> None:
    started = time.monotonic()
    wire = connect(version, [("heart-beat", "700,0")], listener=BEATING)
    wire.expect_error("heart-beat-timeout")
    assert time.monotonic() - started >= 1.4 - CLOCK_GRAIN


@pytest.mark.statement(51)
@NEWER
def test_silence_counts_from_the_last_byte(connect: Connect, version: str) -> None:
    limit = 1.4 - CLOCK_GRAIN
    connecting = time.monotonic()
    wire = connect(version, [("heart-beat", "700,0")], listener=BEATING)
    time.sleep(0.3)
    started = time.monotonic()
    wire.send(b"\n")
    sent = time.monotonic()
    wire.expect_error("heart-beat-timeout")
    # A byte that was sent too late itself changes nothing.
    assert time.monotonic() - started >= limit or sent - connecting >= limit


@pytest.mark.statement(51, 109)
@pytest.mark.parametrize(
    ("version", "beat"),
    [("1.1", b"\n"), ("1.2", b"\n"), ("1.2", b"\r\n")],
    ids=["1.1-lf", "1.2-lf", "1.2-crlf"],
)
def test_a_client_that_beats_on_time_stays(connect: Connect, version: str, beat: bytes) -> None:
    with Punctual() as punctual:
        wire = connect(version, [("heart-beat", "200,0")], listener=BEATING)
        punctual.send_for(wire, 3 * SILENCE, [beat], SERVER)
        wire.quiet()


@pytest.mark.statement(109)
def test_half_a_crlf_per_beat_is_enough(connect: Connect) -> None:
    with Punctual() as punctual:
        wire = connect("1.2", [("heart-beat", "200,0")], listener=BEATING)
        punctual.send_for(wire, 2 * SILENCE, [b"\r", b"\n"], SERVER)
        punctual.send(wire, b"\n")
        wire.quiet()


@pytest.mark.statement(52)
@NEWER
def test_the_bytes_of_a_frame_that_still_arrives_count(connect: Connect, version: str) -> None:
    with Punctual() as punctual:
        wire = connect(version, [("heart-beat", "200,0")], listener=BEATING)
        wire.subscribe("/topic/beats")
        size = 100
        frame = encode("SEND", [("destination", "/topic/beats"), ("content-length", str(size))], version=version)
        punctual.send(wire, frame[:-1])
        sent = punctual.send_for(wire, 3 * SILENCE, [b"x"], SERVER / 2)
        wire.send(b"x" * (size - sent) + b"\0")
        assert wire.expect("MESSAGE").body == b"x" * size


@pytest.mark.statement(52)
@NEWER
def test_reading_does_not_delay_the_brokers_own_beats(connect: Connect, version: str) -> None:
    busy, idle = (connect(version, [("heart-beat", "0,200")], listener=BEATING) for _ in range(2))
    beats = 0
    while beats < 10:
        busy.send(b"\n" * 100)
        beats += len(idle.collect_beats(0.02))
    # However long the worker stands still: between every other beat of one comes a beat of the other.
    assert len(busy.collect_beats(0.02)) >= 4


@pytest.mark.statement(53)
@NEWER
@pytest.mark.parametrize(
    "header",
    ["0,4294967295", "4294967295,0", "999999999999,999999999999", "9" * 18 + "," + "9" * 18, "00100,0100"],
)
def test_large_numbers_are_accepted(connect: Connect, version: str, header: str) -> None:
    wire = connect(version, [("heart-beat", header)], listener=BEATING)
    wire.quiet()


@pytest.mark.statement(54)
@NEWER
@pytest.mark.parametrize(
    "header",
    [
        "",
        "1",
        "a,b",
        "-1,0",
        "0,-1",
        "1,2,3",
        ",",
        "1,",
        ",1",
        "+1,0",
        "1.5,0",
        "0x1,0",
        "1;2",
        "٥,0",
        "1e3,0",
    ],
)
def test_a_malformed_header_is_refused(wire: Callable[..., Wire], version: str, header: str) -> None:
    client = wire(BEATING)
    client.send(encode("CONNECT", [("accept-version", version), ("host", "h"), ("heart-beat", header)]))
    client.expect_error("bad-value", frame="CONNECT")
