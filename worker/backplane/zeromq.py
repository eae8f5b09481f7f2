"""The backplane on ZeroMQ: an XPUB bound by each worker, a SUB connected to every sibling.

Owns the roster and the handshakes; what a message looks like is in `wire`, how it leaves in
`sender`, when a barrier holds in `barrier`, when the sockets are read in `sockets`.

Joining: a sibling that connects to W first writes all its subscriptions into the new pipe and then the
ready token for W, so W, reading that token, knows all of them. When every sibling's token was read, W
publishes to all; one barrier more, and everything they publish reaches W. Endpoints are never used twice:
ZeroMQ reconnects on its own, and subscriptions sent again after that would come in no useful order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from worker.backplane import wire
from worker.backplane.barrier import Barriers
from worker.backplane.ending import Ending
from worker.backplane.interest import Interest
from worker.backplane.interface import BackplaneEvents, Batch, Member
from worker.backplane.pieces import Pieces
from worker.backplane.sender import Sender
from worker.backplane.sockets import Sockets
from worker.backplane.wire import Letter, Peer

__all__ = ["ZmqBackplane"]

LEAVING_SECONDS = 0.5
"""A link to a dead sibling stays this long: disconnecting drops what it had sent and is not read yet."""

Done = Callable[[], None]


class ZmqBackplane:
    """See `interface.Backplane`. `runtime_dir` belongs to one start of the broker, so endpoints never repeat in it;
    `high_water_mark` counts messages (of at most 256 KiB) on each side of a link, `retry_interval` is seconds; above
    `kept_bytes` for a destination, or `kept_total_bytes` for all, that wait for room it is blocked. All methods belong
    to the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        slot: int,
        incarnation: int,
        runtime_dir: str,
        events: BackplaneEvents,
        *,
        high_water_mark: int,
        retry_interval: float,
        kept_bytes: int,
        kept_total_bytes: int,
    ) -> None:
        self._loop = loop
        self._self = Peer(slot, incarnation)
        self._events = events
        self._closed = False

        self._siblings: dict[Peer, Member] = {}
        self._leaving: dict[Peer, asyncio.TimerHandle] = {}
        self._has_roster = False
        self._ready: set[Peer] = set()
        self._joining: list[Done] = []
        self._open_inboxes: set[bytes] = set()
        self._early: dict[bytes, list[bytes]] = {}
        self._subscribed: dict[bytes, int] = {}
        self._interest = Interest()
        self._pieces = Pieces()
        self._barriers = Barriers()
        self._barrier_due = False
        self._ending = Ending()
        self._ready_prefix = wire.ready_prefix(self._self)
        path = os.path.join(runtime_dir, f"w{slot}.{incarnation}")
        self._sockets = Sockets(
            loop,
            path,
            high_water_mark=high_water_mark,
            on_notification=self._take_notification,
            on_notified=self._notified,
            on_message=self._deliver,
            on_round_end=events.on_round_end,
        )
        self._sockets.subscribe(wire.inbox(self._self))
        self._sender = Sender(
            loop,
            self._sockets.send,
            blocked=events.on_blocked,
            unblocked=events.on_unblocked,
            after=self._after_sends,
            retry_interval=retry_interval,
            kept_bytes=kept_bytes,
            kept_total_bytes=kept_total_bytes,
        )

    # --- membership

    def bind(self) -> str:
        """Listen; returns the endpoint. Raises OSError when the path is too long or cannot be made."""
        return self._sockets.bind()

    def set_roster(self, members: Sequence[Member]) -> None:
        """Every live worker, this one included: connect to those that are new, let go of those that are
        gone."""
        if self._closed:
            return
        roster = {Peer(member.slot, member.incarnation): member for member in members}
        roster.pop(self._self, None)
        self._has_roster = True
        for peer in [peer for peer in self._siblings if peer not in roster]:
            self._lose(peer)
        for peer, member in roster.items():
            if peer in self._siblings:
                continue
            self._siblings[peer] = member
            self._sockets.connect(member.endpoint)
            token = wire.ready_token(peer, self._self)
            self._sockets.subscribe(token)
            self._sockets.unsubscribe(token)
        self._loop.call_soon(self._check_joined)
        self._loop.call_soon(self._check_end)

    def _lose(self, peer: Peer) -> None:
        member = self._siblings.pop(peer)
        self._leaving[peer] = self._loop.call_later(LEAVING_SECONDS, self._disconnect, peer, member.endpoint)
        self._ready.discard(peer)
        self._early.pop(wire.inbox(peer), None)
        self._sender.forget(wire.inbox(peer))
        self._ending.leave(peer)
        if self._barriers.leave(peer):
            self._loop.call_soon(self._end_barrier)
        self._loop.call_soon(self._tell_lost, peer)

    def _tell_lost(self, peer: Peer) -> None:
        if not self._closed:
            self._events.on_sibling_lost(*peer)

    def _disconnect(self, peer: Peer, endpoint: str) -> None:
        del self._leaving[peer]
        self._sockets.disconnect(endpoint)
        self._pieces.leave(peer)

    def when_joined(self, done: Done) -> None:
        """Call `done` once every sibling of the roster routes to and from this worker. Waits for a roster
        first."""
        self._joining.append(done)
        self._loop.call_soon(self._check_joined)

    def _check_joined(self) -> None:
        if self._closed or not self._joining or not self._has_roster:
            return
        if self._ready.issuperset(self._siblings):
            joining, self._joining = self._joining, []
            for done in joining:
                self.barrier(done)

    # --- interest and batches

    def interested(self, destination: bytes) -> bool:
        """Whether any sibling wants what is published to `destination`."""
        return self._interest.wants(destination)

    def publish(self, destination: bytes, batch: Batch) -> None:
        """Send `batch` to every interested sibling; sent with the others of this loop turn."""
        topic, element = b"t" + destination + b"\0", wire.pack_batch(batch)
        if len(element) <= wire.COALESCED_BYTES:
            self._sender.put(topic, element)
        else:
            for piece in wire.pieces_of(element, self._self):
                self._sender.put(topic, piece)

    def subscribe(self, destination: bytes) -> None:
        """Want the batches of exactly this destination. Calls are counted: each is undone by one
        `unsubscribe`."""
        self._subscribe(wire.topic_of(destination))

    def unsubscribe(self, destination: bytes) -> None:
        self._unsubscribe(wire.topic_of(destination))

    def subscribe_prefix(self, prefix: bytes) -> None:
        """Want the batches of every destination that starts with `prefix`. Counted like `subscribe`."""
        self._subscribe(wire.topic_of(prefix)[:-1])

    def unsubscribe_prefix(self, prefix: bytes) -> None:
        self._unsubscribe(wire.topic_of(prefix)[:-1])

    def _subscribe(self, topic: bytes) -> None:
        count = self._subscribed.get(topic, 0)
        self._subscribed[topic] = count + 1
        if not count:
            self._sockets.subscribe(topic)

    def _unsubscribe(self, topic: bytes) -> None:
        count = self._subscribed.get(topic, 0)
        if count == 1:
            del self._subscribed[topic]
            self._sockets.unsubscribe(topic)
            if self._pieces:
                # Below an exact topic there is nothing else, for it ends with the only NUL; so each is a prefix.
                self._pieces.retain(lambda began: began.startswith(tuple(self._subscribed)))
        elif count:
            self._subscribed[topic] = count - 1

    # --- barrier

    def barrier(self, done: Done) -> None:
        """Call `done` once every live sibling routes by all that was subscribed and unsubscribed before
        this call."""
        self._barriers.request(done)
        self._begin_barrier_soon()

    def _begin_barrier_soon(self) -> None:
        if not (self._barrier_due or self._barriers.in_flight):
            self._barrier_due = True
            self._loop.call_soon(self._begin_barrier)

    def _begin_barrier(self) -> None:
        self._barrier_due = False
        if self._closed:
            return
        if self._barriers.begin(self._siblings):
            self._sockets.subscribe(wire.barrier_token(self._self, self._barriers.number))
        else:
            self._end_barrier(subscribed=False)

    def _end_barrier(self, *, subscribed: bool = True) -> None:
        if self._closed:
            return
        if subscribed:
            self._sockets.unsubscribe(wire.barrier_token(self._self, self._barriers.number))
        proved = self._barriers.take_proved()
        if self._barriers.requested:
            self._begin_barrier_soon()
        for done in proved:
            self._loop.call_soon(done)

    # --- messages

    def send(self, slot: int, message: Any) -> None:
        """Send any msgpack value to one sibling, in order with what was sent to it before. To a slot that
        is not on the roster nothing is sent: `on_sibling_lost` has said so, or will."""
        for peer in self._siblings:
            if peer.slot == slot:
                self._post(peer, Letter.MESSAGE, message)

    def broadcast(self, message: Any) -> None:
        """Send any msgpack value to every sibling, in order with what was sent to each."""
        for peer in self._siblings:
            self._post(peer, Letter.MESSAGE, message)

    def kept_bytes(self) -> int:
        """Bytes that wait here because a link is full."""
        return self._sender.kept_bytes

    def _post(self, peer: Peer, letter: Letter, content: Any) -> None:
        topic = wire.inbox(peer)
        element = wire.pack((*self._self, letter, content))
        if topic in self._open_inboxes:
            self._sender.put(topic, element)
        else:
            # It is on the roster, but its subscription is still on the way and ZeroMQ would send to nobody.
            self._early.setdefault(topic, []).append(element)

    # --- the end

    def finish(self, done: Done) -> None:
        """Nothing more will be published: call `done` when every sibling has read it all and said the
        same."""
        self._ending.request(done)
        self._loop.call_soon(self._check_end)

    def _check_end(self) -> None:
        if self._closed or not self._ending.wanted or not self._sender.batches_sent:
            return
        for peer in self._ending.to_mark(self._siblings):
            self._post(peer, Letter.END, None)
        for done in self._ending.take_done(self._siblings):
            self._loop.call_soon(done)

    def close(self) -> None:
        """Let go of everything at once; `finish` first when nothing may be lost. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._sender.close()
        for timer in self._leaving.values():
            timer.cancel()
        self._sockets.close()

    # --- what the sockets report

    def _after_sends(self) -> None:
        self._sockets.look_again()
        if self._ending.wanted:
            self._loop.call_soon(self._check_end)

    def _notified(self) -> None:
        if self._sender.keeps:
            self._sender.retry()

    def _take_notification(self, notification: bytes) -> None:
        if notification[0]:
            self._take_subscription(notification[1:])
        else:
            self._take_unsubscription(notification[1:])

    def _take_subscription(self, topic: bytes) -> None:
        kind = topic[0]
        if kind == wire.BATCHES:
            self._interest.add(topic)
        elif kind == wire.BARRIER:
            # All this sibling subscribed before the token has just been taken in, for it was reported before.
            self._sender.put_now(topic, wire.pack(self._self))
        elif kind == wire.INBOX:
            self._open_inboxes.add(topic)
            for element in self._early.pop(topic, ()):
                self._sender.put(topic, element)
        elif topic.startswith(self._ready_prefix):
            # Maybe before the roster has that sibling: the front tells one of us first.
            self._ready.add(wire.ready_peer(topic))
            self._loop.call_soon(self._check_joined)

    def _take_unsubscription(self, topic: bytes) -> None:
        if topic[0] == wire.BATCHES:
            self._interest.discard(topic)
        elif topic[0] == wire.INBOX:
            self._open_inboxes.discard(topic)

    def _deliver(self, message: bytes) -> None:
        topic, elements = wire.split(message)
        kind = topic[0]
        if kind == wire.BATCHES:
            destination = wire.destination_of(topic)
            on_batch = self._events.on_batch
            for element in elements:
                if len(element) == wire.PIECE_FIELDS:
                    element = self._pieces.add(topic, element)
                    if element is None:
                        continue
                on_batch(destination, wire.batch_of(element))
        elif kind == wire.INBOX:
            for slot, incarnation, letter, content in elements:
                self._open_letter(Peer(slot, incarnation), letter, content)
        elif kind == wire.BARRIER:
            for slot, incarnation in elements:
                if self._barriers.answer(wire.barrier_number(topic), Peer(slot, incarnation)):
                    self._end_barrier()

    def _open_letter(self, peer: Peer, letter: int, content: Any) -> None:
        if self._closed or peer not in self._siblings:
            return  # its loss has been told; a word from it now would confuse
        if letter == Letter.MESSAGE:
            self._events.on_message(peer.slot, content)
        elif letter == Letter.END:
            self._ending.ended(peer)
            self._post(peer, Letter.END_SEEN, None)
            self._check_end()
        else:
            self._ending.confirmed(peer)
            self._check_end()
