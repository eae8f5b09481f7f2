"""A temporary queue, as its owner has it: in memory, kept while its connection is there, and nothing left behind."""

from __future__ import annotations

import pytest

from common.config import Config
from worker.queues.policy import Policies
from worker.queues.registry import Registry
from worker.settings import QueueSettings
from worker.store.interface import Unit

NAME = b"/temp-queue/0-0.1-1/a"
NOW = 1_800_000_000_000
LATER = 1 << 50


@pytest.fixture
def settings() -> QueueSettings:
    return QueueSettings.of(Config())


def test_it_is_never_idle(settings: QueueSettings) -> None:
    registry = Registry(settings, Policies())
    temporary = registry.find(NAME, NOW, volatile=True)
    other = registry.find(b"/queue/a", NOW)
    assert temporary is not None and other is not None
    registry.look_at(temporary, NOW)
    assert registry.idle(LATER) == [other]


def test_the_store_knows_only_of_what_spilled(settings: QueueSettings) -> None:
    registry = Registry(settings, Policies())
    owned = registry.find(NAME, NOW, volatile=True)
    assert owned is not None
    unit = Unit()
    owned.add(unit, b"p-", [b"%d\n\n\0" % n for n in range(settings.window_messages)], None, NOW)
    assert (unit, owned.told) == (Unit(), False)
    owned.add(unit, b"p-", [b"x\n\n\0"], None, NOW)
    assert len(unit.inserts) == 1 and len(unit.changes) == 1
    assert owned.told
