"""The HTTP resources about queues. A queue is asked of its owner, and moved or purged there in slices, so that neither
the worker nor this interface stands still for a long one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from broker.management.listings import Ask, list_queues
from broker.management.metrics import DEPTHS, Depth
from broker.management.questions import NoAnswer
from broker.management.requests import BadRequest, number, page_answer, page_of, refusal
from common.destination import QUEUE, check_destination
from common.errors import StompError
from common.ownership import owner_of

__all__ = ["QueueApi"]

_MAX_CONSUMERS = 200
_MOST = 10**9
_MAX_NAME = 1024
_PATIENCE = 0.5
"""Seconds that a scrape waits for the depths of a worker: late numbers are worth less than all the others."""


class QueueApi:
    """`slots` are the workers that can be asked."""

    def __init__(self, ask: Ask, slots: Callable[[], Sequence[int]]) -> None:
        self._ask = ask
        self._slots = slots

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/api/queues", self.queues),
            web.get("/api/queues/{name}", self.queue),
            web.post("/api/queues/{name}/requeue", self.requeue),
            web.post("/api/queues/{name}/purge", self.purge),
        ]

    async def queues(self, request: web.Request) -> web.Response:
        start, limit, text = page_of(request)
        return page_answer("queues", await list_queues(self._ask, self._slots(), start, limit, text=text))

    async def queue(self, request: web.Request) -> web.Response:
        """One queue with its consumers, each with its session where its worker answers."""
        offset = number(request, "offset", 0, 0, _MOST)
        limit = number(request, "limit", 100, 1, _MAX_CONSUMERS)
        name = _name(request.match_info["name"])
        owner, found = await self._find(name, offset, limit)
        if found is None:
            return _unknown(name)
        consumers = found["consumer_list"]
        sessions = await asyncio.gather(
            *(self._sessions(slot, consumers) for slot in {each["worker"] for each in consumers})
        )
        known = {number: session for each in sessions for number, session in each.items()}
        for each in consumers:
            each["session"] = known.get((each["worker"], each.pop("number")), "")
        return web.json_response({"owner": owner, **found})

    async def requeue(self, request: web.Request) -> web.Response:
        """Send messages back to the queues they came from, or all to the queue `to`; at most `limit`."""
        to = request.query.get("to", "")
        return await self._in_slices(request, "requeue", {"to": _target(to) if to else ""})

    async def purge(self, request: web.Request) -> web.Response:
        """Throw away what waits in the queue. What consumers hold stays."""
        return await self._in_slices(request, "purge", {})

    async def deepest(self) -> list[Depth]:
        """The queues that hold the most, of all workers."""

        async def of(slot: int) -> list[Depth]:
            try:
                result = await asyncio.wait_for(self._ask(slot, "deepest", {}), _PATIENCE)
            except (NoAnswer, TimeoutError):
                return []
            return [] if result is None else [Depth(*each) for each in result["queues"]]

        found = [each for some in await asyncio.gather(*map(of, self._slots())) for each in some]
        return sorted(found, key=lambda each: (-each.messages, each.queue))[:DEPTHS]

    async def _in_slices(self, request: web.Request, what: str, arguments: dict[str, Any]) -> web.Response:
        limit = number(request, "limit", _MOST, 1, _MOST)
        name = _name(request.match_info["name"])
        owner, found = await self._find(name, 0, 1)
        if owner is None or found is None:
            return _unknown(name)
        # Not more than there is now: what comes back meanwhile, having failed again, waits for the next order.
        left = min(limit, found["messages"] - found["unsettled"])
        moved, answer = 0, None
        try:
            while moved < left:
                result = await self._ask(owner, what, {"name": name, "limit": left - moved, **arguments})
                if result is None:
                    break
                answer = result
                moved += result["moved"]
                if result["why"] or not result["moved"]:
                    break
        except NoAnswer as error:
            # It may have been done all the same; what was moved is.
            return web.json_response({"error": str(error), "queue": name, "moved": moved}, status=504)
        still = found["messages"] - found["unsettled"] if answer is None else answer["left"]
        why = "" if answer is None else answer["why"]
        return web.json_response({"queue": name, "moved": moved, "left": still, "why": why})

    async def _find(self, name: str, offset: int, limit: int) -> tuple[int | None, dict[str, Any] | None]:
        """The owner of a queue and what it says. Raises `NoAnswer` if the one it should have does not answer."""
        slots = self._slots()
        # All of them: who owns what is not to be known here for every kind of queue.
        for slot in sorted(slots, key=_likely(name, slots)):
            found = await self._ask(slot, "queue", {"name": name, "offset": offset, "limit": limit})
            if found is not None:
                return slot, found
        return None, None

    async def _sessions(self, slot: int, consumers: list[dict[str, Any]]) -> dict[tuple[int, int], str]:
        numbers = [each["number"] for each in consumers if each["worker"] == slot]
        try:
            result = await self._ask(slot, "consumers", {"numbers": numbers})
        except NoAnswer:
            return {}
        return {} if result is None else {(slot, number): session for number, session in result["sessions"]}


def _likely(name: str, slots: Sequence[int]) -> Callable[[int], bool]:
    """Sorts the slot first that owns the queue `name` if all workers are there."""
    owner = owner_of(name.encode(), max(slots) + 1) if slots else 0
    return lambda slot: slot != owner


def _name(text: str) -> str:
    """The name of a queue, of which its `/queue/` may be left out."""
    return text if text.startswith("/") else f"/queue/{text}"


def _target(text: str) -> str:
    name = _name(text)
    try:
        check_destination(name.encode(), _MAX_NAME, pattern_allowed=False)
    except StompError as error:
        raise BadRequest(f"to takes the name of a queue: {error.detail}") from None
    if not name.encode().startswith(QUEUE):
        raise BadRequest(f"to takes the name of a queue, which {name[:80]!r} is not")
    return name


def _unknown(name: str) -> web.Response:
    return refusal(404, f"there is no queue {name[:80]!r}")
