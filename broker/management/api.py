"""The HTTP resources, each a coroutine from request to response. All answers but metrics and the console are JSON;
times are in seconds, sizes in bytes. What cannot be answered is `{"error": ...}` with a fitting status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from broker.management.listings import list_connections, list_destinations
from broker.management.metrics import CONTENT_TYPE, render
from broker.management.questions import NoAnswer, Questions
from broker.management.queues import QueueApi
from broker.management.requests import BadRequest, number, page_answer, page_of, refusal
from broker.management.state import BrokerState, View, WorkerState
from common.release import VERSION

__all__ = ["Api", "explain"]

_STATES = ("", "open", "waiting", "paused", "connecting", "closing")
_MAX_SUBSCRIPTIONS = 200
_TOTALS = (
    *("connections", "accepted", "subscriptions", "messages_in", "messages_out", "bytes_in", "bytes_out", "dropped"),
    *("slow_subscribers", "paused_publishers", "blocked_destinations", "backplane_kept_bytes"),
    *("queues", "queue_messages", "queue_bytes", "queue_unsettled", "queue_consumers", "dead_lettered"),
    *("retained_messages", "retained_bytes"),
    *("store_commits", "store_failures", "store_bytes", "store_pending_bytes", "unconfirmed_bytes"),
)


class Api:
    """`locate` gives the locator of a session, which says where it is."""

    def __init__(self, view: View, questions: Questions, locate: Callable[[str], str] = str) -> None:
        self._view = view
        self._locate = locate
        self._questions = questions
        self._queues = QueueApi(questions.ask, self._slots)

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/health/live", self.live),
            web.get("/health/ready", self.ready),
            web.get("/metrics", self.metrics),
            web.get("/api/overview", self.overview),
            web.get("/api/workers", self.workers),
            web.get("/api/connections", self.connections),
            web.get("/api/connections/{session}", self.connection),
            web.post("/api/connections/{session}/close", self.close),
            web.get("/api/destinations", self.destinations),
            *self._queues.routes(),
        ]

    # --- what the front knows

    async def live(self, request: web.Request) -> web.Response:
        """The front's event loop runs, or nobody would answer; it replaces workers itself, so that they are no reason
        to restart the broker."""
        return web.json_response({"status": "live"})

    async def ready(self, request: web.Request) -> web.Response:
        """200 while every worker accepts clients: one that is missing leaves the connections the kernel gives it
        waiting. Degraded where a worker cannot store: topics and consumers go on, and consumers make room."""
        state = self._view.take()
        reason = state.not_ready_because
        if reason:
            return web.json_response({"status": "not ready", "reason": reason}, status=503)
        if state.degraded_because:
            return web.json_response({"status": "degraded", "reason": state.degraded_because})
        return web.json_response({"status": "ready"})

    async def metrics(self, request: web.Request) -> web.Response:
        depths = await self._queues.deepest()
        return web.Response(body=render(self._view.take(), depths).encode(), headers={"Content-Type": CONTENT_TYPE})

    async def overview(self, request: web.Request) -> web.Response:
        state = self._view.take()
        return web.json_response(
            {
                "version": VERSION,
                "ready": not state.not_ready_because,
                "reason": state.not_ready_because or state.degraded_because,
                "degraded": bool(state.degraded_because),
                "started": state.started,
                "uptime": state.uptime,
                "addresses": state.addresses,
                "workers": len(state.workers),
                "workers_ready": sum(worker.state == "ready" for worker in state.workers),
                "restarts": sum(worker.restarts for worker in state.workers),
                **{name: state.total(name) for name in _TOTALS},
                "closed": _by_name(state, "closed"),
                "errors": _by_name(state, "error"),
                "resident_bytes": None if state.front is None else state.front.resident_bytes,
                "cpu_seconds": None if state.front is None else state.front.cpu_seconds,
            }
        )

    async def workers(self, request: web.Request) -> web.Response:
        return web.json_response({"workers": [_worker(worker) for worker in self._view.take().workers]})

    # --- what the workers are asked

    async def connections(self, request: web.Request) -> web.Response:
        state = request.query.get("state", "")
        if state not in _STATES:
            raise BadRequest(f"state takes {', '.join(_STATES[1:])}")
        start, limit, text = page_of(request)
        page = await list_connections(self._questions.ask, self._slots(), start, limit, text=text, state=state)
        return page_answer("connections", page)

    async def destinations(self, request: web.Request) -> web.Response:
        start, limit, text = page_of(request)
        return page_answer(
            "destinations", await list_destinations(self._questions.ask, self._slots(), start, limit, text=text)
        )

    async def connection(self, request: web.Request) -> web.Response:
        offset = number(request, "offset", 0, 0, 10**9)
        limit = number(request, "limit", 100, 1, _MAX_SUBSCRIPTIONS)
        return await self._about(request, "connection", {"offset": offset, "limit": limit})

    async def close(self, request: web.Request) -> web.Response:
        """Give the client an ERROR (`closed-by-operator`) and close."""
        return await self._about(request, "close", {})

    async def _about(self, request: web.Request, what: str, arguments: dict[str, Any]) -> web.Response:
        session = request.match_info["session"]
        locator = self._locate(session)
        written = locator.partition("-")[0]
        slot = int(written) if written.isascii() and written.isdecimal() and len(written) < 4 else -1
        result = None
        if slot in self._slots():
            result = await self._questions.ask(slot, what, {"session": locator, **arguments})
        if result is None:
            return refusal(404, f"there is no connection {session[:80]!r}")
        return web.json_response({"session": session, "worker": slot, **result})

    def _slots(self) -> list[int]:
        return [worker.slot for worker in self._view.take().workers if worker.state == "ready"]


@web.middleware
async def explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what keeps a request from its answer into JSON."""
    try:
        return await handler(request)
    except BadRequest as error:
        return refusal(400, str(error))
    except NoAnswer as error:
        return refusal(504, str(error))
    except web.HTTPException as error:
        answer = refusal(error.status, error.reason)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer


def _by_name(state: BrokerState, prefix: str) -> dict[str, int]:
    names = {name for worker in state.workers for name in worker.stats if name.startswith(f"{prefix}:")}
    return {name.partition(":")[2]: state.total(name) for name in sorted(names)}


def _worker(worker: WorkerState) -> dict[str, Any]:
    use = worker.process
    return {
        "slot": worker.slot,
        "state": worker.state,
        "pid": worker.pid,
        "restarts": worker.restarts,
        "resident_bytes": None if use is None else use.resident_bytes,
        "cpu_seconds": None if use is None else use.cpu_seconds,
        **{name: value for name, value in worker.stats.items() if ":" not in name},
    }
