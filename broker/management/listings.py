"""Pages of what the workers hold, put together from their pieces.

A cursor is `slot.place`: the worker that is being gone through, and where in it. A page asks for a bounded number of
pieces; where a filter finds little, it may therefore hold few entries, or none, and still have a next one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.management.questions import NoAnswer

__all__ = ["Cursor", "Page", "list_connections", "list_destinations", "list_queues"]

PIECES = 40
"""Asked for per page."""
PIECE = 200
"""Entries a worker gives at once (`worker.inspection`)."""

_CURSOR = re.compile(r"([0-9]{1,3})\.([0-9]{1,15})", re.ASCII)

Ask = Callable[[int, str, dict[str, Any]], Awaitable[dict[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Cursor:
    slot: int = 0
    place: int = 0

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises `ValueError` for what `str` never gave."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ValueError("not a cursor")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.slot}.{self.place}"


@dataclass(slots=True)
class Page:
    """`unanswered`: the workers whose entries are missing."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    next: Cursor | None = None
    unanswered: set[int] = field(default_factory=set)


async def list_connections(
    ask: Ask, slots: Sequence[int], start: Cursor, limit: int, *, text: str = "", state: str = ""
) -> Page:
    """Up to `limit` connections whose session or peer contains `text`, in that `state`, worker by worker, the oldest
    first."""
    page = Page()

    async def piece(slot: int, place: int, count: int) -> tuple[list[dict[str, Any]], int | None]:
        arguments = {"after": place, "limit": count, "text": text, "state": state}
        result = await ask(slot, "connections", arguments) or {}
        return [{"worker": slot, **each} for each in result["connections"]], result["next"]

    await _walk(page, slots, start, limit, piece)
    return page


async def list_destinations(ask: Ask, slots: Sequence[int], start: Cursor, limit: int, *, text: str = "") -> Page:
    """Up to `limit` destinations and patterns whose name contains `text`, with their subscribers on all workers."""
    page = Page()

    async def piece(slot: int, place: int, count: int) -> tuple[list[dict[str, Any]], int | None]:
        result = await ask(slot, "destinations", {"offset": place, "limit": count, "text": text}) or {}
        found = {each["name"]: {**each, "workers": 1} for each in result["destinations"]}
        others = [other for other in slots if other != slot]
        if found:
            names = list(found)
            for other, counts in zip(others, await _counts(ask, page, others, names), strict=True):
                for each in counts:
                    if other < slot and each["subscribers"]:
                        # It came with that worker's own.
                        found.pop(each["name"], None)
                    elif (entry := found.get(each["name"])) is not None:
                        entry["subscribers"] += each["subscribers"]
                        entry["blocked"] = entry["blocked"] or each["blocked"]
                        entry["workers"] += bool(each["subscribers"])
        return list(found.values()), result["next"]

    await _walk(page, slots, start, limit, piece)
    return page


async def list_queues(ask: Ask, slots: Sequence[int], start: Cursor, limit: int, *, text: str = "") -> Page:
    """Up to `limit` queues whose name contains `text`, owner by owner."""
    page = Page()

    async def piece(slot: int, place: int, count: int) -> tuple[list[dict[str, Any]], int | None]:
        result = await ask(slot, "queues", {"offset": place, "limit": count, "text": text}) or {}
        return [{"owner": slot, **each} for each in result["queues"]], result["next"]

    await _walk(page, slots, start, limit, piece)
    return page


async def _counts(ask: Ask, page: Page, slots: Sequence[int], names: list[str]) -> list[list[dict[str, Any]]]:
    async def of(slot: int) -> list[dict[str, Any]]:
        try:
            result = await ask(slot, "counts", {"names": names})
        except NoAnswer:
            page.unanswered.add(slot)
            return []
        return [] if result is None else list(result["destinations"])

    return await asyncio.gather(*(of(slot) for slot in slots))


async def _walk(
    page: Page,
    slots: Sequence[int],
    start: Cursor,
    limit: int,
    piece: Callable[[int, int, int], Awaitable[tuple[list[dict[str, Any]], int | None]]],
) -> None:
    place: int | None = start.place
    pieces = 0
    for slot in slots:
        if slot < start.slot:
            continue
        if slot > start.slot:
            place = 0
        while place is not None:
            if pieces >= PIECES or len(page.entries) >= limit:
                page.next = Cursor(slot, place)
                return
            pieces += 1
            try:
                entries, place = await piece(slot, place, min(PIECE, limit - len(page.entries)))
            except NoAnswer:
                page.unanswered.add(slot)
                break
            page.entries += entries
