"""Destinations, found by the patterns that match them: the other way round than `common.destination.PatternTrie`."""

from __future__ import annotations

from collections.abc import Iterator

from common.destination import split

__all__ = ["DestinationTree"]


class _Node:
    __slots__ = ("children", "destination")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.destination: bytes | None = None


class DestinationTree:
    def __init__(self) -> None:
        self._root = _Node()

    def add(self, destination: bytes) -> None:
        node = self._root
        for word in split(destination):
            node = node.children.setdefault(word, _Node())
        node.destination = destination

    def remove(self, destination: bytes) -> None:
        """Without effect for one that is not there."""
        path = [self._root]
        words = split(destination)
        for word in words:
            child = path[-1].children.get(word)
            if child is None:
                return
            path.append(child)
        path[-1].destination = None
        for parent, word, node in zip(path[-2::-1], reversed(words), path[:0:-1], strict=True):
            if node.destination is not None or node.children:
                break
            del parent.children[word]

    def match(self, pattern: bytes) -> Iterator[bytes]:
        """The destinations that `pattern` matches, each once, as they are asked for: of those that come and go
        meanwhile, some may be missing, and some that are gone be there."""
        words = split(pattern)
        if words[-1] == b">":
            words[-1:] = [b"*", b"#"]
        # Like the states of a regular expression: how many words of the pattern are behind us, in every possible way.
        waiting = [(self._root, _closed({0}, words))]
        while waiting:
            node, places = waiting.pop()
            if len(words) in places and node.destination is not None:
                yield node.destination
            ahead = [(place, words[place]) for place in places if place < len(words)]
            if any(word in (b"*", b"#") for _, word in ahead):
                steps = list(node.children.items())
            else:
                steps = [(word, node.children[word]) for word in {word for _, word in ahead} if word in node.children]
            for step, child in reversed(steps):
                fitting = [(place, word) for place, word in ahead if word in (b"*", b"#", step)]
                reached = {place if word == b"#" else place + 1 for place, word in fitting}
                if reached:
                    waiting.append((child, _closed(reached, words)))


def _closed(places: set[int], words: list[bytes]) -> set[int]:
    """With the places that a `#` which stands for no word leads to."""
    for place in sorted(places):
        while place < len(words) and words[place] == b"#":
            place += 1
            places.add(place)
    return places
