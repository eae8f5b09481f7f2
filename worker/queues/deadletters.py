"""What becomes of a message that failed: the frame it has in its dead letter queue."""

from __future__ import annotations

import re

from common.codec import escape
from common.negotiation import Version
from worker.queues.message import Message

__all__ = ["EXPIRED", "QUEUE_FULL", "REDELIVERY_LIMIT", "REJECTED", "dead_letter", "revived"]

EXPIRED = "expired"
QUEUE_FULL = "queue-full"
REDELIVERY_LIMIT = "redelivery-limit"
REJECTED = "rejected"

_DESTINATION = re.compile(rb"\ndestination:[^\n]*")
_EXPIRES = re.compile(rb"\n(expires|ttl):")
_OWN = re.compile(rb"\ndlq-[a-z]+:[^\n]*")
_DETAIL = 200
"""Characters of a NACK's reason that are kept."""


def dead_letter(message: Message, queue: bytes, target: bytes, reason: str, detail: str, now: int) -> bytes:
    """The frame of `message` of `queue` for the dead letter queue `target`: its id, headers and body, and why it is
    there. It does not expire there, and lies among the others by its time, whatever its priority was."""
    end = message.frame.index(b"\n\n")
    head, rest = message.frame[:end], message.frame[end:]
    head = _EXPIRES.sub(rb"\ndlq-\1:", _OWN.sub(b"", head))
    said = f"\ndlq-detail:{escape(detail[:_DETAIL], Version.V1_2)}" if detail else ""
    why = f"\ndlq-reason:{reason}\ndlq-count:{message.count}\ndlq-time:{now}{said}\ndlq-from:"
    source = escape(queue.decode(), Version.V1_2)
    own = b"\ndestination:%b%b%b" % (
        escape(target.decode(), Version.V1_2).encode(),
        why.encode(),
        source.encode(),
    )
    return _DESTINATION.sub(lambda _: own, head, count=1) + rest


def revived(frame: bytes) -> tuple[bytes, bytes] | None:
    """The queue that a dead letter came from, and its frame without what made it one; None if it is no dead letter."""
    end = frame.index(b"\n\n")
    head, rest = frame[:end], frame[end:]
    source = re.search(rb"\ndlq-from:([^\n]*)", head)
    if source is None:
        return None
    head = re.sub(rb"\ndlq-(expires|ttl|[a-z]+):[^\n]*", b"", head)
    return source[1], _DESTINATION.sub(lambda _: b"\ndestination:" + source[1], head, count=1) + rest
