"""What may change while the broker runs: every key is marked, and a cold one is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from common.config import Config, ConfigError, Destination, Listener, changes, check_reload
from common.config.keys import KEYS
from common.config.kinds import Choice, Effect, Kind

COLD = {
    *("broker.workers", "broker.data_dir", "broker.runtime_dir"),
    *("listener.bind", "listener.backlog"),
    *("backplane.high_water_mark", "backplane.retry_interval", "backplane.kept_bytes", "backplane.kept_total_bytes"),
    *("store.wal_bytes", "store.retry_interval"),
    "log.format",
    "management.bind",
    "management.hosts",
}

RUNNING = Config.model_validate(
    {
        "listener": [{"bind": "127.0.0.1:1"}, {"bind": "127.0.0.1:2"}],
        "destination": [{"pattern": "/topic/one"}, {"pattern": "/topic/two"}],
    }
)


def another(kind: Kind, value: Any) -> Any:
    """A sound value of that kind which is not `value`."""
    candidates: list[Any] = [*kind.options] if isinstance(kind, Choice) else []
    candidates += [
        30,
        1,
        "/queue/failed",
        0.5,
        2.5,
        1024,
        4096,
        3 << 20,
        True,
        False,
        "127.0.0.1:3",
        ["a.example"],
        "elsewhere",
    ]
    for candidate in candidates:
        try:
            found = kind.parse(candidate)
        except ValueError:
            continue
        if found != value:
            return found
    raise AssertionError(f"no other value for {kind}")


def changed(name: str, index: int = 0) -> tuple[Config, str]:
    """`RUNNING` with another value of that key (of the table `index` of its list), and the place of the change."""
    data = RUNNING.model_dump(mode="json")
    first, *middle, last = name.split(".")
    holder, place = data[first], first
    if isinstance(holder, list):
        holder, place = holder[index], f"{first}[{index}]"
    for part in middle:
        holder, place = holder[part], f"{place}.{part}"
    holder[last] = another(KEYS[name].kind, KEYS[name].kind.parse(holder[last]))
    return Config.model_validate(data), f"{place}.{last}"


def refused(new: Config, old: Config = RUNNING) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_reload(old, new)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_the_cold_keys_are_those_agreed_on() -> None:
    assert {name for name, key in KEYS.items() if key.effect is Effect.COLD} == COLD


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", sorted(COLD))
def test_changing_one_cold_key_is_refused_by_that_key(name: str, index: int) -> None:
    new, place = changed(name, index)
    (line,) = refused(new)
    assert line.startswith(f"{place} = ") and ": needs a restart; the broker runs with " in line
    assert changes(RUNNING, new) == [place]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", sorted(set(KEYS) - COLD))
def test_changing_one_hot_key_is_accepted_and_named(name: str, index: int) -> None:
    new, place = changed(name, index)
    check_reload(RUNNING, new)
    assert changes(RUNNING, new) == [place]


def test_the_same_again_is_no_change() -> None:
    again = Config.model_validate(RUNNING.model_dump(mode="json"))
    check_reload(RUNNING, again)
    assert changes(RUNNING, again) == []


def test_every_cold_key_is_named_and_hot_ones_beside_them_are_not() -> None:
    data = RUNNING.model_dump(mode="json")
    data["broker"]["workers"] = 3
    data["broker"]["runtime_dir"] = "/run/elsewhere"
    data["limits"]["body_bytes"] = 1
    data["log"] = {"format": "json", "level": "debug"}
    assert refused(Config.model_validate(data)) == [
        'broker.workers = 3: needs a restart; the broker runs with "auto"',
        'broker.runtime_dir = "/run/elsewhere": needs a restart; the broker runs with unset',
        'log.format = "json": needs a restart; the broker runs with "console"',
    ]


def test_listeners_do_not_come_or_go() -> None:
    more = RUNNING.model_copy(update={"listener": (Listener(bind="127.0.0.1:9"), *RUNNING.listener)})
    assert refused(more) == ["listener = 3 tables: needs a restart; the broker runs with 2 tables"]
    fewer = RUNNING.model_copy(update={"listener": RUNNING.listener[1:]})
    assert refused(fewer) == ["listener = 1 table: needs a restart; the broker runs with 2 tables"]


@pytest.mark.parametrize("rules", [(), (Destination(pattern="/topic/three"),), (*RUNNING.destination,) * 2])
def test_rules_for_destinations_come_and_go(rules: tuple[Destination, ...]) -> None:
    new = RUNNING.model_copy(update={"destination": rules})
    check_reload(RUNNING, new)
    assert changes(RUNNING, new) == ["destination"]
