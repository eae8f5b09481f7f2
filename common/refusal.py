"""The ERROR frame that answers a fault: what it names, and what it never shows."""

from __future__ import annotations

import re

from common.codec import encode, unescape
from common.errors import StompError
from common.frame import CLIENT_COMMANDS, Frame
from common.negotiation import Version

__all__ = ["error_frame"]

_RECEIPT = re.compile(rb"\nreceipt:([^\r\n]*)")


def error_frame(error: StompError, head: bytes, version: Version) -> bytes:
    """The wire form of the ERROR for `error` (1.2 section ERROR); `head` starts the frame at fault, if there is one.

    The frame's command is named as `frame`, its `receipt` as `receipt-id`; nothing else of it is repeated.
    """
    headers = [("message", error.message), ("error-code", error.code.value), *error.headers]
    head = re.split(rb"\n\r?\n", head, maxsplit=1)[0]
    command = head.split(b"\n", 1)[0].removesuffix(b"\r").decode(errors="replace")
    if command in CLIENT_COMMANDS:
        headers.append(("frame", command))
        receipt = _RECEIPT.search(head)
        if receipt is not None and command not in ("CONNECT", "STOMP"):
            headers.append(("receipt-id", _text(receipt[1], version)))
    body = error.detail.encode()
    headers += [("content-type", "text/plain"), ("content-length", str(len(body)))]
    return encode(Frame("ERROR", headers, body), version)


def _text(raw: bytes, version: Version) -> str:
    text = raw.decode(errors="replace")
    if version is Version.V1_0:
        return text.removeprefix(" ")
    try:
        return unescape(text, version)
    except StompError:
        # The receipt itself may be what is wrong with the frame.
        return text
