"""Which deliveries of one subscription are still to be acknowledged. Pure bookkeeping of ids."""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from common.errors import ErrorCode, StompError

__all__ = ["AckMode", "Settled", "Unacknowledged"]

Settled = list[tuple[int, bytes]]
"""What one ACK or NACK took out, oldest first: each id with its place in the order of deliveries."""


class AckMode(IntEnum):
    """The `ack` header of SUBSCRIBE (1.2 section SUBSCRIBE ack Header)."""

    AUTO = 0
    CLIENT = 1
    CLIENT_INDIVIDUAL = 2

    @classmethod
    def parse(cls, value: str | None) -> AckMode:
        """Raises StompError `bad-value` for anything but the three modes; absent means auto."""
        mode = _MODES.get(value)
        if mode is None:
            raise StompError(
                ErrorCode.BAD_VALUE,
                "unknown ack mode",
                f"ack was {str(value)[:80]!r}; it takes auto, client or client-individual",
            )
        return mode


_MODES: dict[str | None, AckMode] = {
    None: AckMode.AUTO,
    "auto": AckMode.AUTO,
    "client": AckMode.CLIENT,
    "client-individual": AckMode.CLIENT_INDIVIDUAL,
}


class Unacknowledged:
    """Message ids that were delivered and not settled, in the order of their delivery.

    A settlement inside a transaction takes them out at once, so that none can be settled twice, and is undone by
    `restore` when the transaction aborts.
    """

    __slots__ = ("_delivered", "_order", "_places")

    def __init__(self, mode: AckMode) -> None:
        self._delivered = 0
        self._places: dict[bytes, int] = {}
        # Only `client` mode asks for the oldest; a dict would walk over every id taken out before to find it.
        self._order: deque[bytes] | None = deque() if mode is AckMode.CLIENT else None

    @property
    def mode(self) -> AckMode:
        return AckMode.CLIENT_INDIVIDUAL if self._order is None else AckMode.CLIENT

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._places

    def add(self, message_id: bytes) -> None:
        """`message_id`, never added before, was delivered."""
        self._delivered += 1
        self._places[message_id] = self._delivered
        if self._order is not None:
            self._order.append(message_id)

    def settle(self, message_id: bytes) -> Settled:
        """Take out `message_id`, in `client` mode with all delivered before it; returns what was settled, which is
        nothing if the id is not pending."""
        places, order = self._places, self._order
        if message_id not in places:
            return []
        if order is None:
            return [(places.pop(message_id), message_id)]
        settled: Settled = []
        while message_id in places:
            oldest = order.popleft()
            settled.append((places.pop(oldest), oldest))
        return settled

    def settle_each(self, message_ids: list[bytes]) -> list[bytes]:
        """`settle` for one after the other, up to the first that is not pending; returns the ids that were settled."""
        if self._order is not None:
            return [id for each in message_ids for _, id in self.settle(each)]
        pop = self._places.pop
        settled = []
        for message_id in message_ids:
            if pop(message_id, None) is None:
                break
            settled.append(message_id)
        return settled

    def restore(self, settled: Settled) -> None:
        """Put settled ids back where they were in the order, whatever was settled or delivered since."""
        places = self._places
        for place, message_id in settled:
            places[message_id] = place
        if self._order is not None:
            self._order.extend(message_id for _, message_id in settled)
            self._order = deque(sorted(self._order, key=places.__getitem__))
