"""A durable subscription that another client ends."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS
from tests.protocol.site import send
from tests.protocol.test_durable import durable, end

_NAME = "ended"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("name", [f"{_NAME}-{number}" for number in range(4)])
def test_its_consumer_gets_an_error(connect: Connect, version: str, slot: int, name: str) -> None:
    """Whichever worker has the queue, of the two."""
    wire, other = connect(version, slot=slot), connect()
    durable(wire, name, f"/topic/{name}")
    end(other, name)
    assert b"durable:true" in wire.expect_error("closed-by-operator").body
    wire.expect_closed()
    again = connect(version, slot=slot)
    durable(again, name, f"/topic/{name}")
    send(other, f"/topic/{name}", b"new")
    assert again.read().body == b"new"
    end(again, name)
    again.quiet()


def test_all_who_share_it_but_the_one_that_ends_it(connect: Connect) -> None:
    name = f"{_NAME}-shared"
    first, second = connect(), connect(slot=1)
    for wire in (first, second):
        durable(wire, name, f"/topic/{name}", [("shared", "true")])
    end(first, name)
    second.expect_error("closed-by-operator")
    first.quiet()
