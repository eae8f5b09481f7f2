"""Listening sockets: one per worker on one port, and what is said when there is none to be had."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from broker.errors import CannotStartError
from broker.listeners import Listener, format_address, inherit_listeners, open_listeners


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 0
    backlog: int = 16


Open = Callable[..., list[Listener]]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens listeners without ever sleeping, and closes them after the test."""
    with ExitStack() as stack:

        def open_(
            *settings: Settings, workers: int = 2, sleep: Callable[[float], None] = lambda _: None
        ) -> list[Listener]:
            listeners = open_listeners(settings, workers, sleep=sleep)
            for listener in listeners:
                stack.callback(listener.close)
            return listeners

        yield open_


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A listening socket that shares its port with nobody."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=5)


def test_every_worker_has_a_socket_of_its_own_on_the_same_port(opened: Open) -> None:
    (listener,) = opened(Settings(), workers=3)
    assert not listener.is_shared
    assert len({listener.socket_of(slot).fileno() for slot in range(3)}) == 3
    ports = {port_of(listener.socket_of(slot)) for slot in range(3)}
    assert len(ports) == 1 and ports != {0}
    assert listener.address == f"127.0.0.1:{ports.pop()}"


def keeps_alive(sock: socket.socket) -> list[int]:
    options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
    on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return [on, *[sock.getsockopt(socket.IPPROTO_TCP, each) for each in options]]


def test_hosts_that_vanish_are_noticed(opened: Open) -> None:
    """Whoever is accepted inherits that."""
    (listener,) = opened(Settings(), workers=1)
    with connect(port_of(listener.sockets[0])):
        accepted, _ = listener.sockets[0].accept()
        with accepted:
            assert keeps_alive(accepted) == [1, 60, 15, 4]


def test_the_kernel_spreads_connections_over_the_sockets(opened: Open) -> None:
    (listener,) = opened(Settings(backlog=64))
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(connect(port_of(listener.sockets[0])))
        accepted = []
        for sock in listener.sockets:
            accepted.append(0)
            while True:
                try:
                    stack.enter_context(sock.accept()[0])
                except BlockingIOError:
                    break
                accepted[-1] += 1
    assert sum(accepted) == 64
    assert min(accepted) > 0


def test_sockets_are_not_inherited_unless_passed_on(opened: Open) -> None:
    (listener,) = opened(Settings())
    assert [os.get_inheritable(sock.fileno()) for sock in listener.sockets] == [False, False]


def test_ipv6_is_written_in_brackets_and_leaves_ipv4_alone(opened: Open) -> None:
    (six,) = opened(Settings(host="::1"))
    assert six.address == f"[::1]:{port_of(six.sockets[0])}"
    both = opened(Settings(host="::"), Settings(host="0.0.0.0"))
    port = port_of(both[0].sockets[0])
    both[1].close()
    assert opened(Settings(host="0.0.0.0", port=port))[0].address == f"0.0.0.0:{port}"


def test_listeners_keep_the_order_and_index_of_their_settings(opened: Open) -> None:
    listeners = opened(Settings(), Settings(host="::1"), Settings())
    assert [listener.index for listener in listeners] == [0, 1, 2]


def test_a_name_that_stands_for_an_address_of_this_machine(opened: Open) -> None:
    listeners = opened(Settings(host="localhost"))
    assert listeners and all(listener.index == 0 for listener in listeners)


