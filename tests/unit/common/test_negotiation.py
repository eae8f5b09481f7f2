"""The tables of the specification: versions (section Protocol Negotiation) and beats (section Heart-beating)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ErrorCode, StompError
from common.negotiation import SUPPORTED, HeartBeat, Version, agree_heart_beat, negotiate, parse_heart_beat

laws = settings(max_examples=200, deadline=None)


@pytest.mark.parametrize(
    ("accepted", "version"),
    [
        (None, "1.0"),
        ("1.0", "1.0"),
        ("1.1", "1.1"),
        ("1.2", "1.2"),
        ("1.0,1.1,1.2", "1.2"),
        ("1.2,1.1,1.0", "1.2"),
        ("1.0,2.0", "1.0"),
        (" 1.1 , 1.0", "1.1"),
        ("1.0,,1.1,", "1.1"),
    ],
)
def test_highest_common_version(accepted: str | None, version: str) -> None:
    assert negotiate(accepted).label == version


@pytest.mark.parametrize("accepted", ["", "2.0", "1", "1.3,0.9", "1.1.1", "1,1", "1.1;1.2", "v1.2", "1．2"])
def test_no_common_version_names_those_there_are(accepted: str) -> None:
    with pytest.raises(StompError) as caught:
        negotiate(accepted)
    assert caught.value.code is ErrorCode.UNSUPPORTED_VERSION
    assert caught.value.headers == (("version", "1.0,1.1,1.2"),)


@laws
@given(st.lists(st.sampled_from([*SUPPORTED, "0.9", "2.0", "", "x"]), max_size=5))
def test_order_of_the_offer_does_not_count(offered: list[str]) -> None:
    known = [version for version in offered if version in SUPPORTED]
    if known:
        assert negotiate(",".join(offered)).label == max(known)
    else:
        with pytest.raises(StompError):
            negotiate(",".join(offered))


def test_versions_index_tables() -> None:
    assert [int(version) for version in Version] == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "beats"),
    [(None, (0, 0)), ("0,0", (0, 0)), ("1,2", (1, 2)), (" 10 , 020 ", (10, 20)), ("9" * 60 + ",0", (10**60 - 1, 0))],
)
def test_heart_beat_header(value: str | None, beats: tuple[int, int]) -> None:
    assert parse_heart_beat(value) == beats


@pytest.mark.parametrize(
    "value", ["", ",", "1", "1,", ",1", "-1,0", "0,-1", "1.5,0", "a,b", "1,2,3", "1_0,0", "١,0", "²,0", "9" * 70 + ",0"]
)
def test_malformed_heart_beat_header(value: str) -> None:
    with pytest.raises(StompError) as caught:
        parse_heart_beat(value)
    assert caught.value.code is ErrorCode.BAD_VALUE


@laws
@given(st.text(st.sampled_from("0123456789, -+_.e٣\n\0"), max_size=80))
def test_any_heart_beat_header_is_read_or_refused(value: str) -> None:
    try:
        cx, cy = parse_heart_beat(value)
    except StompError as error:
        assert error.code is ErrorCode.BAD_VALUE
    else:
        assert cx >= 0 and cy >= 0


@pytest.mark.parametrize(
    ("client", "server", "agreed"),
    [
        ((0, 0), (500, 10000), (0, 0)),
        ((1000, 0), (500, 10000), (0, 10000)),
        ((20000, 0), (500, 10000), (0, 20000)),
        ((0, 100), (500, 10000), (500, 0)),
        ((0, 900), (500, 10000), (900, 0)),
        ((100, 100), (0, 0), (0, 0)),
        ((100, 200), (300, 0), (300, 0)),
        ((100, 200), (0, 300), (0, 300)),
    ],
)
def test_agreement(client: tuple[int, int], server: tuple[int, int], agreed: tuple[int, int]) -> None:
    assert agree_heart_beat(client, server) == HeartBeat(to_client=agreed[0], from_client=agreed[1])


@laws
@given(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * 2)
def test_both_sides_come_to_the_same_agreement(client: tuple[int, int], server: tuple[int, int]) -> None:
    here, there = agree_heart_beat(client, server), agree_heart_beat(server, client)
    assert here == (there.from_client, there.to_client)
