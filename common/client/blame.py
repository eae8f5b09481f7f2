"""Whose fault an ERROR is, as far as that can be known, and what is known to be nobody's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.client.errors import BrokerError
from common.client.replay import Replay
from common.client.unconfirmed import Unconfirmed
from common.errors import ErrorCode

if TYPE_CHECKING:
    from common.client.subscription import Subscription

__all__ = ["Blame"]

_NOBODYS_FAULT = frozenset(
    {
        ErrorCode.SHUTTING_DOWN,
        ErrorCode.CLOSED_BY_OPERATOR,
        ErrorCode.TOO_MANY_CONNECTIONS,
        ErrorCode.HEART_BEAT_TIMEOUT,
        ErrorCode.SLOW_CONSUMER,
        ErrorCode.CONNECT_TIMEOUT,
        ErrorCode.INTERNAL_ERROR,
    }
)
"""ERRORs that refuse no frame: what was under way is tried again."""

_MOST_REFUSALS = 3
"""Sessions in a row that end with an ERROR which names no frame, until the client takes it for an answer."""


class Blame:
    """One client's. `is_open` says that the last ERROR was somebody's, and nobody knows whose: what is left is to be
    written one by one, see `Replay`."""

    def __init__(self, unconfirmed: Unconfirmed, subscriptions: Mapping[str, Subscription]) -> None:
        self._unconfirmed = unconfirmed
        self._subscriptions = subscriptions
        self.is_open = False
        self._unexplained = 0
        # The id of the frame that the last replay had just written.
        self._suspect = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether it has been nobody's, over and over."""
        return self._unexplained >= _MOST_REFUSALS

    def settled(self) -> None:
        """A session ended otherwise, or lasted."""
        self._unexplained = 0

    def take(self, error: BrokerError, replay: Replay | None) -> bool:
        """Tell `error` to the frame that was refused. Returns whether it is known which that was, if any; `replay` is
        that of the session, if it has one."""
        if error.code in _NOBODYS_FAULT or self._found(error, replay):
            return True
        self.is_open = True
        self._unexplained += 1
        return False

    def _found(self, error: BrokerError, replay: Replay | None) -> bool:
        id = error.frame.get("receipt-id")
        acks = any(each.may_have_acknowledged for each in self._subscriptions.values())
        if self._unconfirmed.refuse(id, error, acks=acks):
            return True
        if replay is None or id is not None:
            return False
        # It was alone but for ACKs and NACKs, which are written all the while: twice is no accident.
        suspect, self._suspect = self._suspect, replay.alone
        return suspect == self._suspect and self._unconfirmed.refuse(str(suspect), error)
