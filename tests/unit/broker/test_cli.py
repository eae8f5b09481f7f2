"""The command line: exit codes, what is printed where, and what `serve` makes of its flags."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from broker.cli import main
from common.config import Config, render_reference
from common.exitcodes import ExitCode
from common.release import VERSION

ROOT = Path(__file__).parents[3]


def stampede(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a real `stampede` with no STAMPEDE_ variables but `variables`."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STAMPEDE_")}
    return subprocess.run(
        [sys.executable, "-m", "broker", *map(str, arguments)],
        cwd=ROOT,
        env={**environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configuration `serve` ran the service with, then the one it gave it on reload; the service itself is a
    stand-in that ends with 7."""
    configs: list[Config] = []

    def run(config: Config, reload: Callable[[], Config]) -> int:
        configs.append(config)
        configs.append(reload())
        return 7

    service = ModuleType("broker.service")
    service.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broker.service", service)
    # `from broker import service` prefers the attribute, which is there once anything imported the real one.
    monkeypatch.setattr("broker.service", service, raising=False)
    for name in [name for name in os.environ if name.startswith("STAMPEDE_")]:
        monkeypatch.delenv(name)
    return configs


def test_check_config_of_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "stampede.toml"
    path.write_text('[broker]\nworkers = 1\n[[listener]]\nbind = "[::1]:0"\n')
    done = stampede("check-config", path, STAMPEDE_LOG_LEVEL="debug")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (f"{path}: OK, with 1 environment variable: 1 worker on [::1]:0, 0 destination rules\n")


def test_check_config_tells_every_mistake_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "stampede.toml"
    path.write_text('[broker]\nworkers = 0\nwrokers = 1\n[log]\nlevel = "a\\nb"\n')
    done = stampede("check-config", path, STAMPEDE_LOG_FROMAT="json")
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("stampede: ") for line in lines)
    for key in ("broker.workers = 0", "broker.wrokers = 1", "log.level", "STAMPEDE_LOG_FROMAT"):
        assert sum(key in line for line in lines) == 1


