"""Clients made with stomp.py and with stompman, reconnecting the way their users let them, that write down all they do.

Of stompman the history is written where its connection reads and writes frames, of stomp.py in its listener.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self

import stomp
import stompman
from stomp.exception import StompException
from stompman.connection import Connection

from tests.chaos.actors import Actor
from tests.chaos.history import Acknowledged, AcknowledgementReceipted, Receipted, Refused, Returned, Sent
from tests.chaos.session import CLIENT_PATIENCE
from tests.chaos.world import QUEUE, World, body

__all__ = ["StompManConsumer", "StompManProducer", "StompPyConsumer", "StompPyProducer"]

SIZES = (0, 10, 100, 1000, 5000)


class Ledger:
    """What one connection was given and has not settled."""

    def __init__(self, world: World, name: str, mode: str = "client-individual") -> None:
        self._world = world
        self._name = name
        self._mode = mode
        self._held: dict[str, dict[str, str]] = {}

    def delivered(self, headers: Any, text: bytes) -> None:
        try:
            id = self._world.delivered(self._consumer(headers["subscription"]), ("MESSAGE", headers, text.decode()))
        except AssertionError as damaged:
            # stomp.py would log it and go on.
            self._world.note(Refused(str(damaged)))
            return
        self._held.setdefault(headers["subscription"], {})[headers["ack"]] = id

    def taken(self, subscription: str, ack: str) -> tuple[str, ...]:
        """The messages that an ACK or a NACK of this settles or gives back."""
        held = self._held[subscription]
        if self._mode != "client":
            return (held.pop(ack),)
        keys = list(held)
        return tuple(held.pop(key) for key in keys[: keys.index(ack) + 1])

    def closed(self) -> None:
        for subscription in self._held:
            self._world.closed(self._consumer(subscription))

    def _consumer(self, subscription: str) -> str:
        return f"{self._name}/{subscription}"


# --- stomp.py


class StompPyActor(Actor, stomp.ConnectionListener):  # type: ignore[misc]  # the package has no types
    """One connection that is made again in `on_disconnected`, as the documentation of stomp.py has it."""

    def __init__(self, world: World, name: str, queues: list[str], mode: str = "client-individual") -> None:
        super().__init__(world, name)
        self.queues = queues
        self.mode = mode
        self.is_over = False
        self.changed = threading.Condition()
        self.lives = 0
        """How often the connection was lost."""
        self._ledger = Ledger(world, world.name(name), mode)
        self._receipts: dict[str, Callable[[], None]] = {}
        self._numbers = 0
        self._connecting = threading.Lock()
        self._seen = time.monotonic()
        self.connection = stomp.StompConnection12(
            [world.address],
            auto_decode=False,
            reconnect_sleep_initial=0.05,
            reconnect_sleep_increase=0,
            reconnect_attempts_max=300,
        )
        self.connection.set_listener("actor", self)

    async def run(self) -> None:
        await asyncio.to_thread(self.connect)
        try:
            while not self.world.is_over:
                await self.turn()
        finally:
            self.is_over = True
            self._ledger.closed()
            await asyncio.to_thread(self._leave)

    async def turn(self) -> None:
        """What this one does besides listening."""
        await asyncio.sleep(0.02)
        await asyncio.to_thread(self.look_after)

    def look_after(self) -> None:
        """stomp.py does not tell of the end of a connection that ends within on_disconnected."""
        if self.connection.is_connected():
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > 1.0:
            self.connect()

    def subscribe(self) -> None:
        """On a connection that is new."""

    def connect(self, *, wait: bool = True) -> None:
        """Until there is a connection; at once, if somebody else is making one and this shall not `wait` for that."""
        while not self.is_over and self._connecting.acquire(blocking=wait):
            try:
                if self.connection.is_connected():
                    return
                self._ledger.closed()
                self._ledger = Ledger(self.world, self.world.name(self.actor), self.mode)
                self.connection.connect(wait=True)
                self.subscribe()
            except (StompException, OSError, AttributeError):
                # The last: its socket is gone between two of its own lines.
                time.sleep(0.02)
            finally:
                self._connecting.release()

    def _leave(self) -> None:
        with self._connecting:
            if self.connection.is_connected():
                self.connection.disconnect(receipt="bye")

    def expect(self, callback: Callable[[], None]) -> str:
        """The value of a `receipt` header."""
        with self.changed:
            self._numbers += 1
            self._receipts[str(self._numbers)] = callback
            return str(self._numbers)

    # --- what stomp.py calls, in a thread of its own

    def on_disconnected(self) -> None:
        self._ledger.closed()
        with self.changed:
            self.lives += 1
            self._receipts.clear()
            self.changed.notify_all()
        # Who is waiting for CONNECTED is told of the end of that connection only after this.
        self.connect(wait=False)

    def on_receipt(self, frame: Any) -> None:
        with self.changed:
            if callback := self._receipts.pop(frame.headers["receipt-id"], None):
                callback()
            self.changed.notify_all()

    def on_error(self, frame: Any) -> None:
        self.world.refused(("ERROR", frame.headers, frame.body.decode()))

    def on_message(self, frame: Any) -> None:
        ledger, ack = self._ledger, frame.headers["ack"]
        ledger.delivered(frame.headers, frame.body)
        chance = self.pick.random()
        if chance < 0.02:
            self.world.note(Returned(ledger.taken(frame.headers["subscription"], ack)))
            self.connection.nack(ack)
        elif chance < (0.5 if self.mode == "client" else 0.95):
            ids = ledger.taken(frame.headers["subscription"], ack)
            self.world.note(Acknowledged(ids))
            self.connection.ack(ack, receipt=self.expect(lambda: self.world.note(AcknowledgementReceipted(ids))))


class StompPyConsumer(StompPyActor):
    def subscribe(self) -> None:
        for index, queue in enumerate(self.queues):
            # What it does not acknowledge it keeps until its connection ends.
            self.connection.subscribe(QUEUE + queue, str(index), self.mode, headers={"prefetch-count": "1000"})


class StompPyProducer(StompPyActor):
    """Sends one message at a time, and the same again, with its `idempotency-key`, until it is receipted."""

    _sent = 0

    async def turn(self) -> None:
        await asyncio.to_thread(self._send_one)
        await asyncio.sleep(self.pick.choice((0, 0.001, 0.003)))

    def _send_one(self) -> None:
        self._sent += 1
        id, queue = f"{self.actor}.{self._sent}", self.pick.choice(self.queues)
        text = body(id, self.pick.choice(SIZES))
        self.world.note(Sent(id, queue, self.actor, self._sent))
        deadline = time.monotonic() + CLIENT_PATIENCE
        while not self._is_receipted(id, queue, text):
            assert time.monotonic() < deadline, f"no RECEIPT for {id}"
            time.sleep(0.01)
            self.look_after()

    def _is_receipted(self, id: str, queue: str, text: str) -> bool:
        came = threading.Event()
        life = self.lives

        def receipted() -> None:
            self.world.note(Receipted(id))
            came.set()

        receipt = self.expect(receipted)
        # stomp.py itself would send on a connection that it is just making, before its CONNECT.
        with self._connecting:
            if not self.connection.is_connected():
                return False
            try:
                self.connection.send(QUEUE + queue, text, receipt=receipt, headers={"idempotency-key": id})
            except (StompException, OSError, AttributeError):
                return False
        with self.changed:
            while not came.is_set() and life == self.lives and self.connection.is_connected():
                self.changed.wait(0.1)
        return came.is_set()


# --- stompman


class StompManActor(Actor):
    """A client of stompman that finds its connections itself."""

    def __init__(self, world: World, name: str, queues: list[str]) -> None:
        super().__init__(world, name)
        self.queues = queues

    def client(self) -> stompman.Client:
        world, actor = self.world, self.actor

        class Written(Connection):
            ledger: Ledger

            @classmethod
            async def connect(cls, **options: Any) -> Self | None:
                connection = await super().connect(**options)
                if connection is not None:
                    connection.ledger = Ledger(world, world.name(actor))
                return connection

            async def close(self) -> None:
                self.ledger.closed()
                await super().close()

            async def read_frames(self) -> AsyncGenerator[stompman.AnyServerFrame, None]:
                async for frame in super().read_frames():
                    if isinstance(frame, stompman.MessageFrame):
                        self.ledger.delivered(frame.headers, frame.body)
                    yield frame

            async def write_frame(self, frame: stompman.AnyClientFrame) -> None:
                if isinstance(frame, stompman.AckFrame):
                    world.note(Acknowledged(self.ledger.taken(frame.headers["subscription"], frame.headers["id"])))
                elif isinstance(frame, stompman.NackFrame):
                    ids = self.ledger.taken(frame.headers["subscription"], frame.headers["id"])
                    world.note(Returned(ids))
                elif isinstance(frame, stompman.UnsubscribeFrame):
                    self.ledger.closed()
                await super().write_frame(frame)

        return stompman.Client(
            [stompman.ConnectionParameters(*self.world.address, "guest", "guest")],
            heartbeat=stompman.Heartbeat(0, 0),
            on_error_frame=lambda frame: self.world.refused(
                ("ERROR", {name: str(value) for name, value in frame.headers.items()}, frame.body.decode())
            ),
            connection_class=Written,
            # A broker that is restarted takes longer than three attempts.
            connect_retry_attempts=30,
            connect_retry_interval=0.1,  # type: ignore[arg-type]  # it only sleeps that long
            # Else it stops reading now and then, and the history would have late what came early.
            max_concurrent_handlers=None,
        )

    async def run(self) -> None:
        async with self.client() as client:
            await self.use(client)

    async def use(self, client: stompman.Client) -> None:
        """Until the world is over."""
        raise NotImplementedError


class StompManConsumer(StompManActor):
    """Leaves it to stompman to acknowledge what its handler has done, and to send back what its handler has not."""

    async def use(self, client: stompman.Client) -> None:
        subscriptions = [
            await client.subscribe(
                QUEUE + queue,
                self._handle,
                headers={"prefetch-count": "50"},
                on_suppressed_exception=lambda *_: None,
            )
            for queue in self.queues
        ]
        while not self.world.is_over:
            await self._rest()
        for subscription in subscriptions:
            await subscription.unsubscribe()

    async def _rest(self) -> None:
        await asyncio.sleep(0.02)

    async def _handle(self, message: stompman.MessageFrame) -> None:
        if self.pick.random() < 0.02:
            raise ValueError("stompman answers this with NACK")
        await asyncio.sleep(self.pick.choice((0, 0, 0.001, 0.01)))


class StompManProducer(StompManActor):
    """Several tasks send by one client, each waits for its receipts. What is not receipted is not sent again."""

    async def use(self, client: stompman.Client) -> None:
        async with asyncio.TaskGroup() as group:
            for task in range(8):
                group.create_task(self._produce(client, f"{self.actor}.{task}"))

    async def _produce(self, client: stompman.Client, name: str) -> None:
        number = 0
        while not self.world.is_over:
            number += 1
            id, queue = f"{name}.{number}", self.pick.choice(self.queues)
            text = body(id, self.pick.choice(SIZES)).encode()
            self.world.note(Sent(id, queue, name, number))
            try:
                await client.send(text, QUEUE + queue, receipt_timeout=CLIENT_PATIENCE)
            except stompman.SendReceiptError as error:
                assert error.reason != "timeout", f"no RECEIPT for {id}"
            else:
                self.world.note(Receipted(id))
            await asyncio.sleep(self.pick.choice((0, 0.001, 0.003)))
