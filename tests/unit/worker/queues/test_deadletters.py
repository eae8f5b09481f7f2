"""The frame of a message in a dead letter queue, and the way back."""

from __future__ import annotations

import pytest

from worker.queues.deadletters import dead_letter, redirected, revived
from worker.queues.message import Message

SENT = b"id-1\ndestination:/queue/a\\cb\npriority:7\ncolour:blue\ncontent-length:3\n\n\n\nx\0"


def test_there_and_back_is_what_it_was() -> None:
    dead = dead_letter(Message(1, SENT, count=3), b"/queue/a:b", b"/queue/dlq.a:b", "rejected", "no: good", 1234)
    assert b"\ndestination:/queue/dlq.a\\cb\ndlq-reason:rejected\ndlq-count:3\ndlq-time:1234" in dead
    assert b"\ndlq-detail:no\\c good\ndlq-from:/queue/a\\cb\n" in dead and b"dlq-destination" not in dead
    # The name of the queue is as its owner knows it, the headers are as they were.
    assert revived(dead) == (b"/queue/a:b", SENT)


@pytest.mark.parametrize("line", [b"expires:99\n", b"ttl:5\n", b"ttl:5\nexpires:99\n"])
def test_one_that_has_expired_would_again_and_must_not(line: bytes) -> None:
    head, body = SENT.split(b"priority", 1)
    dead = dead_letter(Message(1, head + line + b"priority" + body), b"/queue/a:b", b"/queue/dlq", "expired", "", 1)
    assert revived(dead) == (b"/queue/a:b", SENT)


def test_what_a_subscription_to_topics_took_says_which_topic_again() -> None:
    sent = SENT.replace(b"/queue/a\\cb", b"/topic/x\\cy")
    dead = dead_letter(Message(1, sent), b"/durable/mine", b"/queue/dlq.mine", "rejected", "", 1)
    assert b"\ndlq-destination:/topic/x\\cy\n" in dead
    assert revived(dead) == (b"/durable/mine", sent)


def test_other_messages_are_no_dead_letters() -> None:
    assert revived(SENT) is None
    # Not even those that say so in their body.
    assert revived(b"id\ndestination:/queue/a\n\n\ndlq-from:/queue/b\n\0") is None
    assert redirected(SENT, b"/queue/c") == SENT.replace(b"/queue/a\\cb", b"/queue/c")
