"""The examples of the client in README run as they stand, but for the port."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.harness.broker import ROOT, Broker
from tests.harness.wire import TIMEOUT

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## The client\n")[2].partition("\n## ")[0]
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
PRINTED = [
    "{'order': 1} application/json\n",
    "SHOUT\n",
    "-0\nespresso\n",
    "RECEIPT [('receipt-id', 'bye')] b''\n",
]


def test_there_are_as_many_as_are_known() -> None:
    assert len(EXAMPLES) == len(PRINTED)


@pytest.mark.parametrize(("example", "printed"), [*zip(EXAMPLES, PRINTED, strict=False)])
def test_an_example_prints_what_it_should(broker: Broker, example: str, printed: str) -> None:
    host, port = broker.address
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", example.replace("127.0.0.1:61613", f"{host}:{port}")],
        capture_output=True,
        text=True,
        timeout=6 * TIMEOUT,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.endswith(printed)
