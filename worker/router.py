"""Who gets what: the subscriptions of this worker's clients, and the fan-out of a batch to them.

Subscriptions to one destination or pattern form an `Entry`; its subscribers with the same subscription id and
version share one encoding of a batch (`Group`). Knows connections only as something to `deliver` to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.acknowledgement import AckMode, Unacknowledged
from common.codec import escape
from common.destination import PatternTrie, is_pattern, literal_prefix
from common.negotiation import Version
from worker.backplane.interface import Backplane, Batch

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.receipts import Ticket

__all__ = ["Entry", "Gathered", "Router", "Subscription"]

_MAX_MATCHES = 65536
"""Destinations whose matching entries are remembered; beyond, all are forgotten and found again as they come."""


class Subscription:
    """One SUBSCRIBE of one connection. `number` is unique in the connection and starts its `ack` values."""

    __slots__ = ("connection", "entry", "head", "id", "number", "unacknowledged")

    def __init__(self, connection: Connection, id: str | None, number: int, mode: AckMode, version: Version) -> None:
        self.connection = connection
        self.id = id
        self.number = number
        self.unacknowledged = None if mode is AckMode.AUTO else Unacknowledged(mode)
        subscription = "" if id is None else f"subscription:{escape(id, version)}\n"
        self.head = f"MESSAGE\n{subscription}message-id:".encode()
        self.entry: Entry | None = None


class Group:
    """Subscribers whose MESSAGE frames are the same bytes."""

    __slots__ = ("head", "members", "version")

    def __init__(self, head: bytes, version: int) -> None:
        self.head = head
        self.version = version
        self.members: dict[Connection, None] = {}


class Entry:
    """All subscriptions of this worker to one destination or pattern. `routed` once every sibling sends what it
    matches; `waiting` are the RECEIPTs held until then."""

    __slots__ = ("groups", "name", "pattern", "routed", "tracked", "waiting")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.pattern = is_pattern(name)
        # By the id and not by its bytes: ids that differ only in a CR are written the same before 1.2.
        self.groups: dict[tuple[int, str | None], Group] = {}
        self.tracked: dict[Subscription, None] = {}
        self.routed = False
        self.waiting: list[Ticket] = []


Gathered = dict["Connection", list[bytes]]
"""What is to be written to each connection once all batches of a round are in: one write, not one per batch."""


class Router:
    def __init__(self, backplane: Backplane, policies: tuple[tuple[bytes, str], ...], max_unacknowledged: int) -> None:
        self._backplane = backplane
        self._max_unacknowledged = max_unacknowledged
        self._entries: dict[bytes, Entry] = {}
        self._patterns: PatternTrie[Entry] = PatternTrie()
        self._policies: PatternTrie[tuple[int, str]] = PatternTrie()
        for number, (pattern, policy) in enumerate(policies):
            self._policies.add(pattern, (number, policy))
        self._matches: dict[bytes, tuple[tuple[Entry, ...], str]] = {}
        self.subscriptions = 0
        self.delivered = 0

    def subscribe(self, name: bytes, subscription: Subscription) -> Entry:
        """Route `name` to `subscription` from now on; the entry tells when the siblings do too."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = Entry(name)
            if entry.pattern:
                self._patterns.add(name, entry)
                self._matches.clear()
                self._backplane.subscribe_prefix(literal_prefix(name))
            else:
                self._matches.pop(name, None)
                self._backplane.subscribe(name)
            self._backplane.barrier(lambda: _routed(entry))
        subscription.entry = entry
        if subscription.unacknowledged is not None:
            entry.tracked[subscription] = None
        else:
            version = subscription.connection.version
            key = (Version.V1_2 if version is None else version, subscription.id)
            group = entry.groups.get(key)
            if group is None:
                group = entry.groups[key] = Group(subscription.head, key[0])
            subscription.head = group.head
            group.members[subscription.connection] = None
        self.subscriptions += 1
        return entry

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Stop routing to `subscription`; True if it was the last of its entry, so that siblings are told too."""
        entry = subscription.entry
        if entry is None:
            return False
        subscription.entry = None
        self.subscriptions -= 1
        if subscription.unacknowledged is not None:
            del entry.tracked[subscription]
        else:
            version = subscription.connection.version
            key = (Version.V1_2 if version is None else version, subscription.id)
            members = entry.groups[key].members
            del members[subscription.connection]
            if not members:
                del entry.groups[key]
        if entry.groups or entry.tracked:
            return False
        del self._entries[entry.name]
        if entry.pattern:
            self._patterns.remove(entry.name, entry)
            self._matches.clear()
            self._backplane.unsubscribe_prefix(literal_prefix(entry.name))
        else:
            self._matches.pop(entry.name, None)
            self._backplane.unsubscribe(entry.name)
        return True

    def deliver(self, destination: bytes, batch: Batch, gathered: Gathered | None = None) -> None:
        """Fan `batch` out to this worker's subscribers, now or by way of `gathered`."""
        match = self._matches.get(destination)
        if match is None:
            match = self._match(destination)
        entries, policy = match
        prefix = batch.id_prefix
        items = batch.items
        count = len(items)
        by_version = batch.by_version
        for entry in entries:
            for group in entry.groups.values():
                if by_version is not None:
                    items = by_version[group.version]
                start = group.head + prefix
                blob = start + start.join(items)
                members = group.members
                self.delivered += len(members) * count
                for connection in members:
                    if connection.outbox is not None:
                        connection.outbox.offer(blob, destination, count, policy)
                    elif gathered is None:
                        connection.transport.write(blob)
                    elif connection in gathered:
                        gathered[connection].append(blob)
                    else:
                        gathered[connection] = [blob]
            for subscription in entry.tracked:
                tracked = self._tracked_blob(subscription, batch)
                connection = subscription.connection
                self.delivered += count
                if connection.outbox is not None:
                    connection.outbox.offer(tracked, destination, count, policy)
                elif gathered is None:
                    connection.transport.write(tracked)
                else:
                    gathered.setdefault(connection, []).append(tracked)

    def _tracked_blob(self, subscription: Subscription, batch: Batch) -> bytes:
        """The frames of `batch` for a subscription that acknowledges; each is pending from now on."""
        connection = subscription.connection
        unacknowledged = subscription.unacknowledged
        if unacknowledged is None or connection.version is None:
            return b""
        items = batch.items if batch.by_version is None else batch.by_version[connection.version]
        prefix = batch.id_prefix
        start = subscription.head + prefix
        if len(unacknowledged) + len(items) > self._max_unacknowledged:
            connection.too_many_unacknowledged(subscription)
            return b""
        if connection.version is not Version.V1_2:
            for item in items:
                unacknowledged.add(prefix + item.split(b"\n", 1)[0])
            return start + start.join(items)
        ack = b"\nack:%d-" % subscription.number + prefix
        frames = []
        for item in items:
            number, rest = item.split(b"\n", 1)
            unacknowledged.add(prefix + number)
            frames.append(b"%b%b%b%b\n%b" % (start, number, ack, number, rest))
        return b"".join(frames)

    def _match(self, destination: bytes) -> tuple[tuple[Entry, ...], str]:
        if len(self._matches) >= _MAX_MATCHES:
            self._matches.clear()
        exact = self._entries.get(destination)
        entries = self._patterns.match(destination)
        if exact is not None and not exact.pattern:
            entries.append(exact)
        _, policy = min(self._policies.match(destination), default=(0, "block"))
        match = self._matches[destination] = (tuple(entries), policy)
        return match


def _routed(entry: Entry) -> None:
    entry.routed = True
    waiting, entry.waiting = entry.waiting, []
    for ticket in waiting:
        ticket.release()
