"""sd_notify(3): what the service manager is told, and that nobody listening is no fault."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.notify import VARIABLES, Notifier, forget


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The service manager's socket, and the value of `NOTIFY_SOCKET`."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@stampede-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        sock.settimeout(5)
        yield sock, name


def test_every_state_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("2 of 2 workers ready")
    notifier.status("1 of 2 workers ready")
    notifier.watchdog()
    notifier.stopping("draining")
    assert [sock.recv(1000) for _ in range(4)] == [
        b"READY=1\nSTATUS=2 of 2 workers ready",
        b"STATUS=1 of 2 workers ready",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=draining",
    ]


def test_a_long_start_asks_for_patience(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    Notifier({"NOTIFY_SOCKET": name}).starting("moving queues", 2.5)
    assert sock.recv(1000) == b"EXTEND_TIMEOUT_USEC=2500000\nSTATUS=moving queues"


def test_a_reload_is_announced_with_the_time(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    before = time.monotonic()
    Notifier({"NOTIFY_SOCKET": name}).reloading("reloading")
    first, second, third = sock.recv(1000).decode().split("\n")
    assert (first, third) == ("RELOADING=1", "STATUS=reloading")
    variable, _, microseconds = second.partition("=")
    assert variable == "MONOTONIC_USEC"
    assert before - 1e-5 <= int(microseconds) / 1e6 <= time.monotonic()


@pytest.mark.parametrize("env", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative/path"}])
def test_off_without_a_socket(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    notifier = Notifier(env | {"WATCHDOG_USEC": "2000000"})
    notifier.ready("ready")
    assert notifier.watchdog_interval is None


def test_a_service_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("ready")
    Notifier({"NOTIFY_SOCKET": "/" + "x" * 500}).ready("ready")


def test_a_service_manager_that_does_not_read_is_not_waited_for(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[1]})
    for _ in range(10_000):
        notifier.watchdog()


@pytest.mark.parametrize(
    ("env", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(env: dict[str, str], interval: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/nowhere", **env}).watchdog_interval == interval


def test_children_are_kept_from_speaking_in_our_name() -> None:
    env = dict.fromkeys(VARIABLES, "x") | {"HOME": "/"}
    forget(env)
    forget(env)
    assert env == {"HOME": "/"}
