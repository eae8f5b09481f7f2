"""The wire corpus through the port of a running broker, whole and in small pieces: its own reader of frames."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.conftest import Connect
from tests.harness.corpus import Case, invalid_cases, valid_cases
from tests.harness.wire import Frame, Wire

VALID = pytest.mark.parametrize("case", valid_cases(), ids=lambda case: case.name)
INVALID = pytest.mark.parametrize("case", invalid_cases(), ids=lambda case: case.name)
SLOWLY = pytest.mark.parametrize("slowly", [False, True], ids=["whole", "byte-by-byte"])

Essence = tuple[list[tuple[str, str]], bytes]

NOT_PART_OF_THE_MESSAGE = frozenset(
    {"destination", "content-length", "receipt", "transaction", "subscription", "message-id", "ack"}
)


def essence(frame: Frame) -> Essence:
    """What a SEND and its MESSAGE have in common."""
    own = [header for header in frame.headers if header[0] not in NOT_PART_OF_THE_MESSAGE]
    return own, frame.body


def feed(connect: Connect, case: Case, slowly: bool) -> Wire:
    """A session that listens to all of the corpus's destinations and has been sent the case's bytes."""
    wire = connect(case.version)
    wire.subscribe("/topic/wire.>", id="wire-corpus")
    if slowly:
        wire.send_slowly(case.wire)
    else:
        wire.send(case.wire)
    return wire


def by_destination(frames: Iterable[Frame]) -> dict[str, list[Essence]]:
    """Between destinations there is no order."""
    found: dict[str, list[Essence]] = {}
    for frame in frames:
        found.setdefault(frame["destination"], []).append(essence(frame))
    return found


def sent(case: Case) -> dict[str, list[Essence]]:
    return by_destination(frame for frame in case.frames if frame.command == "SEND")


@VALID
@SLOWLY
def test_valid(connect: Connect, case: Case, slowly: bool) -> None:
    wire = feed(connect, case, slowly)
    wire.frame("DISCONNECT", [("receipt", "end")])
    frames = wire.read_rest()
    assert "ERROR" not in [frame.command for frame in frames]
    assert by_destination(frame for frame in frames if frame.command == "MESSAGE") == sent(case)
    if case.frames[-1:] != (Frame("DISCONNECT"),):
        assert frames[-1] == Frame("RECEIPT", (("receipt-id", "end"),))


@INVALID
@SLOWLY
def test_invalid(connect: Connect, case: Case, slowly: bool) -> None:
    wire = feed(connect, case, slowly)
    *frames, error = wire.read_rest()
    assert error.command == "ERROR" and error["error-code"] == case.error
    assert by_destination(frames) == sent(case)
