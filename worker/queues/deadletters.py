"""What becomes of a message that failed: the frame it has in its dead letter queue."""

from __future__ import annotations

import re

from common.codec import escape, unescape
from common.negotiation import Version
from worker.queues.message import Message

__all__ = ["EXPIRED", "QUEUE_FULL", "REDELIVERY_LIMIT", "REJECTED", "dead_letter", "redirected", "revived"]

EXPIRED = "expired"
QUEUE_FULL = "queue-full"
REDELIVERY_LIMIT = "redelivery-limit"
REJECTED = "rejected"

_DESTINATION = re.compile(rb"\ndestination:[^\n]*")
_EXPIRES = re.compile(rb"\n(expires|ttl):")
_OWN = re.compile(rb"\ndlq-[a-z]+:[^\n]*")
_FROM = re.compile(rb"\ndlq-from:([^\n]*)")
_SENT_TO = re.compile(rb"\ndlq-destination:([^\n]*)")
_ADDED = re.compile(rb"\ndlq-(expires|ttl|[a-z]+):[^\n]*")
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
    source = escape(queue.decode(), Version.V1_2).encode()
    sent_to = _DESTINATION.search(head)
    own = b"\ndestination:%b%b%b" % (escape(target.decode(), Version.V1_2).encode(), why.encode(), source)
    if sent_to is not None and sent_to[0] != b"\ndestination:" + source:
        # What a subscription to topics took was never sent to its queue.
        own += b"\ndlq-" + sent_to[0][1:]
    return _DESTINATION.sub(lambda _: own, head, count=1) + rest


def revived(frame: bytes) -> tuple[bytes, bytes] | None:
    """The queue that a dead letter came from, and its frame without what made it one; None if it is no dead letter."""
    end = frame.index(b"\n\n")
    head, rest = frame[:end], frame[end:]
    source = _FROM.search(head)
    if source is None:
        return None
    sent_to = _SENT_TO.search(head) or source
    head = _ADDED.sub(b"", head)
    return unescape(source[1].decode(), Version.V1_2).encode(), redirected(head + rest, sent_to[1])


def redirected(frame: bytes, destination: bytes) -> bytes:
    """`frame` with another destination, written as in a header of 1.2."""
    return _DESTINATION.sub(lambda _: b"\ndestination:" + destination, frame, count=1)
