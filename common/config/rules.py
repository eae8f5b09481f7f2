"""Finds what cannot be meant in the rules for destinations, taken together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.config.delivery import Destination
from common.config.mistakes import Location, dotted
from common.destination import PatternTrie, dead_letter_queue, literal_prefix, split

__all__ = ["rule_mistakes"]

_DEFAULT_DEAD_LETTER: str = Destination.model_fields["dead_letter"].default


def rule_mistakes(rules: Sequence[Destination]) -> Iterator[tuple[Location, str, str]]:
    """Where the mistake is, what is wrong, and what is allowed."""
    patterns: dict[str, Location] = {}
    trie: PatternTrie[int] = PatternTrie()
    for index, rule in enumerate(rules):
        trie.add(rule.pattern.encode(), index)
    for index, rule in enumerate(rules):
        where: Location = ("destination", index)
        place: Location = (*where, "pattern")
        first = patterns.setdefault(rule.pattern, place)
        if first != place:
            yield place, f"never used, since {dotted(first)} is the same and the first match wins", "each pattern once"
        if rule.retain != "none" and split(rule.pattern.encode())[0] in (b"/queue/", b"/temp-queue/"):
            yield (*where, "retain"), "of no use: a queue keeps every message until it is consumed", '"none" for queues'
        if rule.when_full != "block" and not rule.max_messages and not rule.max_bytes:
            limits = f"{dotted((*where, 'max_messages'))} or {dotted((*where, 'max_bytes'))}"
            yield (*where, "when_full"), "of no use: without a limit no queue is ever full", f"together with {limits}"
        if rule.expired == "dead-letter" and not rule.dead_letter:
            problem = f"{dotted((*where, 'dead_letter'))} says that there is no queue for them"
            yield (*where, "expired"), problem, '"drop", or a dead letter queue'
        if rule.dead_letter != _DEFAULT_DEAD_LETTER and rule.dead_letter:
            place = (*where, "dead_letter")
            if literal_prefix(rule.pattern.encode()).startswith(b"/queue/dlq."):
                yield place, "of no use: a queue whose name starts with /queue/dlq. has none", '"" for such queues'
            elif circle := _circle(rules, trie, index):
                allowed = "queues of which none leads back to where a message came from"
                yield place, f"what fails everywhere would go on for ever: {circle}", allowed


def _circle(rules: Sequence[Destination], trie: PatternTrie[int], index: int) -> str:
    """The way of a message that fails everywhere, from a queue that rule `index` is for; empty if it ends."""
    way = [_example(rules[index].pattern)]
    # A way that is longer than there are rules comes to one of them again, and again.
    while len(way) <= 2 * len(rules) + 1:
        found = min(trie.match(way[-1].encode()), default=None)
        template = _DEFAULT_DEAD_LETTER if found is None else rules[found].dead_letter
        following = dead_letter_queue(template, way[-1])
        if following is None:
            return ""
        way.append(following)
    return " -> ".join(way[:4])


def _example(pattern: str) -> str:
    """A name that matches."""
    words = [b"x" if word in (b"*", b"#", b">") else word for word in split(pattern.encode())]
    kind = words.pop(0) if words[0].startswith(b"/") and words[0].endswith(b"/") and len(words) > 1 else b""
    return (kind + b".".join(words)).decode()
