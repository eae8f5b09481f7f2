"""The client for scripts: the same as `Client`, each call of which returns when it is done.

    with connect_sync("stomp://localhost:61613") as client:
        client.send("/queue/orders", {"id": 1})

The connection lives in a thread of its own, so heart-beats go on while the script computes, and calls may come from
several threads. What is not said here is said at the call of the same name of `Client`, `Subscription` and `Message`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from common.client.bodies import Body
from common.client.client import Client
from common.client.errors import BrokerError, ClientClosed
from common.client.frames import Headers
from common.client.heads import SendOptions
from common.client.message import Content, Message, NackOptions
from common.client.receipt import Receipt
from common.client.subscription import Subscription
from common.client.transaction import Transaction

__all__ = ["SyncClient", "SyncMessage", "SyncSubscription", "SyncTransaction", "connect_sync"]

Result = TypeVar("Result")

_MOST_REFUSED = 100
"""Posts that were refused and are kept until somebody asks for them."""


def connect_sync(target: str | Sequence[str], **options: Any) -> SyncClient:
    """Connect as `Client(target, **options)` would, and return when that is done. Raises ConnectFailed."""
    return SyncClient(target, **options)


class _Thread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="stampede client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def begin(self, call: Coroutine[Any, Any, Result]) -> concurrent.futures.Future[Result]:
        with self._lock:
            if not self._is_stopped:
                return asyncio.run_coroutine_threadsafe(call, self._loop)
        # Nobody would run it any more.
        call.close()
        raise ClientClosed

    def call(self, call: Coroutine[Any, Any, Result]) -> Result:
        future = self.begin(call)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C leaves the wait; what was waited for is not wanted any more.
            future.cancel()
            raise

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class _Posted(concurrent.futures.Future[Receipt]):
    """Knows whether anybody has asked for its outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.is_heard = False

    def result(self, timeout: float | None = None) -> Receipt:
        self.is_heard = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.is_heard = True
        return super().exception(timeout)


class SyncClient:
    """Made by `connect_sync`; a context manager. Times are in seconds."""

    def __init__(self, target: str | Sequence[str], **options: Any) -> None:
        self._client = Client(target, **options)
        self._thread = _Thread()
        self._is_closed = False
        self._is_told = options.get("on_event") is not None
        self._refused: list[_Posted] = []
        try:
            self._thread.call(self._client.connect())
        except BaseException:
            self._thread.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self._client.__aexit__(kind, error, trace))
        if kind is None:
            refused = next((posted for posted in self._refused if not posted.is_heard), None)
            if refused is not None:
                refused.result()

    def close(self) -> None:
        """Wait until what was sent is confirmed, and close. Again: nothing."""
        self._end(self._client.close())

    def _end(self, call: Coroutine[Any, Any, None]) -> None:
        if self._is_closed:
            call.close()
            return
        self._is_closed = True
        try:
            self._thread.call(call)
        finally:
            self._thread.stop()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._client.connected

    @overload
    def send(
        self, destination: str, body: Body = b"", *, receipt: Literal[True] = True, **options: Unpack[SendOptions]
    ) -> Receipt: ...
    @overload
    def send(
        self, destination: str, body: Body = b"", *, receipt: Literal[False], **options: Unpack[SendOptions]
    ) -> None: ...
    @overload
    def send(
        self, destination: str, body: Body = b"", *, receipt: bool, **options: Unpack[SendOptions]
    ) -> Receipt | None: ...
    def send(
        self, destination: str, body: Body = b"", *, receipt: bool = True, **options: Unpack[SendOptions]
    ) -> Receipt | None:
        """SEND, and wait for its RECEIPT."""
        return self._thread.call(self._client.send(destination, body, receipt=receipt, **options))

    def post(
        self, destination: str, body: Body = b"", **options: Unpack[SendOptions]
    ) -> concurrent.futures.Future[Receipt]:
        """SEND, and return the future of its RECEIPT; waits only while the window is full. If nobody asks for its
        outcome, a refusal is an event (`Refused`); without `on_event`, leaving `with` raises the first."""
        confirmed = _Posted()
        # It cannot be cancelled: that would not take the message back.
        confirmed.set_running_or_notify_cancel()

        async def post() -> None:
            future = await self._client.post(destination, body, **options)
            future.add_done_callback(lambda done: self._copy(done, confirmed))

        self._thread.call(post())
        return confirmed

    def _copy(self, done: asyncio.Future[Receipt], to: _Posted) -> None:
        error = done.exception()
        if error is None:
            to.set_result(done.result())
            return
        to.set_exception(error)
        if isinstance(error, BrokerError) and not self._is_told:
            self._refused = [posted for posted in self._refused if not posted.is_heard][:_MOST_REFUSED]
            self._refused.append(to)

    def subscribe(self, destination: str, **options: Any) -> SyncSubscription:
        """A subscription, which begins with `with` and ends with it; `options` as in `Client.subscribe`, but for
        `on_message`: TypeError, since it would be called in another thread than the script's."""
        if "on_message" in options:
            raise TypeError("on_message is for asyncio; iterate over the subscription, or use get()")
        return SyncSubscription(self._thread, self._client.subscribe(destination, **options))

    def end_durable(self, name: str) -> None:
        """End the durable subscription `name`."""
        self._thread.call(self._client.end_durable(name))

    def transaction(self) -> SyncTransaction:
        """A transaction, which begins with `with` and ends with it."""
        return SyncTransaction(self._thread, self._client.transaction())

    def request(
        self,
        destination: str,
        body: Body = b"",
        *,
        timeout: float | None = 30.0,
        headers: Headers = (),
        content_type: str | None = None,
    ) -> SyncMessage:
        """SEND, and wait for the reply."""
        reply = self._client.request(destination, body, timeout=timeout, headers=headers, content_type=content_type)
        return SyncMessage(self._thread, self._thread.call(reply))


