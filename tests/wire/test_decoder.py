"""The wire corpus through the codec's own decoder: whole, byte by byte, and cut in two anywhere."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from common.decoder import Decoder
from common.errors import StompError
from common.negotiation import Version
from tests.harness.corpus import Case, invalid_cases, valid_cases
from tests.harness.wire import VERSIONS, Frame

VALID = pytest.mark.parametrize("case", [case for case in valid_cases() if case.decoder], ids=lambda case: case.name)
INVALID = pytest.mark.parametrize(
    "case", [case for case in invalid_cases() if case.decoder], ids=lambda case: case.name
)


def decode(case: Case, pieces: Iterable[bytes]) -> tuple[list[Frame], str | None]:
    """The frames that come out and the code of the error that ends them."""
    decoder = Decoder(Version(VERSIONS.index(case.version)))
    frames: list[Frame] = []
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                # A body where none may be is dropped where it is not refused; when, is the parser's business.
                body = bytes(frame.body) if frame.command == "SEND" else b""
                frames.append(Frame(frame.command, tuple(frame.headers), body))
    except StompError as error:
        return frames, error.code.value
    return frames, None


def expected(case: Case) -> tuple[list[Frame], str | None]:
    frames = [Frame(f.command, f.headers, f.body if f.command == "SEND" else b"") for f in case.frames]
    return frames, case.error


@VALID
def test_valid_whole(case: Case) -> None:
    assert decode(case, [case.wire]) == expected(case)


@VALID
def test_valid_byte_by_byte(case: Case) -> None:
    assert decode(case, (bytes([byte]) for byte in case.wire)) == expected(case)


@VALID
def test_valid_cut_in_two(case: Case) -> None:
    for cut in range(1, len(case.wire)):
        assert decode(case, [case.wire[:cut], case.wire[cut:]]) == expected(case), cut


@INVALID
def test_invalid_whole(case: Case) -> None:
    assert decode(case, [case.wire]) == expected(case)


@INVALID
def test_invalid_byte_by_byte(case: Case) -> None:
    assert decode(case, (bytes([byte]) for byte in case.wire)) == expected(case)


@INVALID
def test_invalid_cut_in_two(case: Case) -> None:
    for cut in range(1, len(case.wire)):
        assert decode(case, [case.wire[:cut], case.wire[cut:]]) == expected(case), cut
