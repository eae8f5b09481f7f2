"""What a front asks of the program that runs it."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Owner", "Watch"]


class Owner(Protocol):
    """Whoever runs a front, told of its progress."""

    def on_starting(self, status: str, patience: float | None) -> None:
        """The start takes longer: for `patience` more seconds at least, if that is known."""

    def on_workers(self, ready: int, first: bool) -> None:
        """So many accept clients. `first` is true once: all do for the first time."""

    def on_stopping(self) -> None:
        """Nothing is accepted any more, what is queued is delivered."""


class Watch(Protocol):
    """Whoever wants to know what the clients do."""

    @property
    def names(self) -> bool:
        """Whether it names sessions."""

    def happened(self, slot: int, events: list[list[Any]]) -> None:
        """See `common.messages.Happened`."""

    def name(self, slot: int, number: int, locator: str) -> str | None:
        """The session id for a connection, None to refuse it."""

    def lost(self, slot: int) -> None:
        """The worker is gone, and with it its connections."""

    def locate(self, session: str) -> str:
        """The locator of a session."""
