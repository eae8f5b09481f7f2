"""What a type checker makes of the client, as it is installed with the programs that use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.client.test_readme import EXAMPLES
from tests.harness.broker import ROOT

USES = """
from typing import assert_type

from common.client import Client, Message, Receipt, SyncClient, SyncMessage


async def all_of_them(client: Client, message: Message, receipt: bool) -> None:
    assert_type(await client.send("/queue/a", b"x", headers={"a": "b"}), Receipt)
    assert_type(await client.send("/queue/a", receipt=True, content_type="a/b"), Receipt)
    assert_type(await client.send("/queue/a", receipt=receipt), Receipt | None)
    await client.send("/queue/a", receipt=False)
    assert_type(await message.ack(receipt=True), Receipt)
    assert_type(await message.nack(receipt=True, delay=1.0, requeue=False), Receipt)
    assert_type(await message.nack(receipt=receipt), Receipt | None)
    await message.ack()
    await message.nack(reason="no")


def in_a_script(client: SyncClient, message: SyncMessage, receipt: bool) -> None:
    assert_type(client.send("/queue/a", b"x", headers={"a": "b"}), Receipt)
    assert_type(client.send("/queue/a", receipt=receipt), Receipt | None)
    client.send("/queue/a", receipt=False)
    assert_type(message.ack(receipt=True), Receipt)
    assert_type(message.nack(receipt=True, delay=1.0), Receipt)
    message.ack()
    message.nack(reason="no")
"""


def test_receipts_are_there_where_they_were_asked_for(tmp_path: Path) -> None:
    """Also in the script of README, which reads a field of one."""
    (script,) = (each for each in EXAMPLES if "connect_sync" in each)
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "uses.py").write_text(USES)
    # From the root, whose cache of the packages saves ten seconds.
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-version=3.11"]
        + [str(tmp_path / name) for name in ("script.py", "uses.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
