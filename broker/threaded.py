"""`Broker` in a thread of its own, for programs and tests without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from broker.events import EVENTS_KEPT, BlockingEvents

if TYPE_CHECKING:
    from broker.embedded import Broker

__all__ = ["ThreadedBroker"]

T = TypeVar("T")


class ThreadedBroker:
    """One broker, from `start` (or the head of `with`) to `stop` (or its end); see `broker.embedded.Broker`.

    Its methods can be called from any thread but its own, also from coroutines of another event loop: only `start`,
    `stop` and reading events block.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Returns when clients can connect. Raises `CannotStartError`."""
        if self._thread is not None:
            raise RuntimeError("a broker is started once; make another one")
        started: Future[None] = Future()
        # A program that forgets to stop it can end all the same, and its workers end with it.
        self._thread = threading.Thread(target=self._main, args=(started,), name="stampede", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            # A KeyboardInterrupt, say.
            self.stop()
            raise

    def stop(self) -> None:
        """Stop in order and return when every process is gone. May be called again."""
        if self._thread is None:
            return
        self._is_stopping = True
        if self._loop is not None and self._stop is not None:
            # Its loop is closed if it could not start.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        return self._broker.address

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listener, in their order."""
        return self._broker.addresses

    @property
    def url(self) -> str:
        """`stomp://host:port` of the first listener."""
        return self._broker.url

    @property
    def management_address(self) -> tuple[str, int] | None:
        """Host and port of the management interface, None if it is off."""
        return self._broker.management_address

    def events(self, kept: int = EVENTS_KEPT, timeout: float | None = None) -> BlockingEvents:
        """What happens from now on, for `for`; ends after `ServerStopped`. Waiting longer than `timeout` seconds for
        the next raises `TimeoutError`, being too far behind `EventsLost`."""
        events = BlockingEvents(kept, timeout)
        self._call(lambda: self._broker.tell(events))
        return events

    def _call(self, act: Callable[[], T]) -> T:
        """`act` in the thread of the broker, or here if that is not running."""
        loop = self._loop
        if loop is None or self._thread is None or not self._thread.is_alive():
            return act()

        async def call() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(call(), loop).result()

    def _main(self, started: Future[None]) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: Future[None]) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._is_stopping:
            self._stop.set()
        starting = asyncio.ensure_future(self._broker.start())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        try:
            await starting
        except (asyncio.CancelledError, Exception) as error:  # noqa: BLE001 - raised where it is waited for
            stopping.cancel()
            started.set_exception(error)
            return
        started.set_result(None)
        await stopping
        await self._broker.stop()
