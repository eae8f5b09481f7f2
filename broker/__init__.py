"""The broker, to be embedded: `from broker import Broker`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.embedded import Broker
    from broker.errors import CannotStartError
    from broker.events import (
        ClientConnected,
        ClientDisconnected,
        Event,
        EventsLost,
        ServerStopped,
        SubscriptionEnded,
        SubscriptionStarted,
    )
    from broker.threaded import ThreadedBroker
    from common.config import ConfigError
    from common.errors import CloseReason

__all__ = [
    "Broker",
    "CannotStartError",
    "ClientConnected",
    "ClientDisconnected",
    "CloseReason",
    "ConfigError",
    "Event",
    "EventsLost",
    "ServerStopped",
    "SubscriptionEnded",
    "SubscriptionStarted",
    "ThreadedBroker",
]

_MODULES = {
    "Broker": "broker.embedded",
    "CannotStartError": "broker.errors",
    "CloseReason": "common.errors",
    "ConfigError": "common.config",
    "ThreadedBroker": "broker.threaded",
}


def __getattr__(name: str) -> object:
    # Not imported before somebody asks: the command line tells a mistake in the configuration without loading a broker.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "broker.events")), name)
