"""The client's exceptions: what they carry, and that they can be copied between processes."""

from __future__ import annotations

import pickle

import pytest

from common.client.address import Address
from common.client.errors import (
    AddressError,
    BrokerError,
    ClientError,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    ProtocolFault,
)
from common.frame import Frame

ERROR = Frame("ERROR", [("message", "queue full"), ("error-code", "queue-full")], "no room for é\n".encode())
ATTEMPTS = [(Address("tcp", "h", 1), ConnectionLost("refused by h:1")), (Address("tcp", "i", 2), ConnectionLost("no"))]


def test_a_broker_error_shows_its_frame() -> None:
    error = BrokerError(ERROR)
    assert (error.frame, error.code, error.message) == (ERROR, "queue-full", "queue full")
    assert error.detail == "no room for é"
    assert str(error) == "queue full: no room for é"


def test_a_broker_error_makes_do_with_a_bare_frame() -> None:
    error = BrokerError(Frame("ERROR", [], b"\xff"))
    assert error.code is None
    assert str(error) == "the broker sent an ERROR without a message: \ufffd"


def test_a_failed_connect_tells_every_attempt() -> None:
    error = ConnectFailed(ATTEMPTS)
    assert error.attempts == ATTEMPTS
    assert str(error) == "could not connect: refused by h:1; no"
    assert str(ConnectFailed([])) == "could not connect: there was no address to try"


@pytest.mark.parametrize(
    "error",
    [
        AddressError("x"),
        BrokerError(ERROR),
        ConnectFailed(ATTEMPTS),
        ConnectionClosed("a"),
        ConnectionLost("b"),
        ProtocolFault("c"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: ClientError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert isinstance(copy, ClientError)
