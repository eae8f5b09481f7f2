"""Queue browsing: a SUBSCRIBE with `browser:true` gets a copy of what is in a queue, in the order of its delivery, and
then an end marker. Nothing is consumed.

The browser's worker asks the queue's owner for one page after the other (`Browsing`), the next one only when the
client has read the last. The owner keeps nothing of it (`Pages`): a page is asked for by the key that it comes after,
so that it can be asked for again, of the owner's next life too, and costs what a page costs however long the queue is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.acknowledgement import AckMode
from common.errors import ErrorCode, StompError
from common.frame import Frame
from common.negotiation import Version
from common.selector import Selector
from worker.backplane.interface import Batch
from worker.items import read_headers, translate
from worker.queues.lane import key_of
from worker.queues.letters import BROWSE, PAGE
from worker.queues.message import Message, last_key
from worker.router import Subscription

if TYPE_CHECKING:
    from worker.connection import Connection
    from worker.core import Core
    from worker.queues.owned import OwnedQueue
    from worker.queues.owner import Owner
    from worker.store.interface import Store

__all__ = ["Browser", "Browsing", "Pages", "wants_to_browse"]

_COUNT = 100
_SIZE = 256 << 10
"""What a page holds at the most, in messages and in bytes; always one message."""

Answer = Callable[[list[bytes], int | None], None]
"""Called with the frames of a page, from their ids on in 1.2 form, and the last key that was looked at, None if that
was the end of the queue."""


def wants_to_browse(frame: Frame, *, queue: bool) -> bool:
    """Whether a SUBSCRIBE asks for a browser. Raises StompError `bad-value`, also if it is not to a `queue`."""
    value = frame.get("browser")
    if value in (None, "false"):
        return False
    if value != "true" or not queue:
        detail = "only queues can be browsed" if value == "true" else "it takes true or false"
        raise StompError(ErrorCode.BAD_VALUE, "bad browser header", f"browser was {value!r:.80}; {detail}")
    return True


class Browser(Subscription):
    """A subscription that only looks at the queue `name`, which the client calls `destination`. `after` is the last key
    that it has looked at."""

    __slots__ = ("after", "destination", "owner")

    def __init__(
        self,
        connection: Connection,
        queue: bytes,
        destination: str,
        id: str | None,
        number: int,
        version: Version,
        selector: Selector | None,
        owner: int,
    ) -> None:
        # What was not delivered cannot be acknowledged, whatever mode the client asked for.
        super().__init__(connection, queue, id, number, AckMode.AUTO, version, selector)
        self.destination = destination
        self.owner = owner
        self.after = 0

    def frames(self, frames: list[bytes]) -> list[bytes]:
        """The MESSAGE frames for those of a page that its selector matches."""
        if self.selector is not None and frames:
            matches = self.selector.matches
            headers = read_headers(Batch(b"", frames))
            frames = [frame for frame, each in zip(frames, headers, strict=True) if matches(each)]
        version = self.connection.version
        if version is not None and version is not Version.V1_2:
            frames = [translate(frame, version) for frame in frames]
        return [self.head + frame for frame in frames]

    def end(self, message_id: str) -> list[tuple[str, str]]:
        """The headers of the end marker."""
        subscription = [] if self.id is None else [("subscription", self.id)]
        return [*subscription, ("message-id", message_id), ("destination", self.destination), ("browser", "end")]


class Browsing:
    """The browsers of this worker's clients. Each connection has one page under way at a time, for its browsers in
    turn: that bounds what it can have others read and send, and what it holds up here.

    `ask(slot, letter)` brings a letter to another worker.
    """

    def __init__(self, core: Core, slot: int, pages: Pages, ask: Callable[[int, Any], None]) -> None:
        self._core = core
        self._slot = slot
        self._pages = pages
        self._ask = ask
        self._turns: dict[Connection, dict[int, Browser]] = {}
        self._asked: dict[int, Browser] = {}
        self._busy: set[Connection] = set()

    def start(self, browser: Browser) -> None:
        self._turns.setdefault(browser.connection, {})[browser.number] = browser
        self._next(browser.connection)

    def stop(self, subscription: Subscription) -> None:
        """Its client unsubscribed. What is under way is still waited for, so that no client asks for more and more."""
        turns = self._turns.get(subscription.connection)
        if turns is not None and turns.pop(subscription.number, None) is not None and not turns:
            del self._turns[subscription.connection]

    def left(self, connection: Connection) -> None:
        """The connection is gone."""
        self._turns.pop(connection, None)
        self._busy.discard(connection)

    def drained(self, connection: Connection) -> None:
        """The client has read everything."""
        if connection in self._turns:
            self._next(connection)

    def greet(self, slot: int) -> None:
        """Another worker is in a new life: what its last one was asked for and did not answer is asked again."""
        for browser in self._asked.values():
            if browser.owner == slot:
                self._ask_for(browser)

    def on_letter(self, slot: int, letter: list[Any]) -> None:
        if letter[0] == PAGE:
            self._answered(*letter[1:])
            return
        _, queue, number, after = letter

        def answer(frames: list[bytes], last: int | None) -> None:
            self._ask(slot, [PAGE, number, after, frames, last])

        self._pages.read(queue, after, answer)

    def _next(self, connection: Connection) -> None:
        turns = self._turns.get(connection)
        # With an outbox the client has not read what it was sent; it is its turn again when that is gone.
        if not turns or connection in self._busy or connection.outbox is not None or connection.closing:
            return
        browser = next(iter(turns.values()))
        self._busy.add(connection)
        self._asked[browser.number] = browser
        self._ask_for(browser)

    def _ask_for(self, browser: Browser) -> None:
        number, after = browser.number, browser.after
        if browser.owner != self._slot:
            self._ask(browser.owner, [BROWSE, browser.name, number, after])
            return

        def answer(frames: list[bytes], last: int | None) -> None:
            # Not in this call: a long queue is read in many turns of the loop, with those of others in between.
            self._core.soon(self._answered, number, after, frames, last)

        self._pages.read(browser.name, after, answer)

    def _answered(self, number: int, after: int, frames: list[bytes], last: int | None) -> None:
        browser = self._asked.get(number)
        if browser is None or browser.after != after:
            # Asked twice, of two lives of the owner, and answered by both.
            return
        del self._asked[number]
        connection = browser.connection
        self._busy.discard(connection)
        turns = self._turns.get(connection)
        if turns is None:
            return
        if turns.pop(number, None) is not None and not connection.closing:
            self._write(browser, browser.frames(frames))
            if last is None:
                connection.send_frame("MESSAGE", browser.end(f"{self._core.ids.next_prefix().decode()}end"))
            else:
                browser.after = last
                turns[number] = browser
        if turns:
            self._core.soon(self._next, connection)
        else:
            del self._turns[connection]

    def _write(self, browser: Browser, frames: list[bytes]) -> None:
        if not frames:
            return
        connection, router = browser.connection, self._core.router
        blob = b"".join(frames)
        router.delivered += len(frames)
        router.bytes_out += len(blob)
        if connection.outbox is None:
            connection.transport.write(blob)
        else:
            connection.outbox.keep(blob)


class Pages:
    """The pages of the queues that this worker owns."""

    def __init__(self, owner: Owner, store: Store) -> None:
        self._owner = owner
        self._store = store

    def read(self, queue: bytes, after: int, answer: Answer) -> None:
        """The page of `queue` behind key `after`; `answer` may be called at once. A queue that does not exist has
        nothing in it, and is not made."""
        owned = self._owner.registry.get(queue)
        if owned is None:
            answer([], None)
            return
        messages, floor = owned.queue.snapshot()
        messages = messages[bisect_right(messages, after, key=key_of) :]
        near = messages if floor is None else messages[: bisect_left(messages, floor, key=key_of)]
        if floor is None or _fill_a_page(near):
            answer(*self._page(near, complete=floor is None))
            return
        start = max(after, floor - 1)

        def arrived(rows: list[tuple[int, bytes, int]]) -> None:
            if self._owner.registry.get(queue) is not owned:
                answer([], None)
                return
            answer(*self._page(_merge(owned, messages, rows), complete=not rows))

        # What is on its way to the disk must have got there: it is neither in memory nor in what can be read.
        self._owner.when_stored(
            lambda: self._store.page(start, last_key(owned.number) + 1, _COUNT, _SIZE, arrived),
        )

    def _page(self, messages: list[Message], *, complete: bool) -> tuple[list[bytes], int | None]:
        """The first of `messages`, which are not all that is left unless `complete`."""
        now = self._owner.now()
        frames: list[bytes] = []
        size = place = 0
        for place, message in enumerate(messages, 1):
            if not 0 < message.expires <= now:
                frames.append(message.frame)
            size += len(message.frame)
            if place >= _COUNT or size >= _SIZE:
                break
        return frames, None if complete and place == len(messages) else messages[place - 1].key


def _fill_a_page(messages: list[Message]) -> bool:
    return len(messages) >= _COUNT or sum(len(message.frame) for message in messages) >= _SIZE


def _merge(owned: OwnedQueue, messages: list[Message], rows: list[tuple[int, bytes, int]]) -> list[Message]:
    """What was in memory, `messages`, and what the store has, `rows`: in order, each once, and only as far as the rows
    go, unless there are none. What is in memory may be in the store, too."""
    found = {row[0]: owned.stored(*row) for row in rows}
    for message in messages:
        if not rows or message.key <= rows[-1][0]:
            found[message.key] = message
    return sorted(found.values(), key=key_of)
