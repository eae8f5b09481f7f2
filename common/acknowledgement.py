"""Which deliveries of one subscription are still to be acknowledged. Pure bookkeeping of ids."""

from __future__ import annotations

from enum import IntEnum

from common.errors import ErrorCode, StompError

__all__ = ["AckMode", "Unacknowledged"]


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

    __slots__ = ("_cumulative", "_pending")

    def __init__(self, mode: AckMode) -> None:
        self._cumulative = mode is AckMode.CLIENT
        self._pending: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._pending

    def add(self, message_id: bytes) -> None:
        self._pending[message_id] = None

    def settle(self, message_id: bytes) -> list[bytes]:
        """Take out `message_id`, in `client` mode with all delivered before it; returns what was settled, oldest
        first, which is nothing if the id is not pending."""
        pending = self._pending
        if message_id not in pending:
            return []
        if not self._cumulative:
            del pending[message_id]
            return [message_id]
        settled = []
        for pending_id in pending:
            settled.append(pending_id)
            if pending_id == message_id:
                break
        for pending_id in settled:
            del pending[pending_id]
        return settled

    def restore(self, message_ids: list[bytes]) -> None:
        """Put settled ids back where they were: before everything delivered after them."""
        back = dict.fromkeys(message_ids)
        # What is pending now and older than the restored ones cannot be told apart by age any more once it was
        # skipped over by an individual ACK; only `client-individual` can skip, and there order has no meaning.
        back.update(self._pending)
        self._pending = back
