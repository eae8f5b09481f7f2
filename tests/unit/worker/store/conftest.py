"""Fixtures of the tests of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.store.harness import IMPLEMENTATIONS, Opened, SqliteOpened


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> type[Opened]:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
def opened(implementation: type[Opened], tmp_path: Path) -> Any:
    """Opens a store of the implementation under test, in the test's own directory."""
    return lambda **options: implementation(tmp_path, **options)


@pytest.fixture
def sqlite(tmp_path: Path) -> Any:
    return lambda **options: SqliteOpened(tmp_path, **options)
