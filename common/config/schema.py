"""The configuration as models: every key with its kind, bounds, default and the reason for them.

The sections about messages on their way are in `common.config.delivery`. The reference in
`ops/configuration.md` is generated from both. What the values of several keys have to do
with each other is checked in `common.config.check`. Models are frozen; a `Config` survives
`model_dump(mode="json")` and `Config.model_validate`, which is how it reaches the workers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from common.config.delivery import Backplane, Cache, Destination, Outbox, Queue, Retained, Store
from common.config.kinds import (
    COLD,
    HOT,
    BindAddress,
    Choice,
    Count,
    Directory,
    Duration,
    Factor,
    Flag,
    HostNames,
    LoopbackAddress,
    Size,
    split_address,
)
from common.config.section import GIB, KIB, MIB, Section

__all__ = [
    "MAX_WORKERS",
    "Broker",
    "Config",
    "HeartBeat",
    "Limits",
    "Listener",
    "Log",
    "LogFormat",
    "LogLevel",
    "Management",
    "Supervision",
]

MAX_WORKERS = 64
MAX_CONNECTIONS = 1_000_000
RESERVED_FILES = 256
"""Open files that are not for clients."""

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Broker(Section):
    """The broker as a whole: its processes and its directories."""

    workers: Annotated[int | Literal["auto"], Count(1, MAX_WORKERS, "processes", auto=True), COLD] = Field(
        default="auto",
        description="Worker processes. `auto` is one per core this process may run on, because a worker"
        " keeps one core busy and a second one on the same core only adds hops. Bounded because every worker"
        " holds a link to every other.",
    )
    data_dir: Annotated[Path, Directory(), COLD] = Field(
        default=Path("stampede-data"),
        description="Where messages are stored that must survive a restart; made if need be, and for one broker at a"
        " time. A relative path counts from where the broker is started. It belongs on a local disk whose word can be"
        " trusted: a RECEIPT is sent when the disk says that it has the message.",
    )
    runtime_dir: Annotated[Path | None, Directory(optional=True), COLD] = Field(
        default=None,
        description="Where the workers' sockets to each other live. Unset, it is `$RUNTIME_DIRECTORY`"
        " (which systemd sets), and without that a private temporary directory that is removed at the end."
        " Its absolute path may have at most 80 bytes, because the kernel takes no socket path over 107.",
    )
    drain_timeout: Annotated[float, Duration(0, 3600), HOT] = Field(
        default=10.0,
        description="How long a stopping broker goes on delivering what is queued before it closes the"
        " remaining connections. Keep it below the patience of the service manager (systemd: 90 s), which"
        " kills.",
    )
    announce_version: Annotated[bool, Flag(), HOT] = Field(
        default=True,
        description="Whether the `server` header of CONNECTED names the version. It helps clients report"
        " faults; turn it off where a port is open to strangers, whom it tells which faults to look for.",
    )

    def worker_count(self) -> int:
        """The number of workers to start; `auto` asks the operating system now."""
        if self.workers == "auto":
            return max(1, min(MAX_WORKERS, len(os.sched_getaffinity(0))))
        return self.workers


class HeartBeat(Section):
    """Heart-beats of a listener, both ways (STOMP 1.2, section Heart-beating)."""

    wish: Annotated[float, Duration(0, 3600), HOT] = Field(
        default=10.0,
        description="How often clients are asked to beat. `0s` asks for none: then a client that vanished"
        " without closing its connection is noticed only when the network gives up, after many minutes."
        " Unless it is `0s`, it lies between `minimum` and `maximum`.",
    )
    minimum: Annotated[float, Duration(0.001, 3600), HOT] = Field(
        default=0.5,
        description="The fastest beat the broker promises, whatever a client asks for, so that a client"
        " which asks for one every millisecond cannot make the broker spend its time on it.",
    )
    maximum: Annotated[float, Duration(0.001, 86400), HOT] = Field(
        default=60.0,
        description="The slowest beat: a client that asks for beats at all gets them at least this often,"
        " because routers and load balancers forget a connection that is silent for longer than a minute or"
        " a few.",
    )
    send_factor: Annotated[float, Factor(0.1, 1.0), HOT] = Field(
        default=0.5,
        description="The broker beats after this part of the interval it promised. Half leaves a whole beat"
        " of slack for a slow network; 1.0 makes strict clients hang up on the smallest delay.",
    )
    receive_factor: Annotated[float, Factor(1.0, 100.0), HOT] = Field(
        default=2.0,
        description="A client is closed (after an ERROR) when it was silent for this many times the"
        " interval it promised, counted from the last byte read. Above 1.0 because clients beat late when"
        " they are busy.",
    )


class Listener(Section):
    """An address at which clients are accepted. One `[[listener]]` table each; at least one."""

    bind: Annotated[str, BindAddress(), COLD] = Field(
        default="127.0.0.1:61613",
        description="The address and port to listen at. Only this machine by default, since a broker open"
        " to a network is a decision. 61613 is the port every STOMP client knows; port 0 takes a free one,"
        " which the ready line names. Use `0.0.0.0` or `[::]` for every address.",
    )
    backlog: Annotated[int, Count(1, 65535, "connections"), COLD] = Field(
        default=4096,
        description="Connections the kernel keeps waiting, per worker, until they are accepted. High,"
        " because all clients come back at once after a network failure. The kernel caps it at"
        " `net.core.somaxconn`.",
    )
    hosts: Annotated[tuple[str, ...], HostNames(), HOT] = Field(
        default=(),
        description="The `host` headers of CONNECT that are accepted; empty accepts any. Any by default,"
        " because clients put whatever name they happened to connect to there.",
    )
    connect_timeout: Annotated[float, Duration(0.01, 600), HOT] = Field(
        default=10.0,
        description="How long a new connection may take to send its whole CONNECT. Connections that never"
        " log in would otherwise fill `limits.connections`.",
    )
    heart_beat: HeartBeat = Field(default=HeartBeat(), description="See below.")

    @property
    def host(self) -> str:
        """The host of `bind`, without brackets."""
        return split_address(self.bind)[0]

    @property
    def port(self) -> int:
        """The port of `bind`; 0 means that a free one is to be taken."""
        return split_address(self.bind)[1]


class Limits(Section):
    """The most that a client can make the broker hold. What goes over is answered with an ERROR that names
    the limit."""

    connections: Annotated[int | Literal["auto"], Count(1, MAX_CONNECTIONS, "connections", auto=True), HOT] = Field(
        default="auto",
        description="Connections per worker. `auto` is the open-file limit of the process less 256, kept"
        " for the broker itself: running out of files would stop the broker from replacing a dead worker.",
    )
    command_bytes: Annotated[int, Size(16, 1024), HOT] = Field(
        default=32,
        description="The command line of a frame. The longest command has 11 bytes; whatever speaks another"
        " protocol is recognised by having no line end early.",
    )
    header_count: Annotated[int, Count(8, 10_000, "headers"), HOT] = Field(
        default=128,
        description="Headers of one frame. Each costs time to decode, and few applications have more than 20.",
    )
    header_line_bytes: Annotated[int, Size(64, MIB), HOT] = Field(
        default=16 * KIB,
        description="One header line, name and value. Room for a signed token, the largest thing seen in a header.",
    )
    head_bytes: Annotated[int, Size(64, 16 * MIB), HOT] = Field(
        default=64 * KIB,
        description="Command and headers of a frame together. They are repeated to every subscriber, so"
        " large ones belong into the body.",
    )
    login_head_bytes: Annotated[int, Size(64, 16 * MIB), HOT] = Field(
        default=16 * KIB,
        description="Command and headers before the client is logged in: tighter, because anybody who"
        " reaches the port may send them.",
    )
    body_bytes: Annotated[int, Size(0, GIB), HOT] = Field(
        default=16 * MIB,
        description="The body of a frame. A message is in memory as a whole, once per worker that delivers"
        " it, so what is larger travels better by reference.",
    )
    destination_bytes: Annotated[int, Size(16, 64 * KIB), HOT] = Field(
        default=KIB,
        description="A destination's name. Names are keys of the routing tables of every worker, and are"
        " repeated in every message.",
    )
    subscriptions: Annotated[int, Count(1, 1_000_000, "subscriptions"), HOT] = Field(
        default=10_000,
        description="Subscriptions of one connection. Each costs memory in every worker; clients that need"
        " more are better served by a wildcard.",
    )
    unacknowledged: Annotated[int, Count(1, 10_000_000, "messages"), HOT] = Field(
        default=65_536,
        description="Messages delivered on one subscription with `ack:client` or `client-individual` and"
        " not yet acknowledged. Each must be remembered, and a client that never acknowledges would make"
        " that grow for ever.",
    )
    transactions: Annotated[int, Count(1, 10_000, "transactions"), HOT] = Field(
        default=32,
        description="Open transactions of one connection. A client rarely has more than one at a time; many"
        " are a sign of COMMITs that were forgotten.",
    )
    transaction_frames: Annotated[int, Count(1, 1_000_000, "frames"), HOT] = Field(
        default=10_000,
        description="Frames in one transaction. A COMMIT is carried out in one go, and all other clients of"
        " the worker wait that long.",
    )
    transaction_bytes: Annotated[int, Size(1, GIB), HOT] = Field(
        default=16 * MIB,
        description="Bytes in one transaction. They wait in memory until COMMIT or ABORT.",
    )

    def connection_count(self, open_files: int) -> int:
        """Connections one worker accepts, at least 1; `auto` follows from `open_files`, the limit of its process, which
        is negative where there is none (getrlimit(2), RLIM_INFINITY)."""
        if self.connections != "auto":
            return self.connections
        return MAX_CONNECTIONS if open_files < 0 else max(1, min(MAX_CONNECTIONS, open_files - RESERVED_FILES))


class Supervision(Section):
    """How the front looks after the workers."""

    ping_interval: Annotated[float, Duration(0.01, 60), HOT] = Field(
        default=1.0,
        description="How often each worker is asked for a sign of life. It is answered from the worker's"
        " event loop, so a loop that is stuck does not answer. Below `hang_timeout`.",
    )
    hang_timeout: Annotated[float, Duration(0.05, 600), HOT] = Field(
        default=10.0,
        description="How long a worker may stay silent before it is dumped, killed and replaced. Long"
        " enough for a machine that swaps for a moment: replacing a worker costs its clients their"
        " connections.",
    )
    start_timeout: Annotated[float, Duration(0.1, 600), HOT] = Field(
        default=30.0,
        description="How long a new worker may take until it is ready. Generous, because all start at once"
        " and may start on a cold disk.",
    )
    backoff_initial: Annotated[float, Duration(0.001, 60), HOT] = Field(
        default=0.1,
        description="The pause before a dead worker is replaced; it doubles with every death in a row, up"
        " to `backoff_max`. Short, because most deaths are single and clients are waiting.",
    )
    backoff_max: Annotated[float, Duration(0.001, 600), HOT] = Field(
        default=10.0,
        description="The longest pause, so that a worker which dies at every start does not take a core for"
        " itself, and still comes back soon once the cause is gone.",
    )


class Management(Section):
    """The management interface: health checks, metrics, an API and a console over HTTP. It asks for no password, so it
    is off unless told otherwise, and never open to a network."""

    bind: Annotated[str, LoopbackAddress(), COLD] = Field(
        default="",
        description="The address and port to listen at; empty is off. Whoever reaches it sees every connection and may"
        " close them, so it must be an address of this machine alone. From elsewhere, come by `ssh -L` or through a"
        " proxy that asks who is there. 15613 is a good port; port 0 takes a free one, which the log names.",
    )
    hosts: Annotated[tuple[str, ...], HostNames(), COLD] = Field(
        default=(),
        description="Names in the `Host` header that are answered besides `localhost` and the loopback addresses: what"
        " a proxy on this machine passes on. All others are refused, since a page of any web site can have its own"
        " name point to this machine and would then be let in.",
    )

    @property
    def host(self) -> str:
        """The host of `bind`, without brackets; not to be asked when it is off."""
        return split_address(self.bind)[0]

    @property
    def port(self) -> int:
        """The port of `bind`; 0 means that a free one is to be taken. Not to be asked when it is off."""
        return split_address(self.bind)[1]

    @property
    def backlog(self) -> int:
        """Connections the kernel keeps waiting."""
        return 128


class Log(Section):
    """The log, on standard error: one line per event."""

    format: Annotated[LogFormat, Choice(get_args(LogFormat)), COLD] = Field(
        default="console",
        description="`console` for people, `json` (one object per line) for programs that collect logs.",
    )
    level: Annotated[LogLevel, Choice(get_args(LogLevel)), HOT] = Field(
        default="info",
        description="The least important events to log. `debug` adds a line or more per connection and"
        " pause; nothing is ever logged per message.",
    )


class Config(Section):
    """The whole configuration, valid by itself key by key; made by `common.config.load.load_config`."""

    broker: Broker = Broker()
    listener: tuple[Listener, ...] = Field(default=(Listener(),), min_length=1, max_length=64)
    limits: Limits = Limits()
    outbox: Outbox = Outbox()
    destination: tuple[Destination, ...] = Field(default=(), max_length=1000)
    queue: Queue = Queue()
    retained: Retained = Retained()
    store: Store = Store()
    backplane: Backplane = Backplane()
    cache: Cache = Cache()
    supervision: Supervision = Supervision()
    management: Management = Management()
    log: Log = Log()
