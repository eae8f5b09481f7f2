"""Which worker owns a queue: rendezvous hashing of its name over the slots.

Where messages lie on disk follows from it, so the hash is part of the format of the data directory.
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["owner_of"]


def owner_of(queue: bytes, slots: int) -> int:
    """The slot of the worker that owns `queue` among `slots` workers; another count moves as few queues as can be."""
    return max(range(slots), key=lambda slot: blake2b(queue, digest_size=8, salt=slot.to_bytes(8, "big")).digest())
