"""What siblings say to each other: topics and msgpack payloads. No sockets here, and no knowledge of who
listens.

A message is one part: a topic that ends with its only NUL, then one msgpack array whose elements were
collected for that topic. ZeroMQ filters by prefix, so the NUL makes a subscription exact and its absence
makes it a prefix one.

    t<destination> NUL                      batches: [id_prefix, items], or with items for 1.0, 1.1 and 1.2;
                                            pieces of one: [slot, incarnation, number, count, bytes]
    i<slot>/<incarnation> NUL               inbox of that worker: [slot, incarnation, Letter, content]
    s<slot>/<incarnation>/<number> NUL      barrier token of that worker, the answers: [slot, incarnation]
    r<slot>/<inc.>/<slot>/<inc.> NUL        ready token for the first worker from the second; never sent under

Elements are packed one by one and joined under an array header, so those of several turns make one message
without being packed again.

ZeroMQ bounds a link in messages. So that this bounds bytes as well, no message has more than `COALESCED_BYTES` of
batches: a larger batch travels in pieces, one after the other under its topic.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from worker.backplane.interface import Batch

__all__ = [
    "COALESCED_BYTES",
    "PIECE_FIELDS",
    "Collected",
    "Letter",
    "Peer",
    "WireError",
    "assemble",
    "barrier_number",
    "barrier_token",
    "batch_of",
    "destination_of",
    "inbox",
    "pack",
    "pack_batch",
    "pieces_of",
    "ready_peer",
    "ready_prefix",
    "ready_token",
    "split",
    "topic_of",
    "unpack",
]

COALESCED_BYTES = 256 << 10
"""A message is closed before its elements pass this."""

PIECE_BYTES = COALESCED_BYTES - 64
"""Of the batch; the rest is room for the other fields of the piece."""

PIECE_FIELDS = 5
"""By which a piece is told from a batch."""

BATCHES, INBOX, BARRIER, READY = b"t"[0], b"i"[0], b"s"[0], b"r"[0]
"""First byte of a topic."""


class WireError(ValueError):
    """A sibling sent what cannot be read: a bug, or a foreign process on the endpoint."""


class Peer(NamedTuple):
    """One life of one worker."""

    slot: int
    incarnation: int


class Letter(IntEnum):
    """What an inbox element is."""

    MESSAGE = 0
    END = 1
    """The sender will publish nothing more; all it published came before."""
    END_SEEN = 2


class Collected:
    """Packed elements for one topic, to travel as one message."""

    __slots__ = ("parts", "size")

    def __init__(self, element: bytes) -> None:
        self.parts = [element]
        self.size = len(element)


pack = msgpack.Packer(autoreset=True, use_bin_type=True).pack

_SMALL_HEADERS = [bytes([0x90 | count]) for count in range(16)]


def pack_batch(batch: Batch) -> bytes:
    """The element for `batch`."""
    if batch.by_version is None:
        return pack((batch.id_prefix, batch.items))
    return pack((batch.id_prefix, *batch.by_version))


def batch_of(element: list[Any]) -> Batch:
    """The batch an element was made of. Raises `WireError`."""
    if len(element) == 2:
        return Batch(element[0], element[1])
    if len(element) == 4:
        return Batch(element[0], element[3], (element[1], element[2], element[3]))
    raise WireError(f"a batch has 2 or 4 fields, got {len(element)}")


def pieces_of(element: bytes, own: Peer) -> Iterator[bytes]:
    """The elements to send in place of one that is larger than `COALESCED_BYTES`. Siblings interleave at the reader,
    so each piece says whose it is."""
    view = memoryview(element)
    count = -(-len(view) // PIECE_BYTES)
    for number in range(count):
        yield pack((*own, number, count, view[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]))


def assemble(topic: bytes, parts: list[bytes]) -> bytes:
    """The message that carries `parts` (packed elements) under `topic`."""
    count = len(parts)
    if count < 16:
        header = _SMALL_HEADERS[count]
    elif count < 65536:
        header = struct.pack(">BH", 0xDC, count)
    else:
        header = struct.pack(">BI", 0xDD, count)
    return b"".join((topic, header, *parts))


def split(message: bytes) -> tuple[bytes, list[Any]]:
    """The topic (NUL included) and the elements of a message. Raises `WireError`."""
    end = message.find(0) + 1
    if not end:
        raise WireError(f"a backplane message of {len(message)} bytes has no topic")
    return message[:end], unpack(message[:end], memoryview(message)[end:])


def unpack(topic: bytes, payload: bytes | memoryview) -> list[Any]:
    """What was packed of an array. Raises `WireError`, which names the `topic` it came under."""
    try:
        elements = msgpack.unpackb(payload, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"undecodable payload under {topic!r}: {error}") from error
    if not isinstance(elements, list):
        raise WireError(f"the payload under {topic!r} is no array")
    return elements


def topic_of(destination: bytes) -> bytes:
    return b"t" + destination + b"\0"


def destination_of(topic: bytes) -> bytes:
    return topic[1:-1]


def inbox(peer: Peer) -> bytes:
    return b"i%d/%d\0" % peer


def barrier_token(peer: Peer, number: int) -> bytes:
    return b"s%d/%d/%d\0" % (*peer, number)


def barrier_number(topic: bytes) -> int:
    """The number in a barrier token."""
    return int(topic[topic.rindex(b"/") + 1 : -1])


def ready_prefix(target: Peer) -> bytes:
    """How every ready token for `target` starts."""
    return b"r%d/%d/" % target


def ready_token(target: Peer, own: Peer) -> bytes:
    return b"r%d/%d/%d/%d\0" % (*target, *own)


def ready_peer(topic: bytes) -> Peer:
    """Who subscribed a ready token."""
    slot, incarnation = topic[1:-1].split(b"/")[2:]
    return Peer(int(slot), int(incarnation))
