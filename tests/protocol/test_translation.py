"""From a sender of one version to a receiver of another. Statements 12, 15, 112 and 113."""

from __future__ import annotations

from itertools import product

import pytest

from tests.conftest import Connect
from tests.harness.wire import VERSIONS, Wire

ACROSS = pytest.mark.parametrize("slot", [0, 1], ids=["same-worker", "other-worker"])


class TestFromOneVersionToAnother:
    """Every pair of versions, on one worker and across two: each receiver is written to by its own rules."""

    @staticmethod
    def deliver(connect: Connect, sender: str, receiver: str, slot: int, block: bytes) -> tuple[Wire, bytes]:
        """Send `block` (raw header lines) and return the receiver and the raw MESSAGE."""
        listening, sending = connect(receiver, slot=slot), connect(sender)
        listening.subscribe("/topic/translated")
        sending.send(b"SEND\ndestination:/topic/translated\n" + block + b"\nx\0")
        return listening, listening.expect("MESSAGE").raw

    @pytest.mark.statement(12, 15, 112)
    @ACROSS
    @pytest.mark.parametrize(("sender", "receiver"), list(product(VERSIONS, VERSIONS)))
    def test_colons_and_backslashes(self, connect: Connect, sender: str, receiver: str, slot: int) -> None:
        value = "C:\\new\\c"
        written = {"1.0": value, "1.1": "C\\c\\\\new\\\\c", "1.2": "C\\c\\\\new\\\\c"}
        _, raw = self.deliver(connect, sender, receiver, slot, f"path:{written[sender]}\n".encode())
        assert f"\npath:{written[receiver]}\n".encode() in raw

    @pytest.mark.statement(112)
    @ACROSS
    @pytest.mark.parametrize("sender", ["1.1", "1.2"])
    def test_a_line_feed_does_not_forge_headers_for_1_0(self, connect: Connect, sender: str, slot: int) -> None:
        receiver, raw = self.deliver(connect, sender, "1.0", slot, b"evil:a\\nforged\\cyes\\n\\nbody\n")
        assert raw.count(b"\n\n") == 1 and b"\nforged" not in raw and raw.endswith(b"\n\nx\0")
        receiver.quiet()

    @pytest.mark.statement(112)
    @ACROSS
    @pytest.mark.parametrize("sender", ["1.1", "1.2"])
    def test_a_colon_in_a_name_does_not_forge_headers_for_1_0(self, connect: Connect, sender: str, slot: int) -> None:
        receiver, raw = self.deliver(connect, sender, "1.0", slot, b"content-length\\c99:x\nack\\cforged:x\n")
        assert b"content-length:99" not in raw and b"ack:forged" not in raw
        receiver.quiet()

    @pytest.mark.statement(113)
    @ACROSS
    @pytest.mark.parametrize("receiver", ["1.0", "1.1"])
    def test_a_carriage_return_has_no_escape_before_1_2(self, connect: Connect, receiver: str, slot: int) -> None:
        _, raw = self.deliver(connect, "1.2", receiver, slot, b"one:a\\rb\ntwo:end\\r\n")
        assert b"\r" not in raw and b"\\r" not in raw

    @pytest.mark.statement(112, 113)
    @ACROSS
    def test_one_message_reaches_all_versions_in_one_read(self, connect: Connect, slot: int) -> None:
        receivers = [connect(version, slot=slot) for version in VERSIONS]
        for receiver in receivers:
            receiver.subscribe("/topic/all-versions")
        sender = connect("1.2")
        blocks = [b"plain:x\n", b"path:C\\c\\\\x\n", b"plain:y\n"]
        sender.send(b"".join(b"SEND\ndestination:/topic/all-versions\n" + block + b"\n\0" for block in blocks))
        for receiver in receivers:
            first, second, third = receiver.read_many(3)
            assert (first["plain"], second["path"], third["plain"]) == ("x", "C:\\x", "y")
