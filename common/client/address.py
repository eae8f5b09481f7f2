"""Where brokers are: URLs to addresses. No I/O; names are not looked up here.

    stomp://login:passcode@host1:61613,host2:61613/virtual-host     TCP; 61613 where no port is given
    stomps://...  stomp+ssl://...                                   TLS; 61614
    stomp+unix:///run/stampede/stomp.sock                           a Unix socket
    ws://host/path  wss://host/path                                 STOMP over WebSocket; 80, 443

Login, passcode, virtual host and the path of a socket may be percent-encoded, and must be where they hold one of
`/ ? # @ : , %`. Of several hosts or URLs each is as good as the others; they share login, passcode and virtual host.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Literal
from urllib.parse import unquote

from common.client.errors import AddressError

__all__ = ["Address", "Scheme", "Target", "parse_target"]

Scheme = Literal["tcp", "tls", "unix", "ws", "wss"]

_SCHEMES: dict[str, Scheme] = {
    "stomp": "tcp",
    "stomps": "tls",
    "stomp+ssl": "tls",
    "stomp+unix": "unix",
    "ws": "ws",
    "wss": "wss",
}
_WRITTEN = {"tcp": "stomp", "tls": "stomps", "unix": "stomp+unix", "ws": "ws", "wss": "wss"}
_PORTS = {"tcp": 61613, "tls": 61614, "ws": 80, "wss": 443}
_MAX_PORT = 65535

_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f]")
_AUTHORITY_END = re.compile(r"[/?#]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NOT_IN_HOSTS = re.compile(r"[\s/?#@:\[\]\\]")
_NOT_IN_CONNECT = re.compile(r"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class Address:
    """One place to connect to. `path` is the file of a Unix socket, or the path and query of a WebSocket's URL as
    they stand in it; a Unix socket has neither host nor port (`""` and 0)."""

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def endpoint(self) -> str:
        """`host:port` with an IPv6 address in brackets, or the path of a Unix socket: how errors name it."""
        if self.scheme == "unix":
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """The URL, less the query of a WebSocket's: it may be a token."""
        path = "" if self.scheme == "unix" else self.path.partition("?")[0]
        return f"{_WRITTEN[self.scheme]}://{self.endpoint}{path}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect and what to say there: `host` is the virtual host of the CONNECT frame."""

    addresses: tuple[Address, ...]
    login: str | None = None
    passcode: str | None = field(default=None, repr=False)
    host: str = "/"

    def __str__(self) -> str:
        return ", ".join(map(str, self.addresses))


def parse_target(url: str | Sequence[str]) -> Target:
    """The target that one URL names, or several together: those that name a login, a passcode or a virtual host must
    name the same ones.

    Raises AddressError.
    """
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise AddressError("no URL given; one looks like stomp://localhost:61613")
    target, *others = map(_parse, urls)
    for other in others:
        target = _join(target, other)
    return replace(target, host=target.host or "/")


def _join(one: Target, other: Target) -> Target:
    if other.login is not None:
        if one.login is not None and (one.login, one.passcode) != (other.login, other.passcode):
            raise AddressError("the URLs name different logins or passcodes; they are alternatives for one login")
        one = replace(one, login=other.login, passcode=other.passcode)
    if one.host and other.host and one.host != other.host:
        raise AddressError(f"the URLs name different virtual hosts, {one.host!r} and {other.host!r}")
    return replace(one, addresses=one.addresses + other.addresses, host=one.host or other.host)


