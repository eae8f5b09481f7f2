"""Heart-beats in both directions, exactly as negotiated. Statements 46 to 54 and 109.

The intervals are long enough for a busy machine: a test demands that the broker keeps its promise, no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.conftest import BEATING, MAIN, Connect
from tests.harness.broker import Broker
from tests.harness.timed import timed
from tests.harness.wire import VERSIONS, Wire, encode

NEWER = pytest.mark.parametrize("version", VERSIONS[1:])

SERVER = 0.2
"""What the beating listener offers and wishes for, in seconds."""
SILENCE = 2 * SERVER
"""After this silence the listener takes a client for dead (receive_factor 2)."""


def send_for(wire: Wire, seconds: float, pieces: list[bytes], interval: float) -> None:
    """Write the pieces in turn, one every `interval`, for that long."""
    started = time.monotonic()
    turn = 0
    while (now := time.monotonic()) - started < seconds:
        wire.send(pieces[turn % len(pieces)])
        turn += 1
        time.sleep(max(0.0, started + turn * interval - now))


@pytest.mark.statement(46)
@NEWER
@timed
def test_without_the_header_nobody_beats(connect: Connect, version: str) -> None:
    wire = connect(version, listener=BEATING)
    assert wire.collect_beats(3 * SILENCE) == []
    wire.quiet()


@pytest.mark.statement(46, 47)
@NEWER
@pytest.mark.parametrize("header", ["0,0", "1,0"])
@timed
def test_zero_means_the_broker_never_beats(connect: Connect, version: str, header: str) -> None:
    wire = connect(version, [("heart-beat", header)], listener=MAIN)
    assert wire.collect_beats(0.6) == []


@pytest.mark.statement(47)
@NEWER
@timed
def test_zero_means_the_client_need_not_beat(connect: Connect, version: str) -> None:
    wire = connect(version, [("heart-beat", "0,200")], listener=BEATING)
    assert wire.collect_beats(3 * SILENCE)
    wire.quiet()


@pytest.mark.statement(47)
@NEWER
@pytest.mark.parametrize(("listener", "offered"), [(MAIN, "500,10000"), (BEATING, "200,200")])
def test_connected_offers_what_is_configured(connect: Connect, version: str, listener: int, offered: str) -> None:
    connected = connect(version, [("heart-beat", "0,0")], listener=listener).connected
    assert connected is not None and connected["heart-beat"] == offered


@timed
def test_1_0_has_no_heart_beats(connect: Connect) -> None:
    wire = connect("1.0", [("heart-beat", "100,100")], listener=BEATING)
    assert wire.connected is not None and "heart-beat" not in wire.connected
    assert wire.collect_beats(3 * SILENCE) == []
    wire.quiet()


@pytest.mark.statement(47, 48, 49, 50)
@NEWER
@pytest.mark.parametrize(("wish", "interval"), [(1, SERVER), (200, 0.2), (500, 0.5)])
@timed
def test_the_broker_keeps_its_interval(connect: Connect, version: str, wish: int, interval: float) -> None:
    wire = connect(version, [("heart-beat", f"0,{wish}")], listener=BEATING)
    connected = time.monotonic()
    # Anything but line feeds would be a fault of the frame parser.
    beats = wire.collect_beats(4 * interval)
    gaps = [later - earlier for earlier, later in pairwise([connected, *beats])]
    assert gaps and max(gaps) <= interval
    # It beats at half the interval, not as a flood.
    assert len(beats) <= 4 / 0.5 + 1


@pytest.mark.statement(48)
@NEWER
@timed
def test_data_is_a_beat_too_and_beats_never_cut_a_frame(connect: Connect, version: str) -> None:
    wire = connect(version, [("heart-beat", "0,200")], listener=BEATING)
    wire.subscribe("/topic/beats")
    started = time.monotonic()
    count = 0
    while time.monotonic() - started < 0.8:
        wire.publish("/topic/beats", b"x" * 50_000)
        assert wire.expect("MESSAGE").body == b"x" * 50_000
        count += 1
    assert count > 10


@pytest.mark.statement(47, 51)
@NEWER
@timed
def test_a_silent_client_is_dead_after_twice_its_promise(broker: Broker, connect: Connect, version: str) -> None:
    wire = connect(version, [("heart-beat", "100,0")], listener=BEATING)
    started = time.monotonic()
    wire.expect_error("heart-beat-timeout")
    # The larger of the client's 100 ms and the broker's 200 ms counts.
    assert SILENCE * 0.9 <= time.monotonic() - started < SILENCE + 3
    assert broker.wait_event("connection.closed", session=wire.session)["reason"] == "heart-beat-timeout"


@pytest.mark.statement(47)
@NEWER
@timed
def test_the_slower_of_the_two_decides(connect: Connect, version: str) -> None:
    wire = connect(version, [("heart-beat", "700,0")], listener=BEATING)
    started = time.monotonic()
    wire.expect_error("heart-beat-timeout")
    assert time.monotonic() - started >= 1.4 * 0.9


@pytest.mark.statement(51, 109)
@pytest.mark.parametrize(
    ("version", "beat"),
    [("1.1", b"\n"), ("1.2", b"\n"), ("1.2", b"\r\n")],
    ids=["1.1-lf", "1.2-lf", "1.2-crlf"],
)
@timed
def test_a_client_that_beats_on_time_stays(connect: Connect, version: str, beat: bytes) -> None:
    wire = connect(version, [("heart-beat", "200,0")], listener=BEATING)
    send_for(wire, 3 * SILENCE, [beat], SERVER)
    wire.quiet()


@pytest.mark.statement(109)
@timed
def test_half_a_crlf_per_beat_is_enough(connect: Connect) -> None:
    wire = connect("1.2", [("heart-beat", "200,0")], listener=BEATING)
    send_for(wire, 2 * SILENCE, [b"\r", b"\n"], SERVER)
    wire.send(b"\n")
    wire.quiet()


@pytest.mark.statement(52)
@NEWER
@timed
def test_the_bytes_of_a_frame_that_still_arrives_count(connect: Connect, version: str) -> None:
    wire = connect(version, [("heart-beat", "200,200")], listener=BEATING)
    wire.subscribe("/topic/beats")
    pieces = 12
    frame = encode("SEND", [("destination", "/topic/beats"), ("content-length", str(pieces))], version=version)[:-1]
    seen = [time.monotonic()]
    for piece in (frame, *[b"x"] * pieces):
        wire.send(piece)
        seen += wire.collect_beats(SERVER / 2)
    assert time.monotonic() - seen[0] > 2 * SILENCE
    assert max(later - earlier for earlier, later in pairwise(seen)) <= SERVER
    wire.send(b"\0")
    assert wire.expect("MESSAGE").body == b"x" * pieces


@pytest.mark.statement(52)
@NEWER
@timed
def test_reading_does_not_delay_the_brokers_own_beats(connect: Connect, version: str) -> None:
    wire = connect(version, [("heart-beat", "0,200")], listener=BEATING)
    seen = [time.monotonic()]
    while seen[-1] - seen[0] < 4 * SERVER:
        wire.send(b"\n")
        seen += wire.collect_beats(0.02)
        if time.monotonic() - seen[-1] > SERVER:
            break
    assert max(later - earlier for earlier, later in pairwise([*seen, time.monotonic()])) <= SERVER


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
