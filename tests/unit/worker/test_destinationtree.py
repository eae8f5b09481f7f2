"""Destinations by the patterns that match them: the same as the patterns by the destinations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.destination import PatternTrie
from worker.destinationtree import DestinationTree

WORDS = st.sampled_from([b"a", b"b", b"", b"c"])
KINDS = st.sampled_from([b"/topic/", b"/x/", b""])
DESTINATIONS = st.builds(
    lambda kind, words: kind + b".".join(words), KINDS, st.lists(WORDS, min_size=1, max_size=4)
).filter(bool)
PATTERNS = st.builds(
    lambda kind, words, last: kind + b".".join([*words, *last]),
    KINDS,
    st.lists(WORDS | st.sampled_from([b"*", b"#"]), max_size=4),
    st.sampled_from([[], [b">"], [b"a"]]),
).filter(bool)


def matches(pattern: bytes, destination: bytes) -> bool:
    trie: PatternTrie[int] = PatternTrie()
    trie.add(pattern, 1)
    return bool(trie.match(destination))


@given(st.lists(DESTINATIONS, max_size=15), st.lists(DESTINATIONS, max_size=5), PATTERNS)
def test_it_finds_what_the_trie_of_patterns_would(added: list[bytes], removed: list[bytes], pattern: bytes) -> None:
    tree = DestinationTree()
    for each in added:
        tree.add(each)
    for each in removed:
        tree.remove(each)
    expected = {each for each in added if each not in removed and matches(pattern, each)}
    found = list(tree.match(pattern))
    assert sorted(found) == sorted(expected)


def test_nothing_is_left_of_what_was_removed() -> None:
    tree = DestinationTree()
    for name in (b"/topic/a.b", b"/topic/a.b.c", b"/topic/a"):
        tree.add(name)
    for name in (b"/topic/a.b", b"/topic/a", b"/topic/nothing", b"/topic/a.b.c"):
        tree.remove(name)
    assert not tree._root.children


def test_one_that_goes_while_they_are_asked_for_harms_nothing() -> None:
    tree = DestinationTree()
    names = [b"/topic/%d" % number for number in range(10)]
    for name in names:
        tree.add(name)
    found = tree.match(b"/topic/>")
    first = next(found)
    for name in names:
        tree.remove(name)
        tree.add(name + b".x")
    assert {first, *found} >= {first} and first in names
