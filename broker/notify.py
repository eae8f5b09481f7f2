"""The service manager's side of the conversation: sd_notify(3), in the few lines it needs.

Silently off when `NOTIFY_SOCKET` is not set, and never an error: a broker does not stop serving because
nobody listens.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

__all__ = ["VARIABLES", "Notifier", "forget"]

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What a worker must not inherit: its messages would be taken for the front's."""


class Notifier:
    """Sends states to the datagram socket that `environment` names (default: `os.environ`).

    A name that starts with `@` is an abstract socket. `watchdog_interval` is how often to call `watchdog`, in
    seconds (half of what the service manager allows), or None when it does not ask for it.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        self._address = env.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        elif not self._address.startswith("/"):
            self._address = ""
        self.watchdog_interval = self._interval(env) if self._address else None

    @staticmethod
    def _interval(env: Mapping[str, str]) -> float | None:
        # WATCHDOG_PID names the process that is watched: after an exec by a wrapper it may be another one.
        try:
            if int(env.get("WATCHDOG_PID", os.getpid())) != os.getpid():
                return None
            microseconds = int(env.get("WATCHDOG_USEC", "0"))
        except ValueError:
            return None
        return microseconds / 2e6 if microseconds > 0 else None

    def ready(self, status: str) -> None:
        """The broker serves clients; `status` is one line for `systemctl status`."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def starting(self, status: str, patience: float) -> None:
        """The start takes longer; the service manager is to wait at least `patience` more seconds."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(patience * 1e6)}\nSTATUS={status}")

    def reloading(self, status: str) -> None:
        """The broker reads its configuration again; `ready` ends that, whatever came of it."""
        # The service manager wants the time, to tell this announcement from one before its request.
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def watchdog(self) -> None:
        """The event loop of the front runs."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                # A service manager that does not read must not stop the broker.
                sock.setblocking(False)
                sock.sendto(state.encode(), self._address)
        except OSError:
            return


def forget(environment: MutableMapping[str, str]) -> None:
    """Remove what concerns only this process from the environment of its children."""
    for name in VARIABLES:
        environment.pop(name, None)
