"""What a message is when it comes back from the store."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from common.codec import encode_headers
from common.frame import Frame
from common.negotiation import Version
from tests.unit.worker.queues.lone_owner import LoneOwner
from worker.queues.message import Message
from worker.traits import Traits, parse_traits

_values = st.text(st.one_of(st.sampled_from(":\\\n\rcn"), st.characters(codec="utf-8", exclude_characters="\0")))


@given(_values, _values)
@example("order:1", "")
@example("", "other")
def test_the_group_is_that_of_the_send(group: str, repeated: str) -> None:
    headers = [("group-id", group), ("group-id", repeated)]
    traits = parse_traits(Frame("SEND", headers))
    stored = Message.stored(1, b"id\n%b\n\0" % encode_headers(headers, Version.V1_2), 0)
    assert stored.group == (None if traits is None else traits.group)


def test_a_group_is_one_in_memory_and_on_disk() -> None:
    lone = LoneOwner(queue={"window_messages": 16})
    ids = [str(number) for number in range(40)]
    for id in ids:
        frame = b"%b\ndestination:/queue/q\ngroup-id:order\\c1\n\nx\0" % id.encode()
        lone.apply(["+", b"/queue/q", b"", [frame], {0: Traits(group=b"order:1").pack()}])
        lone.settled()
    for number in (1, 2):
        lone.attach("/queue/q", number, prefetch=4)
    lone.settled()
    while len(seen := lone.ids(1)) < len(ids):
        lone.settle("/queue/q", 1, *seen[-4:])
        lone.settled()
        assert lone.ids(1) != seen, "no more came"
        assert not lone.ids(2)
    assert lone.ids(1) == ids
