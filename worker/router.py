"""Who gets what: the subscriptions of this worker's clients, and the fan-out of a batch to them.

Subscriptions to one destination or pattern, with the same selector or none, form an `Entry`; its subscribers with the
same subscription id and version share one encoding of a batch (`Group`). Knows connections only as something to
`deliver` to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from common.acknowledgement import AckMode, Unacknowledged
from common.codec import escape
from common.destination import PatternTrie, is_pattern, literal_prefix
from common.negotiation import Version
from common.selector import Selector
from common.temporary import TEMP_TOPIC
from worker.backplane.interface import Backplane, Batch
from worker.items import choose, read_headers

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.receipts import Ticket

__all__ = ["Entry", "Fresh", "Gathered", "Router", "Subscription"]

_MAX_MATCHES = 65536
"""Destinations whose matching entries are remembered; beyond, all are forgotten and found again as they come."""


class Subscription:
    """One SUBSCRIBE of one connection, to the destination or pattern `name`. `number` is unique in the connection
    and starts its `ack` values."""

    __slots__ = ("connection", "entry", "head", "id", "name", "number", "selector", "unacknowledged")

    def __init__(
        self,
        connection: Connection,
        name: bytes,
        id: str | None,
        number: int,
        mode: AckMode,
        version: Version,
        selector: Selector | None = None,
    ) -> None:
        self.connection = connection
        self.name = name
        self.id = id
        self.selector = selector
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


class Fresh:
    """Who subscribed a moment ago, and to which destinations each was sent something since."""

    __slots__ = ("_seen", "_since", "_turn")

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}
        self._since: dict[Subscription, int] = {}
        self._turn = 0

    def join(self, subscription: Subscription) -> None:
        self._turn += 1
        self._since[subscription] = self._turn

    def leave(self, subscription: Subscription) -> bool:
        """Whether any are left."""
        self._since.pop(subscription, None)
        return bool(self._since)

    def live(self, destination: bytes) -> None:
        """Something was sent there, and all of them got it."""
        if len(self._seen) >= _MAX_MATCHES:
            # Nobody is, then: who is sent so much is not kept from what was sent before.
            self._since.clear()
            self._seen.clear()
        self._seen[destination] = self._turn

    def saw(self, subscription: Subscription, destination: bytes) -> bool:
        return self._seen.get(destination, 0) >= self._since.get(subscription, self._turn + 1)

    def without(self, destination: bytes) -> list[Subscription]:
        """Those that were sent nothing there since they subscribed."""
        seen = self._seen.get(destination, 0)
        return [each for each, since in self._since.items() if seen < since and each.entry is not None]


class Entry:
    """All subscriptions of this worker to one destination or pattern, with one selector or none. `routed` once every
    sibling sends what it matches; `waiting` are the RECEIPTs held until then. `fresh` while there are such."""

    __slots__ = ("fresh", "groups", "name", "pattern", "routed", "selector", "subscribers", "tracked", "waiting")

    def __init__(self, name: bytes, selector: Selector | None) -> None:
        self.name = name
        self.selector = selector
        self.pattern = is_pattern(name)
        # By the id and not by its bytes: ids that differ only in a CR are written the same before 1.2.
        self.groups: dict[tuple[int, str | None], Group] = {}
        self.tracked: dict[Subscription, None] = {}
        self.fresh: Fresh | None = None
        self.subscribers = 0
        self.routed = False
        self.waiting: list[Ticket] = []


_Match = tuple[tuple[Entry, ...], str, tuple[Entry, ...]]
"""Who wants a destination: entries without a selector, the slow-consumer policy, entries with one."""

Gathered = dict["Connection", list[bytes]]
"""What is to be written to each connection once all batches of a round are in: one write, not one per batch."""


class Router:
    def __init__(self, backplane: Backplane, policies: tuple[tuple[bytes, str], ...], max_unacknowledged: int) -> None:
        self._backplane = backplane
        self._entries: dict[bytes, dict[Selector | None, Entry]] = {}
        self._patterns: PatternTrie[Entry] = PatternTrie()
        self._matches: dict[bytes, _Match] = {}
        self.subscriptions = 0
        self.bytes_out = 0
        self.delivered = 0
        self.configure(policies, max_unacknowledged)

    def configure(self, policies: tuple[tuple[bytes, str], ...], max_unacknowledged: int) -> None:
        """Go by these `policies` (pattern, slow-consumer policy; the first match wins) and this limit from now on."""
        self._max_unacknowledged = max_unacknowledged
        self._policies: PatternTrie[tuple[int, str]] = PatternTrie()
        for number, (pattern, policy) in enumerate(policies):
            self._policies.add(pattern, (number, policy))
        self._matches.clear()

    def policy(self, destination: bytes) -> str:
        """What to do with a subscriber to `destination` that does not keep up."""
        return min(self._policies.match(destination), default=(0, "block"))[1]

    @property
    def destinations(self) -> int:
        """Destinations and patterns that have subscribers here."""
        return len(self._entries)

    def names(self) -> Iterable[bytes]:
        """Those, the oldest first."""
        return self._entries

    def subscribers(self, name: bytes) -> int:
        """Subscriptions here to exactly this destination or pattern."""
        return sum(entry.subscribers for entry in self._entries.get(name, {}).values())

    def subscribe(self, name: bytes, subscription: Subscription) -> Entry:
        """Route `name` to `subscription` from now on; the entry tells when the siblings do too."""
        selector = subscription.selector
        entries = self._entries.setdefault(name, {})
        entry = entries.get(selector)
        if entry is None:
            entry = entries[selector] = Entry(name, selector)
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
        entry.subscribers += 1
        self.subscriptions += 1
        return entry

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Stop routing to `subscription`; True if it was the last of its entry, so that siblings are told too."""
        entry = subscription.entry
        if entry is None:
            return False
        subscription.entry = None
        entry.subscribers -= 1
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
        entries = self._entries[entry.name]
        del entries[entry.selector]
        if not entries:
            del self._entries[entry.name]
        if entry.pattern:
            self._patterns.remove(entry.name, entry)
            self._matches.clear()
            self._backplane.unsubscribe_prefix(literal_prefix(entry.name))
        else:
            self._matches.pop(entry.name, None)
            self._backplane.unsubscribe(entry.name)
        return True

    def audience(self, destination: bytes) -> int:
        """Subscriptions here that are asked about what is sent to `destination`, and one for each sibling that has
        some."""
        entries, _, selective = self._matches.get(destination) or self._match(destination)
        local = sum(entry.subscribers for entry in (*entries, *selective))
        return local + self._backplane.interested(destination)

    def deliver(
        self, destination: bytes, batch: Batch, gathered: Gathered | None = None, match: _Match | None = None
    ) -> None:
        """Fan `batch` out to this worker's subscribers, now or by way of `gathered`; to those of `match` alone if it is
        given."""
        if match is None:
            match = self._matches.get(destination)
            if match is None:
                match = self._match(destination)
        entries, policy, selective = match
        if selective:
            self._deliver_selected(destination, batch, gathered, policy, selective)
        prefix = batch.id_prefix
        items = batch.items
        count = len(items)
        by_version = batch.by_version
        for entry in entries:
            if entry.fresh is not None:
                entry.fresh.live(destination)
            for group in entry.groups.values():
                if by_version is not None:
                    items = by_version[group.version]
                start = group.head + prefix
                blob = start + start.join(items)
                members = group.members
                self.delivered += len(members) * count
                self.bytes_out += len(members) * len(blob)
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
                self.bytes_out += len(tracked)
                if connection.outbox is not None:
                    connection.outbox.offer(tracked, destination, count, policy)
                elif gathered is None:
                    connection.transport.write(tracked)
                else:
                    gathered.setdefault(connection, []).append(tracked)

    def deliver_to(self, subscription: Subscription, destination: bytes, batch: Batch) -> None:
        """Bring `batch` to that subscription alone, if its selector matches."""
        if subscription.selector is not None:
            matches = subscription.selector.matches
            batch = choose(batch, [place for place, each in enumerate(read_headers(batch)) if matches(each)])
        connection = subscription.connection
        version = connection.version
        if not batch.items or version is None or connection.closing:
            return
        if subscription.unacknowledged is not None:
            blob = self._tracked_blob(subscription, batch)
        else:
            start = subscription.head + batch.id_prefix
            blob = start + start.join(batch.items if batch.by_version is None else batch.by_version[version])
        if blob:
            count = len(batch.items)
            self.delivered += count
            self.bytes_out += len(blob)
            if connection.outbox is not None:
                connection.outbox.offer(blob, destination, count, self.policy(destination))
            else:
                connection.transport.write(blob)

    def room_for(self, subscription: Subscription) -> int:
        """Messages that may well be delivered to it, with as much again in reserve for what is live."""
        unacknowledged = subscription.unacknowledged
        return self._max_unacknowledged // 2 - (0 if unacknowledged is None else len(unacknowledged))

    def entries(self, destination: bytes) -> tuple[Entry, ...]:
        """Those that want what is sent to `destination`."""
        entries, _, selective = self._matches.get(destination) or self._match(destination)
        return entries + selective

    def _deliver_selected(
        self, destination: bytes, batch: Batch, gathered: Gathered | None, policy: str, entries: tuple[Entry, ...]
    ) -> None:
        headers = read_headers(batch)
        chosen: dict[Selector | None, list[int]] = {}
        for entry in entries:
            selector = entry.selector
            places = chosen.get(selector)
            if places is None and selector is not None:
                matches = selector.matches
                places = chosen[selector] = [place for place, each in enumerate(headers) if matches(each)]
            if places:
                share = batch if len(places) == len(headers) else choose(batch, places)
                self.deliver(destination, share, gathered, ((entry,), policy, ()))

    def _tracked_blob(self, subscription: Subscription, batch: Batch) -> bytes:
        """The frames of `batch` for a subscription that acknowledges; each is pending from now on."""
        connection = subscription.connection
        unacknowledged = subscription.unacknowledged
        if unacknowledged is None or connection.version is None or connection.reason is not None:
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

    def _match(self, destination: bytes) -> _Match:
        if len(self._matches) >= _MAX_MATCHES:
            self._matches.clear()
        # What is temporary is its connection's alone: no pattern listens in.
        entries = [] if destination.startswith(TEMP_TOPIC) else self._patterns.match(destination)
        entries += [entry for entry in self._entries.get(destination, {}).values() if not entry.pattern]
        match = self._matches[destination] = (
            tuple(entry for entry in entries if entry.selector is None),
            self.policy(destination),
            tuple(entry for entry in entries if entry.selector is not None),
        )
        return match


def _routed(entry: Entry) -> None:
    entry.routed = True
    waiting, entry.waiting = entry.waiting, []
    for ticket in waiting:
        ticket.release()
