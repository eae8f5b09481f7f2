"""Destinations and the patterns that subscribe to many of them. Bytes throughout: UTF-8, as on the wire.

A destination is split into words at its dots; a leading `/kind/` (such as `/topic/`) is a word of its own. In a
pattern the word `*` stands for exactly one word, `#` for any number of words, and `>`, only as the last word, for
one or more.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from common.errors import ErrorCode, StompError
from common.temporary import TEMP_QUEUE, TEMPORARY, is_address

__all__ = [
    "QUEUE",
    "QUEUES",
    "PatternTrie",
    "check_destination",
    "dead_letter_queue",
    "is_pattern",
    "literal_prefix",
    "split",
]

QUEUE = b"/queue/"
"""What the name of every queue starts with, but for the temporary ones."""
QUEUES = (QUEUE, TEMP_QUEUE)
"""What the names of all queues start with; all other destinations are topics."""
_WILD = frozenset({b"*", b"#", b">"})
T = TypeVar("T")


def split(destination: bytes) -> list[bytes]:
    """The words of a destination or pattern."""
    if destination.startswith(b"/"):
        end = destination.find(b"/", 1) + 1
        if end:
            return [destination[:end], *destination[end:].split(b".")]
    return destination.split(b".")


def is_pattern(destination: bytes) -> bool:
    """Whether any word of `destination` is a wildcard."""
    if b"*" not in destination and b"#" not in destination and b">" not in destination:
        return False
    return not _WILD.isdisjoint(split(destination))


def check_destination(destination: bytes, max_bytes: int, *, pattern_allowed: bool) -> None:
    """Raise StompError `bad-destination` for an empty or over-long destination, control characters, a wildcard
    where none may stand, a `>` that is not last, or a temporary destination that no client can have."""
    problem = None
    if not destination:
        problem = "it is empty"
    elif len(destination) > max_bytes:
        problem = f"it has {len(destination)} bytes, the limit is {max_bytes} (limits.destination_bytes)"
    elif b"\n" in destination or b"\r" in destination or b"\0" in destination:
        problem = "it holds a line break or NUL"
    elif destination == QUEUE:
        problem = "the name of the queue is missing"
    elif destination.startswith(TEMPORARY) and (is_pattern(destination) or not is_address(destination)):
        problem = "the name of a temporary destination has no '/' and is no pattern; only its session may stand before"
    elif is_pattern(destination):
        if destination.startswith(QUEUE):
            problem = "a subscription takes one queue, not a pattern; '*', '#' and '>' are for topics"
        elif not pattern_allowed:
            problem = "a message goes to one destination, not to a pattern; '*', '#' and '>' are for SUBSCRIBE"
        elif b">" in split(destination)[:-1]:
            problem = "'>' may only be the last word; '#' stands for any words in the middle"
    if problem:
        shown = destination[:80].decode(errors="replace")
        raise StompError(ErrorCode.BAD_DESTINATION, "bad destination", f"destination {shown!r}: {problem}")


def literal_prefix(pattern: bytes) -> bytes:
    """What every destination that `pattern` matches starts with."""
    words = split(pattern)
    head = b""
    for number, word in enumerate(words):
        if word in _WILD:
            # '#' may stand for no word at all, and then not even the dot before it is there.
            return head[:-1] if word == b"#" and head.endswith(b".") else head
        last = number == len(words) - 1
        kind = number == 0 and word.startswith(b"/") and word.endswith(b"/") and len(word) > 1
        head += word if last or kind else word + b"."
    return head


def dead_letter_queue(template: str, queue: str) -> str | None:
    """The queue for what failed in `queue`, None for none. In `template`, `{name}` stands for the queue's name without
    its /queue/.

    Queues that dead letters go to have none of their own, else a message that fails everywhere would go on for ever:
    those that `template` makes, and all that start with /queue/dlq.
    """
    if not template or queue.startswith("/queue/dlq."):
        return None
    before, by_name, after = template.partition("{name}")
    if not by_name:
        return template if queue != template else None
    if len(queue) > len(before + after) and queue.startswith(before) and queue.endswith(after):
        return None
    return before + queue.removeprefix("/queue/") + after


class _Node(Generic[T]):
    """`stays` if it stands for a `#`, which takes one more word without leaving it."""

    __slots__ = ("children", "stays", "values")

    def __init__(self, *, stays: bool = False) -> None:
        self.children: dict[bytes, _Node[T]] = {}
        self.values: list[T] = []
        self.stays = stays


class PatternTrie(Generic[T]):
    """Values filed under patterns, found by the destinations that match."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: bytes, value: T) -> None:
        node = self._root
        for word in split(pattern):
            node = node.children.setdefault(word, _Node(stays=word == b"#"))
        node.values.append(value)

    def remove(self, pattern: bytes, value: T) -> None:
        """Raises ValueError if `value` is not filed under `pattern`."""
        path = [self._root]
        words = split(pattern)
        for word in words:
            child = path[-1].children.get(word)
            if child is None:
                raise ValueError(pattern)
            path.append(child)
        path[-1].values.remove(value)
        for parent, word, node in zip(path[-2::-1], reversed(words), path[:0:-1], strict=True):
            if node.values or node.children:
                break
            del parent.children[word]

    def match(self, destination: bytes) -> list[T]:
        """The values of every pattern that matches, each once."""
        # All patterns at once, word by word: a step costs as many nodes as are reached, so a pattern of many '#' costs
        # its length for each word and no more.
        found: dict[_Node[T], None] = {}
        reached: dict[_Node[T], None] = {}
        _reach(self._root, reached)
        for word in split(destination):
            before, reached = reached, {}
            for node in before:
                if node.stays:
                    _reach(node, reached)
                children = node.children
                if b">" in children:
                    found[children[b">"]] = None
                for key in (word, b"*"):
                    child = children.get(key)
                    if child is not None:
                        _reach(child, reached)
        found.update(reached)
        return [value for node in found for value in node.values]


def _reach(node: _Node[T] | None, reached: dict[_Node[T], None]) -> None:
    # A '#' behind it is reached too, since that may stand for no word.
    while node is not None and node not in reached:
        reached[node] = None
        node = node.children.get(b"#")
