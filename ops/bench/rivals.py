"""How RabbitMQ and ActiveMQ from Debian's packages run in a folder of their own, on loopback only, for any user: their
commands and environments. Starts nothing, and imports nothing of ours: the benchmarks and `tests/interop` share it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ACTIVEMQ_HOME", "RABBITMQ_HOME", "activemq_command", "find_program", "rabbitmq_environment"]

ACTIVEMQ_HOME = Path("/usr/share/activemq")

RABBITMQ_HOME = Path("/usr/lib/rabbitmq")
"""Its `bin/rabbitmq-server` runs for any user; the one in /usr/sbin insists on the user rabbitmq and its folders."""

_OPENED = ("java.security", "java.net", "java.lang", "java.util", "java.util.concurrent")


def find_program(name: str) -> str | None:
    """The path of a program that may be an administrator's, or None."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")


def activemq_command(base: Path, config: Path, options: Sequence[str] = ()) -> list[str]:
    """ActiveMQ in the folder `base`, configured by the XML file `config`, with `options` for the JVM."""
    command = ["java", *options, "-Djava.awt.headless=true", f"-Djava.io.tmpdir={base}"]
    for package in _OPENED:
        command += ["--add-opens", f"java.base/{package}=ALL-UNNAMED"]
    command += [
        f"-Dactivemq.home={ACTIVEMQ_HOME}",
        f"-Dactivemq.base={base}",
        f"-Dactivemq.conf={base}",
        f"-Dactivemq.data={base}/data",
    ]
    return [*command, "-jar", str(ACTIVEMQ_HOME / "bin/activemq.jar"), "start", f"xbean:file:{config}"]


def rabbitmq_environment(base: Path, node: str, epmd_port: int, distribution_port: int) -> dict[str, str]:
    """What `bin/rabbitmq-server` needs to run in the folder `base`, where `rabbitmq.conf` and `enabled_plugins` are.

    Its name server, epmd, is for the caller to start, with `-port EPMD_PORT` and this environment.
    """
    return {
        "HOME": str(base),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": f"{node}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(base / "none.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "none.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
        "RABBITMQ_LOG_BASE": str(base / "log"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(base / "generated"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # Makes the start script exec the Erlang machine instead of standing by as its signal proxy.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
