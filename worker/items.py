"""What stands in the items of a batch: the headers a selector looks at, and the share of a batch that it takes."""

from __future__ import annotations

from common.codec import encode_headers, unescape
from common.negotiation import Version
from worker.backplane.interface import Batch

__all__ = ["choose", "read_headers", "translate"]


def read_headers(batch: Batch) -> list[dict[str, str]]:
    """The headers of each message as its sender meant them, with its destination and message-id; of a repeated header
    the first entry (1.2 section Repeated Header Entries)."""
    prefix = batch.id_prefix.decode()
    found = []
    last_block: bytes | None = None
    last: dict[str, str] = {}
    # The 1.2 form leaves nothing out: its escapes can express every name and value.
    for item in batch.items:
        number, _, block = item[: item.find(b"\n\n")].partition(b"\n")
        # Messages that one publisher sends together mostly have the same headers.
        if block != last_block:
            last_block, last = block, _read(block)
        found.append({**last, "message-id": prefix + number.decode()})
    return found


def _read(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(":")
        headers.setdefault(unescape(name, Version.V1_2), unescape(value, Version.V1_2))
    return headers


def choose(batch: Batch, places: list[int]) -> Batch:
    """The messages of `batch` at `places`, in that order."""
    items = [batch.items[place] for place in places]
    chosen = Batch(batch.id_prefix, items)
    if batch.by_version is not None:
        oldest, middle, _ = batch.by_version
        chosen.by_version = [oldest[place] for place in places], [middle[place] for place in places], items
    if batch.traits is not None:
        traits = batch.traits
        chosen.traits = {new: traits[old] for new, old in enumerate(places) if old in traits}
    if batch.keys is not None:
        keys = batch.keys
        chosen.keys = {new: keys[old] for new, old in enumerate(places) if old in keys}
    return chosen


def translate(frame: bytes, version: Version) -> bytes:
    """`frame`, a message from its id on in 1.2 form, in the form of an older `version`."""
    end = frame.index(b"\n\n")
    head = frame[:end]
    if b"\\" not in head:
        return frame
    id, _, block = head.partition(b"\n")
    headers = []
    for line in block.decode().split("\n"):
        name, _, value = line.partition(":")
        headers.append((unescape(name, Version.V1_2), unescape(value, Version.V1_2)))
    return id + b"\n" + encode_headers(headers, version)[:-1] + frame[end:]
