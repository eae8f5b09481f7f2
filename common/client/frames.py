"""Constructors for every frame a client sends. Section names are those of STOMP 1.2 where no version is given.

Each takes further `headers`, as a mapping or as pairs (which may repeat a name), for what brokers offer beyond the
specification; they come after its own and cannot set those again. `receipt` asks for a RECEIPT with that id (section
Header receipt). Values are taken as they are: the codec escapes them for the version. All raise ValueError for what
would be no proper frame.

    frames.subscribe("/queue/orders", ack="client-individual", headers={"prefetch": "10"})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.frame import Frame
from common.negotiation import SUPPORTED, Version

__all__ = [
    "Headers",
    "abort",
    "ack",
    "begin",
    "commit",
    "connect",
    "disconnect",
    "nack",
    "send",
    "stomp",
    "subscribe",
    "unsubscribe",
]

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


def connect(
    login: str | None = None,
    passcode: str | None = None,
    *,
    host: str | None = "/",
    accept_version: str | None = ",".join(SUPPORTED),
    heart_beat: tuple[int, int] = (0, 0),
    headers: Headers = (),
) -> Frame:
    """CONNECT (section CONNECT or STOMP Frame). It is never escaped, so a value with a line end or NUL is refused.

    `host` is the virtual host. Without `accept_version` it is that of a 1.0 client. `heart_beat` is what the client
    can send and what it wants to receive, in milliseconds, 0 for none (section Heart-beating).
    """
    return _opening("CONNECT", login, passcode, host, accept_version, heart_beat, headers)


def stomp(
    login: str | None = None,
    passcode: str | None = None,
    *,
    host: str | None = "/",
    accept_version: str | None = ",".join(SUPPORTED[1:]),
    heart_beat: tuple[int, int] = (0, 0),
    headers: Headers = (),
) -> Frame:
    """STOMP, which says the same as CONNECT to brokers of 1.1 and 1.2 only (section CONNECT or STOMP Frame)."""
    return _opening("STOMP", login, passcode, host, accept_version, heart_beat, headers)


def _opening(
    command: str,
    login: str | None,
    passcode: str | None,
    host: str | None,
    accept_version: str | None,
    heart_beat: tuple[int, int],
    headers: Headers,
) -> Frame:
    sends, wants = heart_beat
    if sends < 0 or wants < 0:
        raise ValueError(f"heart_beat is {heart_beat}; it takes two numbers of milliseconds, 0 for none")
    frame = _frame(
        command,
        headers,
        ("accept-version", accept_version),
        ("host", host),
        ("login", login),
        ("passcode", passcode),
        ("heart-beat", f"{sends},{wants}"),
    )
    for name, value in frame.headers:
        if any(character in name + value for character in "\r\n\0"):
            # Its value is not shown: it may be a passcode.
            raise ValueError(f"a line end or NUL in the header {name!r}, which no {command} frame can carry")
    return frame


def send(
    destination: str,
    body: bytes | str = b"",
    *,
    content_type: str | None = None,
    transaction: str | None = None,
    receipt: str | None = None,
    headers: Headers = (),
) -> Frame:
    """SEND (section SEND). Text is sent as UTF-8; `content_type` is the MIME type of the body and is not guessed
    (section Header content-type). The codec counts the body: `content-length` is refused here."""
    frame = _frame(
        "SEND",
        headers,
        ("destination", destination),
        ("content-type", content_type),
        ("transaction", transaction),
        ("receipt", receipt),
    )
    if frame.get("content-length") is not None:
        raise ValueError("content-length is not for the caller to set: the body is counted as it is sent")
    frame.body = body.encode() if isinstance(body, str) else body
    return frame


def subscribe(
    destination: str, id: str | None = None, *, ack: str = "auto", receipt: str | None = None, headers: Headers = ()
) -> Frame:
    """SUBSCRIBE (section SUBSCRIBE). `id` names the subscription in the connection; without one it is the
    destination itself. `ack` is `auto`, `client` (cumulative) or `client-individual`, which 1.0 does not have."""
    return _frame(
        "SUBSCRIBE",
        headers,
        ("destination", destination),
        ("id", destination if id is None else id),
        ("ack", ack),
        ("receipt", receipt),
    )


def unsubscribe(id: str, *, receipt: str | None = None, headers: Headers = ()) -> Frame:
    """UNSUBSCRIBE (section UNSUBSCRIBE). `id` is that of `subscribe`, so the destination where none was given."""
    return _frame("UNSUBSCRIBE", headers, ("id", id), ("receipt", receipt))


def ack(
    message: Frame | str,
    *,
    version: Version = Version.V1_2,
    subscription: str | None = None,
    transaction: str | None = None,
    receipt: str | None = None,
    headers: Headers = (),
) -> Frame:
    """ACK of a MESSAGE frame, in the form of the connection's `version`: by the value of its `ack` header (1.2
    section ACK), by `message-id` and `subscription` (1.1), by `message-id` (1.0 section Client Commands).

    In place of the frame the id alone will do; for 1.1 `subscription` then goes with it.
    """
    return _settling("ACK", message, version, subscription, transaction, receipt, headers)


def nack(
    message: Frame | str,
    *,
    version: Version = Version.V1_2,
    subscription: str | None = None,
    transaction: str | None = None,
    receipt: str | None = None,
    headers: Headers = (),
) -> Frame:
    """NACK (section NACK): as `ack`, for a message that was not consumed. 1.0 has no such frame."""
    if version is Version.V1_0:
        raise ValueError("STOMP 1.0 has no NACK")
    return _settling("NACK", message, version, subscription, transaction, receipt, headers)


def _settling(
    command: str,
    message: Frame | str,
    version: Version,
    subscription: str | None,
    transaction: str | None,
    receipt: str | None,
    headers: Headers,
) -> Frame:
    wanted = "ack" if version is Version.V1_2 else "message-id"
    if isinstance(message, str):
        id = message
    else:
        if message.command != "MESSAGE":
            raise ValueError(f"{command} takes a MESSAGE frame, this is {message.command}")
        found = message.get(wanted)
        if found is None:
            why = "; its subscription has ack:auto" if wanted == "ack" else ""
            raise ValueError(f"the MESSAGE has no header {wanted!r} to send {command} by{why}")
        id = found
        if subscription is None:
            subscription = message.get("subscription")
    if version is Version.V1_1 and subscription is None:
        raise ValueError(f"{command} of STOMP 1.1 needs the subscription beside the message-id")
    return _frame(
        command,
        headers,
        ("id" if version is Version.V1_2 else "message-id", id),
        ("subscription", subscription if version is Version.V1_1 else None),
        ("transaction", transaction),
        ("receipt", receipt),
    )


def begin(transaction: str, *, receipt: str | None = None, headers: Headers = ()) -> Frame:
    """BEGIN (section BEGIN). `transaction` is any name that no open transaction of the connection has."""
    return _frame("BEGIN", headers, ("transaction", transaction), ("receipt", receipt))


def commit(transaction: str, *, receipt: str | None = None, headers: Headers = ()) -> Frame:
    """COMMIT (section COMMIT)."""
    return _frame("COMMIT", headers, ("transaction", transaction), ("receipt", receipt))


def abort(transaction: str, *, receipt: str | None = None, headers: Headers = ()) -> Frame:
    """ABORT (section ABORT)."""
    return _frame("ABORT", headers, ("transaction", transaction), ("receipt", receipt))


def disconnect(receipt: str | None = None, *, headers: Headers = ()) -> Frame:
    """DISCONNECT (section DISCONNECT), the last frame of a connection. Once its RECEIPT is there, so is all that was
    sent before."""
    return _frame("DISCONNECT", headers, ("receipt", receipt))


def _frame(command: str, headers: Headers, *own: tuple[str, str | None]) -> Frame:
    pairs = [(name, value) for name, value in own if value is not None]
    more = list(headers.items() if isinstance(headers, Mapping) else headers)
    if more:
        # Of a repeated header the first entry counts, so a second one would be ignored without a word.
        taken = {name for name, _ in pairs}
        for name, _ in more:
            if name in taken:
                raise ValueError(f"the header {name!r} of {command} is given twice, the second time in `headers`")
        pairs += more
    return Frame(command, pairs)
