"""What the operator sees of a worker's connections: lines of the log, counters, gauges."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import TYPE_CHECKING

from common.errors import CloseReason, ErrorCode, StompError
from common.log import Event, Level
from common.negotiation import HeartBeat
from worker.connection import Connection

if TYPE_CHECKING:
    from worker.core import Core

__all__ = ["Journal"]


class Journal:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._log = core.log
        self._began = core.now()
        self.accepted = 0
        self.dropped = 0
        self.close_reasons: Counter[CloseReason] = Counter()
        self.errors: Counter[ErrorCode] = Counter()

    def opened(self, connection: Connection, beats: HeartBeat) -> None:
        if self._log.is_enabled(Level.DEBUG) and connection.version is not None:
            self._log.debug(
                Event.CONNECTION_OPENED,
                session=connection.session,
                version=connection.version.label,
                heart_beat="{},{}".format(*beats),
            )

    def paused(self, connection: Connection, destination: bytes) -> None:
        if self._log.is_enabled(Level.DEBUG):
            what = "its own answers" if destination.startswith(b"\0") else destination.decode(errors="replace")
            self._log.debug(Event.PUBLISHER_PAUSED, session=connection.session, destination=what)

    def resumed(self, connection: Connection) -> None:
        if self._log.is_enabled(Level.DEBUG):
            self._log.debug(Event.PUBLISHER_RESUMED, session=connection.session)

    def internal_error(self, connection: Connection, error: Exception) -> None:
        """A bug showed itself while a client's bytes were taken in."""
        self._log.error(
            Event.INTERNAL_ERROR,
            what="a frame could not be handled",
            session=connection.session,
            stack="".join(traceback.format_exception(error)),
        )

    def dropping(self, connection: Connection, destination: bytes, waiting: int) -> None:
        self._log.warning(
            Event.SUBSCRIBER_DROPPING,
            session=connection.session,
            destination=destination.decode(errors="replace"),
            waiting_bytes=waiting,
        )

    def failed(self, connection: Connection, reason: CloseReason, error: StompError) -> None:
        """Count, and write the one line about, a connection that the broker ended with an ERROR."""
        self.errors[error.code] += 1
        if reason is CloseReason.SHUTTING_DOWN and not self._log.is_enabled(Level.DEBUG):
            return
        peer = connection.transport.get_extra_info("peername")
        self._log.info(
            Event.CONNECTION_CLOSED,
            session=connection.session,
            peer=f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer),
            reason=reason.value,
            error_code=error.code.value,
            message=error.message,
            detail=error.detail,
            dropped=connection.dropped,
        )

    def closed(self, connection: Connection) -> None:
        reason = connection.reason or CloseReason.INTERNAL_ERROR
        self.close_reasons[reason] += 1
        if not connection.failed and self._log.is_enabled(Level.DEBUG):
            self._log.debug(
                Event.CONNECTION_CLOSED, session=connection.session, reason=reason.value, dropped=connection.dropped
            )

    def stats(self) -> dict[str, int]:
        """Counters since the start of this worker, and gauges, for the front. `uptime_ms` is when they were read."""
        core = self._core
        blockers = {each for by in core.flow.blocked.values() for each in by if isinstance(each, Connection)}
        return {
            "uptime_ms": int((core.now() - self._began) * 1000),
            "connections": len(core.connections),
            "accepted": self.accepted,
            "subscriptions": core.router.subscriptions,
            "destinations": core.router.destinations,
            "blocked_destinations": sum(not name.startswith(b"\0") for name in core.flow.blocked),
            "slow_subscribers": len(blockers),
            "paused_publishers": core.flow.paused,
            "backplane_kept_bytes": core.backplane.kept_bytes(),
            "bytes_in": core.ingest.bytes_in,
            "bytes_out": core.router.bytes_out,
            "messages_in": core.messages_in,
            "messages_out": core.router.delivered,
            "dropped": self.dropped,
            **core.queues.gauges.read(),
            **{f"closed:{reason.value}": count for reason, count in self.close_reasons.items()},
            **{f"error:{code.value}": count for code, count in self.errors.items()},
        }
