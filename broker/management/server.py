"""The HTTP server: its socket, its resources, its end. In the event loop of the front, where no client traffic is."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from importlib import resources

from aiohttp import web
from aiohttp.typedefs import Handler

from broker.listeners import Listener, open_listeners
from broker.management.api import Api, explain
from broker.management.guard import Guard
from broker.management.questions import Questions
from broker.management.requests import refusal
from broker.management.state import Supervision, View, Workers
from common import config
from common.log import Event, EventLog
from common.messages import Message

__all__ = ["Management"]

_FILES = {
    "/": ("index.html", "text/html"),
    "/console.css": ("console.css", "text/css"),
    "/console.js": ("console.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_END_SECONDS = 0.5
"""For requests still being answered when the broker stops."""


class Management:
    """Listens from its construction on (raises `CannotStartError`), answers after `start`.

    `workers`, `supervision` and `addresses` are looked at anew for every request; `send` passes a message on to a
    worker, and tells whether there is one; `locate` gives the locator of a session.
    """

    def __init__(
        self,
        settings: config.Management,
        log: EventLog,
        supervision: Supervision,
        workers: Workers,
        *,
        addresses: Callable[[], tuple[str, ...]],
        send: Callable[[int, Message], bool],
        locate: Callable[[str], str] = str,
    ) -> None:
        self._log = log
        self._guard = Guard([settings.host, *settings.hosts])
        self._questions = Questions(send)
        self._listeners: list[Listener] = open_listeners([settings], 1)
        self.answered = self._questions.answered
        self.lost = self._questions.lost
        api = Api(View(supervision, workers, addresses), self._questions, locate)
        application = web.Application(middlewares=[self._admit, explain], client_max_size=4096, logger=_logger(log))
        application.on_response_prepare.append(self._guard.prepare)
        application.add_routes(api.routes())
        for path, (name, kind) in _FILES.items():
            application.router.add_get(path, _file(name, kind))
        self._runner = web.AppRunner(
            application, handle_signals=False, access_log=None, logger=_logger(log), shutdown_timeout=_END_SECONDS
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, `host:port`, with the real port."""
        return tuple(listener.address for listener in self._listeners)

    async def start(self) -> None:
        """Begin to answer."""
        await self._runner.setup()
        for listener in self._listeners:
            await web.SockSite(self._runner, listener.socket_of(0)).start()
            self._log.info(Event.MANAGEMENT_BOUND, address=listener.address)

    async def close(self) -> None:
        """Stop answering."""
        await self._runner.cleanup()
        for listener in self._listeners:
            listener.close()

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        why = self._guard.refuses(request.method, request.headers)
        return refusal(403, why) if why else await handler(request)


def _file(name: str, kind: str) -> Handler:
    body = (resources.files("broker.management") / "static" / name).read_bytes()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return answer


def _logger(log: EventLog) -> logging.Logger:
    """Where aiohttp writes: only what nobody has foreseen concerns the operator, not requests that make no sense."""

    class Writer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            trace = "".join(traceback.format_exception(error)) if error is not None else ""
            log.error(Event.INTERNAL_ERROR, message=record.getMessage(), traceback=trace)

    logger = logging.Logger("management", logging.ERROR)
    logger.addHandler(Writer())
    return logger
