"""The brokers under test: what each needs to run from a temporary folder of its own, on loopback only."""

from __future__ import annotations

import enum
import itertools
import re
import shutil
import socket
import subprocess
import tempfile
import tomllib
from pathlib import Path

from processes import BenchError, ProcessTree, free_port, wait_until
from rivals import RABBITMQ_HOME, activemq_command, find_program, rabbitmq_environment

__all__ = ["BROKER_NAMES", "Broker", "Setup", "make_broker"]

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 60.0


def _first_line(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return (result.stdout or result.stderr).strip().split("\n", 1)[0]


def _installed(binary: str, package: str) -> str:
    path = find_program(binary)
    if path is None:
        raise BenchError(f"{binary} is not installed: apt-get install {package}")
    return path


class Setup(enum.Enum):
    """What a scenario asks of a broker's configuration."""

    DEFAULT = "default"
    MEMORY_QUEUES = "queues whose messages are not stored"
    DURABLE_QUEUES = "queues whose messages are on disk before their receipt"


class Broker:
    """A broker: `start`, measure with `cpu_seconds` and `rss_bytes`, `stop`. Subclasses say how.

    Set `setup` and `data_in` (the folder its own temporary folder is made in) before `start`.
    """

    name: str
    protocol = "stomp"
    login: tuple[str, str] | None = None

    def __init__(self) -> None:
        self.setup = Setup.DEFAULT
        self.data_in: Path | None = None
        self.configuration = ""  # what differs from its usual configuration, for the results
        self.port = 0
        self.command: list[str] = []
        self._tree: ProcessTree | None = None
        self._base: Path | None = None

    def version(self) -> str:
        """Name and version as recorded in the results."""
        raise NotImplementedError

    def launch(self, tree: ProcessTree, base: Path) -> None:
        """Spawn the broker's processes on `self.port` and set `self.command`."""
        raise NotImplementedError

    def start(self) -> None:
        """Start in a fresh folder on a fresh port; returns when clients can log in (BenchError: 60 s)."""
        self._base = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-", dir=self.data_in))
        self._tree = ProcessTree(self._base)
        self.port = free_port()
        self.launch(self._tree, self._base)
        wait_until(self._ready, _START_SECONDS, f"{self.name} ready on port {self.port}")

    def stop(self) -> None:
        """Stop every process and remove the folder. Harmless when it does not run."""
        if self._tree is not None:
            self._tree.stop()
        if self._base is not None:
            shutil.rmtree(self._base, ignore_errors=True)
        self._tree = self._base = None

    def cpu_seconds(self) -> float:
        """CPU seconds of all its processes so far."""
        return self._running().cpu_seconds()

    def rss_bytes(self) -> int:
        """Resident memory of all its processes, in bytes."""
        return self._running().rss_bytes()

    def peak_rss_bytes(self) -> list[int]:
        """The most each of its live processes has held resident since it started, in bytes."""
        return self._running().peak_rss_bytes()

    def worker_pids(self) -> list[int]:
        """Its processes that can be profiled as Python, or none."""
        return []

    @property
    def folder(self) -> Path:
        """Its temporary folder while it runs."""
        if self._base is None:
            raise BenchError(f"{self.name} is not running")
        return self._base

    def command_line(self) -> str:
        """The command that started it, with its folder and this checkout written as $BASE and `.`."""
        text = " ".join(self.command)
        if self._base is not None:
            text = text.replace(str(self._base), "$BASE")
        return text.replace(f"{_ROOT}/", "").replace(str(self.port), "$PORT")

    def _running(self) -> ProcessTree:
        if self._tree is None:
            raise BenchError(f"{self.name} is not running")
        if (why := self._tree.dead_root()) is not None:
            raise BenchError(f"{self.name}: {why}\n{self._last_output()}")
        return self._tree

    def _last_output(self) -> str:
        if self._base is None:
            return ""
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self._base.glob("*.out")))

    def _ready(self) -> bool:
        self._running()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                return self._greets(client)
        except OSError:
            return False

    def _greets(self, client: socket.socket) -> bool:
        login = f"login:{self.login[0]}\npasscode:{self.login[1]}\n" if self.login else ""
        client.sendall(f"CONNECT\naccept-version:1.2\nhost:/\n{login}heart-beat:0,0\n\n\0".encode())
        return client.recv(4096).startswith(b"CONNECTED")


_MEMORY_QUEUES_TOML = """\
[[destination]]
pattern = "/queue/>"
persistent = false
"""