def _parse(url: str) -> Target:
    """As `parse_target`, with `""` for no virtual host."""
    name, separator, rest = url.partition("://")
    known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
    if not separator:
        raise AddressError(f"a URL without a scheme; it starts with one of {known}")
    scheme = _SCHEMES.get(name.lower())
    if scheme is None:
        shown = repr(name[:20]) if name.replace("+", "").isalnum() else "which is no word"
        raise AddressError(f"unknown scheme {shown}; a URL starts with one of {known}")
    if _NOT_IN_URLS.search(rest):
        raise AddressError(f"a blank or control character in the {name}:// URL; percent-encode it")
    # From here on nothing left of an "@" may be shown, wherever it turns out to stand.
    end = _AUTHORITY_END.search(rest)
    authority, path = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    if "@" in path or authority.count("@") > 1:
        raise AddressError(
            f"a stray '@' in the {name}:// URL; login and passcode stand once, before the first host, "
            "and in them / ? # and @ are written %2F %3F %23 and %40"
        )
    credentials, at, hosts = authority.rpartition("@")
    login, passcode = _credentials(credentials) if at else (None, None)
    if scheme == "unix":
        if hosts:
            raise AddressError(f"a host, {hosts!r}, where a Unix socket has none; write stomp+unix:///path/to/socket")
        return Target((Address("unix", path=_socket_path(path)),), login, passcode, "")
    if scheme in ("ws", "wss"):
        if "#" in path:
            raise AddressError("a '#' in the path of a WebSocket's URL; write it %23")
        path = path if path.startswith("/") else f"/{path}"
        return Target(_addresses(scheme, hosts, path), login, passcode, "")
    return Target(_addresses(scheme, hosts, ""), login, passcode, _virtual_host(path))


def _credentials(text: str) -> tuple[str, str | None]:
    login, colon, passcode = text.partition(":")
    if not login:
        raise AddressError("no login before the '@'")
    if ":" in passcode:
        raise AddressError("a ':' in the passcode; write it %3A")
    return _decoded(login, "login"), _decoded(passcode, "passcode") if colon else None


def _decoded(text: str, part: str) -> str:
    """Without percent-encoding. The value is not in the errors: it may be a passcode."""
    if _BAD_PERCENT.search(text):
        raise AddressError(f"a '%' in the {part} that starts no escape such as %40; a '%' itself is written %25")
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise AddressError(f"the percent-encoding of the {part} is not UTF-8") from None
    if _NOT_IN_CONNECT.search(plain):
        raise AddressError(f"a line end or NUL in the {part}, which no CONNECT frame can carry")
    return plain


def _virtual_host(path: str) -> str:
    if "?" in path or "#" in path:
        raise AddressError("a '?' or '#' after the hosts; there are no options, and in a name they are %3F and %23")
    return _decoded(path[1:], "virtual host")


def _socket_path(path: str) -> str:
    plain = "" if "?" in path or "#" in path else _decoded(path, "path of the socket")
    if len(plain) < 2:
        raise AddressError(f"no path of a Unix socket in {path!r}; write stomp+unix:///path/to/socket")
    return plain


def _addresses(scheme: Scheme, hosts: str, path: str) -> tuple[Address, ...]:
    return tuple(_address(scheme, text, path) for text in hosts.split(","))


def _address(scheme: Scheme, text: str, path: str) -> Address:
    # What does not look like a host is not shown: where the "@" was forgotten, it is login and passcode.
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        host = _decoded(host, "host")
        try:
            IPv6Address(host)
        except ValueError:
            raise AddressError("no IPv6 address in the brackets") from None
        if not bracket or not (rest == "" or rest.startswith(":")):
            raise AddressError(f"more around the IPv6 address {host} than brackets and a port")
        colon, port = rest[:1], rest[1:]
    else:
        if text.count(":") > 1:
            raise AddressError("more than one ':' in a host; an IPv6 address stands in brackets, as in [::1]:61613")
        host, colon, port = text.partition(":")
        host = _decoded(host, "host")
        if not host:
            raise AddressError("no host; one looks like localhost:61613")
        if _NOT_IN_HOSTS.search(host):
            raise AddressError("a character in a host that no name of a host has")
    if not colon:
        return Address(scheme, host, _PORTS[scheme], path)
    if not (port.isascii() and port.isdigit()):
        raise AddressError(f"no number of a port after the host {host!r}")
    if len(port) > 5 or not 0 < int(port) <= _MAX_PORT:
        raise AddressError(f"no port from 1 to {_MAX_PORT}: {port[:20]} of the host {host!r}")
    return Address(scheme, host, int(port), path)
