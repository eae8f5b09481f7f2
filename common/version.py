"""The version of the distribution, also when it runs from a checkout that was never installed."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
