"""Everything this worker puts on its XPUB: collected per loop turn, kept when a link is full, never dropped.

With XPUB_NODROP a send fails with EAGAIN when any link it would go to is full, and then goes to none.
ZeroMQ cannot say when to try again (an XPUB always claims to be writable), so what is kept is tried again
whenever the socket has something to report (links report room as they drain) and by a timer. What is kept
belongs to its topic alone: other topics, which may have other receivers, go on; within the topic nothing
may overtake.

A little that is kept is no reason to stop publishers: it joins what comes next in fewer, larger messages, which
is how a sibling that is behind catches up. Only when it becomes much is the destination blocked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

import zmq

from worker.backplane.wire import BATCHES, COALESCED_BYTES, Collected, assemble, destination_of

__all__ = ["Sender"]

_NOBLOCK = int(zmq.NOBLOCK)

RETRIES_AT_ONCE = 64
"""Topics tried per pass: a refused one costs about a microsecond, and a pass runs at every report of the
socket."""

RETRY_GAP = 0.001
"""Seconds between passes that no report of the socket asked for."""


class _Kept:
    """What waits for room under one topic, oldest first; the head is assembled once, not at each try. Sizes are those
    of the elements, in bytes."""

    __slots__ = ("head", "head_size", "queue", "size", "told")

    def __init__(self, head: bytes, size: int) -> None:
        self.head = head
        self.head_size = self.size = size
        self.queue: deque[Collected] = deque()
        self.told = False

    def add(self, collected: Collected) -> None:
        self.size += collected.size
        last = self.queue[-1] if self.queue else None
        if last is not None and last.size + collected.size <= COALESCED_BYTES:
            last.parts += collected.parts
            last.size += collected.size
        else:
            self.queue.append(collected)


class Sender:
    """Owns the order in which elements leave. `send` is the XPUB's; `blocked` and `unblocked` are called
    from the loop with a destination; `after` is called after each round of sends, which may have swallowed
    the socket's wake-up.

    A destination is blocked when more than `kept_bytes` are kept for it, or when more than `kept_total_bytes` are
    kept for all and some of them for it; it is unblocked when nothing is kept for it any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[bytes, int], object],
        *,
        blocked: Callable[[bytes], None],
        unblocked: Callable[[bytes], None],
        after: Callable[[], None],
        retry_interval: float,
        kept_bytes: int,
        kept_total_bytes: int,
    ) -> None:
        self._loop = loop
        self._send = send
        self._blocked = blocked
        self._unblocked = unblocked
        self._after = after
        self._retry_interval = retry_interval
        self._kept_bytes = kept_bytes
        self._kept_total_bytes = kept_total_bytes
        self._collected: dict[bytes, Collected] = {}
        self._kept_batches: dict[bytes, _Kept] = {}
        self._kept_control: dict[bytes, _Kept] = {}
        self._untold: dict[bytes, _Kept] = {}
        self._kept_size = 0
        self._flushing = False
        self._retrying: asyncio.TimerHandle | None = None
        self._again: asyncio.Handle | None = None
        self._tried = 0.0
        self._closed = False

    @property
    def keeps(self) -> bool:
        """Whether anything waits for room."""
        return bool(self._kept_batches or self._kept_control)

    @property
    def batches_sent(self) -> bool:
        """Whether every batch was handed to ZeroMQ."""
        return not self._kept_batches and not any(topic[0] == BATCHES for topic in self._collected)

    @property
    def kept_bytes(self) -> int:
        """What waits for room."""
        all_kept = (*self._kept_batches.values(), *self._kept_control.values())
        return sum(len(kept.head) + sum(each.size for each in kept.queue) for kept in all_kept)

    def put(self, topic: bytes, element: bytes) -> None:
        """Send a packed `element` under `topic`, with the others of this turn."""
        if self._closed:
            return
        collected = self._collected.get(topic)
        if collected is not None:
            if collected.size + len(element) <= COALESCED_BYTES:
                collected.parts.append(element)
                collected.size += len(element)
                return
            self._emit(topic, collected)
            self._after()
        self._collected[topic] = Collected(element)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def put_now(self, topic: bytes, element: bytes) -> None:
        """Send a packed control element without waiting for the end of the turn."""
        self._emit(topic, Collected(element))

    def forget(self, topic: bytes) -> None:
        """Drop what waits for a control `topic`, whose reader is gone."""
        self._collected.pop(topic, None)
        self._kept_control.pop(topic, None)

    def flush(self) -> None:
        """Send what was collected."""
        self._flushing = False
        if self._closed:
            return
        collected, self._collected = self._collected, {}
        for topic, parts in collected.items():
            self._emit(topic, parts)
        self._after()
        # Sending takes reports of room off the socket as well, and then nothing wakes us for them.
        if self.keeps and self._loop.time() - self._tried > RETRY_GAP:
            self.retry()

    def _emit(self, topic: bytes, collected: Collected) -> None:
        all_kept = self._kept_batches if topic[0] == BATCHES else self._kept_control
        kept = all_kept.get(topic)
        if kept is not None:
            kept.add(collected)
        else:
            message = assemble(topic, collected.parts)
            try:
                self._send(message, _NOBLOCK)
                return
            except zmq.Again:
                all_kept[topic] = kept = _Kept(message, collected.size)
                self._arm()
        if topic[0] == BATCHES:
            self._kept_size += collected.size
            self._judge(topic, kept)

    def _judge(self, topic: bytes, kept: _Kept) -> None:
        """More is kept for `topic` than before."""
        if not kept.told:
            self._untold[topic] = kept
            if kept.size > self._kept_bytes:
                self._tell_blocked(topic)
        if self._kept_size > self._kept_total_bytes:
            for each in list(self._untold):
                self._tell_blocked(each)

    def _tell_blocked(self, topic: bytes) -> None:
        self._untold.pop(topic).told = True
        self._loop.call_soon(self._tell, self._blocked, destination_of(topic))

    def _tell(self, event: Callable[[bytes], None], destination: bytes) -> None:
        if not self._closed:
            event(destination)

    def retry(self) -> None:
        """Try again what is kept, control messages first; part of it, if it is a lot."""
        self._tried = self._loop.time()
        sent = self._retry(self._kept_control)
        sent = self._retry(self._kept_batches) or sent
        if self.keeps:
            self._arm()
            if sent and self._again is None:
                self._again = self._loop.call_soon(self._retry_on)
        if sent:
            self._after()

    def _retry(self, all_kept: dict[bytes, _Kept]) -> bool:
        sent: dict[bytes, _Kept] = {}
        # One message per topic and pass, so that no topic takes all the room there is; the next pass begins with
        # those this one did not come to, then those refused, then those that had a turn.
        for topic in list(islice(all_kept, RETRIES_AT_ONCE)):
            kept = all_kept.pop(topic)
            try:
                self._send(kept.head, _NOBLOCK)
            except zmq.Again:
                all_kept[topic] = kept
            else:
                sent[topic] = kept
        for topic, kept in sent.items():
            if topic[0] == BATCHES:
                self._kept_size -= kept.head_size
            kept.size -= kept.head_size
            if kept.queue:
                following = kept.queue.popleft()
                kept.head, kept.head_size = assemble(topic, following.parts), following.size
                all_kept[topic] = kept
            elif kept.told:
                self._loop.call_soon(self._tell, self._unblocked, destination_of(topic))
            else:
                self._untold.pop(topic, None)
        return bool(sent)

    def _arm(self) -> None:
        if self._retrying is None:
            self._retrying = self._loop.call_later(self._retry_interval, self._retry_due)

    def _retry_due(self) -> None:
        self._retrying = None
        if not self._closed:
            self.retry()
            # A refused send looks at the socket's mailbox, too, and may have taken the wake-up for a subscription.
            self._after()

    def _retry_on(self) -> None:
        self._again = None
        if not self._closed:
            self.retry()

    def close(self) -> None:
        self._closed = True
        if self._retrying is not None:
            self._retrying.cancel()
        self._collected.clear()
        self._kept_batches.clear()
        self._kept_control.clear()
        self._untold.clear()
