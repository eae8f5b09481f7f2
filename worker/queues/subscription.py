"""A subscription to a queue, on the worker of its client: what it was delivered and has not settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.acknowledgement import AckMode
from common.codec import escape
from common.negotiation import Version
from common.selector import Selector
from worker.items import translate
from worker.queues.feeds import Feed
from worker.router import Subscription

if TYPE_CHECKING:
    from worker.connection import Connection

__all__ = ["QueueSubscription"]


class QueueSubscription(Subscription):
    """`keys` are those of the deliveries that are not settled, by message-id; with ack mode `auto` they are in
    `unwritten`, which holds those that wait for the client to read."""

    __slots__ = ("exclusive", "feed", "keys", "owner", "prefetch", "start", "unwritten")

    def __init__(
        self,
        connection: Connection,
        queue: bytes,
        id: str | None,
        number: int,
        mode: AckMode,
        version: Version,
        selector: Selector | None,
        owner: int,
        prefetch: int,
        *,
        exclusive: bool,
        feed: Feed | None = None,
    ) -> None:
        super().__init__(connection, queue, id, number, mode, version, selector)
        self.exclusive = exclusive
        self.feed = feed
        self.owner = owner
        self.prefetch = prefetch
        self.keys: dict[bytes, int] = {}
        self.unwritten: list[int] = []
        subscription = b"" if id is None else b"subscription:%b\n" % escape(id, version).encode()
        self.start = b"MESSAGE\n" + subscription

    @property
    def owners_selector(self) -> str:
        """What the owner is to select by. What a fed queue takes in is what matches; its consumer takes all of that."""
        return "" if self.selector is None or self.feed is not None else self.selector.text

    @property
    def auto(self) -> bool:
        return self.unacknowledged is None

    def frames(self, frames: list[bytes], keys: list[int], counts: list[int] | None) -> bytes:
        """The MESSAGE frames of a delivery; `counts` is how often each was delivered, None if all are for the first
        time. Those that the client is to acknowledge are pending from now on."""
        version = self.connection.version
        if version is not Version.V1_2:
            frames = [translate(frame, version or Version.V1_0) if b"\\" in frame else frame for frame in frames]
        unacknowledged = self.unacknowledged
        if unacknowledged is None:
            if counts is None:
                return self.head + self.head.join(frames)
            start = self.start
            return b"".join([start + _again(n) + b"message-id:" + f for f, n in zip(frames, counts, strict=True)])
        pending = self.keys
        add = unacknowledged.add
        out = []
        ack = b"%back:%d-" % (self.start, self.number) if version is Version.V1_2 else self.start
        for place, frame in enumerate(frames):
            id = own = frame[: frame.index(b"\n")]
            if id in pending:
                # Of one SEND, by way of two subscriptions that gave it up to one dead letter queue: an ACK of one is
                # not an ACK of the other.
                id = b"%b~%d" % (own, keys[place])
                if version is not Version.V1_2:
                    frame = id + frame[len(own) :]
            pending[id] = keys[place]
            add(id)
            again = b"" if counts is None else _again(counts[place])
            if version is Version.V1_2:
                out.append(b"%b%b\n%bmessage-id:%b" % (ack, id, again, frame))
            else:
                out.append(b"%b%bmessage-id:%b" % (ack, again, frame))
        return b"".join(out)


def _again(count: int) -> bytes:
    return b"redelivered:true\ndelivery-count:%d\n" % count if count > 1 else b""
