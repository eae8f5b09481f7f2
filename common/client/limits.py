"""What a client takes from a broker."""

from __future__ import annotations

from common.codec import Limits

__all__ = ["GENEROUS"]

GENEROUS = Limits(
    command_bytes=64, header_count=1024, header_line_bytes=1 << 20, head_bytes=4 << 20, body_bytes=1 << 30
)
"""In bytes and counts. A client trusts its broker further than a broker trusts its clients."""
