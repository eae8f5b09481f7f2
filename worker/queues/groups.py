"""Message groups: which consumer the messages of a group stick to."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from common.selector import Selector
from worker.queues.consumer import Consumer
from worker.queues.lane import SideLane

__all__ = ["Groups"]


class Groups:
    """At most `most` are remembered, and as many as have messages outstanding."""

    __slots__ = ("_keepers", "_looked_through", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._keepers: dict[bytes, Consumer] = {}
        self._looked_through = 0

    def keeper(self, group: bytes, selectors: Collection[Selector | None]) -> Consumer | None:
        """The consumer that `group` sticks to, for a message that `selectors` take: what that one's own selector
        refuses is as if of no group."""
        keeper = self._keepers.get(group)
        if keeper is None or not keeper.eligible or keeper.selector not in selectors:
            return None
        return keeper

    def bind(self, group: bytes, consumer: Consumer) -> None:
        """`group` sticks to `consumer` unless it does to another one."""
        keeper = self._keepers.get(group)
        if keeper is None or not keeper.eligible:
            self._keepers.pop(group, None)
            self._keepers[group] = consumer

    def trim(self, sides: Iterable[SideLane]) -> None:
        """If they are too many, forget the oldest, but none of which messages are with its consumer or wait for it in
        one of `sides`, which are all there are."""
        if len(self._keepers) <= max(self.most, self._looked_through):
            return
        used: set[bytes | None] = set()
        for keeper in set(self._keepers.values()):
            if keeper.eligible:
                used.update(message.group for message in keeper.unsettled.values())
        kept = [side for side in sides if side.keeper is not None]
        for side in kept:
            used.update(message.group for message in side.messages)
        cut = {side.keeper for side in kept if side.is_cut}
        for group, keeper in list(self._keepers.items()):
            if len(self._keepers) * 2 <= self.most:
                break
            if group not in used and keeper not in cut:
                del self._keepers[group]
        # Not to look through all of them for each new one.
        self._looked_through = len(self._keepers) * 2
