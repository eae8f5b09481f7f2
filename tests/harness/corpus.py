"""The wire corpus: byte streams with what they mean, one TOML file per theme, to be fed to every parser there is.

    [[case]]
    name = "nul-in-body"                 # unique in its file
    versions = ["1.1", "1.2"]            # all three if absent
    wire = '''...'''                     # the bytes, see below
    frames = [{ command = "SEND", headers = [["destination", "/topic/a"]], body = "a^@b" }]
    error = "bad-escape"                 # in invalid/ only: the code, after the frames that are whole before it
    decoder = false                      # not for a bare decoder: it takes a session to find the fault

Bytes are written as text in UTF-8 in which `^@` is NUL, `^M` CR, `^J` LF, `^^` the caret and `^{ff}` any byte in hex;
a line end is LF.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.wire import VERSIONS, Frame

__all__ = ["Case", "invalid_cases", "valid_cases"]

_CORPUS = Path(__file__).resolve().parents[1] / "wire"
_NOTATION = re.compile(r"\^(?:\{([0-9a-f]{2})\}|(.))", re.DOTALL)
_PLAIN = {"@": b"\0", "M": b"\r", "J": b"\n", "^": b"^"}


@dataclass(frozen=True)
class Case:
    """One case for one version; `error` is None for a valid one."""

    name: str
    version: str
    wire: bytes
    frames: tuple[Frame, ...]
    error: str | None
    decoder: bool


def valid_cases() -> list[Case]:
    """Streams that every parser turns into exactly their frames."""
    return list(_read("valid"))


def invalid_cases() -> list[Case]:
    """Streams that end in an error, after the frames before it."""
    return list(_read("invalid"))


def _read(folder: str) -> Iterator[Case]:
    for path in sorted((_CORPUS / folder).glob("*.toml")):
        cases = tomllib.loads(path.read_text(encoding="utf-8"))["case"]
        names = [entry["name"] for entry in cases]
        if len(names) != len(set(names)):
            raise ValueError(f"{path.name}: a name is used twice")
        for entry in cases:
            yield from _case(path, entry, must_fail=folder == "invalid")


def _case(path: Path, entry: dict[str, Any], *, must_fail: bool) -> Iterator[Case]:
    unknown = set(entry) - {"name", "versions", "wire", "frames", "error", "decoder"}
    if unknown or ("error" in entry) is not must_fail:
        raise ValueError(f"{path.name}, {entry['name']}: {unknown or 'error'} does not belong here, or is missing")
    frames = tuple(
        Frame(
            frame["command"],
            tuple((_bytes(name).decode(), _bytes(value).decode()) for name, value in frame.get("headers", [])),
            _bytes(frame.get("body", "")),
        )
        for frame in entry.get("frames", [])
    )
    for version in entry.get("versions", VERSIONS):
        yield Case(
            name=f"{path.stem}-{entry['name']}-{version}",
            version=version,
            wire=_bytes(entry["wire"]),
            frames=frames,
            error=entry.get("error"),
            decoder=entry.get("decoder", True),
        )


def _bytes(text: str) -> bytes:
    out = b""
    position = 0
    for match in _NOTATION.finditer(text):
        out += text[position : match.start()].encode()
        out += bytes.fromhex(match[1]) if match[1] else _PLAIN[match[2]]
        position = match.end()
    return out + text[position:].encode()
