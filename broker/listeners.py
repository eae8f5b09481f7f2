"""The listening sockets: made here, or taken over from systemd, and kept open for the life of the front.

One socket per worker and address with SO_REUSEPORT. The kernel spreads new connections over them, and because
the front keeps each one open, connections in the accept queue of a dead worker wait for its successor instead
of being reset. Sockets that systemd made (sd_listen_fds(3)) are shared by all workers.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.errors import CannotStartError

__all__ = [
    "Listener",
    "ListenerSettings",
    "format_address",
    "inherit_listeners",
    "open_listeners",
    "open_when_free",
]

_FIRST_INHERITED = 3
_TAKEN_RETRY_FOR = 1.0
"""Seconds to wait for a taken port: the workers of a front that was killed need a moment to let go of it."""
_TAKEN_RETRY_EVERY = 0.05
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A host that vanishes without a word, the power of it lost or a firewall's memory of it, is given up after two minutes
of silence, with what its clients held. Linux would wait for two hours, and few clients agree on heart-beats. No
TCP_USER_TIMEOUT: it would also end clients that are there and do not read, which is theirs to decide."""


class ListenerSettings(Protocol):
    """One `[[listener]]` of the configuration."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def backlog(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Listener:
    """One address. `index` is the position of its settings in `config.listener`; `address` has the real port.

    `sockets` holds one socket per worker, or, if it `is_shared`, a single one for all of them.
    """

    index: int
    address: str
    sockets: tuple[socket.socket, ...]
    is_shared: bool = False

    def socket_of(self, slot: int) -> socket.socket:
        """The socket that worker `slot` accepts from."""
        return self.sockets[0] if self.is_shared else self.sockets[slot]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def format_address(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_listeners(
    settings: Sequence[ListenerSettings],
    workers: int,
    *,
    patience: float = _TAKEN_RETRY_FOR,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Listener]:
    """Bind and listen on every address of `settings`; raises `CannotStartError`, with nothing left open. A port that is
    taken is tried again for `patience` seconds."""
    opened: list[Listener] = []
    try:
        for index, wanted in enumerate(settings):
            opened += _open(index, wanted, workers, patience, sleep)
    except CannotStartError:
        for listener in opened:
            listener.close()
        raise
    return opened


async def open_when_free(
    settings: Sequence[ListenerSettings], workers: int, *, unless: Callable[[], bool]
) -> list[Listener]:
    """`open_listeners`, with the event loop going on while a taken port is waited for. Returns none if `unless`
    something came up meanwhile. Raises `CannotStartError`."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _TAKEN_RETRY_FOR
    while not unless():
        try:
            return open_listeners(settings, workers, patience=0)
        except CannotStartError as error:
            why = error.__cause__
            if not isinstance(why, OSError) or why.errno != errno.EADDRINUSE or loop.time() >= give_up:
                raise
        await asyncio.sleep(_TAKEN_RETRY_EVERY)
    return []


def _open(
    index: int, wanted: ListenerSettings, workers: int, patience: float, sleep: Callable[[float], None]
) -> list[Listener]:
    shown = format_address(wanted.host, wanted.port)
    try:
        found = socket.getaddrinfo(wanted.host or None, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotStartError(
            f"cannot listen on {shown}: the name does not resolve ({error.strerror or error}); "
            "use a name or an address of this machine"
        ) from error
    opened: list[Listener] = []
    unavailable: OSError | None = None
    try:
        # A name can stand for several addresses, and localhost for ::1 on a machine without IPv6.
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            try:
                opened.append(_open_address(index, family, address, wanted.backlog, workers, patience, sleep))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                unavailable = error
        if not opened and unavailable is not None:
            raise unavailable
    except OSError as error:
        for listener in opened:
            listener.close()
        raise CannotStartError(f"cannot listen on {shown}: {_explain(error)}") from error
    return opened


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                "the port is taken, perhaps by another broker ('ss -ltnp' shows by whom); "
                "stop it or choose another port"
            )
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that address; 'ip address' shows those it has"
        case errno.EACCES:
            return "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, or choose a higher one"
        case errno.EMFILE | errno.ENFILE:
            return "too many open files; raise the limit (LimitNOFILE= or 'ulimit -n')"
    return error.strerror or str(error)


def _open_address(
    index: int,
    family: socket.AddressFamily,
    address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes],
    backlog: int,
    workers: int,
    patience: float,
    sleep: Callable[[float], None],
) -> Listener:
    if address[1]:
        _probe(family, address, patience, sleep)
    sockets: list[socket.socket] = []
    try:
        for _ in range(workers):
            sock = _new_socket(family)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            # Port 0: the first bind chooses, the rest follow.
            address = sock.getsockname()
        for sock in sockets:
            sock.listen(backlog)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return Listener(index, format_address(str(address[0]), int(address[1])), tuple(sockets))


def _probe(
    family: socket.AddressFamily, address: tuple[object, ...], patience: float, sleep: Callable[[float], None]
) -> None:
    """Raise `OSError` when the port is taken, for with SO_REUSEPORT another broker of this user shares it."""
    waited = 0.0
    while True:
        with _new_socket(family) as sock:
            try:
                sock.bind(address)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or waited >= patience:
                    raise
        sleep(_TAKEN_RETRY_EVERY)
        waited += _TAKEN_RETRY_EVERY


def _new_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _keep_alive(sock)
    if family == socket.AF_INET6:
        # So that [::] and 0.0.0.0 can both be listened on, on any machine.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _keep_alive(sock: socket.socket) -> None:
    """For all that it accepts: on Linux they inherit it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def inherit_listeners(environment: MutableMapping[str, str], configured: int) -> list[Listener]:
    """The listening sockets the service manager passed, none if it passed none; forgets the variables.

    The n-th socket gets the settings of the n-th of the `configured` listeners, any further one those of the
    last; the addresses in the configuration are not used. Raises `CannotStartError` for what is no listening
    TCP socket.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    # The variables are inherited by every descendant; the sockets are meant for the process of that id only.
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [
        _take_over(descriptor, min(position, configured - 1))
        for position, descriptor in enumerate(range(_FIRST_INHERITED, _FIRST_INHERITED + int(count)))
    ]


def _take_over(descriptor: int, index: int) -> Listener:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise CannotStartError(f"LISTEN_FDS promises file descriptor {descriptor}, but it is not open") from error
    if not is_socket:
        raise CannotStartError(f"file descriptor {descriptor} of LISTEN_FDS is not a socket")
    sock = socket.socket(fileno=descriptor)
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not is_tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise CannotStartError(
            f"file descriptor {descriptor} of LISTEN_FDS is not a listening TCP socket; "
            "the socket unit needs ListenStream=HOST:PORT and Accept=no"
        )
    sock.setblocking(False)
    sock.set_inheritable(False)
    _keep_alive(sock)
    host, port = sock.getsockname()[:2]
    return Listener(index, format_address(host, port), (sock,), is_shared=True)
