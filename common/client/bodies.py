"""Bodies of messages: bytes, text or JSON, told apart by `content-type` (1.2 section Header content-type)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

__all__ = ["Body", "decode_text", "encode_body", "header_list"]

Body = bytes | bytearray | memoryview | str | dict[str, Any] | list[Any]
"""`str` is sent as text in UTF-8, `dict` and `list` as JSON, the others as they are."""

TEXT = "text/plain;charset=utf-8"
JSON = "application/json"


def encode_body(body: Body, content_type: str | None) -> tuple[bytes, str | None]:
    """The bytes and the content type, which is `content_type` if that is given.

    Raises TypeError for anything else than a `Body`, ValueError and TypeError for what JSON cannot express.
    """
    if isinstance(body, bytes):
        return body, content_type
    if isinstance(body, str):
        return body.encode(charset_of(content_type)), content_type or TEXT
    if isinstance(body, dict | list):
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(), content_type or JSON
    if isinstance(body, bytearray | memoryview):
        return bytes(body), content_type
    raise TypeError(f"a body is bytes, str, dict or list, not {type(body).__name__}")


def decode_text(body: bytes, content_type: str | None) -> str:
    """Text of the charset that `content_type` names, else UTF-8. Raises ValueError: not of that charset, or no such."""
    return body.decode(charset_of(content_type))


def charset_of(content_type: str | None) -> str:
    """The charset that `content_type` names, `utf-8` without one. Raises ValueError for one Python does not know."""
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"')
            try:
                "".encode(charset)
            except LookupError:
                raise ValueError(f"content-type names a charset that is not known: {charset[:40]!r}") from None
            return charset
    return "utf-8"


def header_list(headers: Any) -> list[tuple[str, str]]:
    """Headers as pairs, from a mapping or an iterable of pairs. Raises TypeError for a value that is no text."""
    pairs: Iterable[tuple[str, str]] = headers.items() if hasattr(headers, "items") else headers or ()
    found = []
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str):
            # str(False) would be "False", which no broker takes for false.
            raise TypeError(f"header {name!r} was {value!r}; names and values are text, such as 'false' or '10'")
        found.append((name, value))
    return found
