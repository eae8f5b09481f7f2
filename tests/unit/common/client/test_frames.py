"""The constructors of client frames, by the sections of the specifications they name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.client import frames
from common.codec import encode
from common.decoder import Decoder
from common.frame import CLIENT_COMMANDS, Frame
from common.negotiation import Version

MESSAGE = Frame("MESSAGE", [("subscription", "s"), ("message-id", "m"), ("ack", "a"), ("destination", "/queue/q")])


def test_connect_says_what_1_2_asks_for() -> None:
    assert frames.connect() == Frame(
        "CONNECT", [("accept-version", "1.0,1.1,1.2"), ("host", "/"), ("heart-beat", "0,0")]
    )
    full = frames.connect("me", "pw", host="v", accept_version="1.2", heart_beat=(10, 20), headers={"client-id": "c"})
    assert full.headers == [
        ("accept-version", "1.2"),
        ("host", "v"),
        ("login", "me"),
        ("passcode", "pw"),
        ("heart-beat", "10,20"),
        ("client-id", "c"),
    ]


def test_connect_of_a_1_0_client_has_neither_version_nor_host() -> None:
    assert frames.connect(accept_version=None, host=None).headers == [("heart-beat", "0,0")]


def test_stomp_is_for_1_1_and_up() -> None:
    frame = frames.stomp("me", "pw", heart_beat=(1, 2))
    assert frame.command == "STOMP"
    assert frame.get("accept-version") == "1.1,1.2"
    assert (frame.get("login"), frame.get("passcode"), frame.get("heart-beat")) == ("me", "pw", "1,2")


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_connect_refuses_what_it_cannot_carry_without_showing_it(bad: str) -> None:
    with pytest.raises(ValueError, match="passcode") as caught:
        frames.connect("me", bad)
    assert bad not in str(caught.value)


def test_connect_refuses_negative_heart_beats() -> None:
    with pytest.raises(ValueError, match="heart_beat"):
        frames.connect(heart_beat=(-1, 0))


def test_send() -> None:
    frame = frames.send("/queue/q", "é", content_type="text/plain", transaction="t", receipt="r", headers={"x": "1"})
    assert frame == Frame(
        "SEND",
        [
            ("destination", "/queue/q"),
            ("content-type", "text/plain"),
            ("transaction", "t"),
            ("receipt", "r"),
            ("x", "1"),
        ],
        "é".encode(),
    )
    assert frames.send("/queue/q", b"\0").body == b"\0"


def test_send_leaves_the_count_of_the_body_to_the_codec() -> None:
    with pytest.raises(ValueError, match="content-length"):
        frames.send("/queue/q", b"abc", headers={"content-length": "7"})


def test_subscribe_and_unsubscribe() -> None:
    assert frames.subscribe("/topic/t").headers == [("destination", "/topic/t"), ("id", "/topic/t"), ("ack", "auto")]
    frame = frames.subscribe("/topic/t", "7", ack="client", receipt="r", headers=[("selector", "a > 1")])
    assert frame.headers == [
        ("destination", "/topic/t"),
        ("id", "7"),
        ("ack", "client"),
        ("receipt", "r"),
        ("selector", "a > 1"),
    ]
    assert frames.unsubscribe("7", receipt="r") == Frame("UNSUBSCRIBE", [("id", "7"), ("receipt", "r")])


SETTLED_BY = {
    Version.V1_2: [("id", "a")],
    Version.V1_1: [("message-id", "m"), ("subscription", "s")],
    Version.V1_0: [("message-id", "m")],
}


@pytest.mark.parametrize("version", Version)
def test_ack_has_the_form_of_the_version(version: Version) -> None:
    frame = frames.ack(MESSAGE, version=version, transaction="t", receipt="r", headers={"x": "1"})
    assert frame == Frame("ACK", [*SETTLED_BY[version], ("transaction", "t"), ("receipt", "r"), ("x", "1")])


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2])
def test_nack_has_the_form_of_the_version(version: Version) -> None:
    assert frames.nack(MESSAGE, version=version) == Frame("NACK", SETTLED_BY[version])


def test_settling_by_the_id_alone() -> None:
    assert frames.ack("a").headers == [("id", "a")]
    assert frames.ack("m", version=Version.V1_1, subscription="s").headers == SETTLED_BY[Version.V1_1]
    assert frames.ack("m", version=Version.V1_0).headers == [("message-id", "m")]


def test_settling_refuses_what_no_broker_could_know() -> None:
    automatic = Frame("MESSAGE", [("message-id", "m"), ("subscription", "s")])
    with pytest.raises(ValueError, match="ack:auto"):
        frames.ack(automatic)
    with pytest.raises(ValueError, match="message-id"):
        frames.ack(Frame("MESSAGE"), version=Version.V1_0)
    with pytest.raises(ValueError, match="subscription"):
        frames.ack("m", version=Version.V1_1)
    with pytest.raises(ValueError, match="RECEIPT"):
        frames.nack(Frame("RECEIPT", [("ack", "a")]))
    with pytest.raises(ValueError, match=r"1\.0"):
        frames.nack(MESSAGE, version=Version.V1_0)


@pytest.mark.parametrize(
    ("make", "command"), [(frames.begin, "BEGIN"), (frames.commit, "COMMIT"), (frames.abort, "ABORT")]
)
def test_transactions(make: Callable[..., Frame], command: str) -> None:
    assert make("t", receipt="r", headers={"x": "1"}) == Frame(
        command, [("transaction", "t"), ("receipt", "r"), ("x", "1")]
    )


def test_disconnect() -> None:
    assert frames.disconnect() == Frame("DISCONNECT")
    assert frames.disconnect("r", headers={"x": "1"}) == Frame("DISCONNECT", [("receipt", "r"), ("x", "1")])


def all_frames(headers: frames.Headers) -> list[Frame]:
    return [
        frames.connect(headers=headers),
        frames.stomp(headers=headers),
        frames.send("/queue/q", headers=headers),
        frames.subscribe("/queue/q", headers=headers),
        frames.unsubscribe("s", headers=headers),
        frames.ack("a", headers=headers),
        frames.nack("a", headers=headers),
        frames.begin("t", headers=headers),
        frames.commit("t", headers=headers),
        frames.abort("t", headers=headers),
        frames.disconnect("r", headers=headers),
    ]


def test_every_command_takes_more_headers_as_mapping_or_pairs() -> None:
    assert {frame.command for frame in all_frames(())} == CLIENT_COMMANDS
    for frame, same in zip(all_frames({"x": "1"}), all_frames([("x", "1")]), strict=True):
        assert frame == same
        assert frame.headers[-1] == ("x", "1")
    assert frames.begin("t", headers=iter([("x", "1")])).get("x") == "1"
    for frame in all_frames([("x", "1"), ("x", "2")]):
        assert frame.headers[-2:] == [("x", "1"), ("x", "2")]


@pytest.mark.parametrize("number", range(11))
def test_no_command_lets_its_own_headers_be_set_twice(number: int) -> None:
    own = all_frames(())[number].headers[0][0]
    with pytest.raises(ValueError, match=f"'{own}'"):
        all_frames([(own, "other")])


@pytest.mark.parametrize("version", Version)
def test_every_frame_passes_the_broker_s_decoder(version: Version) -> None:
    sent = all_frames({"x": "1"})
    assert list(Decoder(version).feed(b"".join(encode(frame, version) for frame in sent))) == sent
