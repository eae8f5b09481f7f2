"""The open transactions of one connection: what BEGIN starts and COMMIT or ABORT ends. No delivery happens here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.acknowledgement import Settled
from common.errors import ErrorCode, StompError
from worker.routes import Route

if TYPE_CHECKING:
    from worker.queues.headers import Nack
    from worker.router import Subscription

__all__ = ["Transaction", "Transactions"]


class Transaction:
    """SENDs and settlements in the order they came; `size` in bytes."""

    __slots__ = ("sends", "settled", "size")

    def __init__(self) -> None:
        self.sends: list[tuple[Route, bytes]] = []
        self.settled: list[tuple[Subscription, Settled, Nack | None]] = []
        self.size = 0

    def restore(self) -> None:
        """Make every settlement undone."""
        # All of a subscription's at once: each time the order is made anew.
        together: dict[Subscription, Settled] = {}
        for subscription, settled, _ in self.settled:
            together.setdefault(subscription, []).extend(settled)
        for subscription, settled in together.items():
            if subscription.unacknowledged is not None:
                subscription.unacknowledged.restore(settled)


class Transactions:
    """Bounded by `count` open ones, `frames` and `size` bytes in each."""

    __slots__ = ("_count", "_frames", "_open", "_size")

    def __init__(self, count: int, frames: int, size: int) -> None:
        self._open: dict[str, Transaction] = {}
        self.limit(count, frames, size)

    def limit(self, count: int, frames: int, size: int) -> None:
        """Go by these limits from now on; what is open already stays."""
        self._count = count
        self._frames = frames
        self._size = size

    def begin(self, name: str) -> None:
        """Raises StompError `duplicate-transaction` or `too-many-transactions`."""
        if name in self._open:
            raise StompError(
                ErrorCode.DUPLICATE_TRANSACTION,
                "transaction already begun",
                f"transaction {name[:80]!r} is open on this connection; COMMIT or ABORT it first",
            )
        if len(self._open) >= self._count:
            raise StompError(
                ErrorCode.TOO_MANY_TRANSACTIONS,
                "too many open transactions",
                f"{self._count} are open on this connection, which is the limit (limits.transactions)",
            )
        self._open[name] = Transaction()

    def end(self, name: str) -> Transaction:
        """Take the transaction out, for COMMIT or ABORT; raises StompError `unknown-transaction`."""
        transaction = self._get(name)
        del self._open[name]
        return transaction

    def add_send(self, route: Route, body: bytes) -> None:
        """Raises StompError `unknown-transaction` or `transaction-too-large`."""
        transaction = self._get(route.transaction or "")
        self._grow(transaction, len(route.tail) + len(body))
        transaction.sends.append((route, body))

    def add_settlement(self, name: str, subscription: Subscription, settled: Settled, nack: Nack | None = None) -> None:
        """Raises as `add_send` does; what is settled then stays so, for the connection is closed."""
        transaction = self._get(name)
        self._grow(transaction, sum(len(message_id) for _, message_id in settled))
        transaction.settled.append((subscription, settled, nack))

    def require(self, name: str) -> None:
        """Raise StompError `unknown-transaction` unless `name` is open."""
        self._get(name)

    def _get(self, name: str) -> Transaction:
        transaction = self._open.get(name)
        if transaction is None:
            raise StompError(
                ErrorCode.UNKNOWN_TRANSACTION,
                "unknown transaction",
                f"no transaction {name[:80]!r} is open on this connection; BEGIN starts one",
            )
        return transaction

    def _grow(self, transaction: Transaction, size: int) -> None:
        frames = len(transaction.sends) + len(transaction.settled) + 1
        if frames > self._frames or transaction.size + size > self._size:
            raise StompError(
                ErrorCode.TRANSACTION_TOO_LARGE,
                "transaction too large",
                f"{frames} frames and {transaction.size + size} bytes; the limits are {self._frames} frames "
                f"(limits.transaction_frames) and {self._size} bytes (limits.transaction_bytes)",
            )
        transaction.size += size
