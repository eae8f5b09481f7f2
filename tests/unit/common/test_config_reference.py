"""The committed reference is the one the schema has now, and complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import render_reference
from common.config.keys import KEYS, SECTIONS

COMMITTED = Path(__file__).parents[3] / "ops" / "configuration.md"


def test_the_committed_reference_is_current() -> None:
    assert COMMITTED.read_text("utf-8") == render_reference(), (
        "run: python -m broker config-reference > ops/configuration.md"
    )


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
def test_every_key_is_documented(key: object) -> None:
    entry = render_reference().split(f"### `{key.name}`\n")[1].split("\n#")[0]  # type: ignore[attr-defined]
    for part in ("- Type: ", "- Default: ", "- Allowed: ", f"`{key.variable}`"):  # type: ignore[attr-defined]
        assert part in entry


def test_every_table_is_documented() -> None:
    for section in SECTIONS.values():
        header = f"[[{section.name}]]" if section.many else f"[{section.name}]"
        assert f"## `{header}`\n" in render_reference()
