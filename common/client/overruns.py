"""Which subscription has to end when a client holds too much of what it has received."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.client.errors import BufferOverrun
from common.client.incoming import Incoming

if TYPE_CHECKING:
    from common.client.subscription import Subscription

__all__ = ["Overruns"]


class Overruns:
    """Those among `subscriptions` (by their ids, as they are at any time) that ended by holding too much."""

    def __init__(self, subscriptions: Mapping[str, Subscription], incoming: Incoming) -> None:
        self._subscriptions = subscriptions
        self._incoming = incoming
        self._over: list[Subscription] = []

    def next(self) -> tuple[Subscription, BufferOverrun] | None:
        """The one with `ack:auto` that holds the most, if they hold too much, and what it is to be told.

        One that acknowledges is held back by its prefetch. What those hold that are over does not count: it grows no
        more, and taking it is all that is to be done about it.
        """
        incoming = self._incoming
        self._over = [each for each in self._over if each.held]
        if incoming.held - sum(each.held for each in self._over) <= incoming.limit:
            return None
        left = [each for each in self._subscriptions.values() if each.ack == "auto" and each not in self._over]
        most = max(left, key=lambda each: each.held, default=None)
        if most is None or not most.held:
            return None
        self._over.append(most)
        return most, BufferOverrun(
            f"{most!r} is over: the client held {incoming.held} bytes of messages that nobody had taken, the limit is"
            f" {incoming.limit} (16 times buffer_bytes). With ack='auto' they come as fast as the broker has them; with"
            " ack='client-individual' and a prefetch no more come than are acknowledged"
        )
