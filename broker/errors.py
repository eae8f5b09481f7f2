"""What keeps the front from starting."""

from __future__ import annotations

__all__ = ["CannotStartError"]


class CannotStartError(Exception):
    """The machine refused something the broker needs; the text is one clear line that says what to mend."""
