"""The version is the same wherever it is written."""

from __future__ import annotations

import tomllib
from pathlib import Path

from common.release import VERSION


def test_the_version_is_that_of_the_distribution() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    assert tomllib.loads(pyproject.read_text("utf-8"))["project"]["version"] == VERSION