def test_an_address_that_is_missing_is_skipped_when_the_name_has_another(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        missing = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
        return [missing, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert [listener.address.rpartition(":")[0] for listener in opened(Settings(host="both"))] == ["127.0.0.1"]


def test_a_taken_port_is_refused(opened: Open, taken: socket.socket) -> None:
    port = port_of(taken)
    with pytest.raises(CannotStartError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: the port is taken"):
        opened(Settings(port=port))


def test_a_port_of_another_broker_is_refused_although_it_would_share(opened: Open) -> None:
    (first,) = opened(Settings())
    with pytest.raises(CannotStartError, match="the port is taken"):
        opened(Settings(port=port_of(first.sockets[0])))


def test_a_port_that_is_let_go_of_in_time_is_taken(opened: Open, taken: socket.socket) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            taken.close()

    port = port_of(taken)
    assert opened(Settings(port=port), sleep=nap)[0].address == f"127.0.0.1:{port}"
    assert len(naps) == 3


def test_a_taken_port_is_waited_for_about_a_second(opened: Open, taken: socket.socket) -> None:
    naps: list[float] = []
    with pytest.raises(CannotStartError):
        opened(Settings(port=port_of(taken)), sleep=naps.append)
    assert 0.9 < sum(naps) < 1.2


def test_nothing_stays_open_when_one_listener_fails(opened: Open, taken: socket.socket) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CannotStartError):
        opened(Settings(), Settings(), Settings(port=port_of(taken)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_address_of_another_machine_is_refused(opened: Open) -> None:
    with pytest.raises(CannotStartError, match=r"192\.0\.2\.1:0: this machine does not have that address"):
        opened(Settings(host="192.0.2.1"))


def test_a_name_that_does_not_resolve_is_refused(opened: Open) -> None:
    with pytest.raises(CannotStartError, match=r"no-such-host\.invalid:0: the name does not resolve"):
        opened(Settings(host="no-such-host.invalid"))


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EACCES, "CAP_NET_BIND_SERVICE"), (errno.EMFILE, "too many open files")]
)
def test_other_refusals_say_what_to_do(opened: Open, monkeypatch: pytest.MonkeyPatch, number: int, said: str) -> None:
    class Refusing(socket.socket):
        def bind(self, *_: object) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(CannotStartError, match=said):
        opened(Settings(port=61613))


def test_addresses_as_people_write_them() -> None:
    assert format_address("10.0.0.1", 61613) == "10.0.0.1:61613"
    assert format_address("fe80::1", 0) == "[fe80::1]:0"


# --- taken over from systemd


def environment(count: int | str, pid: int | None = None) -> dict[str, str]:
    return {
        "LISTEN_FDS": str(count),
        "LISTEN_PID": str(os.getpid() if pid is None else pid),
        "LISTEN_FDNAMES": "stomp",
        "HOME": "/",
    }


@pytest.mark.parametrize("env", [{}, environment(1, pid=1), environment("x"), environment(0), {"LISTEN_FDS": "1"}])
def test_without_a_promise_for_this_process_nothing_is_taken_over(env: dict[str, str]) -> None:
    assert inherit_listeners(env, 1) == []
    assert not [name for name in env if name.startswith("LISTEN_")], "no child may read them again"


# The numbers from 3 on belong to others in the test process, hence a process of its own.
PASSED_ON = """
import os, sys
from broker.errors import CannotStartError
from broker.listeners import inherit_listeners
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = sys.argv[1]
try:
    for found in inherit_listeners(os.environ, 2):
        sock = found.socket_of(7)
        print(found.index, found.address, found.is_shared, sock.getblocking(), sock.get_inheritable())
except CannotStartError as error:
    print("cannot start:", error)
"""


def run_with(*descriptors: int, promised: int | None = None) -> list[str]:
    """The lines the program above prints when it is started with these descriptors as 3, 4, ..."""
    moves = [f"{number}<&{fd}" for number, fd in enumerate(descriptors, 3)]
    # High numbers first move out of the way of 3, 4, ...
    shell = f'exec "$0" "$@" {" ".join(moves)}'
    count = len(descriptors) if promised is None else promised
    result = subprocess.run(
        ["bash", "-c", shell, sys.executable, "-c", PASSED_ON, str(count)],
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.stderr == "", result.stderr
    return result.stdout.splitlines()


def high(sock: socket.socket) -> int:
    """A duplicate with a number that does not collide with 3, 4, ..."""
    return fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 100)


def test_inherited_sockets_are_shared_and_get_the_settings_in_order() -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        descriptors = [high(sock) for sock in socks]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        assert run_with(*descriptors) == [
            f"{index} 127.0.0.1:{port_of(sock)} True False False" for index, sock in zip((0, 1, 1), socks, strict=True)
        ]
        assert [keeps_alive(sock) for sock in socks] == [[1, 60, 15, 4]] * 3


def test_what_is_no_listening_tcp_socket_is_refused() -> None:
    with ExitStack() as stack:
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        datagram = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        for sock in (bound, datagram):
            descriptor = high(sock)
            stack.callback(os.close, descriptor)
            (line,) = run_with(descriptor)
            assert line.startswith("cannot start: file descriptor 3 of LISTEN_FDS is not a listening TCP")
        null = os.open("/dev/null", os.O_RDONLY)
        stack.callback(os.close, null)
        descriptor = fcntl.fcntl(null, fcntl.F_DUPFD, 100)
        stack.callback(os.close, descriptor)
        assert run_with(descriptor) == ["cannot start: file descriptor 3 of LISTEN_FDS is not a socket"]
    assert run_with(promised=1) == ["cannot start: LISTEN_FDS promises file descriptor 3, but it is not open"]
