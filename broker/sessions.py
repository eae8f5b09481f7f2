"""Who is connected and subscribed, by what the workers report; told on as events, and asked for names.

Without I/O. Makes up what a worker that died could not say any more.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from broker.events import (
    ClientConnected,
    ClientDisconnected,
    Event,
    Reader,
    ServerStopped,
    SubscriptionEnded,
    SubscriptionStarted,
)
from common import log
from common.errors import CloseReason
from common.log import EventLog

__all__ = ["SESSION_BYTES", "Sessions"]

SESSION_BYTES = 256
"""The longest session id that may be provided, as UTF-8."""


@dataclass(slots=True)
class _Client:
    session: str
    is_connected: bool = False
    subscriptions: dict[int, tuple[str | None, str]] = field(default_factory=dict)
    """Id and destination by number."""


class Sessions:
    """`provide` gives the session id of each client that connects; None leaves that to the workers."""

    def __init__(self, provide: Callable[[], str] | None, log: EventLog) -> None:
        self._provide = provide
        self._log = log
        self._clients: dict[int, dict[int, _Client]] = {}
        self._locators: dict[str, str] = {}
        # A reader that nobody reads any more needs no farewell.
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._stopped: ServerStopped | None = None

    def tell(self, reader: Reader) -> None:
        """Tell it what happens from now on."""
        if self._stopped is None:
            self._readers.add(reader)
        else:
            reader.add(self._stopped)

    def stopped(self, code: int) -> None:
        """The last worker is gone."""
        self._stopped = ServerStopped(code)
        self._emit(self._stopped)

    def _emit(self, event: Event) -> None:
        for reader in self._readers:
            reader.add(event)

    # --- what the front tells, and asks (`broker.front.Watch`)

    @property
    def names(self) -> bool:
        return self._provide is not None

    def happened(self, slot: int, events: list[list[Any]]) -> None:
        clients = self._clients.setdefault(slot, {})
        for event in events:
            match event:
                case ["connected", int(number), str(session), host, port, version, login]:
                    clients.setdefault(number, _Client(session)).is_connected = True
                    self._emit(ClientConnected(session, (host, port), version, login))
                case ["subscribed", int(number), int(subscription), id, destination, ack] if number in clients:
                    client = clients[number]
                    client.subscriptions[subscription] = id, destination
                    self._emit(SubscriptionStarted(client.session, id, destination, ack))
                case ["unsubscribed", int(number), int(subscription)] if number in clients:
                    client = clients[number]
                    ended = client.subscriptions.pop(subscription, None)
                    if ended is not None:
                        self._emit(SubscriptionEnded(client.session, *ended))
                case ["left", int(number), str(reason)]:
                    self._left(clients.pop(number, None), CloseReason(reason))
                case _:
                    self._log.error(log.Event.CONTROL_ERROR, slot=slot, reason=f"unknown report {event!r:.200}")

    def name(self, slot: int, number: int, locator: str) -> str | None:
        if self._provide is None:
            return locator
        fields: dict[str, object] = {}
        try:
            session = self._provide()
            reason = self._unfit(session)
        except Exception as error:  # noqa: BLE001 - whatever a foreign function raises concerns this one client
            reason = f"the session id provider raised {type(error).__name__}: {error}"
            fields["traceback"] = "".join(traceback.format_exception(error))
        if reason:
            self._log.error(log.Event.SESSION_REFUSED, slot=slot, reason=reason, **fields)
            return None
        self._clients.setdefault(slot, {})[number] = _Client(session)
        self._locators[session] = locator
        return session

    def lost(self, slot: int) -> None:
        for client in self._clients.pop(slot, {}).values():
            self._left(client, CloseReason.CONNECTION_LOST)

    def locate(self, session: str) -> str:
        return self._locators.get(session, session)

    # --- steps

    def _left(self, client: _Client | None, reason: CloseReason) -> None:
        if client is None:
            return
        self._locators.pop(client.session, None)
        if client.is_connected:
            for id, destination in client.subscriptions.values():
                self._emit(SubscriptionEnded(client.session, id, destination))
            self._emit(ClientDisconnected(client.session, reason))

    def _unfit(self, session: object) -> str:
        """Why it cannot be a session id; empty if it can."""
        if not isinstance(session, str):
            return f"a session id is a str, the provider gave {type(session).__name__}"
        try:
            size = len(session.encode())
        except UnicodeEncodeError:
            return f"the session id {session!r:.80} cannot be written as UTF-8"
        if not 0 < size <= SESSION_BYTES:
            return f"a session id has 1 to {SESSION_BYTES} bytes, the provider gave {size}"
        if any(character < " " or "\x7f" <= character <= "\x9f" for character in session):
            return f"the session id {session!r:.80} has control characters"
        if session != session.strip():
            return f"the session id {session!r:.80} starts or ends with a blank, which STOMP 1.0 clients drop"
        if session in self._locators:
            return f"the session id {session!r:.80} is that of another client"
        return ""
