"""Names and addresses of temporary destinations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.destination import check_destination
from common.errors import ErrorCode, StompError
from common.temporary import TEMPORARY, full_address, is_short, session_of, slot_of

SESSION = "12-0ae4fcc5.1f-d9"
NAMES = st.text(st.characters(exclude_characters="/*#>\n\r\0.", codec="utf-8"), min_size=1, max_size=20)


@given(NAMES, st.sampled_from(TEMPORARY))
def test_an_address_is_the_session_and_the_name(name: str, kind: bytes) -> None:
    short = kind + name.encode()
    address = full_address(short, SESSION)
    assert address == b"%b%b/%b" % (kind, SESSION.encode(), name.encode())
    assert full_address(address, "3-0ae4fcc5.1-1") == address
    assert (is_short(short), is_short(address)) == (True, False)
    assert (session_of(short), session_of(address)) == (None, SESSION)
    assert (slot_of(short), slot_of(address)) == (None, 12)
    for each in (short, address):
        check_destination(each, 1000, pattern_allowed=False)


@given(st.binary(max_size=40))
def test_anything_is_a_name_an_address_or_neither(tail: bytes) -> None:
    for kind in TEMPORARY:
        destination = kind + tail
        address = full_address(destination, SESSION)
        assert is_short(destination) == (b"/" not in tail and tail != b"")
        assert (address != destination) == is_short(destination)
        if is_short(destination):
            assert session_of(address) == SESSION


@pytest.mark.parametrize("destination", [b"/queue/a", b"/temp-queues/a", b"/temp-queue", b"", b"x/temp-queue/a"])
def test_what_is_not_temporary(destination: bytes) -> None:
    assert not is_short(destination)
    assert full_address(destination, SESSION) == destination
    assert session_of(destination) is None and slot_of(destination) is None


@pytest.mark.parametrize("kind", TEMPORARY)
@pytest.mark.parametrize("pattern_allowed", [False, True])
@pytest.mark.parametrize(
    "name",
    [b"", b"/", b"a/", b"/a", b"a/b", b"*", b"a.#", b">", b"x-0.1-1/a", b"1-0.1-1/", b"1-0.1-1/a/b", b"1-0.1-1/a.*"],
)
def test_names_that_are_refused(kind: bytes, name: bytes, pattern_allowed: bool) -> None:
    with pytest.raises(StompError) as caught:
        check_destination(kind + name, 1000, pattern_allowed=pattern_allowed)
    assert caught.value.code is ErrorCode.BAD_DESTINATION
