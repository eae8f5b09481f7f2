"""Acknowledging against a model: nothing settled twice, nothing forgotten, everything undone by an ABORT."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.acknowledgement import AckMode, Settled, Unacknowledged
from common.errors import ErrorCode, StompError


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        (None, AckMode.AUTO),
        ("auto", AckMode.AUTO),
        ("client", AckMode.CLIENT),
        ("client-individual", AckMode.CLIENT_INDIVIDUAL),
    ],
)
def test_modes(value: str | None, mode: AckMode) -> None:
    assert AckMode.parse(value) is mode


@pytest.mark.parametrize("value", ["", "AUTO", "Client", "individual", "client ", "x" * 1000])
def test_unknown_mode(value: str) -> None:
    with pytest.raises(StompError) as caught:
        AckMode.parse(value)
    assert caught.value.code is ErrorCode.BAD_VALUE
    assert len(caught.value.detail) < 300


def _delivered(mode: AckMode, *ids: bytes) -> Unacknowledged:
    unacknowledged = Unacknowledged(mode)
    for message_id in ids:
        unacknowledged.add(message_id)
    return unacknowledged


def test_client_settles_all_before() -> None:
    pending = _delivered(AckMode.CLIENT, b"1", b"2", b"3")
    assert [each for _, each in pending.settle(b"2")] == [b"1", b"2"]
    assert b"3" in pending and b"2" not in pending and len(pending) == 1


def test_client_individual_settles_one() -> None:
    pending = _delivered(AckMode.CLIENT_INDIVIDUAL, b"1", b"2", b"3")
    assert [each for _, each in pending.settle(b"2")] == [b"2"]
    assert pending.settle(b"2") == []
    assert len(pending) == 2


def test_two_transactions_aborted_in_either_order() -> None:
    for first_aborted in (0, 1):
        pending = _delivered(AckMode.CLIENT, b"1", b"2", b"3", b"4", b"5")
        settled = [pending.settle(b"2"), pending.settle(b"4")]
        pending.restore(settled[first_aborted])
        pending.restore(settled[1 - first_aborted])
        assert [each for _, each in pending.settle(b"3")] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("mode", [AckMode.CLIENT, AckMode.CLIENT_INDIVIDUAL])
def test_one_by_one_costs_the_same_for_each(mode: AckMode) -> None:
    ids = [b"0-abc.1-%x-0" % number for number in range(65536)]
    pending = _delivered(mode, *ids)
    start = time.process_time()
    for message_id in ids:
        assert len(pending.settle(message_id)) == 1
    # A tenth of a second; walking over what is gone already takes seven.
    assert time.process_time() - start < 2


class Acknowledging(RuleBasedStateMachine):
    """The model is a list of what was delivered, each with where it is: pending, in a transaction, or settled."""

    def __init__(self) -> None:
        super().__init__()
        self.delivered: list[bytes] = []
        self.where: dict[bytes, str] = {}
        self.transactions: dict[str, list[Settled]] = {}

    @initialize(mode=st.sampled_from([AckMode.CLIENT, AckMode.CLIENT_INDIVIDUAL]))
    def subscribe(self, mode: AckMode) -> None:
        self.mode = mode
        self.unacknowledged = Unacknowledged(mode)

    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(count):
            message_id = b"m-%d" % len(self.delivered)
            self.unacknowledged.add(message_id)
            self.delivered.append(message_id)
            self.where[message_id] = "pending"

    def _settle(self, choice: int, to: str) -> Settled:
        message_id = self.delivered[choice % len(self.delivered)]
        expected: list[bytes] = []
        if self.where[message_id] == "pending":
            before = self.delivered[: self.delivered.index(message_id)] if self.mode is AckMode.CLIENT else []
            expected = [each for each in [*before, message_id] if self.where[each] == "pending"]
        settled = self.unacknowledged.settle(message_id)
        assert [each for _, each in settled] == expected
        self.where.update(dict.fromkeys(expected, to))
        return settled

    @precondition(lambda self: self.delivered)
    @rule(choice=st.integers(0, 1000))
    def acknowledge(self, choice: int) -> None:
        self._settle(choice, "settled")

    @precondition(lambda self: self.delivered)
    @rule(choice=st.integers(0, 1000), name=st.sampled_from(["t1", "t2", "t3"]))
    def acknowledge_in_transaction(self, choice: int, name: str) -> None:
        self.transactions.setdefault(name, []).append(self._settle(choice, name))

    @precondition(lambda self: self.transactions)
    @rule(choice=st.integers(0, 2), commit=st.booleans())
    def end(self, choice: int, commit: bool) -> None:
        name = sorted(self.transactions)[choice % len(self.transactions)]
        settlements = self.transactions.pop(name)
        if not commit:
            for settled in settlements:
                self.unacknowledged.restore(settled)
        for message_id, place in self.where.items():
            if place == name:
                self.where[message_id] = "settled" if commit else "pending"

    @rule()
    def unknown(self) -> None:
        assert self.unacknowledged.settle(b"never delivered") == []

    @invariant()
    def holds_what_is_pending(self) -> None:
        pending = {each for each, place in self.where.items() if place == "pending"}
        assert {each for each in self.delivered if each in self.unacknowledged} == pending
        assert len(self.unacknowledged) == len(pending)


TestAcknowledging = Acknowledging.TestCase
TestAcknowledging.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
