"""Who gets the last messages of topics: new subscribers, at once, each as much as it can take, and what their worker
hears of too late."""

from __future__ import annotations

import re

import pytest

from tests.unit.worker.clocked import Client, Worker, send
from worker.backplane.interface import Batch

NEWS, ALL, END = 0, 1, 2


def frame(id: bytes, destination: bytes, body: bytes = b"x", headers: bytes = b"") -> bytes:
    return b"%b\ndestination:%b\n%b\n%b\0" % (id, destination, headers, body)


def tell(worker: Worker, destination: bytes, message: bytes | None) -> None:
    """An owner on another worker has this news."""
    worker.core.on_message(1, ["retained", NEWS, [[destination, message]]])
    worker.loop.settle()


def live(worker: Worker, destination: bytes, body: bytes) -> None:
    """A sibling's client sent this."""
    worker.core.on_batch(destination, Batch(b"9-", [b"1\ndestination:%b\n\n%b\0" % (destination, body)]))
    worker.core.on_round_end()


def subscribe(client: Client, name: bytes, headers: bytes = b"", id: bytes = b"1") -> None:
    client.read(b"SUBSCRIBE\nid:%b\ndestination:%b\n%b\n\0" % (id, name, headers))


def got(client: Client) -> list[tuple[bytes, bool]]:
    """The bodies of the MESSAGEs so far, and whether each was retained."""
    data = b"".join(data for _, data in client.transport.written)
    frames = [each for each in data.split(b"\0") if each.startswith(b"MESSAGE\n")]
    return [(each.split(b"\n\n", 1)[1], b"\nretained:true\n" in each) for each in frames]


def test_a_new_subscriber_gets_it_and_those_before_do_not_again() -> None:
    worker = Worker()
    first = worker.login()
    subscribe(first, b"/topic/a")
    tell(worker, b"/topic/a", frame(b"m1", b"/topic/a", b"one"))
    second = worker.login()
    subscribe(second, b"/topic/a", b"receipt:r\n")
    assert (got(first), got(second)) == ([], [(b"one", True)])
    # The RECEIPT says, too, that it is there.
    assert b"".join(data for _, data in second.transport.written).endswith(b"RECEIPT\nreceipt-id:r\n\n\0")


def test_what_was_sent_before_and_is_heard_of_after_the_subscribe_follows() -> None:
    worker = Worker()
    tell(worker, b"/topic/a", frame(b"m1", b"/topic/a", b"one"))
    early = worker.login()
    subscribe(early, b"/topic/a")
    worker.after(3)
    late = worker.login()
    subscribe(late, b"/topic/a")
    tell(worker, b"/topic/a", frame(b"m2", b"/topic/a", b"two"))
    assert got(early) == [(b"one", True)]
    assert got(late) == [(b"one", True), (b"two", True)]
    worker.after(3)
    tell(worker, b"/topic/a", frame(b"m3", b"/topic/a", b"three"))
    assert got(late) == [(b"one", True), (b"two", True)]


@pytest.mark.parametrize("pattern", [b"/topic/a", b"/topic/*", b"/topic/#"])
def test_what_came_live_is_not_followed_by_what_was_retained(pattern: bytes) -> None:
    worker = Worker()
    tell(worker, b"/topic/a", frame(b"m1", b"/topic/a", b"one"))
    client = worker.login()
    subscribe(client, pattern)
    live(worker, b"/topic/a", b"two")
    tell(worker, b"/topic/a", frame(b"m2", b"/topic/a", b"two"))
    assert got(client) == [(b"one", True), (b"two", False)]
    # One that joins the same entry after that missed it.
    other = worker.login()
    subscribe(other, pattern)
    tell(worker, b"/topic/a", frame(b"m3", b"/topic/a", b"three"))
    assert got(client) == [(b"one", True), (b"two", False)]
    assert got(other) == [(b"two", True), (b"three", True)]


def test_selectors_versions_and_acknowledgements_hold_for_them() -> None:
    worker = Worker()
    tell(worker, b"/topic/a", frame(b"m1", b"/topic/a", b"one", b"color:b\\clue\nretain:true\n"))
    for version, written in (("1.0", b"color:b:lue\n"), ("1.1", b"color:b\\clue\n"), ("1.2", b"color:b\\clue\n")):
        client = worker.login(version=version)
        subscribe(client, b"/topic/a", b"selector:color = 'red'\n", id=b"1")
        assert got(client) == []
        subscribe(client, b"/topic/*", b"ack:client\nselector:color LIKE 'b%'\n", id=b"2")
        assert got(client) == [(b"one", True)]
        text = b"".join(data for _, data in client.transport.written)
        assert written in text and (b"\nack:" in text) == (version == "1.2")
        (subscription,) = client.connection.tracked.values()
        assert subscription.unacknowledged is not None and b"m1" in subscription.unacknowledged


