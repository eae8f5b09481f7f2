"""New settings for a running worker: what was copied from the old ones, or remembered by them, follows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.acknowledgement import AckMode
from common.codec import Limits
from common.errors import ErrorCode, StompError
from common.negotiation import Version
from tests.unit.worker.reading import Reader
from tests.unit.worker.test_router import FakeConnection, batch, router, subscription
from tests.unit.worker.test_transactions import code, route
from worker.outbox import NEVER, Outbox
from worker.transactions import Transactions

LINE = b"SEND\ndestination:/topic/abcdefgh.abcdefgh\nx:" + b"y" * 80 + b"\ncontent-length:5\n\nhello\0"
WIDE = Limits()


def refusals(reader: Reader) -> list[Any]:
    return [entry[1] for entry in reader.log if entry[0] == "refuse"]


def warm(*, cache_bytes: int = 1 << 20) -> Reader:
    """A reader that knows the header block of `LINE` and has just read it once more."""
    reader = Reader(cache_bytes=cache_bytes)
    for _ in range(4):
        reader.read(LINE, LINE)
    assert not refusals(reader)
    return reader


@pytest.mark.parametrize(
    ("limits", "destination_bytes", "error"),
    [
        (Limits(body_bytes=4), 1024, ErrorCode.BODY_TOO_LARGE),
        (Limits(head_bytes=100), 1024, ErrorCode.HEADER_TOO_LARGE),
        (Limits(header_line_bytes=64), 1024, ErrorCode.HEADER_TOO_LARGE),
        (Limits(header_count=2), 1024, ErrorCode.TOO_MANY_HEADERS),
        (WIDE, 20, ErrorCode.BAD_DESTINATION),
    ],
)
def test_a_remembered_header_block_is_held_to_the_new_limits(
    limits: Limits, destination_bytes: int, error: ErrorCode
) -> None:
    reader = warm()
    reader.ingest.configure(limits, limits, destination_bytes, 1 << 20)
    reader.read(LINE)
    assert refusals(reader) == [error]


def test_a_frame_that_is_half_there_is_held_to_the_new_limits() -> None:
    reader = warm()
    reader.read(LINE[:-3])
    reader.ingest.configure(Limits(body_bytes=4), WIDE, 1024, 1 << 20)
    reader.read(LINE[-3:])
    assert refusals(reader) == [ErrorCode.BODY_TOO_LARGE]


def test_higher_limits_let_through_what_was_refused_before() -> None:
    reader = Reader(limits=Limits(body_bytes=4))
    reader.ingest.configure(WIDE, WIDE, 1024, 1 << 20)
    assert [entry[2].body for entry in reader.read(LINE)] == [b"hello"]


def test_limits_before_login_change_as_well() -> None:
    reader = Reader(None)
    reader.ingest.configure(WIDE, Limits(head_bytes=64), 1024, 1 << 20)
    reader.read(b"CONNECT\naccept-version:1.2\nhost:" + b"x" * 64 + b"\n\n\0")
    assert refusals(reader) == [ErrorCode.HEADER_TOO_LARGE]


def test_what_is_remembered_stays_where_nothing_about_it_changed() -> None:
    reader = warm()
    before = reader.ingest._caches
    reader.ingest.configure(Limits(), Limits(head_bytes=64), 1024, 1 << 20)
    assert reader.ingest._caches is before
    reader.ingest.configure(Limits(), Limits(), 1024, 1 << 21)
    assert reader.ingest._caches is not before


def test_a_policy_changes_for_a_destination_that_is_in_use() -> None:
    routes, _ = router(policies=((b"/topic/a", "drop"),))
    offered: list[str] = []
    connection = FakeConnection(Version.V1_2)
    connection.outbox = SimpleNamespace(offer=lambda *arguments: offered.append(arguments[-1]))  # type: ignore[assignment]
    routes.subscribe(b"/topic/a", subscription(connection, "0"))
    for policies in ((), ((b"/topic/>", "disconnect"), (b"/topic/a", "drop")), ((b"/topic/a", "drop"),)):
        routes.deliver(b"/topic/a", batch(b"p-", [b"1"]))
        routes.configure(policies, 100)
    routes.deliver(b"/topic/a", batch(b"p-", [b"1"]))
    assert offered == ["drop", "block", "disconnect", "drop"]


def test_a_lower_limit_of_unacknowledged_counts_from_the_next_message() -> None:
    routes, _ = router(max_unacknowledged=3)
    connection = FakeConnection(Version.V1_2)
    made = subscription(connection, "0", AckMode.CLIENT)
    routes.subscribe(b"/topic/a", made)
    routes.deliver(b"/topic/a", batch(b"p-", [b"1"]))
    routes.configure((), 1)
    assert not connection.over
    routes.deliver(b"/topic/a", batch(b"q-", [b"2"]))
    assert connection.over == [made]


def test_open_transactions_go_on_under_the_new_limits() -> None:
    open_ones = Transactions(2, 2, 1000)
    open_ones.begin("t")
    open_ones.add_send(route(), b"\0")
    open_ones.limit(1, 1, 1000)
    assert code(open_ones.begin, "u") is ErrorCode.TOO_MANY_TRANSACTIONS
    assert code(open_ones.add_send, route(), b"\0") is ErrorCode.TRANSACTION_TOO_LARGE
    assert len(open_ones.end("t").sends) == 1


class Stuck:
    """A connection whose transport takes nothing, its core, and the deadlines of that."""

    def __init__(self) -> None:
        self.core = self.deadlines = self
        self.settings = SimpleNamespace(outbox_high=10, outbox_low=5, outbox_max=1000, block_timeout=10.0)
        self.number = 1
        self.closing = False
        self.blocked: set[bytes] = set()

    def now(self) -> float:
        return 100.0

    def wake_at(self, connection: Stuck, when: float) -> None:
        assert when == 110.0

    def block(self, destination: bytes, connection: Stuck, waiting: int) -> None:
        self.blocked.add(destination)

    def unblock(self, destination: bytes, connection: Stuck) -> None:
        self.blocked.remove(destination)


def test_publishers_go_on_when_their_destination_blocks_no_more() -> None:
    stuck = Stuck()
    outbox = Outbox(cast(Any, stuck))
    for destination in (b"/a", b"/b"):
        outbox.offer(b"x" * 20, destination, 1, "block")
        outbox.offer(b"x" * 20, destination, 1, "block")
    outbox.push(b"x" * 20)
    own = b"\x001"
    assert stuck.blocked == {b"/a", b"/b", own}
    outbox.apply_policies({b"/a": "drop", b"/b": "block", own: "drop"}.__getitem__)
    assert stuck.blocked == {b"/b", own} and outbox.deadline == 110.0
    outbox.apply_policies({b"/b": "disconnect", own: "drop"}.__getitem__)
    assert stuck.blocked == {own} and outbox.deadline == 110.0


def test_a_subscriber_that_holds_up_nobody_has_no_deadline() -> None:
    stuck = Stuck()
    outbox = Outbox(cast(Any, stuck))
    for _ in range(2):
        outbox.offer(b"x" * 20, b"/a", 1, "block")
    outbox.apply_policies(lambda _: "drop")
    assert not stuck.blocked and outbox.deadline == NEVER


def test_errors_name_the_limit_that_counts() -> None:
    open_ones = Transactions(5, 5, 1000)
    open_ones.limit(0, 5, 1000)
    with pytest.raises(StompError) as caught:
        open_ones.begin("t")
    assert "0 are open on this connection" in caught.value.detail
