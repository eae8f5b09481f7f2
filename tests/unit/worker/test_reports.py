"""What a worker tells its front of its clients, and how it has them named: the real core on a pretended loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.messages import Happened, Message, NameSession
from tests.unit.worker.clocked import Client, Worker, send
from worker.reports import Naming, Reports

CONNECT = b"CONNECT\naccept-version:1.2\nhost:h\nlogin:jane\n\n\0"
HELD_UP = b"\0reports"


class Front:
    """A worker that reports, and what it has sent."""

    def __init__(self, *, names: bool = False, connect_timeout: float = 10.0) -> None:
        self.worker = Worker(connect_timeout=connect_timeout)
        self.sent: list[Message] = []
        core = self.worker.core
        core._session_prefix = "0-boot.1-"
        core.reports = Reports(core, self.sent.append)
        if names:
            core.naming = Naming(core, core.reports, self.sent.append)

    def client(self) -> Client:
        return self.worker.open()

    def name(self, client: Client, session: str | None) -> None:
        assert self.worker.core.naming is not None
        self.worker.core.naming.named(client.connection.number, session)
        self.worker.loop.settle()

    @property
    def happened(self) -> list[list[Any]]:
        return [event for message in self.sent if isinstance(message, Happened) for event in message.events]

    @property
    def asked(self) -> list[NameSession]:
        return [message for message in self.sent if isinstance(message, NameSession)]


def written(client: Client) -> bytes:
    return b"".join(data for _, data in client.transport.written)


def subscribe(id: str, destination: str = "/topic/a", more: str = "") -> bytes:
    return f"SUBSCRIBE\nid:{id}\ndestination:{destination}\n{more}\n\0".encode()


def test_a_worker_that_was_not_asked_has_none_of_it() -> None:
    core = Worker().core
    assert (core.reports, core.naming, core.session_names) == (None, None, {})


def test_one_read_is_one_message() -> None:
    front = Front()
    client = front.client()
    client.read(CONNECT + subscribe("a", more="ack:client-individual\n") + subscribe("b") + b"UNSUBSCRIBE\nid:a\n\n\0")
    number, session = client.connection.number, client.connection.session
    first, second = number + 1, number + 2
    assert front.sent == [
        Happened(
            [
                ["connected", number, session, "", 0, "1.2", "jane"],
                ["subscribed", number, first, "a", "/topic/a", "client-individual"],
                ["subscribed", number, second, "b", "/topic/a", "auto"],
                ["unsubscribed", number, first],
            ]
        )
    ]
    client.read(b"DISCONNECT\n\n\0")
    assert front.happened[4:] == [["left", number, "disconnect"]]


def test_a_subscription_starts_when_its_receipt_is_due() -> None:
    front = Front()
    done: list[Callable[[], None]] = []
    front.worker.core.backplane.barrier = done.append  # type: ignore[method-assign]
    client = front.client()
    client.read(CONNECT + subscribe("a", more="receipt:r\n") + subscribe("b", "/topic/b") + b"UNSUBSCRIBE\nid:b\n\n\0")
    assert [event[0] for event in front.happened] == ["connected"]
    assert b"RECEIPT" not in written(client)
    for routed in done:
        routed()
    front.worker.loop.settle()
    assert b"RECEIPT" in written(client)
    assert [event[0] for event in front.happened] == ["connected", "subscribed", "subscribed", "unsubscribed"]


def test_one_that_is_not_in_effect_when_its_client_leaves_never_was() -> None:
    front = Front()
    done: list[Callable[[], None]] = []
    front.worker.core.backplane.barrier = done.append  # type: ignore[method-assign]
    client = front.client()
    client.read(CONNECT + subscribe("a"))
    client.transport.abort()
    front.worker.loop.settle()
    for routed in done:
        routed()
    front.worker.loop.settle()
    assert [event[0] for event in front.happened] == ["connected", "left"]


def test_a_client_that_never_connected_is_not_told_of() -> None:
    front = Front()
    client = front.client()
    client.read(b"SEND\ndestination:/topic/a\n\n\0")
    client.eof()
    assert front.sent == []


def test_a_refused_subscription_is_not_told_of() -> None:
    front = Front()
    client = front.client()
    client.read(CONNECT + subscribe("a", "/temp-queue/0-boot-99/x"))
    assert [event[0] for event in front.happened] == ["connected", "left"]
    assert front.happened[1][2] == "protocol-error"


def test_a_message_has_its_limit_and_long_ids_make_more_of_them() -> None:
    front = Front()
    client = front.client()
    ids = [f"{number:03d}" + "x" * 15_000 for number in range(20)]
    client.read(CONNECT + b"".join(map(subscribe, ids)))
    assert [event[3] for event in front.happened[1:]] == ids
    assert len(front.sent) > 3


def test_thousands_of_subscriptions_behind_a_slow_one_do_not_stop_their_client_for_ever() -> None:
    front = Front()
    done: list[Callable[[], None]] = []
    client = front.client()
    client.read(CONNECT + subscribe("first") + subscribe("held", "/topic/slow"))
    front.worker.core.backplane.barrier = done.append  # type: ignore[method-assign]
    client.read(subscribe("slow", "/topic/new"))
    for number in range(600):
        if client.transport.reading:
            client.read(b"UNSUBSCRIBE\nid:first\n\n\0" + subscribe("first") if number else subscribe("again"))
    for routed in done:
        routed()
    front.worker.loop.settle()
    assert client.transport.reading


def test_a_front_that_does_not_read_stops_those_it_would_hear_of_and_no_others() -> None:
    front = Front()
    reports = front.worker.core.reports
    assert reports is not None
    busy, quiet = front.client(), front.client()
    busy.read(CONNECT)
    quiet.read(CONNECT)
    reports.hold_up(True)
    busy.read(subscribe("a"))
    quiet.read(send(b"/topic/a", b"x"))
    assert (busy.transport.reading, quiet.transport.reading) == (False, True)
    reports.hold_up(False)
    assert busy.transport.reading


# --- names


def test_connected_waits_for_the_name_and_so_does_what_follows() -> None:
    front = Front(names=True)
    client = front.client()
    client.read(CONNECT + subscribe("a", more="receipt:r\n") + send(b"/topic/a", b"x"))
    assert front.asked == [NameSession(client.connection.number, client.connection.locator)]
    assert (written(client), front.happened, client.transport.reading) == (b"", [], False)
    front.name(client, "me:1")
    frames = written(client)
    assert frames.startswith(b"CONNECTED\nversion:1.2\nsession:me:1\n")
    assert frames.index(b"RECEIPT\n") < frames.index(b"MESSAGE\n")
    assert client.transport.reading
    assert front.happened[0][2] == "me:1"
    assert client.connection.session == "me:1"


def test_others_go_on_meanwhile() -> None:
    front = Front(names=True)
    waiting, other = front.client(), front.client()
    waiting.read(CONNECT)
    other.read(CONNECT)
    front.name(other, "other")
    other.read(subscribe("a") + send(b"/topic/a", b"x"))
    assert b"MESSAGE\n" in written(other)
    assert written(waiting) == b""


def test_a_refused_name_refuses_the_connect_and_nothing_of_the_rest_happens() -> None:
    front = Front(names=True)
    other, client = front.client(), front.client()
    other.read(CONNECT)
    front.name(other, "other")
    other.read(subscribe("a"))
    client.read(CONNECT + send(b"/topic/a", b"x") + subscribe("b"))
    front.name(client, None)
    assert client.error is not None
    assert client.error[1] == "internal-error"
    assert b"frame:CONNECT\n" in written(client)
    assert b"CONNECTED" not in written(client)
    assert b"MESSAGE\n" not in written(other)
    assert front.happened[2:] == [["left", client.connection.number, "internal-error"]]
    assert client.connection.number not in front.worker.core.session_names


def test_a_client_that_leaves_before_it_has_a_name_gives_it_back() -> None:
    front = Front(names=True)
    client = front.client()
    client.read(CONNECT)
    client.transport.abort()
    front.worker.loop.settle()
    front.name(client, "late")
    assert front.happened == [["left", client.connection.number, "client-closed"]]
    assert front.worker.core.session_names == {}


def test_what_has_left_is_told_before_a_name_is_asked_for() -> None:
    front = Front(names=True)
    first, second = front.client(), front.client()
    first.read(CONNECT)
    front.name(first, "a")
    front.sent.clear()
    first.connection.data_received(b"DISCONNECT\n\n\0")
    second.connection.data_received(CONNECT)
    assert [type(message) for message in front.sent] == [Happened, NameSession]


def test_a_second_connect_is_refused_while_the_first_waits() -> None:
    front = Front(names=True)
    client = front.client()
    client.read(CONNECT + CONNECT)
    front.name(client, "a")
    assert client.error is not None
    assert client.error[1] == "already-connected"


def test_waiting_for_a_name_is_not_the_client_s_fault() -> None:
    front = Front(names=True, connect_timeout=1.0)
    client = front.client()
    client.read(CONNECT)
    front.worker.after(50)
    assert client.error is None
    front.name(client, "a")
    assert written(client).startswith(b"CONNECTED\n")


def test_a_name_is_forgotten_with_its_connection() -> None:
    front = Front(names=True)
    client = front.client()
    client.read(CONNECT)
    front.name(client, "a")
    client.read(b"DISCONNECT\n\n\0")
    assert front.worker.core.session_names == {client.connection.number: "a"}, "the log of its end needs it"
    client.eof()
    assert front.worker.core.session_names == {}


@pytest.mark.parametrize("destination", ["/temp-queue/x", "/temp-topic/x"])
def test_temporary_addresses_go_by_the_worker_s_own_id(destination: str) -> None:
    front = Front(names=True)
    client = front.client()
    client.read(CONNECT)
    front.name(client, "/no/address")
    client.read(subscribe("a", destination) + b"SEND\ndestination:/topic/b\nreply-to:%b\n\nx\0" % destination.encode())
    assert client.error is None
    kind = destination.removesuffix("x")
    address = f"{kind}{client.connection.locator}/x".encode()
    client.read(subscribe("b", address.decode()))
    assert client.error is None
