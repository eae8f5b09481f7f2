"""The hot path gives the messages, commands and receipts that the codec's Decoder would have led to."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.codec import Limits
from common.decoder import Decoder
from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version
from tests.unit.frames import PIECES, cut, streams, through
from tests.unit.worker.reading import Log, Reader, message

laws = settings(max_examples=200, deadline=None)
places = st.lists(st.integers(0, 10_000), max_size=10)
A = b"SEND\ndestination:/topic/a\ncontent-length:1\n\n1\0"


def kinds(log: Log) -> list[object]:
    """Messages as their bodies, the rest as it is."""
    return [entry[2].body if entry[0] == "message" else entry for entry in log]


@laws
@given(streams(), places, st.sampled_from([Version.V1_1, Version.V1_2]), st.sampled_from([200, 5000, 1 << 20]))
def test_gives_what_the_decoder_gives(data: bytes, at: list[int], version: Version, cache: int) -> None:
    wanted = Reader(version)
    for frame in Decoder(version).feed(data):
        if frame.command != "SEND":
            wanted.log.append(("command", frame.command, tuple(frame.headers), frame.body))
            continue
        destination = (frame.get("destination") or "").encode()
        if frame.get("transaction") is not None:
            wanted.log.append(("transacted", frame.get("transaction"), destination, frame.body))
        else:
            forms = [through(message(frame), each) for each in Version]
            wanted.log.append(("message", destination, *map(_counted_once, forms)))
        if frame.get("receipt") is not None:
            wanted.log.append(("receipt", frame.get("receipt")))
    reader = Reader(version, cache_bytes=cache)
    reader.read(*cut(data, at))
    assert reader.settled() == wanted.settled()
    assert len(set(reader.ids)) == len(reader.ids), "a message id came twice"


def _counted_once(frame: Frame) -> Frame:
    # `through` adds the count that `encode` would add; a MESSAGE has it already.
    first = [name for name, _ in frame.headers].index("content-length") if frame.get("content-length") else 0
    headers = [each for place, each in enumerate(frame.headers) if each[0] != "content-length" or place == first]
    return Frame(frame.command, headers, frame.body)


@laws
@given(streams())
def test_a_second_read_of_the_same_frames_is_the_same(data: bytes) -> None:
    # By now the header blocks are known, in the worker at least.
    reader = Reader()
    first = list(reader.read(data))
    assert reader.read(data) == first * 2
    assert len(set(reader.ids)) == len(reader.ids)


@laws
@given(PIECES, places, st.sampled_from([None, *Version]))
@example(b"SEND\r\r\n\n\0", [], Version.V1_2)
@example(b"SEND\r\r\ndestination:/topic/a\r\n\r\n\0", [], Version.V1_2)
def test_arbitrary_bytes_are_taken_or_refused(data: bytes, at: list[int], version: Version | None) -> None:
    limits = Limits(command_bytes=12, header_count=4, header_line_bytes=30, head_bytes=60, body_bytes=20)
    whole, pieces = (Reader(version, limits=limits) for _ in range(2))
    whole.read(data)
    pieces.read(*cut(data, at))
    assert pieces.settled() == whole.settled()


@laws
@given(streams(), st.data())
def test_a_changed_byte_is_taken_or_refused(data: bytes, choice: st.DataObject) -> None:
    place = choice.draw(st.integers(0, len(data) - 1))
    byte = choice.draw(st.sampled_from([b"", b"\0", b"\n", b"\r", b":", b"\\", b"\xff", b"9", b"\n\n"]))
    changed = data[:place] + byte + data[place + 1 :]
    whole, pieces = Reader(), Reader()
    whole.read(changed)
    pieces.read(*(changed[at : at + 1] for at in range(len(changed))))
    assert pieces.settled() == whole.settled()


@pytest.mark.parametrize("version", [None, *Version])
@pytest.mark.parametrize(
    ("data", "log"),
    [
        (A + A, [b"1", b"1"]),
        (b"SEND\ndestination:/topic/a\n\nab\0" * 2, [b"ab", b"ab"]),
        (b"SEND\r\ndestination:/topic/a\r\n\r\nx\n\ny\0" * 2, [b"x\n\ny", b"x\n\ny"]),
        (b"SEND\r\ndestination:/topic/a\r\ncontent-length:4\r\n\r\n\n\n\0\n\0" * 2, [b"\n\n\0\n", b"\n\n\0\n"]),
        (b"\r\n\n" + A + b"\n\n\r\n" + A + b"\n", [b"1", b"1"]),
        (b"SEND\ndestination:/topic/a\ncontent-length:3\n\n\0\0\0\0" * 3, [b"\0\0\0"] * 3),
        (b"SEND\ndestination:/topic/a\ncontent-length:1\ncontent-length:1\n\nx\0" * 2, [b"x", b"x"]),
        (b"SEND\ndestination:/topic/a\n\n\0" + A, [b"", b"1"]),
        (b"SEND\ndestination:/topic/a\nreceipt:r\n\n2\0" + A, [b"2", b"1", ("receipt", "r")]),
        (
            b"SEND\ndestination:/topic/a\nreceipt:r\n\n2\0BEGIN\ntransaction:t\n\n\0" + A,
            [b"2", ("receipt", "r"), ("command", "BEGIN", (("transaction", "t"),), b""), b"1"],
        ),
        (
            A + b"SEND\ndestination:/topic/a\ntransaction:t\nreceipt:r\n\nx\0" + A,
            [b"1", ("transacted", "t", b"/topic/a", b"x"), b"1", ("receipt", "r")],
        ),
        (A + b"NONSENSE\n\n\0" + A, [b"1", ("refuse", ErrorCode.UNKNOWN_COMMAND)]),
        (A + b"SEND\n\n\0" + A, [b"1", ("refuse", ErrorCode.MISSING_HEADER)]),
        (A + A[:-1] + b"x\0", [b"1", ("refuse", ErrorCode.BAD_FRAME)]),
        (
            b"SEND\ndestination:/topic/a\nreceipt:r\n\n2\0SEND\nx\n\n\0",
            [b"2", ("receipt", "r"), ("refuse", ErrorCode.BAD_HEADER)],
        ),
        (
            b"SEND\ndestination:/topic/a\ncontent-length:1\ncontent-length:2\n\nx\0",
            [("refuse", ErrorCode.BAD_CONTENT_LENGTH)],
        ),
        (A + b"DISCONNECT\n\n\0" + A, [b"1", ("command", "DISCONNECT", (), b"")]),
    ],
)
def test_examples_whole_and_cut_at_each_byte(data: bytes, log: Log, version: Version | None) -> None:
    prefix = b"CONNECT\nhost:h\n\n\0" if version is None else b""
    data = prefix + data
    whole = Reader(version)
    found = kinds(whole.read(data))
    if version is None:
        assert found.pop(0) == ("command", "CONNECT", (("host", "h"),), b"")
    assert found == log
    for place in range(1, len(data)):
        reader = Reader(version)
        reader.read(data[:place], data[place:])
        assert reader.settled() == whole.settled(), place
    slow = Reader(version)
    slow.read(*(data[at : at + 1] for at in range(len(data))))
    assert slow.settled() == whole.settled()


def test_tails_that_differ_reach_each_version_in_its_own_escapes() -> None:
    block = b"SEND\ndestination:/topic/a\nx:a\\rb\\nc\\\\d\\ce\ncontent-length:1\n\n1\0"
    log = Reader().read(A + A + block + A + block + block + A)
    forms = [entry[2:] for entry in log]
    assert [[form.get("x") for form in each] for each in forms] == [
        [None, None, None] if kind == "A" else ["ab c\\d:e", "ab\nc\\d:e", "a\rb\nc\\d:e"] for kind in "AABABBA"
    ]
    assert all(form.body == b"1" for each in forms for form in each)


def test_the_same_block_means_another_thing_in_another_version() -> None:
    block = b"SEND\ndestination:/topic/a\nx: a\\nb\n\n\0"
    found = []
    reader = Reader()
    for version in Version:
        reader.connection.version = version
        for _ in range(3):
            reader.log.clear()
            found.append(reader.read(block)[0][4].get("x"))
    assert found == ["a\\nb"] * 3 + [" a\nb"] * 6


def test_more_messages_in_a_read_than_numbers_are_kept_for() -> None:
    reader = Reader()
    reader.read(A * 5000)
    assert len(set(reader.ids)) == 5000
    assert not any(other.startswith(b"0-boot.1-1-4999") for other in reader.ids[:4999])


def test_ids_of_other_workers_and_other_lives_differ() -> None:
    from worker.assembly import MessageIds

    lives = [MessageIds(slot, boot, life) for slot in (0, 1, 11) for boot in ("a", "b") for life in (1, 11)]
    prefixes = [each.next_prefix() for each in lives for _ in range(300)]
    assert len(set(prefixes)) == len(prefixes)
    assert not any(b"\n" in each or b":" in each or b"\\" in each for each in prefixes)


@pytest.mark.parametrize("on", ["BEGIN", "SEND"])
def test_a_fault_of_a_handler_is_refused_after_what_came_before(on: str) -> None:
    reader = Reader()
    reader.fault_on, reader.fault = on, StompError(ErrorCode.BAD_VALUE, "no")
    frame = b"BEGIN\ntransaction:t\n\n\0" if on == "BEGIN" else b"SEND\ndestination:/topic/a\ntransaction:t\n\n\0"
    reader.read(b"SEND\ndestination:/topic/a\nreceipt:r\n\n2\0" + frame + A)
    assert kinds(reader.log) == [b"2", ("receipt", "r"), ("refuse", ErrorCode.BAD_VALUE)]
    assert reader.heads[0].startswith(frame)


@pytest.mark.parametrize(
    "after",
    [
        b"BEGIN\ntransaction:t\n\n\0",
        b"SEND\ndestination:/topic/a\ntransaction:t\nreceipt:r\n\n2\0",
        b"ACK\nid:1-2\n\n\0",
        b"ACK\nid:1-2\n\n\0" + A,
    ],
)
def test_nothing_counts_after_a_send_that_ended_the_connection(after: bytes) -> None:
    reader = Reader()
    reader.refuses_sends = True
    reader.read(A + after)
    assert kinds(reader.log) == [b"1"]


@pytest.mark.parametrize(
    "bad", [b"NOPE\n\n\0", b"SEND\n\n\0", b"SEND\nx\n\n\0", A[:-1] + b"y\0", b"ACK\nid:1\n\ny\0", b"X\0"]
)
def test_the_fault_is_shown_from_the_start_of_its_frame(bad: bytes) -> None:
    reader = Reader()
    reader.read(A + A + b"\n" + bad)
    assert [head.startswith(bad) for head in reader.heads] == [True]


def test_limits_before_login_are_their_own() -> None:
    limits, login = Limits(head_bytes=1000), Limits(head_bytes=30)
    for size, refused in [(30, False), (31, True)]:
        for pieces in (1, 2, 31):
            reader = Reader(None, limits=limits, login_limits=login)
            data = b"CONNECT\nhost:" + b"h" * (size - 15) + b"\n\n\0"
            reader.read(
                *(data[at::1][: len(data) // pieces + 1] for at in range(0, len(data), len(data) // pieces + 1))
            )
            assert reader.log[0][0] == ("refuse" if refused else "command"), (size, pieces)
    assert Reader(limits=limits, login_limits=login).read(A)[0][0] == "message"


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_body_limit_is_exact(counted: bool, step: int) -> None:
    for size in (50, 51):
        head = b"SEND\ndestination:/topic/a\n" + (b"content-length:%d\n" % size if counted else b"") + b"\n"
        data = head + b"x" * size + b"\0"
        reader = Reader(limits=Limits(body_bytes=50))
        reader.read(*(data[at : at + step] for at in range(0, len(data), step)))
        assert reader.log[0][:1] + reader.log[0][-1:] == (
            ("message", reader.log[0][-1]) if size == 50 else ("refuse", ErrorCode.BODY_TOO_LARGE)
        )


def test_first_frame_connects() -> None:
    assert Reader(None).read(A) == [("refuse", ErrorCode.NOT_CONNECTED)]
    assert Reader(None).read(b"CONNECT\n\n\0" + A)[1][0] == "message"


@pytest.mark.parametrize("version", [None, Version.V1_1, Version.V1_2])
def test_a_body_where_none_may_be_is_refused_before_its_end(version: Version | None) -> None:
    # Else a client that never logs in could have us hold a body of the largest size.
    for pieces in ([b"CONNECT\nhost:h\n\nxxxx"], [b"CONNECT\nhost:h\n\n", b"x"]):
        reader = Reader(version)
        reader.read(*pieces)
        assert reader.log == [("refuse", ErrorCode.UNEXPECTED_BODY)]


@pytest.mark.parametrize("head", [20, 900])
def test_a_body_that_drips_is_put_together_once(head: int) -> None:
    # Were it put together for each of its last bytes, each would cost the size of the body.
    reader = Reader(limits=Limits(body_bytes=2000))
    data = b"SEND\ndestination:/topic/a\nx:" + b"h" * head + b"\n\n"
    reader.read(data, *[b"x"] * 2000)
    assert reader.connection.kept <= 2
    reader.read(b"\0")
    assert reader.log[0][2].body == b"x" * 2000
