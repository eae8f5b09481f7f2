"""How the idempotency keys of a unit lie in the database: as one row.

Lines: the destination, the message-ids, the keys as 1.2 writes them; none of these has an LF.
"""

from __future__ import annotations

from worker.store.interface import PutKeys

__all__ = ["pack", "unpack"]


def pack(keys: PutKeys) -> bytes:
    """What stands in `seen.run`."""
    return b"\n".join([keys.destination.encode(), *keys.message_ids, *keys.keys])


def unpack(run: bytes, at: int) -> PutKeys:
    """The reverse of `pack`, with `seen.at`."""
    destination, *lines = run.split(b"\n")
    count = len(lines) // 2
    return PutKeys(destination.decode(), lines[count:], lines[:count], at)
