"""The fixtures that are exported for the tests of others, in test runs of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.harness.broker import ROOT

HEAD = """
import asyncio
import pytest
from tests.harness.wire import Wire
"""


def run_tests(directory: Path, *tests: str, plugin: str = "broker.pytest_plugin") -> subprocess.CompletedProcess[str]:
    """A test run of a suite that has the plugin, in a process of its own."""
    (directory / "conftest.py").write_text(f"pytest_plugins = [{plugin!r}]\n" if plugin else "")
    for number, test in enumerate(tests):
        (directory / f"test_{number}.py").write_text(HEAD + test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(directory)],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_one_broker_is_shared_by_all_tests_with_and_without_a_loop(tmp_path: Path) -> None:
    test = """
    from broker import ClientConnected

    def note(url):
        with open("addresses", "a") as file:
            file.write(url + "\\n")

    def test_sync(stampede):
        events = stampede.events(timeout=20)
        with Wire(stampede.address) as wire:
            wire.connect()
            assert stampede.url == f"stomp://127.0.0.1:{stampede.address[1]}"
            assert next(events) == ClientConnected(wire.session, wire.socket.getsockname(), "1.2", None)
        note(stampede.url)

    def test_async(stampede):
        async def main():
            reader, writer = await asyncio.open_connection(*stampede.address)
            writer.write(b"CONNECT\\naccept-version:1.2\\nhost:h\\n\\n\\0")
            assert (await reader.readuntil(b"\\0")).startswith(b"CONNECTED\\n")
            writer.close()
            await writer.wait_closed()

        asyncio.run(main())
        note(stampede.url)
    """.replace("\n    ", "\n")
    done = run_tests(tmp_path, test, test)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    addresses = (tmp_path / "addresses").read_text().split()
    assert (len(addresses), len(set(addresses))) == (4, 1)
    assert not left_over(addresses)


def test_a_test_starts_brokers_of_its_own_which_end_with_it(tmp_path: Path) -> None:
    test = """
    import psutil

    def workers():
        return len(psutil.Process().children())

    def test_two(start_stampede, tmp_path):
        names = iter(["a", "b"])
        first = start_stampede(workers=2, session_ids=names.__next__)
        second = start_stampede({"listener": [{"hosts": ["here"]}]}, data_dir=tmp_path)
        assert first.url != second.url
        assert workers() == 3
        with Wire(first.address) as wire:
            wire.connect()
            assert wire.session == "a"
        with Wire(second.address) as wire:
            wire.send(b"CONNECT\\naccept-version:1.2\\nhost:there\\n\\n\\0")
            wire.expect_error("unknown-host")

    def test_none_is_left():
        assert workers() == 0

    def test_failing(start_stampede):
        start_stampede()
        assert workers() == 7

    def test_none_is_left_of_one_that_failed():
        assert workers() == 0

    def test_mistake(start_stampede):
        from broker import ConfigError
        with pytest.raises(ConfigError, match="unknown key"):
            start_stampede({"broker": {"wrokers": 2}})
    """.replace("\n    ", "\n")
    done = run_tests(tmp_path, test)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 4 passed" in done.stdout


def test_a_suite_that_does_not_ask_for_it_loads_nothing_of_it(tmp_path: Path) -> None:
    test = """
    import sys

    def test_nothing(request):
        assert not [name for name in sys.modules if name == "broker" or name.startswith("broker.")]
        with pytest.raises(pytest.FixtureLookupError):
            request.getfixturevalue("stampede")
    """.replace("\n    ", "\n")
    # The harness imports no part of the broker.
    done = run_tests(tmp_path, test, plugin="")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plugin_itself_imports_no_broker_before_a_test_wants_one(tmp_path: Path) -> None:
    test = """
    import sys

    def test_nothing():
        assert "broker.pytest_plugin" in sys.modules
        assert "broker.front" not in sys.modules and "broker.embedded" not in sys.modules
    """.replace("\n    ", "\n")
    done = run_tests(tmp_path, test)
    assert done.returncode == 0, done.stdout + done.stderr


def left_over(urls: list[str]) -> list[psutil.Process]:
    """Processes that listen at one of the ports."""
    ports = {int(url.rpartition(":")[2]) for url in urls}
    return [each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port in ports]


@pytest.mark.parametrize("name", ["stampede", "start_stampede"])
def test_the_fixtures_say_what_they_are(name: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['broker.pytest_plugin']\n")
    command = [sys.executable, "-m", "pytest", "--fixtures", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    shown = done.stdout.partition(f"\n{name}")[2]
    assert shown.partition("\n")[2].strip(), "every fixture has its docstring in the listing"
