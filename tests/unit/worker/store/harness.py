"""A store, opened and asked, for the contract tests of every implementation and those of each."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

import uvloop

from common.log import EventLog
from worker.queues.message import first_key
from worker.store.interface import Expired, Park, Recovered, Store, StoreError, Unit
from worker.store.sqlite import SqliteStore

__all__ = ["BIG", "IMPLEMENTATIONS", "NEVER", "Opened", "SqliteOpened", "key", "keys", "run"]

SECONDS = 20.0
"""How long a test waits for what must come; it is there within milliseconds."""
NEVER = 3600.0
"""A retry interval that no test lives to see."""
BIG = b"b" * (256 << 10)
"""A frame that needs room of its own."""

Row = tuple[int, bytes, int]


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), SECONDS)

    uvloop.run(bounded())


def key(counter: int, queue: int = 5, priority: int = 4) -> int:
    return first_key(queue, priority) + counter


def keys(start: int, stop: int, queue: int = 5, step: int = 1) -> list[int]:
    return [key(counter, queue) for counter in range(start, stop, step)]


class Opened(AbstractAsyncContextManager["Opened"]):
    """An open store. A second implementation overrides `make`, `break_disk` and `mend_disk`."""

    store: Store

    def __init__(self, directory: Path, *, retry_interval: float = NEVER, **options: Any) -> None:
        self.directory = directory
        self.log = io.StringIO()
        self.events = EventLog("test", "debug", "json", self.log)
        self.options = options | {"retry_interval": retry_interval}
        self.closed = False
        self.recovered: Recovered

    def make(self, loop: asyncio.AbstractEventLoop) -> Store:
        raise NotImplementedError

    def break_disk(self) -> None:
        """From the next commit on, there is no room for a unit with a `BIG` frame; others may fail, too."""
        raise NotImplementedError

    def mend_disk(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self.store = self.make(asyncio.get_running_loop())
        self.recovered = self.store.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await self._answer(self.store.close)

    async def _answer(self, ask: Callable[..., None], *arguments: object) -> Any:
        future = asyncio.get_running_loop().create_future()
        ask(*arguments, lambda *result: future.set_result(result[0] if result else None))
        return await future

    def begin(self, unit: Unit) -> Awaitable[StoreError | None]:
        future = asyncio.get_running_loop().create_future()
        self.store.write(unit, future.set_result)
        return future

    async def write(self, **unit: Any) -> None:
        error = await self.begin(Unit(**unit))
        if error is not None:
            raise error

    async def page(
        self, after: int = 0, before: int = (1 << 63) - 1, count: int = 10_000, size: int = 1 << 30
    ) -> list[Row]:
        rows: list[Row] = await self._answer(self.store.page, after, before, count, size)
        return rows

    async def fetch(self, wanted: list[int], size: int | None = None) -> list[Row]:
        rows: list[Row] = await self._answer(lambda done: self.store.fetch(wanted, done, size))
        return rows

    async def expired(self, now: int, limit: int = 1000, after: Expired = (0, 0)) -> list[int]:
        """Their keys."""
        found: list[Expired] = await self._answer(lambda done: self.store.expired(now, limit, done, after))
        return [key for _, key in found]

    async def parked(self, now: int = (1 << 63) - 1, limit: int = 1000, size: int = 1 << 30) -> tuple[list[Park], int]:
        found: tuple[list[Park], int] = await self._answer(self.store.parked, now, limit, size)
        return found

    async def reopened(self) -> Self:
        """The same store, closed and opened again."""
        await self.close()
        return type(self)(self.directory, **self.options)


class SqliteOpened(Opened):
    store: SqliteStore

    @property
    def path(self) -> Path:
        return self.directory / "store.db"

    def make(self, loop: asyncio.AbstractEventLoop) -> SqliteStore:
        return SqliteStore(self.path, loop, self.events, **self.options)

    def break_disk(self) -> None:
        # SQLite answers as it does for a disk without room, and rolls back as it does then.
        self.store._connections[0].pragma("max_page_count", 1)

    def mend_disk(self) -> None:
        self.store._connections[0].pragma("max_page_count", 0xFFFFFFFE)


IMPLEMENTATIONS: dict[str, type[Opened]] = {"sqlite": SqliteOpened}