@pytest.mark.parametrize("content", [None, b"=", b"\xff", b"[[log]]"])
def test_no_configuration_makes_a_traceback(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "stampede.toml"
    if content is not None:
        path.write_bytes(content)
    for command in (("check-config",), ("serve", "--config")):
        done = stampede(*command, path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert str(path) in done.stderr


def test_mistakes_are_told_on_a_terminal_that_knows_only_ascii(tmp_path: Path) -> None:
    path = tmp_path / "stampede.toml"
    path.write_text('[log]\nlevel = "größer"\n', "utf-8")
    done = stampede("check-config", path, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert '"gr\\xf6\\xdfer"' in done.stderr


def test_serve_ends_with_2_on_a_mistake_before_anything_is_started() -> None:
    done = stampede("serve", "--workers", "0", "--bind", "nowhere", "--log-level", "loud")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(" = ")[0] for line in done.stderr.splitlines()] == [
        "stampede: command line: broker.workers",
        "stampede: command line: listener[0].bind",
        "stampede: command line: log.level",
    ]


def test_serve_hands_the_configuration_to_the_front(served: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "stampede.toml"
    path.write_text("[broker]\nworkers = 2\ndrain_timeout = 1\n")
    flags = ["--config", path, "--workers", "3", "--bind", "127.0.0.1:0", "--bind", "[::1]:0"]
    flags += ["--data-dir", "d", "--runtime-dir", "r", "--log-format", "json", "--log-level", "debug"]
    assert main(["serve", *map(str, flags)]) == 7
    config, again = served
    assert again == config and again is not config
    assert (config.broker.workers, config.broker.drain_timeout) == (3, 1.0)
    assert [listener.bind for listener in config.listener] == ["127.0.0.1:0", "[::1]:0"]
    assert (config.broker.data_dir, config.broker.runtime_dir) == (Path("d"), Path("r"))
    assert (config.log.format, config.log.level) == ("json", "debug")


def test_serve_without_flags_takes_the_environment(served: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAMPEDE_BROKER_WORKERS", "auto")
    monkeypatch.setenv("STAMPEDE_BIND", "127.0.0.1:0")
    assert main(["serve"]) == 7
    assert served[0].broker.workers == "auto"
    assert served[0].listener[0].bind == "127.0.0.1:0"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith(f"stampede {VERSION} (Python 3.")
    assert main(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out == f"stampede {VERSION}\n"


def test_the_reference_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config-reference"]) == ExitCode.OK
    assert capsys.readouterr().out == render_reference()


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [sys.executable, "-m", "broker", "config-reference"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE
    ) as process:
        os.close(write)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--wings"], ["check-config"], ["serve", "--work", "2"]])
def test_usage_errors_end_with_2(
    arguments: list[str], served: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("usage: stampede")
    assert not served


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    for name in ("serve", "check-config", "config-reference", "store", "version"):
        assert f"\n    {name}" in text
    for name in ("serve", "check-config", "config-reference", "store", "version"):
        assert main([name, "--help"]) == ExitCode.OK


def test_the_variables_of_clients_are_no_mistakes_in_the_environment_of_a_broker(tmp_path: Path) -> None:
    path = tmp_path / "stampede.toml"
    path.write_text("")
    done = stampede("check-config", path, STAMPEDE_URL="stomp://a", STAMPEDE_PASSCODE="secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert "with 0 environment variables" in done.stdout


@pytest.mark.parametrize("command", ["send", "subscribe"])
def test_the_help_of_clients_is_whole(command: str) -> None:
    done = stampede(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: stampede {command} DESTINATION ")
    for word in ("--header", "STAMPEDE_URL", "STAMPEDE_PASSCODE", f"stampede {command} /queue/orders"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("send",), "required: DESTINATION"),
        (("send", "/queue/a", "b", "c"), "unrecognized arguments: c"),
        (("send", "/queue/a", "b", "--linse"), "unrecognized arguments: --linse"),
        (("send", "/queue/a", "b", "-H", "nothing"), "'nothing' is not NAME:VALUE"),
        (("send", "/queue/a", "b", "-H", ":nothing"), "':nothing' is not NAME:VALUE"),
        (("send", "/queue/a", "b", "-H", b"a:\xff"), "not valid UTF-8"),
        (("send", b"/queue/\xff", "b"), "stampede: DESTINATION: not valid UTF-8"),
        (("send", "/queue/a", "b", "--count", "0"), "'0' is not a whole number from 1"),
        (("send", "/queue/a", "b", "--timeout", "-1"), "'-1' is not a number of seconds"),
        (("send", "/queue/a", "b", "--lines"), "stampede: --lines reads the messages from standard input"),
        (("send", "/queue/a", "--lines", "--request"), "not allowed with argument"),
        (("send", "/queue/a", "b", "--format", "json"), "stampede: --format is for the reply of --request"),
        (("send", "/queue/a", "b", "--request", "--no-receipt"), "stampede: --no-receipt says nothing about"),
        (("send", "/queue/a", "b", "-H", "receipt:1"), "stampede: -H receipt: the command sets this header itself"),
        (("send", "/queue/a", "b", "--request", "-H", "reply-to:/queue/b"), "stampede: -H reply-to: the command sets"),
        (("send", "/queue/a", "b", "--url", "stomp://me:se@cret@a"), "stampede: --url: a stray '@'"),
        (
            ("send", "/queue/a", "b", "--passcode-file", "/none"),
            "stampede: --passcode-file: cannot read /none: No such",
        ),
        (("send", "/queue/a", "b", "--passcode-file", "/dev/null"), "/dev/null does not hold one line"),
        (("send", "/queue/a", "b", "--login", "a\nb"), "a line end or NUL in the header 'login'"),
        (("subscribe",), "required: DESTINATION"),
        (("subscribe", "/queue/a", "-H", "ack:client"), "stampede: -H ack: the command sets this header itself"),
        (("subscribe", "/queue/a", "--format", "xml"), "invalid choice: 'xml'"),
        (("subscribe", "/queue/a", "--prefetch", "9", "--ack", "auto"), "stampede: --prefetch 9 with ack:auto"),
        (("subscribe", "/topic/a", "--prefetch", "9"), "stampede: --prefetch 9 with ack:auto"),
    ],
)
def test_mistakes_in_the_arguments_of_clients(arguments: tuple[str | bytes, ...], mistake: str) -> None:
    done = stampede(*(os.fsdecode(argument) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    *usage, line = done.stderr.splitlines()
    assert mistake in line and len(usage) <= 1
    assert "cret" not in done.stderr
