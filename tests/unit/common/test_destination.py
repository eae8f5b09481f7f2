"""Destinations and patterns, the trie against a model that tries every pattern by itself."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.destination import PatternTrie, check_destination, is_pattern, literal_prefix, split
from common.errors import ErrorCode, StompError

laws = settings(max_examples=400, deadline=None)
KINDS = st.sampled_from([b"", b"/topic/", b"/a/", b"//", b"/"])
WORDS = st.sampled_from([b"a", b"b", b"", b"/", b"a*", b"#b", b"ab"])
destinations = st.builds(lambda kind, words: kind + b".".join(words), KINDS, st.lists(WORDS, max_size=5))
patterns = st.builds(
    lambda kind, words, tail: kind + b".".join([*words, *tail]),
    KINDS,
    st.lists(st.one_of(WORDS, st.sampled_from([b"*", b"#", b"#"])), max_size=5),
    st.sampled_from([[], [], [b">"]]),
)


def matches(pattern: list[bytes], words: list[bytes]) -> bool:
    """The model: what the module's docstring says of the three wildcards, one pattern at a time."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == b"#":
        return any(matches(rest, words[skip:]) for skip in range(len(words) + 1))
    if first == b">":
        return len(words) >= 1
    return bool(words) and first in (words[0], b"*") and matches(rest, words[1:])


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        (b"/topic/a.b", [b"/topic/", b"a", b"b"]),
        (b"/topic/", [b"/topic/", b""]),
        (b"/topic", [b"/topic"]),
        (b"a.b", [b"a", b"b"]),
        (b"a/b.c", [b"a/b", b"c"]),
        (b"/topic/a/b..c", [b"/topic/", b"a/b", b"", b"c"]),
        (b"//a", [b"//", b"a"]),
        (b"", [b""]),
    ],
)
def test_split(destination: bytes, words: list[bytes]) -> None:
    assert split(destination) == words


@laws
@given(destinations)
def test_split_loses_nothing(destination: bytes) -> None:
    first, *rest = split(destination)
    kind = len(first) > 1 and first.startswith(b"/") and first.endswith(b"/")
    assert (first + b".".join(rest) if kind else b".".join([first, *rest])) == destination


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (b"/topic/*", [b"/topic/a", b"/topic/"], [b"/topic", b"/topic/a.b", b"/other/a"]),
        (b"/topic/a.*.c", [b"/topic/a.b.c", b"/topic/a..c"], [b"/topic/a.c", b"/topic/a.b.b.c"]),
        (b"/topic/>", [b"/topic/a", b"/topic/a.b"], [b"/topic", b"/other/a"]),
        (b"/topic/a.>", [b"/topic/a.b", b"/topic/a.b.c"], [b"/topic/a"]),
        (b"/topic/a.#", [b"/topic/a", b"/topic/a.b.c"], [b"/topic/ab"]),
        (b"/topic/#.c", [b"/topic/c", b"/topic/a.b.c"], [b"/topic/a.b"]),
        (b"#", [b"/topic/a", b"a", b"a.b"], []),
        (b">", [b"/topic/a", b"a"], []),
    ],
)
def test_examples(pattern: bytes, yes: list[bytes], no: list[bytes]) -> None:
    trie: PatternTrie[int] = PatternTrie()
    trie.add(pattern, 1)
    assert [each for each in [*yes, *no] if trie.match(each) == [1]] == yes


@laws
@given(st.lists(patterns, max_size=8), st.lists(destinations, min_size=1, max_size=5), st.data())
def test_trie_is_the_model(filed: list[bytes], asked: list[bytes], choice: st.DataObject) -> None:
    trie: PatternTrie[int] = PatternTrie()
    left = dict(enumerate(filed))
    for number, pattern in left.items():
        trie.add(pattern, number)
    for number in choice.draw(st.lists(st.sampled_from(range(len(filed))), unique=True) if filed else st.just([])):
        trie.remove(left.pop(number), number)
    for destination in asked:
        words = split(destination)
        expected = [number for number, pattern in left.items() if matches(split(pattern), words)]
        assert sorted(trie.match(destination)) == expected
    for number, pattern in left.items():
        trie.remove(pattern, number)
    assert not trie._root.children, "what is removed leaves memory behind"


def test_remove_of_what_is_not_there() -> None:
    trie: PatternTrie[int] = PatternTrie()
    trie.add(b"/topic/a.*", 1)
    for pattern, value in [(b"/topic/a.*", 2), (b"/topic/a", 1), (b"/topic/a.*.b", 1)]:
        with pytest.raises(ValueError):
            trie.remove(pattern, value)
    assert trie.match(b"/topic/a.b") == [1]


