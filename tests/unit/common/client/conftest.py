"""The certificate and the loops that the tests of streams share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.common.client.farends import LOOPS, Tls, make_tls


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """The name of each event loop in turn."""
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where sockets are made; short enough for the name of one."""
    return tmp_path
