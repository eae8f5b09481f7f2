"""Subscriptions to patterns: `*` one word, `#` any number of words, `>` one or more at the end."""

from __future__ import annotations

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS

ACROSS = pytest.mark.parametrize("slot", [0, 1], ids=["same-worker", "other-worker"])

MATCHES = {
    "/topic/w.*": ["/topic/w.a", "/topic/w.", "/topic/w.*x", "/topic/w.ä"],
    "/topic/w.*.c": ["/topic/w.b.c", "/topic/w..c"],
    "/topic/w.#": ["/topic/w", "/topic/w.a", "/topic/w.a.b.c", "/topic/w."],
    "/topic/w.#.z": ["/topic/w.z", "/topic/w.a.z", "/topic/w.a.b.z", "/topic/w.z.z"],
    "/topic/w.>": ["/topic/w.a", "/topic/w.a.b.c", "/topic/w."],
    "/topic/w.*.>": ["/topic/w.a.b", "/topic/w.a.b.c"],
    "/topic/w.#.#": ["/topic/w", "/topic/w.a", "/topic/w.a.b"],
    "/topic/w.*.#": ["/topic/w.a", "/topic/w.a.b"],
    "w.*": ["w.a"],
    "w.#.b.*.d": ["w.b.c.d", "w.a.a.b.c.d", "w.b.b.b.d"],
    "/topic/*": ["/topic/w"],
    "/topic/>": ["/topic/w", "/topic/w.a"],
    "/topic/#": ["/topic/w", "/topic/w.a.b"],
    "#": ["w", "/topic/w", "/topic/w.a.b", "/other/w"],
    ">": ["w", "w.a", "/topic/w.a.b"],
}
MISSES = {
    "/topic/w.*": ["/topic/w", "/topic/w.a.b", "/topic/wx.a", "/other/w.a"],
    "/topic/w.*.c": ["/topic/w.c", "/topic/w.a.b.c", "/topic/w.b.d", "/topic/w.b.c.d"],
    "/topic/w.#": ["/topic/wx", "/topic/wx.a", "/topic/v.w", "/other/w"],
    "/topic/w.#.z": ["/topic/w", "/topic/w.zz", "/topic/w.z.a", "/topic/w.a.zz"],
    "/topic/w.>": ["/topic/w", "/topic/wx", "/topic/wx.a"],
    "/topic/w.*.>": ["/topic/w.a", "/topic/w"],
    "/topic/w.*.#": ["/topic/w", "/topic/wx.a"],
    "w.*": ["w", "w.a.b", "/topic/w.a", "W.a"],
    "w.#.b.*.d": ["w.b.d", "w.a.c.d"],
    "/topic/*": ["/topic/w.a", "/other/w"],
    "/topic/>": ["/other/w", "/topicw"],
    "/topic/w.*x": ["/topic/w.ax", "/topic/w.x"],
    "/topic/w.a#": ["/topic/w.a", "/topic/w.ab"],
    "/topic/w.>>": ["/topic/w.a"],
}


@ACROSS
@pytest.mark.parametrize("pattern", MATCHES)
def test_a_pattern_gets_what_it_matches(connect: Connect, slot: int, pattern: str) -> None:
    receiver, sender = connect(slot=slot), connect()
    receiver.subscribe(pattern)
    for destination in MATCHES[pattern]:
        sender.publish(destination, b"x")
    # The concrete destination comes back, never the pattern.
    assert sorted(m["destination"] for m in receiver.read_many(len(MATCHES[pattern]))) == sorted(MATCHES[pattern])


@ACROSS
@pytest.mark.parametrize("pattern", MISSES)
def test_a_pattern_gets_nothing_else(connect: Connect, slot: int, pattern: str) -> None:
    receiver, sender = connect(slot=slot), connect()
    receiver.subscribe(pattern)
    receiver.subscribe("marker.of.many.words", id="marker")
    for destination in MISSES[pattern]:
        sender.publish(destination, b"x")
    sender.publish("marker.of.many.words")
    receiver.expect("MESSAGE", subscription="marker")
    receiver.quiet()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pattern", ["/topic/>.a", ">.a", "/topic/a.>.>", ">.>", "/topic/*.>.#"])
def test_the_rest_may_only_stand_last(connect: Connect, version: str, pattern: str) -> None:
    wire = connect(version)
    wire.frame("SUBSCRIBE", [("id", "0"), ("destination", pattern), ("receipt", "r")])
    wire.expect_error("bad-destination", frame="SUBSCRIBE", receipt_id="r")


@ACROSS
def test_overlapping_subscriptions_each_get_the_message_once(connect: Connect, slot: int) -> None:
    receiver, sender = connect(slot=slot), connect()
    patterns = ["/topic/o.a", "/topic/o.*", "/topic/o.#", "/topic/#.a", "/topic/>", "/topic/#.#.a", "#"]
    for number, pattern in enumerate(patterns):
        receiver.subscribe(pattern, id=str(number))
    for _ in range(3):
        sender.publish("/topic/o.a", b"x")
    messages = receiver.read_many(3 * len(patterns))
    assert sorted(message["subscription"] for message in messages) == sorted("0123456" * 3)
    receiver.quiet()


@ACROSS
def test_after_unsubscribe_a_pattern_gets_nothing(connect: Connect, slot: int) -> None:
    receiver, sender = connect(slot=slot), connect()
    receiver.subscribe("/topic/u.>", id="wide")
    receiver.subscribe("/topic/u.a", id="narrow")
    receiver.request("UNSUBSCRIBE", [("id", "wide")])
    sender.publish("/topic/u.a", b"x")
    receiver.expect("MESSAGE", subscription="narrow")
    receiver.subscribe("/topic/u.*", id="wide")
    receiver.request("UNSUBSCRIBE", [("id", "narrow")])
    sender.publish("/topic/u.a", b"y")
    receiver.expect("MESSAGE", subscription="wide")
    receiver.quiet()


@ACROSS
def test_order_holds_on_a_pattern(connect: Connect, slot: int) -> None:
    receiver, sender = connect(slot=slot), connect()
    receiver.subscribe("/topic/s.#")
    for number in range(300):
        sender.publish(f"/topic/s.{number % 3}", b"%d" % number)
    messages = receiver.read_many(300)
    for destination in range(3):
        bodies = [int(m.body) for m in messages if m["destination"] == f"/topic/s.{destination}"]
        assert bodies == list(range(destination, 300, 3))


def test_a_pattern_of_many_rests_costs_no_exponential_time(connect: Connect) -> None:
    wire = connect()
    wire.subscribe("/topic/" + ".".join(["#", "a"] * 12) + ".never")
    wire.publish("/topic/" + ".".join(["a"] * 60), b"x")
    # Only a matcher that tries each rest of the words once is through with this before the deadline.
    wire.quiet()
