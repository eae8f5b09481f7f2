"""Transactions of one connection: their bounds, exact; what COMMIT is handed and what ABORT undoes."""

from __future__ import annotations

from typing import Any

import pytest

from common.acknowledgement import AckMode, Unacknowledged
from common.codec import Limits
from common.errors import ErrorCode, StompError
from common.negotiation import Version
from worker.routes import Route, parse_send
from worker.transactions import Transactions


def route(name: str = "t", destination: str = "/topic/a") -> Route:
    block = f"SEND\ndestination:{destination}\ntransaction:{name}".encode()
    return parse_send(block, Version.V1_2, Limits(), 1024)


def code(call: Any, *arguments: object) -> ErrorCode | None:
    try:
        call(*arguments)
    except StompError as error:
        assert error.message and error.detail
        return error.code
    return None


class FakeSubscription:
    def __init__(self, pending: Unacknowledged) -> None:
        self.unacknowledged = pending


def subscription(mode: AckMode, *ids: bytes) -> Any:
    pending = Unacknowledged(mode)
    for each in ids:
        pending.add(each)
    return FakeSubscription(pending)


def test_begin_twice() -> None:
    open_ones = Transactions(2, 10, 1000)
    open_ones.begin("t")
    assert code(open_ones.begin, "t") is ErrorCode.DUPLICATE_TRANSACTION
    open_ones.end("t")
    assert code(open_ones.begin, "t") is None


def test_number_of_open_ones_is_exact() -> None:
    open_ones = Transactions(2, 10, 1000)
    open_ones.begin("1")
    assert code(open_ones.begin, "2") is None
    assert code(open_ones.begin, "3") is ErrorCode.TOO_MANY_TRANSACTIONS
    open_ones.end("1")
    assert code(open_ones.begin, "3") is None


def test_unknown() -> None:
    open_ones = Transactions(2, 10, 1000)
    open_ones.begin("t")
    open_ones.end("t")
    for name in ("t", "T", "", "x" * 5000):
        assert code(open_ones.end, name) is ErrorCode.UNKNOWN_TRANSACTION
        assert code(open_ones.require, name) is ErrorCode.UNKNOWN_TRANSACTION
        assert code(open_ones.add_send, route(name), b"\0") is ErrorCode.UNKNOWN_TRANSACTION
        assert code(open_ones.add_settlement, name, subscription(AckMode.CLIENT), []) is ErrorCode.UNKNOWN_TRANSACTION


def test_sends_in_order_and_apart_from_other_transactions() -> None:
    open_ones = Transactions(2, 10, 1000)
    open_ones.begin("t")
    open_ones.begin("u")
    sent = [(route("t", f"/topic/{number % 2}"), b"%d\0" % number) for number in range(4)]
    for each in sent:
        open_ones.add_send(*each)
    open_ones.add_send(route("u"), b"other\0")
    assert open_ones.end("t").sends == sent
    assert len(open_ones.end("u").sends) == 1


def test_number_of_frames_is_exact_and_counts_both_kinds() -> None:
    open_ones = Transactions(1, 3, 10_000)
    open_ones.begin("t")
    acknowledged = subscription(AckMode.CLIENT, b"1", b"2")
    open_ones.add_send(route(), b"\0")
    open_ones.add_settlement("t", acknowledged, acknowledged.unacknowledged.settle(b"1"))
    assert code(open_ones.add_send, route(), b"\0") is None
    assert code(open_ones.add_send, route(), b"\0") is ErrorCode.TRANSACTION_TOO_LARGE
    settled = acknowledged.unacknowledged.settle(b"2")
    assert code(open_ones.add_settlement, "t", acknowledged, settled) is ErrorCode.TRANSACTION_TOO_LARGE
    assert len(open_ones.end("t").sends) == 2


@pytest.mark.parametrize("excess", [0, 1])
def test_bytes_are_exact(excess: int) -> None:
    one = route()
    open_ones = Transactions(1, 100, 2 * (len(one.tail) + 50) - excess)
    open_ones.begin("t")
    open_ones.add_send(one, b"x" * 49 + b"\0")
    fault = code(open_ones.add_send, one, b"x" * 49 + b"\0")
    assert fault is (ErrorCode.TRANSACTION_TOO_LARGE if excess else None)


@pytest.mark.parametrize("mode", [AckMode.CLIENT, AckMode.CLIENT_INDIVIDUAL])
def test_restore_undoes_every_settlement(mode: AckMode) -> None:
    ids = [b"%d" % number for number in range(6)]
    one, other = subscription(mode, *ids), subscription(mode, *ids)
    open_ones = Transactions(1, 100, 10_000)
    open_ones.begin("t")
    for each, message_id in [(one, b"1"), (other, b"5"), (one, b"3")]:
        open_ones.add_settlement("t", each, each.unacknowledged.settle(message_id))
    other.unacknowledged = None
    open_ones.end("t").restore()
    assert all(each in one.unacknowledged for each in ids)
    settled = [each for _, each in one.unacknowledged.settle(b"2")]
    assert settled == ([b"0", b"1", b"2"] if mode is AckMode.CLIENT else [b"2"])
