"""What keeps a client connected: one session after another, each of which takes up what the last one left.

Owns the current session, the frames without RECEIPT, the subscriptions and the order of all that. A new session gets
the subscriptions first, then the frames without RECEIPT in their order, then what is new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from common.client import frames
from common.client.blame import Blame
from common.client.ending import Ending
from common.client.errors import BrokerError, ClientClosed, ClientError, ConnectFailed
from common.client.events import ClientEvent, Connected, Disconnected, Ended
from common.client.incoming import Incoming
from common.client.overruns import Overruns
from common.client.receipt import Receipt
from common.client.refusals import Refusals
from common.client.replay import Replay, write_again
from common.client.rounds import Rounds, Settings
from common.client.session import Session
from common.client.unconfirmed import OnLoss, Unconfirmed
from common.codec import encode_headers
from common.errors import ErrorCode
from common.frame import Frame, PlainFrame
from common.negotiation import Version

if TYPE_CHECKING:
    from common.client.subscription import Subscription

__all__ = ["Link"]

_CLOSING = 1.0
"""Seconds that the last bytes may take to leave."""


class Link:
    """One client's. `connect`, then it keeps connected until `close`, or until its back-off gives up."""

    def __init__(self, settings: Settings, *, window: int, window_bytes: int, buffer_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._rounds = Rounds(settings, self, self._tell)
        self.refusals = Refusals(self._tell if settings.on_event is not None else None)
        self.unconfirmed = Unconfirmed(window, window_bytes, self.refusals.note)
        self.incoming = Incoming(buffer_bytes, self._awaited, self._relieve)
        self.session: Session | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._overruns = Overruns(self._subscriptions, self.incoming)
        # The one that the last MESSAGE was for; the next one mostly is, too.
        self._latest: Subscription | None = None
        self.ending = Ending()
        self.check = self.ending.check_new
        """Raises what ended the client, or that it is being closed."""
        self._loss: asyncio.Future[tuple[Session, ClientError]] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._draining = 0
        self.replies_awaited = 0
        self._paced = 0
        self._parting = False
        # SENDs without a receipt that were lost with the DISCONNECT, and to what.
        self._lost_at_parting = 0
        self._parted: ClientError | None = None
        self._blame = Blame(self.unconfirmed, self._subscriptions)
        self._replay: Replay | None = None
        # Of the session: whether the broker has confirmed or sent anything, and whether it refused nobody knows what.
        self._fruitful = self._refused = False
        self._connected_at = self._loop.time()

    # --- connecting

    async def connect(self, *, patient: bool) -> None:
        """Connect for the first time; `patient` if by the back-off instead of one round over the addresses.

        Raises ConnectFailed.
        """
        self._adopt(await (self._rounds.reach() if patient else self._rounds.one()))
        self._keeper = asyncio.create_task(self._keep(), name="stampede client")

    async def _keep(self) -> None:
        try:
            while self._loss is not None:
                session, error = await self._loss
                await session.wait_closed()
                if self._parting:
                    return
                if self._settings.backoff is None or self._blame.is_hopeless:
                    self.end(error)
                    return
                self._adopt(await self._rounds.reach(ConnectFailed([(session.address, error)])))
        except ConnectFailed as error:
            self.end(error)
        finally:
            # Whatever went wrong, nobody waits for ever.
            self.end(ClientClosed())

    def _adopt(self, session: Session) -> None:
        self._loss = self._loop.create_future()
        self._fruitful = self._refused = False
        self._connected_at = self._loop.time()
        if session.loss is not None:
            self._note_loss(session, session.loss)
            return
        self.incoming.connected(session)
        self._tell(
            Connected(
                session.address,
                session.id,
                session.server,
                session.version.label,
                resumed=len(self._subscriptions),
                resent=self.unconfirmed.sends,
            )
        )
        if self._blame.is_open:
            self._replay = Replay(session, self._subscriptions, self.unconfirmed)
            self._go_on(self._replay)
        else:
            self._take_up(session, set())

    def _go_on(self, replay: Replay) -> None:
        """The next step of it; after the last the session is as any other."""
        if not replay.go_on():
            self._blame.is_open = False
            self._replay = None
            self._take_up(replay.session, replay.made)

    def _take_up(self, session: Session, made: set[Subscription]) -> None:
        """Write what the last session left, and let everybody write; `made` are the subscriptions it knows already."""
        self.session = session
        again = self.unconfirmed.again()
        for subscription in list(self._subscriptions.values()):
            if subscription not in made:
                subscription.subscribe(session)
        for frame in again:
            write_again(session, frame)
        self._wake()

    def _tell(self, event: ClientEvent) -> None:
        if self._settings.on_event is not None:
            # In a turn of its own: what it raises is the loop's to report.
            self._loop.call_soon(self._settings.on_event, event)

    # --- for those who write

    @property
    def current(self) -> Session | None:
        """The connection that there is, which may not be for everybody yet."""
        return self.session if self._replay is None else self._replay.session

    async def connected(self) -> Session:
        """The session that everybody may write to; waits until there is one. Raises what ended the client."""
        while self.session is None:
            self.ending.check()
            waiter = self._loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                raise
        return self.session

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def pace(self) -> None:
        """Let the loop turn now and then: who writes and waits for nothing would keep it from all else."""
        self._paced += 1
        if not self._paced % 64:
            await asyncio.sleep(0)

    async def drained(self, session: Session) -> None:
        """Wait while the broker takes less than is written."""
        if session.congested:
            self._draining += 1
            self.incoming.go_on()
            try:
                await session.drained()
            finally:
                self._draining -= 1

    def _awaited(self) -> int:
        return self._draining + self.replies_awaited + len(self.unconfirmed)

    def request(self, session: Session | None, frame: Frame, on_loss: OnLoss, size: int = 0) -> asyncio.Future[Receipt]:
        """Write `frame`, which gets a `receipt` header, and return the future of its RECEIPT; see `Unconfirmed.add`.
        Without a session, what is written again waits for the next one. Raises what ended the client, and
        ValueError for text that UTF-8 cannot express."""
        self.ending.check()
        # What cannot be written, lone surrogates for instance, fails here, and not on each connection to come.
        encode_headers(frame.headers, Version.V1_2)
        future: asyncio.Future[Receipt] = self._loop.create_future()
        self.unconfirmed.add(frame, future, on_loss, size)
        self.incoming.go_on()
        if session is not None:
            session.send(frame)
        return future

    def write_unnamed(self, session: Session, frame: Frame) -> None:
        """Write `frame`, whose failure nobody would be told of."""
        session.send(frame)
        self.unconfirmed.add_unnamed()

    def post(self, head: bytes, body: bytes, key: bytes | None) -> asyncio.Future[Receipt]:
        """Write a SEND, now or on the next connection, and return the future of its RECEIPT; see
        `Unconfirmed.add_send`. There must be room for it."""
        future: asyncio.Future[Receipt] = self._loop.create_future()
        data = self.unconfirmed.add_send(head, body, key, future)
        if self.incoming.paused:
            self.incoming.go_on()
        if self.session is not None:
            self.session.write(data)
        return future

    def subscribe(self, subscription: Subscription) -> None:
        """Make it now, and on each connection to come. Raises what ended the client."""
        self.check()
        if subscription.id in self._subscriptions:
            raise ClientError(f"there is a subscription with the id {subscription.id!r}")
        self._subscriptions[subscription.id] = subscription
        if self.session is not None:
            subscription.subscribe(self.session)

    def unsubscribe(self, subscription: Subscription) -> asyncio.Future[Receipt] | None:
        """Forget it, and tell the broker if it knows it."""
        session = self.current
        if subscription.leaving is not None:
            self.forget(subscription)
            return subscription.leaving
        if not self.forget(subscription) or session is None:
            return None
        if self._replay is not None and subscription not in self._replay.made:
            return None
        return self.request(session, frames.unsubscribe(subscription.id), OnLoss.DONE)

    def forget(self, subscription: Subscription) -> bool:
        """Make it no more; returns whether it was to be. The broker is not told."""
        if self._subscriptions.get(subscription.id) is not subscription:
            return False
        del self._subscriptions[subscription.id]
        self._latest = None
        return True

    def _relieve(self) -> None:
        """Too much is held: one of the subscriptions has to go."""
        found = self._overruns.next() if self.current is not None else None
        if found is not None and self.current is not None:
            subscription, error = found
            unsubscribe = frames.unsubscribe(subscription.id)
            subscription.overrun(self.request(self.current, unsubscribe, OnLoss.DONE), error)

    # --- of the session

    def on_frames(self, session: Session, frames: Iterator[Frame]) -> None:
        for frame in frames:
            latest = self._latest
            if (
                latest is not None
                and type(frame) is PlainFrame
                and frame.command == "MESSAGE"
                and session is self.session
                and frame.head.startswith(latest.mark)
            ):
                # By far the most of what comes: one call less for each.
                self._fruitful = True
                latest.take(session, frame)
            else:
                self.on_frame(session, frame)

    def on_frame(self, session: Session, frame: Frame) -> None:
        command = frame.command
        if session is not self.session:
            self._on_early_frame(session, frame)
        elif command == "MESSAGE":
            self._fruitful = True
            subscription = self._latest = self._find(session, frame)
            if subscription is not None:
                subscription.take(session, frame)
        elif command == "RECEIPT":
            # Subscriptions are made again on each connection: that alone is no progress.
            if self.unconfirmed.confirm(frame):
                self._fruitful = True
        elif command == "ERROR":
            self._on_error(session, BrokerError(frame))

    def _on_early_frame(self, session: Session, frame: Frame) -> None:
        """Of a session that is not everybody's: not taken up yet, in a replay, or given up before the end of a read."""
        replay = self._replay
        command = frame.command
        if replay is None or replay.session is not session:
            if command == "ERROR":
                session.fail(BrokerError(frame))
        elif command == "MESSAGE":
            self._fruitful = True
            subscription = self._find(session, frame)
            if subscription is not None:
                subscription.take(session, frame)
        elif command == "RECEIPT":
            if self.unconfirmed.confirm(frame):
                self._fruitful = True
            self._go_on(replay)
        elif command == "ERROR":
            self._on_error(session, BrokerError(frame))

    def _on_error(self, session: Session, error: BrokerError) -> None:
        if error.code == ErrorCode.SUBSCRIPTION_IN_USE:
            # Perhaps by this client's last connection, which the broker has not missed yet: no need to hurry.
            self._refused = True
        if not self._blame.take(error, self._replay):
            self._refused = True
        # The broker closes too (1.2 section ERROR), but not every broker does.
        session.fail(error)

    def _find(self, session: Session, frame: Frame) -> Subscription | None:
        """The subscription that a MESSAGE is for."""
        subscription = self._subscriptions.get(frame.get("subscription") or "")
        if subscription is None and session.version is Version.V1_0:
            # Servers of 1.0 may not say it.
            destination = frame.get("destination")
            found = (each for each in self._subscriptions.values() if each.destination == destination)
            subscription = next(found, None)
        return subscription

    def on_lost(self, session: Session, error: ClientError) -> None:
        if session is not self.current:
            return
        self.session = self._replay = None
        self.incoming.connected(None)
        unknown = self.unconfirmed.unknown
        self.unconfirmed.lost(error)
        for subscription in list(self._subscriptions.values()):
            subscription.lost(error)
        if self._parting:
            self._lost_at_parting, self._parted = unknown, error
        if unknown or not self._parting:
            self._tell(Disconnected(session.address, session.id, error, self.unconfirmed.sends, unknown))
        self._note_loss(session, error)

    def _note_loss(self, session: Session, error: ClientError) -> None:
        now = self._loop.time()
        longest = self._settings.backoff.longest if self._settings.backoff is not None else 0
        lasted = now - self._connected_at > longest
        if lasted or not self._refused:
            self._blame.settled()
        self._rounds.lost(fruitful=lasted or (self._fruitful and not self._refused))
        if self._loss is not None:
            self._loss.set_result((session, error))

    # --- its end

    async def close(self, within: float) -> None:
        """Wait for what is unconfirmed, DISCONNECT, close: in at most `within` seconds.

        Raises ClientClosed if SENDs are still unconfirmed then, as their futures do, or had no receipt and the one of
        DISCONNECT, which speaks for them, did not come.
        """
        began = self._loop.time()
        self.ending.begin()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    while self.unconfirmed.sends:
                        await self.unconfirmed.idle()
                    session = self.current
                    if session is not None:
                        # The broker may close before its RECEIPT has been looked at here.
                        self._parting = True
                        await self.request(session, frames.disconnect(), OnLoss.DONE)
        finally:
            # Also for those who do not want to wait any more: nothing may stay open.
            took = self._loop.time() - began
            left = self.unconfirmed.sends
            unknown = self.unconfirmed.unknown + self._lost_at_parting
            await self.stop()
        if left or unknown:
            text = f"closed after {took:.1f} s; SENDs that the broker has not confirmed: {left}"
            if unknown:
                text += f", and without a receipt: {unknown}"
            raise ClientClosed(text if self._parted is None else f"{text}. {self._parted}") from self._parted

    async def stop(self) -> None:
        """End at once: what is unconfirmed fails with ClientClosed."""
        session = self.current
        self.end(ClientClosed())
        try:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait([self._keeper])
        finally:
            if session is not None:
                await session.close(_CLOSING)

    def end(self, error: ClientError) -> None:
        """It is over, for `error`: all that waits gets it."""
        # Who has never connected is told by `connect`.
        if self.ending.end(error) and self._keeper is not None:
            self._tell(Ended(self.ending.failure))
        self.session = self._replay = None
        self.incoming.connected(None)
        self.unconfirmed.end(error)
        for subscription in list(self._subscriptions.values()):
            subscription.end(error)
        self._subscriptions.clear()
        self._latest = None
        self._wake()
