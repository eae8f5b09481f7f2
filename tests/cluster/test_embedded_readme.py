"""The examples of README's section on embedding run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.harness.broker import ROOT

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Embedding it\n")[2].partition("\n## ")[0]
PROGRAM, TESTS = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
PRINTED = SECTION.partition(PROGRAM)[2].split("```\n")[2]


def test_the_program_prints_what_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PRINTED


def test_the_tests_pass(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["broker.pytest_plugin"]\n')
    (tmp_path / "test_example.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_every_event_is_in_the_table() -> None:
    import broker

    for name in broker.__all__:
        assert name in SECTION or name == "Event" or name == "ThreadedBroker", name
