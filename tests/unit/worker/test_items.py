"""Headers read back from a batch, the share of a batch that a selector takes, and when the router asks for either."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import worker.router
from common.acknowledgement import AckMode
from common.codec import Limits, encode
from common.frame import Frame
from common.negotiation import Version
from common.selector import Selector
from tests.unit.worker.test_router import FakeConnection, batch, router
from worker.assembly import Assembly
from worker.connection import Connection
from worker.items import choose, read_headers
from worker.router import Subscription
from worker.routes import parse_send

words = st.text("ab:\\\n\r ä", min_size=1, max_size=4)
values = st.text("ab:\\\n\r ä", max_size=4)
sent = st.tuples(st.lists(st.tuples(words, values), max_size=4), st.sampled_from(["", "body\n\nof:two parts"]))


@given(st.lists(sent, min_size=1, max_size=4), st.booleans())
def test_headers_are_read_as_they_were_meant(messages: list[tuple[list[tuple[str, str]], str]], counted: bool) -> None:
    assembly = Assembly(b"7-")
    expected = []
    for number, (headers, body) in enumerate(messages):
        length = [("content-length", str(len(body)))] if counted else []
        frame = Frame("SEND", [("destination", "/topic/ä:x"), *headers, *length])
        block = encode(frame, Version.V1_2).removesuffix(b"\n\n\0")
        assembly.add(parse_send(block, Version.V1_2, Limits(), 100), body.encode() + b"\0")
        wanted = {"destination": "/topic/ä:x", "message-id": f"7-{number}"}
        for name, value in headers:
            wanted.setdefault(name, value)
        if counted or body:
            wanted["content-length"] = str(len(body))
        expected.append(wanted)
    (only,) = assembly.batches.values()
    assert read_headers(only) == expected


@pytest.mark.parametrize("by_version", [False, True])
def test_a_share_keeps_the_versions_apart(by_version: bool) -> None:
    whole = batch(b"p-", [b"0", b"1", b"2", b"3"], by_version=by_version)
    share = choose(whole, [1, 3])
    assert share.id_prefix == b"p-" and share.items == [whole.items[1], whole.items[3]]
    if whole.by_version is None:
        assert share.by_version is None
    else:
        assert share.by_version is not None and share.by_version[2] is share.items
        for items, all_items in zip(share.by_version, whole.by_version, strict=True):
            assert items == [all_items[1], all_items[3]]


def selecting(connection: FakeConnection, id: str, text: str | None, mode: AckMode = AckMode.AUTO) -> Subscription:
    selector = None if text is None else Selector.parse(text)
    return Subscription(cast(Connection, connection), b"/topic/t", id, 7, mode, connection.version, selector)


@pytest.mark.parametrize("version", Version)
def test_each_version_gets_its_own_form_of_what_matches(version: Version) -> None:
    routes, _ = router()
    connection = FakeConnection(version)
    routes.subscribe(b"/topic/a", selecting(connection, "0", "message-id LIKE '%1' AND v = 2"))
    routes.deliver(b"/topic/a", batch(b"p-", [b"0", b"1"], by_version=True))
    (frame,) = connection.take()
    assert (frame.body, frame.get("v")) == (b"1", str(int(version)))
    assert routes.delivered == 1


def test_headers_are_read_once_and_only_for_those_who_select(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(worker.router, "read_headers", lambda each: reads.append(each) or read_headers(each))
    routes, _ = router()
    connection = FakeConnection(Version.V1_2)
    routes.subscribe(b"/topic/a", selecting(connection, "0", None))
    routes.deliver(b"/topic/a", batch(b"p-", [b"x"]))
    assert not reads
    made = [selecting(connection, str(number), "v = 9", mode) for number, mode in enumerate(AckMode, 1)]
    for name, each in zip([b"/topic/a", b"/topic/*", b"/topic/a"], made, strict=True):
        routes.subscribe(name, each)
    routes.deliver(b"/topic/b", batch(b"q-", [b"x"]))
    routes.deliver(b"/other", batch(b"r-", [b"x"]))
    assert len(reads) == 1
    routes.deliver(b"/topic/a", batch(b"s-", [b"x"]))
    assert len(reads) == 2 and len(connection.take()) == 6
    for each in made:
        routes.unsubscribe(each)
    routes.deliver(b"/topic/a", batch(b"t-", [b"x"]))
    assert len(reads) == 2


def test_siblings_are_asked_until_the_last_selector_is_gone() -> None:
    routes, backplane = router()
    connection = FakeConnection(Version.V1_2)
    made = [selecting(connection, str(number), text) for number, text in enumerate([None, "v = 1", "v = 1", "v = 2"])]
    for each in made:
        routes.subscribe(b"/topic/a", each)
    assert made[1].entry is made[2].entry is not made[3].entry
    for each in made:
        assert backplane.wanted["exact", b"/topic/a"] > 0
        routes.unsubscribe(each)
    assert backplane.wanted["exact", b"/topic/a"] == 0 and not routes._entries