class SyncMessage(Content):
    """A message, with the calls that settle it; see `Message`."""

    __slots__ = ("_thread", "message")

    def __init__(self, thread: _Thread, message: Message) -> None:
        super().__init__(message.frame)
        self.message = message
        self._thread = thread

    @overload
    def ack(self, *, transaction: SyncTransaction | None = None, receipt: Literal[False] = False) -> None: ...
    @overload
    def ack(self, *, transaction: SyncTransaction | None = None, receipt: Literal[True]) -> Receipt: ...
    @overload
    def ack(self, *, transaction: SyncTransaction | None = None, receipt: bool) -> Receipt | None: ...
    def ack(self, *, transaction: SyncTransaction | None = None, receipt: bool = False) -> Receipt | None:
        """It is done with."""
        return self._thread.call(self.message.ack(transaction=_of(transaction), receipt=receipt))

    @overload
    def nack(
        self,
        *,
        transaction: SyncTransaction | None = None,
        receipt: Literal[False] = False,
        **options: Unpack[NackOptions],
    ) -> None: ...
    @overload
    def nack(
        self, *, transaction: SyncTransaction | None = None, receipt: Literal[True], **options: Unpack[NackOptions]
    ) -> Receipt: ...
    @overload
    def nack(
        self, *, transaction: SyncTransaction | None = None, receipt: bool, **options: Unpack[NackOptions]
    ) -> Receipt | None: ...
    def nack(
        self,
        *,
        transaction: SyncTransaction | None = None,
        receipt: bool = False,
        **options: Unpack[NackOptions],
    ) -> Receipt | None:
        """It failed."""
        return self._thread.call(self.message.nack(transaction=_of(transaction), receipt=receipt, **options))

    def reply(self, body: Body = b"", **options: Any) -> Receipt | None:
        """Send `body` to where an answer is wanted."""
        return self._thread.call(self.message.reply(body, **options))


class SyncSubscription:
    """Made by `SyncClient.subscribe`; a context manager and iterator of `SyncMessage`."""

    def __init__(self, thread: _Thread, subscription: Subscription) -> None:
        self._thread = thread
        self.subscription = subscription

    def __enter__(self) -> Self:
        self._thread.call(self.subscription.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.call(self.subscription.stop())

    def get(self, timeout: float | None = None) -> SyncMessage:
        """The next message, see `Subscription.get`."""
        return SyncMessage(self._thread, self._thread.call(self.subscription.get(timeout)))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SyncMessage:
        try:
            return self.get()
        except IndexError:
            raise StopIteration from None


class SyncTransaction:
    """Made by `SyncClient.transaction`; a context manager."""

    def __init__(self, thread: _Thread, transaction: Transaction) -> None:
        self._thread = thread
        self.transaction = transaction

    def __enter__(self) -> Self:
        self._thread.call(self.transaction.begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.call(self.transaction.__aexit__(kind, error, trace))

    @property
    def receipt(self) -> Receipt | None:
        """Of its COMMIT, None before."""
        return self.transaction.receipt

    def send(self, destination: str, body: Body = b"", **options: Unpack[SendOptions]) -> None:
        """SEND as a part of it."""
        self._thread.call(self.transaction.send(destination, body, **options))

    def commit(self) -> Receipt:
        """COMMIT, and wait for its RECEIPT."""
        return self._thread.call(self.transaction.commit())

    def abort(self) -> None:
        """ABORT."""
        self._thread.call(self.transaction.abort())


def _of(transaction: SyncTransaction | None) -> Transaction | None:
    return None if transaction is None else transaction.transaction
