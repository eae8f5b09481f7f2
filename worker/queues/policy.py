"""What the configuration says about each queue and topic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.config import Config, Destination, WhenFull
from common.destination import PatternTrie, dead_letter_queue
from common.temporary import TEMPORARY

__all__ = ["DEFAULT_POLICY", "Policies", "QueuePolicy"]

_MAX_FOUND = 65536
"""Destinations whose policy is remembered; beyond, all are forgotten and found again as they come."""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """The rules for one destination; sizes in bytes, 0 for no limit."""

    persistent: bool
    max_messages: int
    max_bytes: int
    when_full: WhenFull
    prefetch: int
    redelivery_limit: int
    """How often a message is delivered again before it is a dead letter; 0 for no limit."""
    redelivery_delay_ms: int
    redelivery_delay_max_ms: int
    dead_letter: str
    """The name of the dead letter queue, `{name}` in it for the queue's own; empty for none."""
    expired_dead_letter: bool
    """Whether what expires becomes a dead letter."""
    retain: bool
    """Whether the last message is kept for those who subscribe later."""

    @classmethod
    def of(cls, rule: Destination) -> QueuePolicy:
        return cls(
            persistent=rule.persistent,
            max_messages=rule.max_messages,
            max_bytes=rule.max_bytes,
            when_full=rule.when_full,
            prefetch=rule.prefetch,
            redelivery_limit=rule.redelivery_limit,
            redelivery_delay_ms=round(rule.redelivery_delay * 1000),
            redelivery_delay_max_ms=round(rule.redelivery_delay_max * 1000),
            dead_letter=rule.dead_letter,
            expired_dead_letter=rule.expired == "dead-letter",
            retain=rule.retain == "last",
        )

    @property
    def rejects(self) -> bool:
        """Whether a message may be refused."""
        return self.when_full == "reject" and bool(self.max_messages or self.max_bytes)

    def dead_letter_for(self, name: str) -> str | None:
        """The destination for what fails in the queue `name` (`/queue/...`); None for none, so that it is dropped. Dead
        letter queues have none themselves."""
        return dead_letter_queue(self.dead_letter, name)


DEFAULT_POLICY = QueuePolicy.of(Destination(pattern="#"))
"""For destinations no rule is for."""


class Policies:
    """Which policy is for which destination: that of the first of `rules` (pattern, policy) that matches."""

    def __init__(self, rules: Iterable[tuple[bytes, QueuePolicy]] = ()) -> None:
        self._rules: PatternTrie[int] = PatternTrie()
        self._policies: list[QueuePolicy] = []
        for number, (pattern, policy) in enumerate(rules):
            self._rules.add(pattern, number)
            self._policies.append(policy)
        self._found: dict[bytes, QueuePolicy] = {}
        self.retains = any(policy.retain for policy in self._policies)
        """Whether any has topics keep their last message."""
        self.rejects = any(policy.rejects for policy in self._policies)
        """Whether any has messages refused."""

    @classmethod
    def of(cls, config: Config) -> Policies:
        return cls((rule.pattern.encode(), QueuePolicy.of(rule)) for rule in config.destination)

    def find(self, destination: bytes) -> QueuePolicy:
        policy = self._found.get(destination)
        if policy is None:
            if len(self._found) >= _MAX_FOUND:
                self._found.clear()
            numbers = self._rules.match(destination)
            policy = self._policies[min(numbers)] if numbers else DEFAULT_POLICY
            # What is temporary is looked up when it is made, and by a name that never comes again.
            if not destination.startswith(TEMPORARY):
                self._found[destination] = policy
        return policy