class Stampede(Broker):
    """This checkout's broker, from its .venv, in its default configuration with a given number of workers."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers
        self.name = f"stampede-{workers}"

    def version(self) -> str:
        with (_ROOT / "pyproject.toml").open("rb") as stream:
            version = tomllib.load(stream)["project"]["version"]
        revision = _first_line("git", "-C", str(_ROOT), "describe", "--always", "--dirty")
        python = _first_line(str(_ROOT / ".venv/bin/python"), "--version")
        return f"stampede {version} ({revision}, {python}, {self.workers} worker{'s' * (self.workers > 1)})"

    def launch(self, tree: ProcessTree, base: Path) -> None:
        program = _ROOT / ".venv/bin/stampede"
        if not program.exists():
            raise BenchError(".venv/bin/stampede is missing: run ./ops/serve once")
        bind = f"127.0.0.1:{self.port}"
        self.command = [str(program), "serve", "--bind", bind, "--workers", str(self.workers)]
        self.command += ["--data-dir", str(base / "data")]
        if self.setup is Setup.MEMORY_QUEUES:
            (base / "stampede.toml").write_text(_MEMORY_QUEUES_TOML)
            self.command += ["--config", str(base / "stampede.toml")]
            self.configuration = " ".join(_MEMORY_QUEUES_TOML.split("\n")).strip()
        self._output = tree.spawn("stampede", self.command)

    def _ready(self) -> bool:
        self._running()
        return f"ready on 127.0.0.1:{self.port}".encode() in self._output.read_bytes()

    def worker_pids(self) -> list[int]:
        lines = self._running().command_lines().items()
        return [pid for pid, words in lines if ("-m", "worker") in itertools.pairwise(words)]


_ACTIVEMQ_XML = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans
  http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
  http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="bench" useJmx="false"
      persistent="{stored}" dataDirectory="{base}/data">
    {store}
    <systemUsage><systemUsage>
      <memoryUsage><memoryUsage percentOfJvmHeap="70"/></memoryUsage>
      <storeUsage><storeUsage limit="20 gb"/></storeUsage>
      <tempUsage><tempUsage limit="2 gb"/></tempUsage>
    </systemUsage></systemUsage>
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp+nio://127.0.0.1:{port}"/>
    </transportConnectors>
  </broker>
</beans>
"""


_ACTIVEMQ_STORE = (
    '<persistenceAdapter><kahaDB directory="{base}/kahadb" journalDiskSyncStrategy="always"/></persistenceAdapter>'
)


class ActiveMQ(Broker):
    """ActiveMQ Classic with the stomp+nio connector alone: no console, no JMX; KahaDB only for durable queues."""

    name = "activemq"

    def version(self) -> str:
        jars = [path.name for path in Path("/usr/share/java").glob("activemq-broker-[0-9]*.jar")]
        number = re.sub(r"activemq-broker-|\.jar", "", jars[0]) if jars else "?"
        return f"ActiveMQ {number} ({_first_line('java', '--version')})"

    def launch(self, tree: ProcessTree, base: Path) -> None:
        _installed("java", "activemq")
        _installed("activemq", "activemq")
        config = base / "activemq.xml"
        durable = self.setup is Setup.DURABLE_QUEUES
        store = _ACTIVEMQ_STORE.format(base=base) if durable else ""
        self.configuration = _ACTIVEMQ_STORE.format(base="$BASE") if durable else ""
        config.write_text(
            _ACTIVEMQ_XML.format(base=base, port=self.port, stored=str(durable).lower(), store=store),
        )
        self.command = activemq_command(base, config, ("-Xms64M", "-Xmx2G"))
        tree.spawn("activemq", self.command)


_RABBITMQ_CONF = """\
listeners.tcp = none
stomp.listeners.tcp.1 = 127.0.0.1:{port}
stomp.tcp_listen_options.backlog = 4096
log.file.level = info
"""


class RabbitMQ(Broker):
    """RabbitMQ with the rabbitmq_stomp plugin; its distribution port and name server (epmd) on loopback."""

    name = "rabbitmq"
    login = ("guest", "guest")

    def version(self) -> str:
        found = sorted(RABBITMQ_HOME.glob("lib/rabbitmq_server-*"))
        number = found[-1].name.rpartition("-")[2] if found else "?"
        erlang = sorted(path.name for path in Path("/usr/lib/erlang/releases").glob("[0-9]*") if path.is_dir())
        return f"RabbitMQ {number} (Erlang/OTP {erlang[-1] if erlang else '?'})"

    def launch(self, tree: ProcessTree, base: Path) -> None:
        _installed("rabbitmq-server", "rabbitmq-server")
        epmd_port, distribution_port = free_port(), free_port()
        (base / "rabbitmq.conf").write_text(_RABBITMQ_CONF.format(port=self.port))
        (base / "enabled_plugins").write_text("[rabbitmq_stomp].\n")
        environment = rabbitmq_environment(base, f"bench{self.port}", epmd_port, distribution_port)
        tree.spawn("epmd", [_installed("epmd", "rabbitmq-server"), "-port", str(epmd_port)], environment)
        self.command = [str(RABBITMQ_HOME / "bin/rabbitmq-server")]
        tree.spawn("rabbitmq", self.command, environment)


class Nats(Broker):
    """nats-server: not STOMP, but the yardstick for what one machine can deliver."""

    name = "nats"
    protocol = "nats"

    def version(self) -> str:
        return _first_line(_installed("nats-server", "nats-server"), "--version")

    def launch(self, tree: ProcessTree, base: Path) -> None:
        _installed("nats-server", "nats-server")
        self.command = ["nats-server", "-a", "127.0.0.1", "-p", str(self.port)]
        tree.spawn("nats", self.command)

    def _greets(self, client: socket.socket) -> bool:
        return client.recv(4096).startswith(b"INFO")


BROKER_NAMES = ("stampede-1", "stampede-2", "activemq", "rabbitmq", "nats")


def make_broker(name: str) -> Broker:
    """The adapter called `name`; `stampede-N` for any number of workers N. BenchError for unknown names."""
    if match := re.fullmatch(r"stampede-([1-9][0-9]?)", name):
        return Stampede(int(match[1]))
    for kind in (ActiveMQ, RabbitMQ, Nats):
        if kind.name == name:
            return kind()
    raise BenchError(f"unknown broker {name!r}; known: {', '.join(BROKER_NAMES)} (stampede-N for N workers)")
