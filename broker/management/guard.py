"""Who may ask: nobody has a password yet, so the pages of other web sites must be kept out of the operator's browser.

Such a page can send requests to this machine. It cannot read the answers, unless its own name was made to point here
(DNS rebinding): the `Host` header then has that name and is refused. It cannot do anything either: a POST that a
browser sends for another site says so (`Sec-Fetch-Site`, `Origin`) and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from aiohttp import web

__all__ = ["Guard"]

# RFC 9110 section 7.2; strict, for what parses as more than a name and a port is none of ours.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """`names` are those, besides the loopback ones, by which this interface may be called."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = {"localhost", "127.0.0.1", "::1", *(name.lower().strip("[]") for name in names)}

    def refuses(self, method: str, headers: Mapping[str, str]) -> str:
        """Why a request is refused; empty if it is not. `headers` are found whatever their case."""
        host = headers.get("Host", "")
        name = _host_name(host)
        if name not in self._names:
            return (
                f"the Host header names {host[:80]!r}, by which this interface is not known; come by its address, or"
                " list the name in management.hosts"
            )
        if method in ("GET", "HEAD"):
            return ""
        # Neither is sent by programs that are no browser, and a browser sends at least one with any other method.
        if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return "another web site asks for this"
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return f"{origin[:80]!r} asks for this, which is another web site"
        return ""

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Tell the browser what it may do with `response`."""
        response.headers.update(_HEADERS)
        response.headers["Server"] = "stampede"


def _host_name(host: str) -> str:
    """The name in a Host header, without its port, which may be that of a tunnel; empty for what is none."""
    match = _HOST.fullmatch(host)
    return "" if match is None else (match[1] or match[2]).lower()