def test_a_subscriber_to_a_pattern_gets_as_much_as_it_can_take() -> None:
    worker = Worker()
    names = [b"/topic/many.%04d" % number for number in range(1300)]
    worker.core.on_message(1, ["retained", NEWS, [[name, frame(name[-4:], name, name[-4:])] for name in names]])
    client = worker.login()
    client.transport.small = True
    client.connection.data_received(b"SUBSCRIBE\nid:1\ndestination:/topic/many.>\n\n\0")
    worker.after(1)
    taken = len(got(client))
    assert 0 < taken <= 500
    # What comes live meanwhile is newer than what it has yet to get.
    live(worker, names[-1], b"live")
    tell(worker, names[-2], frame(b"new", names[-2], b"news"))
    worker.core.on_message(1, ["retained", NEWS, [[names[-3], None]]])
    client.transport.small = False
    client.connection.resume_writing()
    worker.after(1)
    bodies = [body for body, _ in got(client)]
    assert len(bodies) == len(set(bodies))
    assert set(bodies) == {name[-4:] for name in names[:-3]} | {b"live", b"news"}
    assert got(client).count((b"live", False)) == 1


def test_more_than_may_be_unacknowledged_waits() -> None:
    worker = Worker()
    worker.core.router.configure((), 100)
    names = [b"/topic/many.%d" % number for number in range(120)]
    worker.core.on_message(1, ["retained", NEWS, [[name, frame(name[12:], name)] for name in names]])
    client = worker.login()
    subscribe(client, b"/topic/>", b"ack:client\n")
    worker.after(1)
    seen = 0
    while seen < len(names):
        data = b"".join(data for _, data in client.transport.written)
        acks = re.findall(rb"\nack:(\S+)\n", data)
        assert seen < len(acks) <= seen + 50
        seen = len(acks)
        client.read(b"ACK\nid:%b\n\n\0" % acks[-1])
        worker.after(1)
    assert client.error is None


def test_one_who_leaves_in_the_middle_gets_no_more() -> None:
    worker = Worker()
    names = [b"/topic/many.%d" % number for number in range(1200)]
    worker.core.on_message(1, ["retained", NEWS, [[name, frame(name[12:], name)] for name in names]])
    client = worker.login()
    client.connection.data_received(
        b"SUBSCRIBE\nid:1\ndestination:/topic/>\n\n\0UNSUBSCRIBE\nid:1\n\n\0SUBSCRIBE\nid:2\ndestination:/topic/x\n\n\0"
    )
    worker.after(5)
    assert len(got(client)) == 500
    assert not worker.core.retained._playing and not worker.core.retained._fresh


def test_what_has_expired_is_not_delivered() -> None:
    worker = Worker()
    now = worker.core.queues.now()
    tell(worker, b"/topic/a", frame(b"m1", b"/topic/a", b"one", b"expires:%d\n" % (now - 1)))
    tell(worker, b"/topic/b", frame(b"m2", b"/topic/b", b"two", b"expires:%d\n" % (now + 600_000)))
    client = worker.login()
    subscribe(client, b"/topic/*")
    assert got(client) == [(b"two", True)]


def test_an_owner_in_a_new_life_has_the_last_word() -> None:
    worker = Worker()
    for name in (b"/topic/a", b"/topic/b"):
        tell(worker, name, frame(b"old", name, b"old"))
    for part, news in (
        (ALL, []),
        (NEWS, [[b"/topic/b", frame(b"new", b"/topic/b", b"new")]]),
        (END, []),
    ):
        # Until it has told all, what is known serves.
        assert len(worker.core.retained) == 2
        worker.core.on_message(1, ["retained", part, news])
    client = worker.login()
    subscribe(client, b"/topic/>")
    assert got(client) == [(b"new", True)]


def test_what_is_sent_here_is_kept_when_it_is_stored() -> None:
    worker = Worker()
    sender, client = worker.login(), worker.login()
    sender.read(send(b"/topic/a", b"plain").replace(b"\n\n", b"\nretain:false\n\n", 1))
    subscribe(client, b"/topic/a", id=b"1")
    assert got(client) == []
    sender.read(send(b"/topic/a", b"kept").replace(b"\n\n", b"\nretain:true\n\n", 1))
    other = worker.login()
    subscribe(other, b"/topic/a", id=b"1")
    assert got(client) == [(b"kept", False)] and got(other) == [(b"kept", True)]
    assert worker.store.written[-1].changes[0].destination == "/topic/a"  # type: ignore[union-attr]
    sender.read(send(b"/topic/a").replace(b"\n\n", b"\nretain:true\n\n", 1))
    third = worker.login()
    subscribe(third, b"/topic/a", id=b"1")
    assert got(third) == [] and len(worker.core.retained) == 0
