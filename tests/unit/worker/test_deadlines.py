"""What is due when, to the tick, on a clock that the test sets: heart-beats both ways, the time to log in, the time a
subscriber may hold up its publishers, the time a closing connection lingers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.errors import CloseReason
from tests.unit.worker.clocked import EPSILON, READ_FIRST, TICK, Client, Worker, send
from worker.connection import Connection
from worker.outbox import NEVER

BEATING = {"minimum": 0.2, "wish": 0.2}
HELD = b"/topic/held"


def expect_error_due(worker: Worker, client: Client, due: float, code: str) -> None:
    """No ERROR before `due`, and one at the first wake from then on."""
    worker.at(due - EPSILON)
    assert client.error is None and not client.connection.closing
    worker.at(due + TICK + worker.late + READ_FIRST + EPSILON)
    assert client.error is not None and client.error[1] == code
    assert due - EPSILON <= client.error[0]


# --- the broker's beats


@pytest.mark.parametrize(
    ("offer", "maximum", "factor", "wish", "every"),
    [
        (0.2, 60, 0.5, 1, 0.1),
        (0.2, 60, 0.5, 200, 0.1),
        (0.2, 60, 0.5, 201, 0.1005),
        (0.2, 60, 0.5, 500, 0.25),
        (0.2, 60, 0.8, 500, 0.4),
        (0.2, 60, 0.5, 119_000, 30),
        (0.2, 60, 0.5, 4_294_967_295, 30),
        (0.2, 1, 0.5, 1000, 0.5),
        (0.2, 1, 0.5, 1001, 0.5),
        (0.2, 1, 1.0, 5000, 1),
    ],
)
def test_beats_at_half_the_agreed_interval_up_to_the_maximum(
    offer: float, maximum: float, factor: float, wish: int, every: float
) -> None:
    worker = Worker(heart_beat={"minimum": offer, "wish": offer, "maximum": maximum, "send_factor": factor})
    client = worker.login(f"0,{wish}")
    worker.after(10 * (every + TICK) + EPSILON)
    assert len(client.beats) >= 10 and len(client.transport.written) == len(client.beats) + 1
    gaps = [later - earlier for earlier, later in pairwise(client.wrote_at)]
    assert every - EPSILON <= min(gaps) and max(gaps) <= every + TICK + EPSILON


@pytest.mark.parametrize(
    ("version", "header", "heart_beat"),
    [
        ("1.2", None, BEATING),
        ("1.2", "0,0", BEATING),
        ("1.2", "0,0", {"minimum": 0.2, "wish": 0}),
        ("1.2", "200,0", {"minimum": 0.2, "wish": 0}),
        ("1.0", "200,200", BEATING),
    ],
)
def test_nobody_beats_where_nothing_was_agreed(
    version: str, header: str | None, heart_beat: Mapping[str, object]
) -> None:
    worker = Worker(heart_beat=heart_beat)
    client = worker.login(header, version)
    worker.after(1000)
    assert client.beats == [] and client.error is None and not client.connection.closing


def test_one_direction_without_the_other() -> None:
    worker = Worker(heart_beat=BEATING)
    listening, talking = worker.login("0,200"), worker.login("200,0")
    worker.after(100)
    assert listening.beats and listening.error is None
    assert talking.beats == [] and talking.error is not None


STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "read", "deliver", "other reads", "other beats"]), st.floats(0, 1.3)),
    max_size=40,
)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(100, 5000), st.floats(0, 1), STEPS)
def test_two_bytes_of_the_broker_are_never_further_apart_than_it_promised(
    milliseconds: int, lateness: float, steps: list[tuple[str, float]]
) -> None:
    interval = milliseconds / 1000
    # What half the interval leaves of slack; a tick of it is the worker's own.
    worker = Worker(
        late=lateness * (interval / 2 - TICK - READ_FIRST), heart_beat={"minimum": 0.1, "wish": 0.1, "maximum": 60}
    )
    client, other = worker.login(f"0,{milliseconds}"), worker.login()
    client.read(b"SUBSCRIBE\ndestination:/topic/a\nid:0\n\n\0")
    for step, wait in steps:
        if step == "read":
            client.read(b"\n")
        elif step == "deliver":
            other.read(send(b"/topic/a", b"x"))
        elif step == "other reads":
            other.read(b"\n")
        elif step == "other beats":
            worker.login("0,150")
        worker.after(wait * interval)
    worker.after(3 * interval)
    assert max(b - a for a, b in pairwise([*client.wrote_at, worker.now])) <= interval + EPSILON


def test_a_client_whose_data_waits_gets_no_beats_behind_it() -> None:
    worker = Worker(heart_beat=BEATING)
    client = worker.login("0,200")
    client.connection.pause_writing()
    worker.after(10)
    client.connection.resume_writing()
    resumed = worker.now
    assert len(client.transport.written) == 1
    worker.after(1)
    assert client.beats[0] - resumed <= 0.1 + TICK + EPSILON


# --- the client's silence


@pytest.mark.parametrize(
    ("wish", "factor", "promise", "limit"),
    [
        (0.2, 2.0, 100, 0.4),
        (0.2, 2.0, 200, 0.4),
        (0.2, 2.0, 700, 1.4),
        (0.5, 2.0, 200, 1.0),
        (0.2, 1.0, 700, 0.7),
        (0.2, 3.5, 1000, 3.5),
        (0.2, 2.0, 4_000_000, 8000),
    ],
)
def test_silence_is_as_long_as_agreed_times_the_factor(wish: float, factor: float, promise: int, limit: float) -> None:
    worker = Worker(heart_beat={"minimum": 0.2, "wish": wish, "receive_factor": factor})
    silent, client = worker.login(f"{promise},0"), worker.login(f"{promise},0")
    start = worker.now
    for part in (0.9, 0.0001, 0.33, 0.999):
        worker.after(part * limit)
        client.read(b"\n")
    expect_error_due(worker, client, worker.now + limit, "heart-beat-timeout")
    assert silent.error is not None and start + limit <= silent.error[0] + EPSILON
    assert silent.error[0] <= start + limit + TICK + EPSILON


@pytest.mark.parametrize("data", [b"\n", b"\r\n", send(b"/topic/a"), send(b"/topic/a", b"\n\0x")])
def test_each_byte_counts(data: bytes) -> None:
    worker = Worker(heart_beat=BEATING)
    client = worker.login("200,0")
    for _ in range(5):
        for place in range(len(data)):
            worker.after(0.4 - EPSILON)
            client.read(data[place : place + 1])
    expect_error_due(worker, client, worker.now + 0.4, "heart-beat-timeout")


CLIENT_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "lf", "crlf", "frame", "publish", "hold", "release", "other"]), st.floats(0, 1.2)
    ),
    max_size=40,
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.integers(100, 3000), st.sampled_from([1.0, 2.0, 5.0]), st.floats(0, 0.5), CLIENT_STEPS)
def test_closed_by_the_first_wake_after_the_limit_and_never_before(
    promise: int, factor: float, late: float, steps: list[tuple[str, float]]
) -> None:
    worker = Worker(late=late, heart_beat={"minimum": 0.1, "wish": 0.1, "receive_factor": factor})
    client = worker.login(f"{promise},0")
    limit = promise / 1000 * factor
    heard, held, paused = worker.now, False, False
    pieces = {"lf": b"\n", "crlf": b"\r\n", "frame": send(b"/topic/a", b"x"), "publish": send(HELD)}
    for step, wait in steps:
        if step in pieces and not paused:
            client.read(pieces[step])
            heard = worker.now
            paused = step == "publish" and held
        elif step == "hold" and not held:
            held = True
            worker.hold(HELD)
        elif step == "release" and held:
            worker.release(HELD)
            if paused:
                heard = worker.now
            held = paused = False
        elif step == "other":
            worker.login("1000,150")
        assert client.transport.reading is not paused
        # The limit itself is neither before nor after.
        worker.after(wait * limit)
        if client.error is not None:
            break
        assert paused or worker.now <= heard + limit + TICK + late + READ_FIRST + EPSILON
    else:
        if paused:
            worker.release(HELD)
            heard = worker.now
        worker.after(limit + TICK + late + READ_FIRST + EPSILON)
        paused = False
    assert not paused and client.error is not None and client.error[1] == "heart-beat-timeout"
    assert heard + limit - EPSILON <= client.error[0] <= heard + limit + TICK + late + READ_FIRST + EPSILON


@pytest.mark.parametrize("paused_for", [0.0, 0.399, 0.4, 5.0, 1000.0])
def test_silence_while_reading_is_paused_is_not_the_clients(paused_for: float) -> None:
    worker = Worker(heart_beat=BEATING)
    worker.hold(HELD)
    client = worker.login("200,0")
    worker.after(0.39)
    client.read(send(HELD))
    worker.after(paused_for)
    assert not client.transport.reading and client.error is None
    worker.release(HELD)
    expect_error_due(worker, client, worker.now + 0.4, "heart-beat-timeout")


def test_a_client_that_the_broker_does_not_read_from_still_gets_its_beats() -> None:
    worker = Worker(heart_beat=BEATING)
    worker.hold(HELD)
    client = worker.login("200,200")
    client.read(send(HELD))
    worker.after(10)
    assert not client.transport.reading
    assert max(b - a for a, b in pairwise([*client.wrote_at, worker.now])) <= 0.1 + TICK + EPSILON


# --- the time to log in


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 30), st.floats(0, 1), st.lists(st.tuples(st.integers(1, 9), st.floats(0, 0.5)), max_size=12))
def test_the_connect_timeout_counts_from_the_beginning(
    timeout: float, late: float, steps: list[tuple[int, float]]
) -> None:
    worker = Worker(late=late, connect_timeout=timeout)
    client = worker.open()
    start = worker.now
    rest = b"\n\r\n\nCONNECT\naccept-version:1.2\nhost:h\npasscode:" + b"x" * 200
    for size, wait in steps:
        if worker.now + wait * timeout >= start + timeout:
            break
        client.read(rest[:size])
        rest = rest[size:]
        worker.after(wait * timeout)
    expect_error_due(worker, client, start + timeout, "connect-timeout")


@pytest.mark.parametrize("heart_beat", [None, "0,0", "60000,0", "0,60000"])
def test_who_has_logged_in_has_no_connect_timeout(heart_beat: str | None) -> None:
    worker = Worker(connect_timeout=2.0, heart_beat={"wish": 60, "maximum": 60, "receive_factor": 100})
    client = worker.open()
    worker.after(2.0 - EPSILON)
    beats = "" if heart_beat is None else f"heart-beat:{heart_beat}\n"
    client.read(f"CONNECT\naccept-version:1.2\nhost:h\n{beats}\n\0".encode())
    worker.after(1000)
    assert client.error is None and not client.connection.closing


# --- a subscriber that holds up its publishers

BLOCKING = {"high_bytes": 4096, "low_bytes": 1024, "max_bytes": 1 << 20, "block_timeout": 5.0, "linger": 1.0}


def blocked(late: float = 0.0) -> tuple[Worker, Client, Client]:
    """A subscriber that takes nothing, and a publisher that has been paused for it just now."""
    worker = Worker(late=late, outbox=BLOCKING)
    slow, publisher = worker.login(), worker.login()
    slow.read(b"SUBSCRIBE\ndestination:/topic/*\nid:0\n\n\0")
    worker.after(7.77)
    slow.connection.pause_writing()
    worker.after(100)
    assert not slow.connection.closing, "a full transport alone holds up nobody"
    publish_until_paused(publisher)
    return worker, slow, publisher


def publish_until_paused(publisher: Client, destination: bytes = b"/topic/a") -> None:
    for _ in range(50):
        publisher.read(send(destination, b"x" * 1000))
        if not publisher.transport.reading:
            return
    raise AssertionError("50 kB were read for a subscriber that takes nothing")


@pytest.mark.parametrize("late", [0.0, 0.7])
def test_a_subscriber_is_given_up_after_the_block_timeout(late: float) -> None:
    worker, slow, publisher = blocked(late)
    due = worker.now + 5.0
    worker.at(due - EPSILON)
    assert not slow.connection.closing and not publisher.transport.reading
    worker.at(due + TICK + late + READ_FIRST + EPSILON)
    assert slow.connection.reason == "slow-consumer" and publisher.transport.reading
    # Its last words wait until it reads; then it has them, for as long as it lingers.
    assert slow.error is None
    slow.connection.resume_writing()
    assert slow.error is not None and slow.error[1] == "slow-consumer"


def test_a_second_destination_gives_no_more_time() -> None:
    worker, slow, publisher = blocked()
    due = worker.now + 5.0
    worker.after(4.0)
    other = worker.login()
    publish_until_paused(other, b"/topic/b")
    worker.at(due + TICK + EPSILON)
    assert slow.connection.reason == "slow-consumer"
    assert publisher.transport.reading and other.transport.reading


def test_who_holds_up_nobody_any_more_has_all_the_time() -> None:
    worker, slow, publisher = blocked()
    worker.after(4.0)
    slow.transport.small = True
    slow.connection.resume_writing()
    assert publisher.transport.reading and slow.connection.outbox is not None
    worker.after(100)
    assert not slow.connection.closing


def test_who_catches_up_in_time_is_given_the_whole_time_again() -> None:
    worker, slow, publisher = blocked()
    for _ in range(3):
        worker.after(5.0 - EPSILON)
        slow.connection.resume_writing()
        assert publisher.transport.reading
        worker.after(50)
        assert not slow.connection.closing
        slow.connection.pause_writing()
        publish_until_paused(publisher)
    due = worker.now + 5.0
    worker.at(due - EPSILON)
    assert not slow.connection.closing
    worker.at(due + TICK + EPSILON)
    assert slow.connection.reason == "slow-consumer"


# --- a connection that ends


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_a_closing_connection_lingers(late: float) -> None:
    worker = Worker(late=late, outbox={"linger": 2.0})
    client = worker.login()
    worker.after(3.33)
    client.read(b"HELLO\n\n\0")
    start = worker.now
    assert client.error is not None and client.transport.eof_at == start
    worker.at(start + 2.0 - EPSILON)
    assert not client.transport.is_closing() and worker.core.connections
    worker.at(start + 2.0 + TICK + late + READ_FIRST + EPSILON)
    assert client.transport.aborted_at is not None and client.transport.closed_at is None
    assert not worker.core.connections


def test_a_closing_connection_ends_as_soon_as_the_client_does() -> None:
    worker = Worker(outbox={"linger": 2.0})
    client = worker.login()
    client.read(b"HELLO\n\n\0")
    worker.after(1.0)
    client.eof()
    assert client.transport.closed_at == worker.now and not worker.core.connections
    worker.after(10)
    assert client.transport.aborted_at is None


def test_a_closing_connection_gets_no_longer_for_what_it_does_not_read() -> None:
    worker, slow, _ = blocked()
    slow.read(b"HELLO\n\n\0")
    start = worker.now
    worker.at(start + 1.0 - EPSILON)
    assert not slow.transport.is_closing()
    worker.at(start + 1.0 + TICK + EPSILON)
    assert slow.transport.aborted_at is not None and slow.connection not in worker.core.connections


def test_bytes_and_beats_do_not_prolong_the_end() -> None:
    worker = Worker(heart_beat=BEATING, outbox={"linger": 2.0})
    client = worker.login("200,200")
    client.read(b"HELLO\n\n\0")
    start = worker.now
    while not client.transport.is_closing() and worker.now < start + 10:
        client.read(b"\n")
        worker.after(0.05)
    assert client.transport.aborted_at is not None
    assert start + 2.0 - EPSILON <= client.transport.aborted_at <= start + 2.0 + TICK + EPSILON
    assert client.beats == []


def test_an_idle_worker_has_nothing_to_wake_for() -> None:
    worker = Worker()
    client = worker.login()
    worker.after(60)
    assert worker.loop.timers == [] and client.connection.due == NEVER


def test_a_promise_of_ages_keeps_no_closed_connection_for_ages() -> None:
    worker = Worker(heart_beat=BEATING)
    client = worker.login("999999999999999,0")
    worker.after(1)
    assert worker.core.deadlines.next_due() is not None
    client.connection.disconnect(None, CloseReason.DISCONNECT)
    worker.after(60)
    assert worker.core.deadlines.next_due() is None


def test_what_goes_wrong_with_one_deadline_is_not_the_end_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(heart_beat=BEATING)
    first, second = worker.login("0,200"), worker.login("0,200")
    monkeypatch.setattr(Connection, "on_timer", broken_once(Connection.on_timer))
    with pytest.raises(RuntimeError, match="once"):
        worker.after(1)
    before = len(first.transport.written) + len(second.transport.written)
    worker.after(10)
    assert len(first.transport.written) + len(second.transport.written) >= before + 90


def broken_once(working: Callable[[Connection, float], float]) -> Callable[[Connection, float], float]:
    broken = [True]

    def on_timer(connection: Connection, now: float) -> float:
        if broken and broken.pop():
            raise RuntimeError("once")
        return working(connection, now)

    return on_timer


def test_a_loop_that_stood_still_reads_before_it_judges() -> None:
    worker = Worker(late=0.8, heart_beat=BEATING)
    client = worker.login("200,0")
    # The loop stands still for longer than 0.4 seconds of silence; what came meanwhile is read after the first timer.
    worker.after(0.8 + READ_FIRST / 2)
    client.read(b"\n")
    worker.after(READ_FIRST)
    assert client.error is None and not client.connection.closing


def test_ever_new_destinations_on_full_links_hold_up_their_publisher() -> None:
    worker = Worker()
    publisher = worker.login("0,0")
    for number in range(64):
        worker.core.on_blocked(b"/topic/new%d" % number)
    publisher.read(send(b"/topic/newer", b"x"))
    assert not publisher.transport.reading
    for number in range(64):
        worker.core.on_unblocked(b"/topic/new%d" % number)
    assert publisher.transport.reading and not worker.core.flow.blocked
