"""What one connection left, written to the next one frame at a time: who is refused then is known by being alone.

An ERROR need not say which frame it refuses (1.2 section ERROR), and all that was under way with that frame is lost
with the connection: written again in one go, it would be refused again in the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.client.unconfirmed import Unconfirmed
from common.frame import Frame

if TYPE_CHECKING:
    from common.client.session import Session
    from common.client.subscription import Subscription

__all__ = ["Replay", "write_again"]


class Replay:
    """To `session`: SUBSCRIBE of each of `wanted`, then the frames of `unconfirmed`; what is there when it begins.
    `made` has the subscriptions whose SUBSCRIBE is written, `alone` is the id of the frame that was written last."""

    def __init__(self, session: Session, wanted: Mapping[str, Subscription], unconfirmed: Unconfirmed) -> None:
        self.session = session
        self.made: set[Subscription] = set()
        self.alone = 0
        self._wanted = wanted
        self._subscriptions = deque(wanted.values())
        self._unconfirmed = unconfirmed
        self._up_to = unconfirmed.last_id

    def go_on(self) -> bool:
        """Write the next frame if the last one has its RECEIPT. Returns whether there is any that has none yet."""
        while not self._unconfirmed.awaits(self.alone):
            if self._subscriptions:
                subscription = self._subscriptions.popleft()
                # It may have been stopped meanwhile.
                if self._wanted.get(subscription.id) is subscription:
                    self.made.add(subscription)
                    before = self._unconfirmed.last_id
                    subscription.subscribe(self.session)
                    # RabbitMQ has some that there is nothing to write for.
                    if self._unconfirmed.last_id != before:
                        self.alone = self._unconfirmed.last_id
                continue
            found = self._unconfirmed.next_again(self._up_to)
            if found is None:
                return False
            self.alone, frame = found
            write_again(self.session, frame)
        return True


def write_again(session: Session, frame: Frame | bytes) -> None:
    """Write what `Unconfirmed` gave."""
    if isinstance(frame, bytes):
        session.write(frame)
    else:
        session.send(frame)
