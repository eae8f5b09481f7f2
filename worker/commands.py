"""What each client command does, one handler each, found by its name. SEND outside transactions never comes here: it is
the hot path's (`worker.ingest`).

A handler raises StompError for a frame it cannot accept; the connection then answers ERROR and closes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from common.acknowledgement import AckMode
from common.destination import QUEUES, check_destination
from common.errors import CloseReason, ErrorCode, StompError
from common.frame import Frame
from common.negotiation import HeartBeat, Version, agree_heart_beat, negotiate, parse_heart_beat
from common.selector import Selector
from worker.committing import abort, begin, commit
from worker.handling import answer, required, version_of
from worker.queues.browsing import Browser, wants_to_browse
from worker.queues.headers import Nack, durable_name, ends_durable, parse_feed, parse_nack, queue_subscription
from worker.queues.subscription import QueueSubscription
from worker.router import Subscription

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core

__all__ = ["COMMANDS", "acknowledge"]

_SEARCHED = 256
"""Acknowledging subscriptions that are searched for a message-id alone, which is all that 1.0 sends."""

_SELECTOR_COST = 4096
"""Of all selectors of a connection. Each is asked about each message, on the loop that serves the others as well."""


def _connect(core: Core, connection: Connection, frame: Frame) -> None:
    if connection.version is not None:
        raise StompError(
            ErrorCode.ALREADY_CONNECTED, "already connected", "a connection takes one CONNECT or STOMP frame"
        )
    version = negotiate(frame.get("accept-version"))
    listener = connection.listener
    host = frame.get("host")
    if listener.hosts and host not in listener.hosts:
        raise StompError(
            ErrorCode.UNKNOWN_HOST,
            "unknown host",
            f"host was {'absent' if host is None else repr(host[:80])}; "
            f"this listener serves {', '.join(sorted(listener.hosts))}",
        )
    beats = agree_heart_beat((0, 0), (0, 0))
    if version is not Version.V1_0:
        beats = agree_heart_beat(parse_heart_beat(frame.get("heart-beat")), listener.heart_beat)
    connection.client_id = frame.get("client-id") or None
    if core.naming is None:
        _accept(core, connection, frame, version, beats)
    else:
        # The rest of the read is taken in, and waits, as frames of that version.
        connection.version = version
        core.naming.ask(connection, lambda: _accept(core, connection, frame, version, beats))


def _accept(core: Core, connection: Connection, frame: Frame, version: Version, beats: HeartBeat) -> None:
    connection.logged_in(version, beats)
    headers = [
        ("version", version.label),
        ("session", connection.session),
        ("server", core.settings.server),
    ]
    if version is not Version.V1_0:
        headers.append(("heart-beat", "{},{}".format(*connection.listener.heart_beat)))
    connection.send_frame("CONNECTED", headers)
    if core.reports is not None:
        core.reports.connected(connection, version, frame.get("login"))


def _subscribe(core: Core, connection: Connection, frame: Frame) -> None:
    name = required(frame, "destination")
    destination = name.encode()
    check_destination(destination, core.settings.destination_bytes, pattern_allowed=True)
    mode = AckMode.parse(frame.get("ack"))
    destination = core.temporary.subscribed(connection, frame, destination)
    browses = wants_to_browse(frame, queue=destination.startswith(QUEUES))
    if browses:
        mode = AckMode.AUTO
    selector = _selector(connection, frame)
    id = frame.get("id") or None
    version = version_of(connection)
    if id is None and version is not Version.V1_0:
        required(frame, "id")
    subscriptions = connection.subscriptions
    # A 1.0 subscription without an id is known by its destination; NUL keeps it apart from every id.
    key = f"\0{name}" if id is None else id
    if key in subscriptions:
        raise StompError(
            ErrorCode.DUPLICATE_SUBSCRIPTION,
            "subscription already exists",
            f"{_key_shown(key)} is in use on this connection; UNSUBSCRIBE it first",
        )
    if len(subscriptions) >= core.settings.subscriptions:
        raise StompError(
            ErrorCode.TOO_MANY_SUBSCRIPTIONS,
            "too many subscriptions",
            f"{len(subscriptions)} on this connection, which is the limit (limits.subscriptions)",
        )
    if version is Version.V1_0 and mode is not AckMode.AUTO and len(connection.tracked) >= _SEARCHED:
        raise StompError(
            ErrorCode.TOO_MANY_SUBSCRIPTIONS,
            "too many acknowledging subscriptions",
            f"{_SEARCHED} on this connection, the limit of STOMP 1.0, whose ACK names no subscription; use 1.1 or 1.2",
        )
    number = connection.next_number()
    subscription: Subscription
    feed = None if destination.startswith(QUEUES) else parse_feed(connection, frame, destination)
    if browses:
        owner = core.queues.owner_of(destination)
        subscription = Browser(connection, destination, name, id, number, version, selector, owner)
    elif feed is not None or destination.startswith(QUEUES):
        subscription = queue_subscription(core, connection, frame, destination, id, number, mode, selector, feed)
    else:
        subscription = Subscription(connection, destination, id, number, mode, version, selector)
    subscriptions[key] = subscription
    if mode is not AckMode.AUTO:
        connection.tracked[number] = subscription
    if selector is not None:
        connection.selector_cost += selector.cost
    _start(core, connection, frame, subscription)
    if core.reports is not None:
        core.reports.subscribed(subscription, name, mode)


def _start(core: Core, connection: Connection, frame: Frame, subscription: Subscription) -> None:
    receipt = frame.get("receipt")
    if isinstance(subscription, QueueSubscription):
        core.queues.clients.subscribe(subscription, receipt)
        return
    if isinstance(subscription, Browser):
        answer(connection, frame)
        core.queues.browsing.start(subscription)
        return
    entry = core.router.subscribe(subscription.name, subscription)
    core.retained.subscribed(subscription)
    if not entry.routed:
        # Also without a receipt of its own: a later one says that this frame was processed, too.
        entry.waiting.append(connection.hold_receipt(receipt))
    elif receipt is not None:
        connection.receipt(receipt)


def _selector(connection: Connection, frame: Frame) -> Selector | None:
    text = frame.get("selector")
    if not text:
        return None
    selector = Selector.parse(text)
    cost = connection.selector_cost + selector.cost
    if cost > _SELECTOR_COST:
        raise StompError(
            ErrorCode.TOO_MANY_SUBSCRIPTIONS,
            "too many selectors",
            f"those of this connection cost {cost}, the limit is {_SELECTOR_COST}: a selector costs its "
            "characters, and 1024 more for each LIKE with both % and _",
        )
    return selector


def _key_shown(key: str) -> str:
    return f"destination {key[1:81]!r}" if key.startswith("\0") else f"id {key[:80]!r}"


def _unsubscribe(core: Core, connection: Connection, frame: Frame) -> None:
    id = frame.get("id") or None
    if id is None and version_of(connection) is Version.V1_0:
        destination = required(frame, "destination")
        key = f"\0{destination}"
        if key not in connection.subscriptions:
            address = core.temporary.address(connection, destination.encode())
            key = next((other for other, each in connection.subscriptions.items() if each.name == address), key)
    else:
        key = required(frame, "id")
    ending = ends_durable(frame)
    subscription = connection.subscriptions.pop(key, None)
    if subscription is None and ending:
        # It may have been left alone long ago.
        name = durable_name(connection, frame)
        core.queues.clients.end(name, connection.hold_receipt(frame.get("receipt")))
        return
    if subscription is None:
        raise StompError(
            ErrorCode.UNKNOWN_SUBSCRIPTION,
            "unknown subscription",
            f"{_key_shown(key)} is not subscribed on this connection",
        )
    if subscription.unacknowledged is not None:
        del connection.tracked[subscription.number]
    if subscription.selector is not None:
        connection.selector_cost -= subscription.selector.cost
    _stop(core, connection, frame, subscription, ending=ending)
    if core.reports is not None:
        core.reports.unsubscribed(subscription)


def _stop(core: Core, connection: Connection, frame: Frame, subscription: Subscription, *, ending: bool) -> None:
    receipt = frame.get("receipt")
    if isinstance(subscription, QueueSubscription):
        if ending and subscription.feed is not None:
            core.queues.clients.unsubscribe(subscription, None)
            core.queues.clients.end(subscription.name, connection.hold_receipt(receipt))
            return
        core.queues.clients.unsubscribe(subscription, connection.hold_receipt(receipt))
        return
    core.queues.browsing.stop(subscription)
    last = core.router.unsubscribe(subscription)
    if last:
        core.backplane.barrier(connection.hold_receipt(receipt).release)
    elif receipt is not None:
        connection.receipt(receipt)


def _settle(core: Core, connection: Connection, frame: Frame, nack: Nack | None = None) -> None:
    """ACK and NACK. A topic keeps no copy to deliver again, so there both settle."""
    subscription, message_id = _delivery(connection, frame)
    name = frame.get("transaction")
    if name is not None:
        connection.open_transactions().require(name)
    unacknowledged = None if subscription is None else subscription.unacknowledged
    settled = [] if unacknowledged is None else unacknowledged.settle(message_id)
    if subscription is None or not settled:
        raise StompError(
            ErrorCode.UNKNOWN_MESSAGE,
            f"{frame.command} of an unknown message",
            f"{message_id[:120].decode(errors='replace')!r} was never delivered to a subscription of this connection "
            "that acknowledges, or is settled already",
        )
    if name is not None:
        connection.open_transactions().add_settlement(name, subscription, settled, nack)
    elif isinstance(subscription, QueueSubscription):
        receipt = frame.get("receipt")
        # Without a receipt of its own it holds up no later one: that speaks for the frame, not for the disk.
        ticket = None if receipt is None else connection.hold_receipt(receipt)
        ids = [id for _, id in settled]
        if nack is None:
            core.queues.clients.settle(subscription, ids, ticket)
        else:
            core.queues.clients.nack(subscription, ids, nack, ticket)
        return
    answer(connection, frame)


def acknowledge(core: Core, connection: Connection, values: list[bytes]) -> int:
    """ACKs of 1.2 by their `ack` values; returns how many are settled, short of the first that takes a closer look."""
    done = 0
    while done < len(values):
        number = values[done].partition(b"-")[0]
        subscription = connection.tracked.get(int(number)) if number.isdigit() and len(number) < 18 else None
        if subscription is None or subscription.unacknowledged is None:
            return done
        start = number + b"-"
        ids: list[bytes] = []
        for value in islice(values, done, None):
            if not value.startswith(start):
                break
            ids.append(value[len(start) :])
        cumulative = subscription.unacknowledged.mode is AckMode.CLIENT
        if cumulative:
            # Each takes those before it along, and must itself be pending when its turn comes.
            ids = ids[:1]
        settled = subscription.unacknowledged.settle_each(ids)
        if settled and isinstance(subscription, QueueSubscription):
            core.queues.clients.settle(subscription, settled, None)
        count = min(len(settled), 1) if cumulative else len(settled)
        done += count
        if count < len(ids):
            return done
    return done


def _delivery(connection: Connection, frame: Frame) -> tuple[Subscription | None, bytes]:
    """The subscription and message-id that an ACK or NACK means; the subscription is None if there is none such."""
    version = version_of(connection)
    tracked = connection.tracked
    if version is Version.V1_2:
        value = required(frame, "id")
        number, dash, message_id = value.partition("-")
        if dash and number.isascii() and number.isdigit() and len(number) < 18:
            subscription = tracked.get(int(number))
            if subscription is not None and _is_pending(subscription, message_id.encode()):
                return subscription, message_id.encode()
    else:
        value = required(frame, "message-id")
        if version is Version.V1_1:
            subscription = connection.subscriptions.get(required(frame, "subscription"))
            return subscription, value.encode()
    message_id_only = value.encode()
    for subscription in islice(tracked.values(), _SEARCHED):
        if _is_pending(subscription, message_id_only):
            return subscription, message_id_only
    return None, message_id_only


def _is_pending(subscription: Subscription, message_id: bytes) -> bool:
    return subscription.unacknowledged is not None and message_id in subscription.unacknowledged


def _nack(core: Core, connection: Connection, frame: Frame) -> None:
    if connection.version is Version.V1_0:
        raise StompError(ErrorCode.UNKNOWN_COMMAND, "unknown command", "STOMP 1.0 has no NACK; connect with 1.1 or 1.2")
    _settle(core, connection, frame, parse_nack(frame))


def _disconnect(core: Core, connection: Connection, frame: Frame) -> None:
    connection.disconnect(frame.get("receipt"), CloseReason.DISCONNECT)


COMMANDS: dict[str, Callable[[Core, Connection, Frame], None]] = {
    "CONNECT": _connect,
    "STOMP": _connect,
    "SUBSCRIBE": _subscribe,
    "UNSUBSCRIBE": _unsubscribe,
    "ACK": _settle,
    "NACK": _nack,
    "BEGIN": begin,
    "COMMIT": commit,
    "ABORT": abort,
    "DISCONNECT": _disconnect,
}
