"""What a SEND means, found the short way and the long way; and what the cache of it may cost."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.codec import Limits
from common.errors import ErrorCode, StompError
from common.negotiation import Version
from worker.routes import Route, RouteCache, parse_send

LIMITS = Limits(header_count=6, header_line_bytes=120, body_bytes=999)
MAX_DESTINATION = 30
laws = settings(max_examples=300, deadline=None)

_names = st.sampled_from(
    [
        *("destination", "content-length", "receipt", "transaction", "message-id", "subscription", "ack"),
        *("redelivered", "receipt-id", "content-type", "x", "Destination", "destination ", "", "é", "a\\cb"),
    ]
)
_values = st.sampled_from(
    [
        *(
            "",
            "/topic/a",
            "/topic/b",
            "/topic/*",
            "/queue/a",
            "a b",
            " a",
            "5",
            "05",
            "1000",
            "9" * 19,
            "-1",
            "5 ",
            "x" * 31,
        ),
        *("a:b", "a\\c", "\\n", "\\r", "\\t", "a\rb", "a\r", "é", "\0", "y" * 121),
    ]
)
lines = st.one_of(
    st.builds("{}:{}".format, _names, _values),
    st.builds("{}:{}".format, _names, _values),
    st.just("destination:/topic/a"),
    st.sampled_from(["", "receipt", "ack", "transaction", "destination", "content-length", ":", "x", "x\\cy"]),
)
blocks = st.lists(lines, max_size=8).map(lambda found: "\n".join(["SEND", *found]).encode())


def meaning(route: Route) -> tuple[object, ...]:
    own = (None, None, None) if route.simple else (route.receipt, route.transaction, route.tails)
    return (route.destination, route.length, route.tail, route.simple, *own)


def outcome(parse: object, *arguments: object) -> object:
    try:
        return meaning(parse(*arguments))  # type: ignore[operator]
    except StompError as error:
        return (error.code, error.message, error.detail)


@laws
@given(st.lists(blocks, min_size=1, max_size=4), st.sampled_from(Version))
@example([b"SEND\nreceipt\ndestination:/a:b"], Version.V1_2)
@example([b"SEND\ndestination:/topic/a\ndestination:/queue/a"], Version.V1_2)
@example([b"SEND\ndestination:/topic/a\ndestination:/topic/*"], Version.V1_1)
def test_the_short_way_and_the_long_way_give_the_same_route(found: list[bytes], version: Version) -> None:
    # One cache for all, since lines of an earlier block are known to it.
    cache = RouteCache(version, LIMITS, MAX_DESTINATION, 100_000)
    for block in found:
        long_way = outcome(parse_send, block, version, LIMITS, MAX_DESTINATION)
        for _ in range(3):
            assert outcome(cache.parse, block) == long_way
            assert outcome(cache.find, block + b"\n\n", block) == long_way


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2])
def test_tail_is_the_message_without_what_is_the_brokers_own(version: Version) -> None:
    block = b"SEND\nx:1\nreceipt:r\nack:a\ndestination:/topic/a\nsubscription:s\ncontent-length:3\nmessage-id:m\ny:2"
    route = parse_send(block, version, Limits(), 100)
    assert route.tail == b"\ndestination:/topic/a\nx:1\ncontent-length:3\ny:2\n\n"
    assert (route.destination, route.length, route.receipt, route.transaction) == (b"/topic/a", 3, "r", None)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"SEND", ErrorCode.MISSING_HEADER),
        (b"SEND\ndestination:", ErrorCode.MISSING_HEADER),
        (b"SEND\ndestination:/topic/*", ErrorCode.BAD_DESTINATION),
        (b"SEND\ndestination:" + b"x" * 31, ErrorCode.BAD_DESTINATION),
        (b"SEND\ndestination:a\\nb", ErrorCode.BAD_DESTINATION),
        (b"SEND\ndestination:/queue/", ErrorCode.BAD_DESTINATION),
        (b"SEND\ndestination:/a\ncontent-length:x", ErrorCode.BAD_CONTENT_LENGTH),
        (b"SEND\ndestination:/a\ncontent-length:1000", ErrorCode.BODY_TOO_LARGE),
        (b"SEND\ndestination:/a\n:x", ErrorCode.BAD_HEADER),
        (b"SEND\ndestination:/a" + b"\nx:y" * 6, ErrorCode.TOO_MANY_HEADERS),
        (b"SEND\ndestination:/a\nx:" + b"y" * 119, ErrorCode.HEADER_TOO_LARGE),
    ],
)
def test_faults(block: bytes, code: ErrorCode) -> None:
    for version in Version:
        cache = RouteCache(version, LIMITS, MAX_DESTINATION, 100_000)
        if block == b"SEND\ndestination:a\\nb" and version is Version.V1_0:
            continue
        for _ in range(3):
            with pytest.raises(StompError) as caught:
                cache.find(block + b"\n\n", block)
            assert caught.value.code is code
        assert not cache.young


def _find(cache: RouteCache, block: bytes) -> Route:
    head = block + b"\n\n"
    return cache.young.get(head) or cache.find(head, block)


def test_remembered_when_seen_a_second_time() -> None:
    cache = RouteCache(Version.V1_2, LIMITS, MAX_DESTINATION, 100_000)
    block = b"SEND\ndestination:/topic/a\ncontent-length:1"
    first, second, third = (_find(cache, block) for _ in range(3))
    assert (first.head, second.head) == (None, block + b"\n\n")
    assert third is second


@pytest.mark.parametrize("line", [b"receipt:r", b"transaction:t"])
def test_what_asks_for_an_answer_of_its_own_is_never_remembered(line: bytes) -> None:
    cache = RouteCache(Version.V1_2, LIMITS, MAX_DESTINATION, 100_000)
    for _ in range(5):
        assert _find(cache, b"SEND\ndestination:/topic/a\n" + line).head is None
    assert not cache.young


@pytest.mark.parametrize("seen", [1, 2])
def test_a_flood_does_not_evict_what_is_in_use(seen: int) -> None:
    # Blocks that come once are not let in; blocks that come twice are, and still the one in use stays.
    cache = RouteCache(Version.V1_2, LIMITS, MAX_DESTINATION, 20_000)
    hot = b"SEND\ndestination:/topic/hot\ncontent-length:1"
    _find(cache, hot)
    route = _find(cache, hot)
    for number in range(4000):
        block = b"SEND\ndestination:/topic/a\nid:%d" % number
        for _ in range(seen):
            _find(cache, block)
        if number % 10 == 0:
            assert _find(cache, hot) is route, number


def _fill(cache: RouteCache, kind: str) -> None:
    filler = {"plain": b"y" * 80, "colons": b":" * 80, "carriage returns": b"\\r" * 40}.get(kind, b"")
    for number in range(400):
        if kind == "destinations":
            block = b"SEND\ndestination:/topic/%d.%s\ncontent-length:%d" % (number, b"d" * 900, number)
        else:
            block = b"SEND\ndestination:/topic/a\nid:%d" % number + (b"\nx:" + filler) * 8
        for _ in range(2):
            cache.find(block + b"\n\n", block)


@pytest.mark.parametrize("kind", ["plain", "colons", "carriage returns", "destinations"])
def test_memory_stays_within_the_bound(kind: str) -> None:
    bound = 1 << 18
    cache = RouteCache(Version.V1_2, Limits(), 1024, bound)
    _fill(cache, kind)
    del cache
    gc.collect()
    tracemalloc.start()
    try:
        cache = RouteCache(Version.V1_2, Limits(), 1024, bound)
        _fill(cache, kind)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache.young) + len(cache._old) > 8
    # The door's marks are a constant beside the bound.
    assert held < bound * 1.15 + (1 << 16)


def test_a_block_larger_than_the_room_is_served_and_not_kept() -> None:
    cache = RouteCache(Version.V1_2, LIMITS, MAX_DESTINATION, 200)
    for _ in range(3):
        assert _find(cache, b"SEND\ndestination:/topic/a").destination == b"/topic/a"
    assert not cache.young


def test_a_block_is_not_taken_for_one_whose_own_lines_were_forgotten() -> None:
    """The lines known from before are forgotten when there are too many; what was made of them must not mislead."""
    cache = RouteCache(Version.V1_2, Limits(), 1024, 1 << 20)
    cache.parse(b"SEND\ndestination:/topic/d\ncontent-length:5")
    for number in range(2000):
        cache._lines.clear()
        cache.parse(b"SEND\ndestination:/topic/other%d\ncontent-length:7" % number) if number % 500 == 0 else None
    assert cache.parse(b"SEND\ndestination:/topic/d\nid:123").length == -1
