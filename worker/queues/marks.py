"""Which hand-offs of other workers are in, and how far: what comes again to the next life of their owner is not taken
twice, and is answered as it was the first time."""

from __future__ import annotations

from worker.queues.links import UNDER_WAY
from worker.store.interface import Change, Forget, Mark

__all__ = ["Marks", "source_of"]

_PLACE_AT = 40
"""The store keeps one number for a source: the sequence in its low bits, of which no worker comes to the end in a life,
and above them 1 more than the place of the first message that was refused, 0 if none was."""
_SEQUENCE = (1 << _PLACE_AT) - 1


def source_of(origin: str, sequence: int, transaction: str | None) -> tuple[str, int]:
    """What a hand-off is marked under, and with which number: 0 for one that dies with this worker."""
    if transaction is not None:
        return f"transaction {transaction}", 1
    return f"{origin}#{sequence % UNDER_WAY}", sequence


class Marks:
    def __init__(self) -> None:
        self._marks: dict[str, int] = {}

    def recover(self, marks: dict[str, int]) -> None:
        self._marks = dict(marks)

    def known(self, source: str, number: int) -> bool:
        """Whether this hand-off is in."""
        return number > 0 and self._marks.get(source, 0) & _SEQUENCE >= number

    def refused_at(self, source: str) -> int | None:
        """The place from which on the last hand-off that is in was refused, None if all of it is in."""
        place = self._marks.get(source, 0) >> _PLACE_AT
        return place - 1 if place else None

    def put(self, source: str, number: int, refused_at: int | None) -> Mark:
        """It is in, up to that place, with what tells the store so."""
        mark = number if refused_at is None else number | refused_at + 1 << _PLACE_AT
        self._marks[source] = mark
        return Mark(source, mark)

    def forget(self, source: str) -> list[Change]:
        """It will not come again."""
        return [Forget(source)] if self._marks.pop(source, 0) else []

    def forget_origins(self, slot: int, origin: str) -> list[Change]:
        """Worker `slot` is `origin` now; nothing comes from its earlier lives any more."""
        old = [each for each in self._marks if each.startswith(f"{slot}-") and not each.startswith(f"{origin}#")]
        return [change for each in old for change in self.forget(each)]
