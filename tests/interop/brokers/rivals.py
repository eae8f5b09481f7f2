"""RabbitMQ and ActiveMQ from Debian's packages, each in a folder of its own and on loopback only: started, killed with
their data kept, held still, started again."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import hashlib
import importlib.util
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from common.client import Client, Peer
from tests.chaos.mortal import free_port

__all__ = ["LOGIN", "OUTSIDER", "PASSCODE", "RIVALS", "ActiveMQ", "CannotStart", "RabbitMQ", "Rival"]

LOGIN, PASSCODE = "app", "pass:code"
OUTSIDER = "outsider"
"""Another login with the same passcode, which may do nothing."""

START_SECONDS = 60.0

_PR_SET_PDEATHSIG = 1


def _shared_with_the_benchmarks() -> ModuleType:
    path = Path(__file__).parents[3] / "ops/bench/rivals.py"
    spec = importlib.util.spec_from_file_location("ops_bench_rivals", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_bench = _shared_with_the_benchmarks()


class CannotStart(Exception):
    """The broker is not installed, or does not run here; the text is one line that says why."""


class Rival:
    """A broker, made but not started. Listeners: `port` for TCP, `tls_port`, and `ws_port` where it has WebSocket."""

    name: str
    package: str
    programs: tuple[str, ...]
    ws_path = ""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.port, self.tls_port = free_port(), free_port()
        self.ws_port = 0
        self.certificate, self._key = base / "certificate.pem", base / "key.pem"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    # --- what the tests connect to

    @property
    def url(self) -> str:
        return f"stomp://127.0.0.1:{self.port}"

    def client(self, url: str | None = None, **options: Any) -> Client:
        """A client of it, logged in as LOGIN unless told otherwise, not connected yet."""
        return Client(url or self.url, **{"login": LOGIN, "passcode": PASSCODE, **options})

    async def peer(self) -> Peer:
        """A connection to it without a CONNECT."""
        return await Peer.connect(self.url)

    def trust(self) -> ssl.SSLContext:
        """A context that trusts its certificate alone."""
        return ssl.create_default_context(cafile=str(self.certificate))

    # --- its life

    def configure(self) -> None:
        """Write its files, once."""
        raise NotImplementedError

    def launch(self) -> None:
        """Start its processes."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it for the first time; returns when clients can log in. Raises CannotStart."""
        for program in self.programs:
            if _bench.find_program(program) is None:
                raise CannotStart(f"{self.name} is not installed (no {program}): apt-get install {self.package}")
        self._make_certificate()
        self.configure()
        self.launch()
        self._wait_until_ready()

    async def start_again(self) -> None:
        """After `kill`, with the data it has."""
        # Not in the other thread: its processes end with the thread that made them.
        self.launch()
        await asyncio.to_thread(self._wait_until_ready)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            dead = next((name for name, process in self._processes.items() if process.poll() is not None), None)
            if dead is not None or time.monotonic() > deadline:
                why = f"{dead} ended" if dead is not None else f"not ready within {START_SECONDS:g} s"
                said = self._last_words()
                self.stop()
                raise CannotStart(f"{self.name} does not start: {why}: {said}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        lines = ("CONNECT", "accept-version:1.2", "host:/", f"login:{LOGIN}", f"passcode:{PASSCODE}", "", "\0")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                client.sendall("\n".join(lines).encode())
                if not client.recv(4096).startswith(b"CONNECTED"):
                    return False
            for port in filter(None, (self.tls_port, self.ws_port)):
                socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except OSError:
            return False
        return True

    def _last_words(self) -> str:
        texts = [path.read_text(errors="replace") for path in sorted(self.base.glob("*.out"))]
        return " ".join("\n".join(texts)[-400:].split())

    def spawn(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            # A killed run of the tests leaves no broker behind.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        with (self.base / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=self.base,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)

    def kill(self) -> None:
        """kill -9. `start_again` brings it back with what is on its disk."""
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def hold_still(self) -> None:
        """Its connections stay and nothing comes from them, until `go_on`."""
        self._signal(signal.SIGSTOP)
        # Its threads stop one after another, a little later.
        while not all(_is_stopped(process.pid) for process in self._processes.values()):
            time.sleep(0.001)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Nothing of it is left. Harmless when it does not run."""
        self.kill()

    def _make_certificate(self) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(self._key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)


def _is_stopped(pid: int) -> bool:
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        # A thread has ended, so not all of them are.
        return False
    return all(text.rpartition(")")[2].split()[0] == "T" for text in texts)


_RABBITMQ_CONF = """\
listeners.tcp = none
stomp.listeners.tcp.1 = 127.0.0.1:{port}
stomp.listeners.ssl.1 = 127.0.0.1:{tls_port}
web_stomp.tcp.ip = 127.0.0.1
web_stomp.tcp.port = {ws_port}
web_stomp.ws_frame = binary
ssl_options.certfile = {base}/certificate.pem
ssl_options.keyfile = {base}/key.pem
ssl_options.verify = verify_none
load_definitions = {base}/definitions.json
log.file.level = info
"""

_EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
_NOTHING = {"configure": "", "write": "", "read": ""}


class RabbitMQ(Rival):
    """With rabbitmq_stomp and rabbitmq_web_stomp. It has a second virtual host, `other`."""

    name = "RabbitMQ"
    package = "rabbitmq-server"
    programs = ("rabbitmq-server", "epmd")
    ws_path = "/ws"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.ws_port = free_port()
        self._epmd_port, self._distribution_port = free_port(), free_port()

    def configure(self) -> None:
        ports = {"port": self.port, "tls_port": self.tls_port, "ws_port": self.ws_port}
        (self.base / "rabbitmq.conf").write_text(_RABBITMQ_CONF.format(base=self.base, **ports))
        (self.base / "enabled_plugins").write_text("[rabbitmq_stomp,rabbitmq_web_stomp].\n")
        definitions = {
            "vhosts": [{"name": "/"}, {"name": "other"}],
            "users": [_rabbitmq_user(name) for name in (LOGIN, OUTSIDER)],
            "permissions": [
                {"user": LOGIN, "vhost": "/", **_EVERYTHING},
                {"user": LOGIN, "vhost": "other", **_EVERYTHING},
                {"user": OUTSIDER, "vhost": "/", **_NOTHING},
            ],
        }
        (self.base / "definitions.json").write_text(json.dumps(definitions))

    def launch(self) -> None:
        environment = _bench.rabbitmq_environment(
            self.base, f"interop{self.port}", self._epmd_port, self._distribution_port
        )
        self.spawn("epmd", [_bench.find_program("epmd"), "-port", str(self._epmd_port)], environment)
        self.spawn("rabbitmq", [str(_bench.RABBITMQ_HOME / "bin/rabbitmq-server")], environment)


def _rabbitmq_user(name: str) -> dict[str, str]:
    salt = b"salt"
    digest = base64.b64encode(salt + hashlib.sha256(salt + PASSCODE.encode()).digest()).decode()
    algorithm = "rabbit_password_hashing_sha256"
    return {"name": name, "password_hash": digest, "hashing_algorithm": algorithm, "tags": ""}


_ACTIVEMQ_XML = """\
<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans
  http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
  http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="interop" useJmx="false" persistent="true"
      dataDirectory="{base}/data" useShutdownHook="false">
    <persistenceAdapter>
      <kahaDB directory="{base}/kahadb" journalDiskSyncStrategy="always" journalMaxFileLength="1mb"/>
    </persistenceAdapter>
    <plugins>
      <simpleAuthenticationPlugin><users>
        <authenticationUser username="{login}" password="{passcode}" groups="users"/>
        <authenticationUser username="{outsider}" password="{passcode}" groups="outsiders"/>
      </users></simpleAuthenticationPlugin>
      <authorizationPlugin><map><authorizationMap>
        <authorizationEntries>
          <authorizationEntry queue=">" read="users" write="users" admin="users"/>
          <authorizationEntry topic=">" read="users" write="users" admin="users"/>
          <authorizationEntry topic="ActiveMQ.Advisory.>" read="users,outsiders" write="users,outsiders"
            admin="users,outsiders"/>
        </authorizationEntries>
        <tempDestinationAuthorizationEntry>
          <tempDestinationAuthorizationEntry read="users" write="users" admin="users"/>
        </tempDestinationAuthorizationEntry>
      </authorizationMap></map></authorizationPlugin>
    </plugins>
    <sslContext><sslContext keyStore="file:{base}/broker.p12" keyStorePassword="{passcode}"/></sslContext>
    <systemUsage><systemUsage>
      <storeUsage><storeUsage limit="64 mb"/></storeUsage>
      <tempUsage><tempUsage limit="64 mb"/></tempUsage>
    </systemUsage></systemUsage>
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp+nio://127.0.0.1:{port}?transport.hbGracePeriodMultiplier=3"/>
      <transportConnector name="stomp+ssl" uri="stomp+nio+ssl://127.0.0.1:{tls_port}"/>
    </transportConnectors>
  </broker>
</beans>
"""


class ActiveMQ(Rival):
    """ActiveMQ Classic. Debian's package has no connector for WebSocket.

    It is told to bear with heart-beats that are late: unless it is, one by a millisecond ends the connection.
    """

    name = "ActiveMQ"
    package = "activemq"
    programs = ("activemq", "java")

    def configure(self) -> None:
        command = ["openssl", "pkcs12", "-export", "-in", str(self.certificate), "-inkey", str(self._key)]
        command += ["-out", str(self.base / "broker.p12"), "-passout", f"pass:{PASSCODE}"]
        subprocess.run(command, check=True, capture_output=True)
        names = {"login": LOGIN, "passcode": PASSCODE, "outsider": OUTSIDER}
        ports = {"port": self.port, "tls_port": self.tls_port}
        (self.base / "activemq.xml").write_text(_ACTIVEMQ_XML.format(base=self.base, **names, **ports))

    def launch(self) -> None:
        # Its start takes half the time when the JVM compiles quickly rather than well.
        options = ("-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        self.spawn("activemq", _bench.activemq_command(self.base, self.base / "activemq.xml", options))


RIVALS: dict[str, type[Rival]] = {"rabbitmq": RabbitMQ, "activemq": ActiveMQ}