@laws
@given(patterns, destinations)
def test_what_a_pattern_matches_starts_with_its_literal_prefix(pattern: bytes, destination: bytes) -> None:
    if matches(split(pattern), split(destination)):
        assert destination.startswith(literal_prefix(pattern))


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        (b"/topic/a.*", b"/topic/a."),
        (b"/topic/a.#", b"/topic/a"),
        (b"/topic/a.>", b"/topic/a."),
        (b"/topic/#", b"/topic/"),
        (b"/topic/*.a", b"/topic/"),
        (b"a.b.*", b"a.b."),
        (b"#.a", b""),
        (b"/topic/a.b", b"/topic/a.b"),
    ],
)
def test_literal_prefix_is_as_long_as_it_can_be(pattern: bytes, prefix: bytes) -> None:
    assert literal_prefix(pattern) == prefix


@pytest.mark.parametrize("word", [b"#", b"#.a", b"#.*", b"*.#"])
def test_many_wildcards_cost_their_length_per_word_and_no_more(word: bytes) -> None:
    count = 1000 // (len(word) + 1)
    trie: PatternTrie[int] = PatternTrie()
    trie.add(b"/topic/" + b".".join([word] * count) + b".x", 1)
    start = time.process_time()
    assert trie.match(b"/topic/" + b".".join([b"a"] * 500)) == []
    # A tenth of a second at most; trying each way for each word takes minutes, or the interpreter's stack.
    assert time.process_time() - start < 3


def test_pattern_far_beyond_the_recursion_limit() -> None:
    trie: PatternTrie[int] = PatternTrie()
    pattern = b".".join([b"a"] * 5000) + b".#"
    trie.add(pattern, 1)
    assert trie.match(b".".join([b"a"] * 5001)) == [1]
    trie.remove(pattern, 1)


@pytest.mark.parametrize(
    ("destination", "is_one"),
    [(b"/topic/*", True), (b"/topic/a*", False), (b"#", True), (b"/*/a", False), (b"/topic/a.>", True), (b"a", False)],
)
def test_is_pattern(destination: bytes, is_one: bool) -> None:
    assert is_pattern(destination) is is_one


@pytest.mark.parametrize("pattern_allowed", [False, True])
@pytest.mark.parametrize("bad", [b"", b"a\nb", b"a\rb", b"a\0b", b"x" * 21])
def test_bad_destination(bad: bytes, pattern_allowed: bool) -> None:
    assert _fault(bad, pattern_allowed) is ErrorCode.BAD_DESTINATION


def test_destination_limit_is_exact() -> None:
    assert _fault(b"x" * 20, False) is None
    assert _fault(b"x" * 21, False) is ErrorCode.BAD_DESTINATION


@pytest.mark.parametrize("pattern", [b"/topic/*", b"/topic/#.a", b"/topic/a.>", b"#", b">"])
def test_pattern_only_where_one_is_allowed(pattern: bytes) -> None:
    assert _fault(pattern, True) is None
    assert _fault(pattern, False) is ErrorCode.BAD_DESTINATION


@pytest.mark.parametrize("pattern", [b"/topic/>.a", b">.>", b">.*"])
def test_tail_wildcard_is_the_last_word(pattern: bytes) -> None:
    assert _fault(pattern, True) is ErrorCode.BAD_DESTINATION


@pytest.mark.parametrize("pattern_allowed", [False, True])
def test_a_queue_has_a_name_and_that_is_no_pattern(pattern_allowed: bool) -> None:
    assert _fault(b"/queue/a", pattern_allowed) is None
    assert _fault(b"/queue/a*.b", pattern_allowed) is None
    assert _fault(b"/queue/", pattern_allowed) is ErrorCode.BAD_DESTINATION
    assert _fault(b"/queue/a.*", pattern_allowed) is ErrorCode.BAD_DESTINATION
    assert _fault(b"/queues/", pattern_allowed) is None
    assert _fault(b"/queues/*", pattern_allowed) is (None if pattern_allowed else ErrorCode.BAD_DESTINATION)


def _fault(destination: bytes, pattern_allowed: bool) -> ErrorCode | None:
    try:
        check_destination(destination, 20, pattern_allowed=pattern_allowed)
    except StompError as error:
        return error.code
    return None
