"""SENDs whose header blocks differ in their receipt and idempotency-key alone: the same as if each had been parsed."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.codec import Limits
from common.errors import ErrorCode
from common.negotiation import Version
from tests.unit.worker.reading import Log, Reader
from worker.assembly import Sent
from worker.backplane.interface import Batch
from worker.connection import Connection
from worker.forms import Form, Forms
from worker.routes import Route, RouteCache, parse_send
from worker.traits import Traits

laws = settings(max_examples=400, deadline=None)
LIMITS = Limits(header_count=7, header_line_bytes=400, head_bytes=700, body_bytes=20)

_RECEIPT = "receipt:{receipt}"
_KEY = "idempotency-key:{key}"
_OTHERS = st.sampled_from(
    [
        *("x:a", "x:b", "priority:7", "persistent:false", "priority:4", "receipt-id:5", "message-id:5", "x:{key}"),
        *("Receipt:{receipt}", "x:a:b", "x:é", "x: y", "x:a\\cb", "x\\c:y", "receipt:twice", "idempotency-key:twice"),
        *("receipt:", "idempotency-key:", "receipt: ", "idempotency-key :{key}", "transaction:t", "content-length:2"),
        *("content-length:03", "retain:true", "ttl:5", "reply-to:/temp-queue/a", "x:y\r", "destination:/topic/b"),
    ]
)
_FAULTS = st.sampled_from(
    ["content-length:30", "content-length:x", "priority:x", "receipt", "\r", ":x", "x:\\t", "a:" + "b" * 401]
)


@st.composite
def shapes(draw: st.DrawFn) -> list[str]:
    """Header blocks to be filled in, of which the later differ from the first by little."""
    lines = ["destination:/queue/a", "content-length:3"]
    lines += draw(st.sampled_from([[_RECEIPT, _KEY], [_RECEIPT, _KEY], [_RECEIPT], [_KEY]]))
    lines += draw(st.lists(_OTHERS, max_size=2))
    if draw(st.integers(0, 7)) == 7:
        lines.append(draw(_FAULTS))
    if draw(st.integers(0, 7)) == 7:
        lines.remove(draw(st.sampled_from(lines)))
    lines = draw(st.permutations(lines))
    found = [lines]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines)))
        found.append([*lines[:place], draw(_OTHERS), *lines[place + draw(st.integers(0, 1)) :]])
    end = draw(st.sampled_from([*["\n"] * 9, "\r\n"]))
    return [end.join(["SEND", *each, "", ""]) for each in found]


_plain = st.sampled_from(["1", "2", "c0ffee-17", "c0ffee-18", "x" * 256, "x" * 255])
_special = st.sampled_from(
    ["", "a b", " a", "a:b", "a\\cb", "\\n", "\\t", "\\", "é", "a\r", "\x7f", "\0", "x" * 257, "é" * 128, "x" * 395]
)
values = st.one_of(_plain, _plain, _plain, _special)
bodies = st.sampled_from([b"abc\0", b"abc\0", b"abc\0", b"ab\0", b"\0", b"abcd\0", b"\0\0\0\0"])


class Taken(Reader):
    """Also writes down the items as they are, their traits and their keys."""

    def dispatch(self, connection: Connection, batches: dict[bytes, Batch], receipts: list[Sent]) -> None:
        for destination, batch in batches.items():
            forms = batch.by_version or (batch.items,) * 3
            traits, keys = batch.traits or {}, batch.keys or {}
            for place, items in enumerate(zip(*forms, strict=True)):
                written = [item.partition(b"\n")[2] for item in items]
                self.log.append(("item", destination, written, traits.get(place), keys.get(place)))
        super().dispatch(connection, batches, receipts)


class _None:
    def find(self, head: bytes) -> None:
        return None


def the_long_way(version: Version, limits: Limits) -> Taken:
    reader = Taken(version, limits=limits)
    for cache in reader.ingest._caches:
        cache.forms = _None()  # type: ignore[assignment]
    return reader


def frame(shape: str, receipt: str, key: str, body: bytes) -> bytes:
    return shape.replace("{receipt}", receipt).replace("{key}", key).encode() + body


@laws
@given(
    shapes(),
    st.lists(st.tuples(st.integers(0, 2), values, values, bodies), min_size=4, max_size=16),
    st.sampled_from(Version),
    st.booleans(),
)
@example(
    [f"SEND\ndestination:/queue/a\ncontent-length:3\n{_KEY}\n{_RECEIPT}\n\n"],
    [(0, "1", "x" * 257, b"abc\0")] * 4,
    Version.V1_2,
    True,
)
@example(
    [f"SEND\ndestination:/queue/a\ncontent-length:3\n{_KEY}\n\n"], [(0, "1", "k", b"abc\0")] * 4, Version.V1_1, True
)
def test_the_same_as_the_long_way(
    found: list[str], frames: list[tuple[int, str, str, bytes]], version: Version, one_read: bool
) -> None:
    data = [frame(found[which % len(found)], *rest) for which, *rest in frames]
    if one_read:
        data = [b"".join(data)]
    short, long = Taken(version, limits=LIMITS), the_long_way(version, LIMITS)
    # Each shape has its form by the third time.
    for shape in found:
        for value in ("p", "q", "r"):
            each = frame(shape, value, value, b"abc\0")
            for reader in (short, long):
                reader.read(each)
                reader.connection.deaf = False
                reader.connection.partial = None
    assert short.read(*data) == long.read(*data)
    assert len(set(short.ids)) == len(short.ids), "a message id came twice"


def block(number: int, lines: str = "receipt:{n}\nidempotency-key:c0ffee-{n}\ncontent-length:3") -> bytes:
    return f"SEND\ndestination:/queue/a\n{lines}\n\n".replace("{n}", str(number)).encode()


def formed(lines: str, values: range = range(5)) -> list[tuple[Form, bytes | None, bytes | None] | None]:
    cache = RouteCache(Version.V1_2, Limits(), 1024, 1 << 20)
    return [cache.forms.find(block(number, lines)) for number in values]


@pytest.mark.parametrize(
    ("lines", "receipt", "key", "before", "after"),
    [
        (
            "receipt:{n}\nidempotency-key:k-{n}\ncontent-length:3",
            b"4",
            b"k-4",
            b"idempotency-key:",
            b"content-length:3\n\n",
        ),
        (
            "idempotency-key:k-{n}\nx:y\nreceipt:{n}\ncontent-length:3",
            b"4",
            b"k-4",
            b"idempotency-key:",
            b"x:y\ncontent-length:3\n\n",
        ),
        (
            "content-length:3\nreceipt:{n}\nidempotency-key:k-{n}",
            b"4",
            b"k-4",
            b"content-length:3\nidempotency-key:",
            b"\n",
        ),
        ("content-length:3\nreceipt:{n}", b"4", None, b"content-length:3\n\n", None),
        ("idempotency-key:k-{n}\ncontent-length:3", None, b"k-4", b"idempotency-key:", b"content-length:3\n\n"),
    ],
)
def test_what_differs_is_cut_out_wherever_it_stands(
    lines: str, receipt: bytes | None, key: bytes | None, before: bytes, after: bytes | None
) -> None:
    *_, third, fourth, fifth = formed(lines)
    assert third is not None and fourth is not None and fifth is not None
    assert third[0] is fourth[0] is fifth[0]
    form = fifth[0]
    assert fifth[1:] == (receipt, key)
    assert form.traits is None
    assert form.before == b"\ndestination:/queue/a\n" + before
    assert form.after == (b"" if after is None else b"\n" + after)


@pytest.mark.parametrize(
    "lines",
    [
        *("content-length:3", "receipt:{n}", "receipt:{n}\ncontent-length:3\ntransaction:t", "receipt:{n}\nx:a\\cb"),
        *("receipt:é{n}\ncontent-length:3", "receipt:{n}\ncontent-length:x", "receipt:\ncontent-length:3"),
        *("receipt:a b{n}\ncontent-length:3", "idempotency-key:a\\c{n}\ncontent-length:3"),
    ],
)
def test_what_has_no_form(lines: str) -> None:
    assert formed(lines) == [None] * 5


def test_it_is_parsed_for_the_first_two_and_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    original = RouteCache.parse
    monkeypatch.setattr(RouteCache, "parse", lambda self, block: (parsed.append(block), original(self, block))[1])
    reader = Reader()
    log = reader.read(b"".join([block(number) + b"abc\0" for number in range(500)]))
    assert len(parsed) == 2
    assert [entry[1] for entry in log if entry[0] == "receipt"] == [str(number) for number in range(500)]


def test_what_has_no_form_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    original = RouteCache.parse
    monkeypatch.setattr(RouteCache, "parse", lambda self, block: (parsed.append(block), original(self, block))[1])
    lines = "receipt:{n}\ntransaction:t\ncontent-length:3"
    Reader().read(b"".join([block(number, lines) + b"abc\0" for number in range(100)]))
    assert len(parsed) == 101


def test_the_other_traits_come_with_each_key() -> None:
    lines = "priority:7\nreceipt:{n}\nidempotency-key:k{n}\ncontent-length:3"
    log: Log = Taken().read(b"".join([block(number, lines) + b"abc\0" for number in range(4)]))
    found: list[Any] = [entry[3:] for entry in log if entry[0] == "item"]
    assert found == [(Traits(priority=7), b"k%d" % number) for number in range(4)]


def test_a_key_of_256_bytes_is_taken_and_one_more_refused() -> None:
    reader = Taken()
    for number in range(4):
        reader.read(block(number, f"idempotency-key:{number}{'k' * 255}\ncontent-length:3") + b"abc\0")
    assert [len(entry[4]) for entry in reader.log if entry[0] == "item"] == [256] * 4
    log = reader.read(block(5, "idempotency-key:5" + "k" * 256 + "\ncontent-length:3") + b"abc\0")
    assert log[-1] == ("refuse", ErrorCode.BAD_VALUE)


def _flood(forms: Forms, size: int, count: int = 400) -> None:
    for number in range(count):
        for value in range(3):
            head = block(value, f"x:{number}{'y' * size}\nreceipt:{{n}}\nidempotency-key:{{n}}\ncontent-length:3")
            forms.find(head)


@pytest.mark.parametrize("size", [1, 80, 900])
def test_memory_stays_within_the_bound(size: int) -> None:
    bound = 1 << 17

    def parse(block: bytes) -> Route:
        return parse_send(block, Version.V1_2, Limits(), 1024)

    def make() -> Forms:
        return Forms(bound, 1 << 14, parse, lambda parts: True)

    _flood(make(), size)
    gc.collect()
    tracemalloc.start()
    try:
        forms = make()
        _flood(forms, size)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(forms._young) + len(forms._old) > 8
    assert bound / 4 < held < bound * 1.15


def test_a_flood_does_not_evict_the_form_in_use() -> None:
    cache = RouteCache(Version.V1_2, Limits(), 1024, 1 << 18)
    cache.forms.find(block(0))
    hot = cache.forms.find(block(1))
    assert hot is not None
    for number in range(2000):
        _flood(cache.forms, number % 100, 1)
        if number % 5 == 0:
            found = cache.forms.find(block(number))
            assert found is not None and found[0] is hot[0], number


def test_a_form_too_large_for_the_room_is_served_and_not_kept() -> None:
    cache = RouteCache(Version.V1_2, Limits(), 1024, 2000)
    for number in range(3):
        cache.forms.find(block(number))
    assert not cache.forms._young


def test_after_a_message_that_each_version_reads_differently() -> None:
    short, long = Taken(), the_long_way(Version.V1_2, Limits())
    data = b"".join([block(number) + b"abc\0" for number in range(3)])
    other = b"SEND\ndestination:/queue/a\nx:a\\cb\ncontent-length:3\n\nabc\0"
    for reader in (short, long):
        reader.read(data, other + data)
    assert short.log == long.log
    assert len([entry for entry in short.log if entry[0] == "item"]) == 7


def test_a_line_that_is_too_long_is_refused_in_a_known_form_too() -> None:
    reader = Reader(limits=LIMITS)
    lines = "receipt:{n}\ncontent-length:3"
    reader.read(b"".join([block(number, lines) + b"abc\0" for number in range(3)]))
    log = reader.read(block(0, lines).replace(b"receipt:0", b"receipt:" + b"0" * 393) + b"abc\0")
    assert log[-1] == ("refuse", ErrorCode.HEADER_TOO_LARGE)
