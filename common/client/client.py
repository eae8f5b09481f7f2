"""The client for applications: `Client`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import Literal, Self, Unpack, overload

from common.client import frames
from common.client.address import parse_target
from common.client.backoff import Backoff
from common.client.bodies import Body, encode_body, header_list
from common.client.errors import ClientClosed, ClientError
from common.client.events import ClientEvent
from common.client.frames import Headers
from common.client.handler import OnMessage
from common.client.heads import Heads, SendOptions, encode_plain, send_frame, send_headers
from common.client.link import Link
from common.client.message import Message
from common.client.receipt import Receipt
from common.client.requests import Requests
from common.client.rounds import Settings
from common.client.session import Session
from common.client.subscription import Subscription
from common.client.transaction import Transaction
from common.client.unconfirmed import SEND_BYTES, OnLoss
from common.codec import encode_headers
from common.negotiation import Version

__all__ = ["Client"]

_NO_BOUND = 32766
"""The largest prefetch that ActiveMQ documents."""

_NOT_CONNECTED = "the client is not connected: use 'async with', or await connect()"

_DEFAULT_BACKOFF = Backoff()


class Client:
    """A connection to a STOMP broker that comes back by itself; an asynchronous context manager.

        async with Client("stomp://user:passcode@host1:61613,host2:61613") as client:
            await client.send("/queue/orders", {"id": 1})

    `target` is a URL or several, see `common.client.address`; `login`, `passcode` and `host` (the virtual host) are
    taken instead of those in it. `client_id`, `accept_version` and further `headers` are for CONNECT. Times are in
    seconds.

    `heart_beat`: how often the client can send and wants to hear, at least; 0 for never, a pair for each its own.
    `connect_timeout`: for one address, up to CONNECTED. `close_timeout`: for what is unconfirmed when it is closed.
    `backoff`: how to connect again, None for never. `retry_first`: connect by it the first time, too; else one failure
    at each address is a failure. `window`: SENDs that may wait for their RECEIPT, and `window_bytes` of them, before
    `post` waits. `buffer_bytes`: messages received and not taken, before nothing more is read, unless
    a receipt is awaited; at 16 times as much a subscription with `ack:auto` ends by BufferOverrun.
    `idempotent`: SENDs with a receipt have an `idempotency-key`, and are sent again under it on a new connection: once
    in the queue, if that is within the broker's `queue.idempotency_window` (10 minutes). Without, it may come twice.

    A connection that is lost is made again, with all its subscriptions, and SENDs that await a RECEIPT are sent again.
    What can only be done on the connection it began on says so: OutcomeUnknown, StaleDelivery, TransactionLost. When
    the back-off gives up everything raises ConnectFailed. `on_event` is told of all that, at last by Ended.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        login: str | None = None,
        passcode: str | None = None,
        host: str | None = None,
        client_id: str | None = None,
        accept_version: str = "1.0,1.1,1.2",
        headers: Headers = (),
        ssl: SSLContext | None = None,
        heart_beat: float | tuple[float, float] = 10.0,
        connect_timeout: float = 10.0,
        close_timeout: float = 10.0,
        backoff: Backoff | None = _DEFAULT_BACKOFF,
        retry_first: bool = False,
        window: int = 1000,
        window_bytes: int = 16 << 20,
        buffer_bytes: int = 1 << 20,
        idempotent: bool = True,
        on_event: Callable[[ClientEvent], None] | None = None,
    ) -> None:
        where = parse_target(target)
        if window < 1:
            raise ValueError(f"window was {window}; at least 1 SEND has to be under way")
        more = header_list(headers)
        if client_id is not None:
            more.append(("client-id", client_id))
        sends, hears = heart_beat if isinstance(heart_beat, tuple) else (heart_beat, heart_beat)
        beats = round(sends * 1000), round(hears * 1000)
        self._settings = Settings(
            addresses=where.addresses,
            connect=frames.connect(
                where.login if login is None else login,
                where.passcode if passcode is None else passcode,
                host=where.host if host is None else host,
                accept_version=accept_version,
                heart_beat=beats,
                headers=more,
            ),
            heart_beat=beats,
            ssl=ssl,
            connect_timeout=connect_timeout,
            backoff=backoff,
            on_event=on_event,
        )
        self._close_timeout = close_timeout
        self._retry_first = retry_first
        self._bounds = window, window_bytes, buffer_bytes
        self._idempotent = idempotent
        self._heads = Heads()
        self._key = secrets.token_hex(8).encode() + b"-"
        self._escaped = 0
        self._last_id = 0
        self._open: Link | None = None
        self._requests = Requests(self)

    # --- its life

    async def connect(self) -> None:
        """Connect and log in. Raises ConnectFailed; once only, a client that is closed stays so."""
        if self._open is not None:
            raise ClientError("this client was connected before; make another")
        window, window_bytes, buffer_bytes = self._bounds
        link = self._open = Link(self._settings, window=window, window_bytes=window_bytes, buffer_bytes=buffer_bytes)
        try:
            await link.connect(patient=self._retry_first)
        except BaseException:
            link.end(ClientClosed("the client never connected"))
            raise

    async def close(self) -> None:
        """Wait until what was sent is confirmed, DISCONNECT and close, in at most `close_timeout` seconds. Calls that
        come meanwhile raise ClientClosed.

        Raises ClientClosed if SENDs are still unconfirmed then; those without a receipt, too, if DISCONNECT has none.
        """
        if self._open is not None:
            await self._open.close(self._close_timeout)

    async def wait_ended(self) -> None:
        """Return when the client is closed; raises what else ended it: ConnectFailed or another ClientError. For those
        who would wait for ever otherwise, since all they do is done by callbacks."""
        if self._open is None:
            raise ClientError(_NOT_CONNECTED)
        await self._open.ending.wait()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is None:
            return
        if kind is not None:
            await self._open.stop()
            return
        await self.close()
        refusal = self._open.refusals.first_unheard()
        if refusal is not None:
            raise refusal

    @property
    def _link(self) -> Link:
        if self._open is None:
            raise ClientError(_NOT_CONNECTED)
        self._open.check()
        return self._open

    @property
    def _session(self) -> Session | None:
        return None if self._open is None else self._open.current

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._session is not None

    @property
    def session(self) -> str | None:
        """The broker's name of the current connection, None without one."""
        return None if self._session is None else self._session.id

    @property
    def server(self) -> str | None:
        """What the broker calls itself (`server` of CONNECTED), None without a connection."""
        return None if self._session is None else self._session.server

    @property
    def version(self) -> str | None:
        """The STOMP version of the current connection, None without one."""
        return None if self._session is None else self._session.version.label

    # --- sending

    @overload
    async def send(
        self, destination: str, body: Body = b"", *, receipt: Literal[True] = True, **options: Unpack[SendOptions]
    ) -> Receipt: ...
    @overload
    async def send(
        self, destination: str, body: Body = b"", *, receipt: Literal[False], **options: Unpack[SendOptions]
    ) -> None: ...
    @overload
    async def send(
        self, destination: str, body: Body = b"", *, receipt: bool, **options: Unpack[SendOptions]
    ) -> Receipt | None: ...
    async def send(
        self,
        destination: str,
        body: Body = b"",
        *,
        receipt: bool = True,
        headers: Headers = (),
        content_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt | None:
        """SEND, and wait for its RECEIPT; one after another, so use `post` for many. See `Body` for `body`.

        Without `receipt` nothing is waited for and nothing is known: what was on its way when a connection is lost is
        lost with it. Raises BrokerError if the broker refuses it, and what ended the client.
        """
        if receipt:
            return await (
                await self.post(
                    destination, body, headers=headers, content_type=content_type, idempotency_key=idempotency_key
                )
            )
        link = self._link
        frame = send_frame(destination, body, content_type, headers, idempotency_key)
        await link.pace()
        session = await link.connected()
        while session.congested:
            await link.drained(session)
            session = await link.connected()
        session.send(frame)
        link.unconfirmed.add_blind()
        return None

    async def post(
        self,
        destination: str,
        body: Body = b"",
        *,
        headers: Headers = (),
        content_type: str | None = None,
        idempotency_key: str | None = None,
    ) -> asyncio.Future[Receipt]:
        """SEND, and return the future of its RECEIPT. Waits only while `window` SENDs have none yet.

        The frames of one task go out in its order. Cancelling the future does not take the message back.
        The future raises BrokerError if the broker refuses the message, and what ended the client. If nobody waits for
        it, a refusal is an event (`Refused`); without `on_event`, leaving `async with` raises the first.
        """
        link = self._link
        if not isinstance(body, bytes):
            body, content_type = encode_body(body, content_type)
        if headers or idempotency_key is not None:
            head = encode_plain(send_headers(destination, content_type, headers, idempotency_key))
        else:
            head = self._heads.plain(destination, content_type)
        if not link.unconfirmed.is_open:
            await link.unconfirmed.room(len(body) + SEND_BYTES)
            link.check()
        key = self._key if self._idempotent and idempotency_key is None else None
        if head is not None:
            return link.post(head, body, key)
        # Something is escaped, which is another thing in each version: as late as can be.
        frame = send_frame(destination, body, content_type, headers, idempotency_key)
        if key is not None:
            self._escaped += 1
            frame.headers.append(("idempotency-key", f"{key.decode()}e{self._escaped}"))
        return link.request(link.session, frame, OnLoss.AGAIN, len(body) + SEND_BYTES)

    # --- receiving

    def subscribe(
        self,
        destination: str,
        on_message: OnMessage | None = None,
        *,
        ack: str = "auto",
        prefetch: int | None = None,
        selector: str | None = None,
        durable: str | None = None,
        shared: bool = False,
        browse: bool = False,
        id: str | None = None,
        headers: Headers = (),
    ) -> Subscription:
        """A subscription, which begins with `async with` (or `start`) and ends with it.

        `ack` is `auto`, `client` or `client-individual`; `prefetch` how many messages may be unsettled here, only for
        the latter two. With `on_message` each message is passed to it, one at a time, and settled by it unless it is
        `auto`: ACK when it returns, NACK when it raises, which the event loop's exception handler is told. Without,
        iterate.

        `durable` names a durable subscription to a topic, `shared` splits messages among several, `browse` reads a
        queue without taking from it; `selector` is a condition on headers. Raises ValueError.
        """
        if ack not in ("auto", "client", "client-individual"):
            raise ValueError(f"ack was {ack!r}; it is auto, client or client-individual")
        pairs = header_list(headers)
        if prefetch is not None:
            if ack == "auto":
                raise ValueError(
                    f"prefetch was {prefetch} with ack='auto', where a message is settled by being sent and nothing"
                    " holds the broker back; use ack='client-individual', or leave prefetch out"
                )
            if prefetch < 0:
                raise ValueError(f"prefetch was {prefetch}; it is a number of messages, 0 for as many as there are")
            # RabbitMQ and Stampede read the first, ActiveMQ and Artemis the second, where 0 stands for none at all.
            pairs += [("prefetch-count", str(prefetch)), ("activemq.prefetchSize", str(prefetch or _NO_BOUND))]
        if selector is not None:
            pairs.append(("selector", selector))
        if durable is not None:
            pairs += [("durable", "true"), ("durable-name", durable), ("activemq.subscriptionName", durable)]
        if shared:
            pairs.append(("shared", "true"))
        if browse:
            pairs.append(("browser", "true"))
        if id is None and durable is not None:
            # By which RabbitMQ knows it again.
            id = durable
        elif id is None:
            self._last_id += 1
            id = str(self._last_id)
        # What cannot be written fails here, and not on each connection to come.
        frame = frames.subscribe(destination, id=id, ack=ack, headers=pairs)
        encode_headers(frame.headers, Version.V1_2)
        if frame.get("receipt") is not None:
            raise ValueError("the header 'receipt' is the client's to set: `start` waits for it")
        return Subscription(self, self._link, destination, id, ack, pairs, on_message, browse)

    async def end_durable(self, name: str) -> None:
        """End the durable subscription `name` at the broker, with all it holds for this client."""
        link = self._link
        session = await link.connected()
        headers = [("durable", "true"), ("durable-name", name), ("activemq.subscriptionName", name)]
        await link.request(session, frames.unsubscribe(name, headers=headers), OnLoss.UNKNOWN)

    # --- more than one frame

    def transaction(self) -> Transaction:
        """A transaction, which begins with `async with` and ends with it: COMMIT, or ABORT if it raises."""
        self._last_id += 1
        return Transaction(self._link, f"tx-{self._last_id}")

    async def request(
        self,
        destination: str,
        body: Body = b"",
        *,
        timeout: float | None = 30.0,  # noqa: ASYNC109 - what every library of requests and replies offers
        headers: Headers = (),
        content_type: str | None = None,
    ) -> Message:
        """SEND with `reply-to` a temporary queue and a `correlation-id`, and wait for the reply that has the same.

        Raises TimeoutError after `timeout` seconds, OutcomeUnknown if the connection, and the queue with it, is gone,
        BrokerError if the broker refuses the message.
        """
        frame = send_frame(destination, body, content_type, headers)
        return await self._requests.request(self._link, frame, timeout)
