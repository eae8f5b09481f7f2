"""Putting the configuration together, and telling every mistake."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from common.config import Config, ConfigError, Mistake, load_config
from common.config.keys import KEYS
from common.config.reference import render_example

OTHER_VALUES: dict[str, tuple[str, Any]] = {
    "broker.workers": ("3", 3),
    "broker.data_dir": ("/srv/data", Path("/srv/data")),
    "broker.runtime_dir": ("/run/s", Path("/run/s")),
    "broker.drain_timeout": ("5s", 5.0),
    "broker.announce_version": ("false", False),
    "listener.bind": ("[::1]:0", "[::1]:0"),
    "listener.backlog": ("7", 7),
    "listener.hosts": ("a.example, b", ("a.example", "b")),
    "listener.connect_timeout": ("1m", 60.0),
    "listener.heart_beat.wish": ("20s", 20.0),
    "listener.heart_beat.minimum": ("100ms", 0.1),
    "listener.heart_beat.maximum": ("30s", 30.0),
    "listener.heart_beat.send_factor": ("0.25", 0.25),
    "listener.heart_beat.receive_factor": ("3", 3.0),
    "limits.connections": ("99", 99),
    "destination.pattern": ('[{pattern = "a"}]', "a"),
    "destination.slow_consumer": ('[{pattern = "a", slow_consumer = "drop"}]', "drop"),
    "destination.persistent": ('[{pattern = "a", persistent = false}]', False),
    "destination.max_messages": ('[{pattern = "a", max_messages = 5}]', 5),
    "destination.max_bytes": ('[{pattern = "a", max_bytes = "5kB"}]', 5000),
    "destination.when_full": ('[{pattern = "a", when_full = "reject", max_bytes = 5}]', "reject"),
    "destination.prefetch": ('[{pattern = "a", prefetch = 1}]', 1),
    "destination.redelivery_limit": ('[{pattern = "a", redelivery_limit = 0}]', 0),
    "destination.redelivery_delay": ('[{pattern = "a", redelivery_delay = "2s"}]', 2.0),
    "destination.redelivery_delay_max": ('[{pattern = "a", redelivery_delay_max = "1m"}]', 60.0),
    "destination.dead_letter": ('[{pattern = "a", dead_letter = "/queue/failed"}]', "/queue/failed"),
    "destination.expired": ('[{pattern = "a", expired = "dead-letter"}]', "dead-letter"),
    "destination.retain": ('[{pattern = "a", retain = "last"}]', "last"),
    "queue.window_bytes": ("3MiB", 3 << 20),
    "queue.idle_timeout": ("3s", 3.0),
    "queue.handoff_bytes": ("3MiB", 3 << 20),
    "queue.idempotency_window": ("1h", 3600.0),
    "store.quota_bytes": ("3GB", 3 * 10**9),
    "store.pending_bytes": ("3MiB", 3 << 20),
    "store.wal_bytes": ("3MiB", 3 << 20),
    "store.retry_interval": ("3s", 3.0),
    "outbox.high_bytes": ("3MiB", 3 << 20),
    "outbox.low_bytes": ("2MiB", 2 << 20),
    "outbox.max_bytes": ("32MiB", 32 << 20),
    "outbox.block_timeout": ("3s", 3.0),
    "outbox.linger": ("3s", 3.0),
    "backplane.retry_interval": ("30ms", 0.03),
    "supervision.ping_interval": ("3s", 3.0),
    "supervision.hang_timeout": ("3s", 3.0),
    "supervision.start_timeout": ("3s", 3.0),
    "supervision.backoff_initial": ("3s", 3.0),
    "supervision.backoff_max": ("3s", 3.0),
    "management.bind": ("[::1]:0", "[::1]:0"),
    "management.hosts": ("a.example, b", ("a.example", "b")),
    "log.format": ("json", "json"),
    "log.level": ("debug", "debug"),
}
"""For each key a text other than its default, and what it means; `48` or `30000` for counts and sizes not listed."""


def value_at(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
        value = value[0] if part in ("listener", "destination") else value
    return value


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "stampede.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def mistakes(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {}, overrides or {})
    for mistake in caught.value.mistakes:
        assert "\n" not in str(mistake)
    assert str(caught.value).splitlines() == [str(mistake) for mistake in caught.value.mistakes]
    return caught.value.mistakes


def keys(found: tuple[Mistake, ...]) -> list[str]:
    return [mistake.key for mistake in found]


def test_without_anything_there_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(None, {"PATH": "/bin"}, {}) == Config()
    assert load_config(write(tmp_path, ""), {}, {}) == Config()


def test_a_file_of_the_defaults_is_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, render_example()), {}, {})
    assert config.model_copy(update={"destination": ()}) == Config()
    assert config.destination[0].slow_consumer == "block"


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
def test_every_documented_key_is_set_by_its_variable(key: Any) -> None:
    fallback = ("48", 48) if key.kind.unit != "bytes" else ("300B", 300)
    text, value = OTHER_VALUES.get(key.name, fallback)
    if key.name in ("limits.header_line_bytes", "limits.head_bytes"):
        text, value = "17KiB", 17 << 10
    if key.name == "limits.command_bytes":
        text, value = "48", 48
    config = load_config(None, {key.variable: text}, {})
    assert value_at(config, key.name) == value
    if not key.required:
        assert value != key.default


@pytest.mark.parametrize("name", [name for name in KEYS if not name.startswith("destination.")])
def test_every_key_is_set_by_an_override(name: str) -> None:
    fallback = ("17KiB", 17 << 10) if KEYS[name].kind.unit == "bytes" else ("48", 48)
    text, value = OTHER_VALUES.get(name, fallback)
    if name in ("limits.command_bytes", "limits.destination_bytes", "limits.login_head_bytes"):
        text, value = "48" if name == "limits.command_bytes" else "500B", 0
        value = 48 if name == "limits.command_bytes" else 500
    override: object = [text] if name == "listener.bind" else text
    assert value_at(load_config(None, {}, {name: override}), name) == value


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, '[log]\nlevel = "debug"\n[broker]\nworkers = 2\ndrain_timeout = 3\n')
    environ = {"STAMPEDE_LOG_LEVEL": "warning", "STAMPEDE_BROKER_WORKERS": "3"}
    config = load_config(path, environ, {"log.level": "error", "log.format": None})
    assert (config.log.level, config.broker.workers, config.broker.drain_timeout) == ("error", 3, 3.0)
    assert config.log.format == "console"


def test_a_bind_variable_makes_the_listeners_like_the_first_one(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[[listener]]\nbind = "127.0.0.1:1"\nbacklog = 9\n[listener.heart_beat]\nwish = "5s"\n'
        '[[listener]]\nbind = "127.0.0.1:2"\nbacklog = 8\n',
    )
    config = load_config(path, {"STAMPEDE_BIND": "127.0.0.1:0, [::1]:0,127.0.0.1:7"}, {})
    assert [listener.bind for listener in config.listener] == ["127.0.0.1:0", "[::1]:0", "127.0.0.1:7"]
    assert {(listener.backlog, listener.heart_beat.wish) for listener in config.listener} == {(9, 5.0)}
    config = load_config(path, {"STAMPEDE_BIND": "127.0.0.1:5"}, {"listener.bind": ["127.0.0.1:6"]})
    assert [listener.bind for listener in config.listener] == ["127.0.0.1:6"]


def test_bind_and_listener_variables_go_together() -> None:
    environ = {"STAMPEDE_BIND": "127.0.0.1:1,127.0.0.1:2", "STAMPEDE_LISTENER_BACKLOG": "5"}
    assert [each.backlog for each in load_config(None, environ, {}).listener] == [5, 5]
    overrides = {"listener.bind": ["[::1]:3"], "listener.backlog": 6}
    assert [(each.bind, each.backlog) for each in load_config(None, environ, overrides).listener] == [("[::1]:3", 6)]


def test_a_listener_variable_is_for_every_listener(tmp_path: Path) -> None:
    path = write(tmp_path, '[[listener]]\nbind = "127.0.0.1:1"\n[[listener]]\nbind = "127.0.0.1:2"\n')
    config = load_config(path, {"STAMPEDE_LISTENER_BACKLOG": "5", "STAMPEDE_LISTENER_HEART_BEAT_WISH": "0"}, {})
    assert [(each.backlog, each.heart_beat.wish) for each in config.listener] == [(5, 0.0), (5, 0.0)]
    (mistake,) = mistakes(path, {"STAMPEDE_LISTENER_BACKLOG": "none"})
    assert (mistake.key, mistake.source) == ("listener[0].backlog", "STAMPEDE_LISTENER_BACKLOG")


def test_systemd_s_runtime_directory_is_the_weakest_source(tmp_path: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/stampede:/run/other"}
    assert load_config(None, environ, {}).broker.runtime_dir == Path("/run/stampede")
    path = write(tmp_path, '[broker]\nruntime_dir = "/run/mine"\n')
    assert load_config(path, environ, {}).broker.runtime_dir == Path("/run/mine")


def test_all_mistakes_are_told_at_once_each_with_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [broker]
        workers = 0
        [[listener]]
        [listener.heart_beat]
        minimum = "2h"
        [[listener]]
        bind = "localhost"
        [limits]
        body_bytes = "12 parsecs"
        [[destination]]
        slow_consumer = "maybe"
        [outbox]
        high_bytes = "2KiB"
        block_timeout = true
        """,
    )
    found = mistakes(path, {"STAMPEDE_LOG_LEVEL": "loud"}, {"log.format": "xml"})
    lines = [str(mistake) for mistake in found]
    assert keys(found) == [
        "broker.workers",
        "listener[0].heart_beat.minimum",
        "listener[1].bind",
        "limits.body_bytes",
        "outbox.block_timeout",
        "destination[0].pattern",
        "destination[0].slow_consumer",
        "log.level",
        "log.format",
        "outbox.high_bytes",
    ]
    assert lines[0] == (f'{path}: broker.workers = 0: too small; allowed: a whole number from 1 to 64 or "auto"')
    assert '"2h": too large; allowed: a duration from 1ms to 1h' in lines[1]
    assert '"localhost": no port; allowed: HOST:PORT' in lines[2]
    assert "unknown unit 'parsecs'" in lines[3]
    assert "is missing" in lines[5]
    assert '"maybe": not one of the choices; allowed: "block", "drop" or "disconnect"' in lines[6]
    assert lines[7].startswith('STAMPEDE_LOG_LEVEL: log.level = "loud"')
    assert lines[8].startswith('command line: log.format = "xml"')
    assert lines[9].endswith('"2KiB": too small; allowed: at least outbox.low_bytes, which is "1MiB"')


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[limits]\nbody_byte = 5", "limits.body_byte", "limits.body_bytes"),
        ("[broker]\nwrokers = 5", "broker.wrokers", "broker.workers"),
        ("workers = 5", "workers", "broker.workers"),
        ("[limit]\nbody_bytes = 5", "limit", "limits"),
        ("[[listeners]]\nbind = 'a:1'", "listeners", "listener"),
        ("[limits]\nmax_bytes = 5", "limits.max_bytes", "outbox.max_bytes"),
        ("[[listener]]\nheart_beat.maximal = 1", "listener[0].heart_beat.maximal", "listener.heart_beat.maximum"),
        ('[log]\n"le\\nvel" = 1', 'log."le\\nvel"', "log.level"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(text: str, key: str, nearest: str, tmp_path: Path) -> None:
    (mistake,) = mistakes(write(tmp_path, text))
    assert (mistake.key, mistake.problem, mistake.nearest) == (key, "unknown key", nearest)


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("STAMPEDE_LIMITS_BODYBYTES", "STAMPEDE_LIMITS_BODY_BYTES"),
        ("STAMPEDE_LISTENER_BIND", "STAMPEDE_BIND"),
        ("STAMPEDE_DESTINATION_PATTERN", "STAMPEDE_DESTINATION"),
        ("STAMPEDE_log_level", "STAMPEDE_LOG_LEVEL"),
        ("STAMPEDE_", "STAMPEDE_BIND"),
    ],
)
def test_an_unknown_variable_names_the_nearest_known_one(variable: str, nearest: str) -> None:
    (mistake,) = mistakes(environ={variable: "1", "OTHER_LIMITS_BODY_BYTES": "x"})
    assert (mistake.key, mistake.problem, mistake.nearest) == (variable, "unknown variable", nearest)
    assert mistake.value == '"1"'


def test_an_unknown_override_is_a_mistake() -> None:
    (mistake,) = mistakes(overrides={"broker.worker": 1})
    assert (mistake.key, mistake.nearest) == ("broker.worker", "broker.workers")


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"[log]\nlevel = = 3\n", "line 2, column 9"),
        (b"a = [1,\n", "line 2, column 1"),
        (b'[log]\nlevel = "\xff"\n', "line 2, column 10"),
        (b"[log]\nlevel = 'a'\nlevel = 'b'\n", "line 3, column 12"),
        (b"\xef\xbb\xbf[log]\n", "line 1, column 1"),
    ],
)
def test_a_syntax_error_is_told_with_line_and_column(content: bytes, where: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    (mistake,) = mistakes(path)
    assert mistake.source == f"{path}, {where}"
    assert mistake.problem.startswith("not valid TOML: ")


@pytest.mark.parametrize("content", [b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000], ids=["deep", "long"])
def test_toml_that_breaks_the_parser_is_a_mistake_too(content: bytes, tmp_path: Path) -> None:
    (mistake,) = mistakes(write(tmp_path, content))
    assert mistake.problem.startswith("not valid TOML: ")


def test_a_broken_file_hides_no_mistake_elsewhere_and_makes_none_up(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, "="), {"STAMPEDE_OUTBOX_LOW_BYTES": "8MiB"}, {"log.level": "loud"})
    assert keys(found) == ["", "log.level"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path / "none.toml")
    assert mistake.problem == "cannot be read: No such file or directory"
    (mistake,) = mistakes(tmp_path)
    assert mistake.problem == "cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("limits = 5", "limits", "not a table"),
        ("[[limits]]\nbody_bytes = 5", "limits", "not a table"),
        ("[listener]\nbind = 'a:1'", "listener", "not a list of tables"),
        ("listener = [5]", "listener[0]", "not a table"),
        ("listener = []", "listener", "too short"),
        ("destination = ['a']", "destination[0]", "not a table"),
        ("[[listener]]\nheart_beat = 5", "listener[0].heart_beat", "not a table"),
        ("[limits.body_bytes]\na = 1", "limits.body_bytes", "not a size"),
        ("[limits]\nbody_bytes = 1979-05-27", "limits.body_bytes", "not a size"),
        (f"[limits]\nbody_bytes = 0x{'f' * 5000}", "limits.body_bytes", "not a size of this world"),
        (f"[broker]\nworkers = 0x{'f' * 5000}", "broker.workers", "too large"),
    ],
)
def test_a_value_of_the_wrong_shape(text: str, key: str, problem: str, tmp_path: Path) -> None:
    # Variables for the same tables must not trip over the shape either.
    environ = {"STAMPEDE_LISTENER_BACKLOG": "5", "STAMPEDE_LISTENER_HEART_BEAT_WISH": "5s"}
    if not key.startswith("listener"):
        environ = {"STAMPEDE_LIMITS_HEAD_BYTES": "64KiB"}
    (mistake,) = mistakes(write(tmp_path, text), environ)
    assert (mistake.key, mistake.problem) == (key, problem)
    assert len(str(mistake)) < 400


def test_too_many_listeners(tmp_path: Path) -> None:
    path = write(tmp_path, '[[listener]]\nbind = "127.0.0.1:0"\n' * 64 + '[[listener]]\nbind = "x"\n')
    assert keys(mistakes(path)) == ["listener[64].bind", "listener"]


def test_a_mistake_in_the_file_is_told_although_the_environment_replaces_it(tmp_path: Path) -> None:
    path = write(tmp_path, "[broker]\nworkers = 0\n")
    (mistake,) = mistakes(path, {"STAMPEDE_BROKER_WORKERS": "2"}, {"broker.workers": 3})
    assert (mistake.key, mistake.source) == ("broker.workers", str(path))


def test_a_mistake_copied_to_several_listeners_is_told_once(tmp_path: Path) -> None:
    path = write(tmp_path, '[[listener]]\nbacklog = "x"\n')
    found = mistakes(path, {"STAMPEDE_BIND": "127.0.0.1:1,127.0.0.1:2"})
    assert keys(found) == ["listener[0].backlog"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[outbox]\nlow_bytes = "5MiB"', "outbox.low_bytes"),
        ('[outbox]\nhigh_bytes = "65MiB"', "outbox.high_bytes"),
        ('[outbox]\nmax_bytes = "3MiB"', "outbox.max_bytes"),
        ('[outbox]\nlow_bytes = "5MiB"\nhigh_bytes = "4MiB"', "outbox.low_bytes"),
        ('[limits]\nhead_bytes = "16383B"\nlogin_head_bytes = 100', "limits.head_bytes"),
        ('[limits]\nlogin_head_bytes = "65KiB"', "limits.login_head_bytes"),
        ('[limits]\ndestination_bytes = "17KiB"', "limits.destination_bytes"),
        ('[supervision]\nhang_timeout = "1s"', "supervision.hang_timeout"),
        ('[supervision]\nping_interval = "10s"', "supervision.ping_interval"),
        ('[supervision]\nbackoff_initial = "11s"', "supervision.backoff_initial"),
        ('[[listener]]\nheart_beat.wish = "499ms"', "listener[0].heart_beat.wish"),
        ('[[listener]]\nheart_beat.wish = "61s"', "listener[0].heart_beat.wish"),
        ('[[listener]]\nheart_beat.maximum = "9s"', "listener[0].heart_beat.maximum"),
        (
            '[[listener]]\nheart_beat = {wish = 0, minimum = "2s", maximum = "1s"}',
            "listener[0].heart_beat.minimum",
        ),
        ('[[listener]]\n[[listener]]\nbind = "127.0.0.1:61613"', "listener[1].bind"),
        ('[[listener]]\n[[listener]]\nbind = "0.0.0.0:61613"', "listener[1].bind"),
        ('[[listener]]\nbind = "[::]:1"\n[[listener]]\nbind = "[0::1]:1"', "listener[1].bind"),
        ('[[listener]]\nbind = "Some.host:1"\n[[listener]]\nbind = "some.host.:1"', "listener[1].bind"),
        ('[[destination]]\npattern = "a"\n[[destination]]\npattern = "a"', "destination[1].pattern"),
        ('[[destination]]\npattern = "/queue/a"\nretain = "last"', "destination[0].retain"),
        ('[[destination]]\npattern = "/temp-queue/#"\nretain = "last"', "destination[0].retain"),
        ('[[destination]]\npattern = "a"\nwhen_full = "reject"', "destination[0].when_full"),
        ('[[destination]]\npattern = "a"\nwhen_full = "drop-head"', "destination[0].when_full"),
        (
            '[[destination]]\npattern = "a"\ndead_letter = ""\nexpired = "dead-letter"',
            "destination[0].expired",
        ),
        ('[[destination]]\npattern = "/queue/dlq.>"\ndead_letter = "/queue/b"', "destination[0].dead_letter"),
        ('[[destination]]\npattern = "a"\nredelivery_delay = "31s"', "destination[0].redelivery_delay"),
        ('[[destination]]\npattern = "a"\nredelivery_delay_max = 0', "destination[0].redelivery_delay_max"),
        ('[[destination]]\npattern = "a"\nprefetch = 9\n[limits]\nunacknowledged = 8', "destination[0].prefetch"),
        (f'[broker]\nruntime_dir = "/{"x" * 80}"', "broker.runtime_dir"),
        ('[broker]\nruntime_dir = "/srv/s/"\ndata_dir = "/srv/../srv/s"', "broker.runtime_dir"),
    ],
)
def test_keys_that_do_not_go_together(text: str, key: str, tmp_path: Path) -> None:
    (mistake,) = mistakes(write(tmp_path, text))
    assert mistake.key == key
    assert mistake.allowed


@pytest.mark.parametrize(
    "text",
    [
        '[outbox]\nlow_bytes = "64MiB"\nhigh_bytes = "64MiB"',
        '[[listener]]\nheart_beat.wish = 0\nheart_beat.minimum = "11s"',
        '[[listener]]\nheart_beat = {wish = "1s", minimum = "1s", maximum = "1s"}',
        '[[listener]]\nbind = "127.0.0.1:0"\n[[listener]]\nbind = "127.0.0.1:0"',
        '[[listener]]\nbind = "0.0.0.0:1"\n[[listener]]\nbind = "[::]:1"',
        '[[listener]]\nbind = "127.0.0.1:1"\n[[listener]]\nbind = "127.0.0.2:1"',
        '[supervision]\nping_interval = "9999ms"',
        '[[destination]]\npattern = "#"\nretain = "last"',
        '[[destination]]\npattern = "a"\nwhen_full = "reject"\nmax_messages = 1',
        '[[destination]]\npattern = "a"\nwhen_full = "reject"\nmax_bytes = 1',
        '[[destination]]\npattern = "a"\ndead_letter = ""',
        '[[destination]]\npattern = "/queue/dlq.>"\ndead_letter = ""',
        '[[destination]]\npattern = "a"\nredelivery_delay = "30s"',
        '[[destination]]\npattern = "a"\n[limits]\nunacknowledged = 8',
        '[[destination]]\npattern = "a"\nprefetch = 8\n[limits]\nunacknowledged = 8',
        f'[broker]\nruntime_dir = "/{"x" * 79}"',
    ],
)
def test_keys_that_just_go_together(text: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, text), {}, {})


def dead_letters(*ways: tuple[str, str]) -> str:
    return "".join(f'[[destination]]\npattern = "{pattern}"\ndead_letter = "{name}"\n' for pattern, name in ways)


@pytest.mark.parametrize(
    ("ways", "circle"),
    [
        ([("/queue/a", "/queue/b"), ("/queue/b", "/queue/a")], "/queue/a -> /queue/b -> /queue/a"),
        ([("/queue/a.*", "/queue/b.{name}"), ("/queue/b.#", "/queue/a.x")], "/queue/a.x -> /queue/b.a.x -> /queue/a.x"),
        ([("/queue/a.#", "/queue/b.{name}"), ("/queue/>", "/queue/a.{name}")], "/queue/a.x -> /queue/b.a.x -> "),
    ],
)
def test_dead_letters_that_never_rest_are_refused(ways: list[tuple[str, str]], circle: str, tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, dead_letters(*ways)))
    assert keys(found) == ["destination[0].dead_letter", "destination[1].dead_letter"]
    assert circle in found[0].problem


@pytest.mark.parametrize(
    "ways",
    [
        [("/queue/a", "/queue/b"), ("/queue/b", "/queue/c"), ("/queue/c", "")],
        [("/queue/a", "/queue/b"), ("/queue/b", "/queue/c"), ("/queue/>", "/queue/d")],
        [("/queue/>", "/queue/failed")],
        [("#", "/queue/failed.{name}")],
        [("/queue/failed", ""), ("#", "/queue/failed")],
        [("/queue/a", "/queue/b"), ("/queue/x", "/queue/a")],
    ],
)
def test_dead_letters_that_rest_somewhere_are_accepted(ways: list[tuple[str, str]], tmp_path: Path) -> None:
    assert len(load_config(write(tmp_path, dead_letters(*ways)), {}, {}).destination) == len(ways)


def test_binds_from_a_variable_collide_too() -> None:
    (mistake,) = mistakes(environ={"STAMPEDE_BIND": "127.0.0.1:1,127.0.0.1:1"})
    assert (mistake.source, mistake.key) == ("STAMPEDE_BIND", "listener[1].bind")
    (mistake,) = mistakes(environ={"STAMPEDE_BIND": " "})
    assert (mistake.source, mistake.key, mistake.value) == ("STAMPEDE_BIND", "listener", "[]")


@pytest.mark.parametrize("text", ["[", "a", "[{pattern = 1"])
def test_a_destination_variable_that_is_no_toml(text: str) -> None:
    (mistake,) = mistakes(environ={"STAMPEDE_DESTINATION": text})
    assert (mistake.source, mistake.key) == ("STAMPEDE_DESTINATION", "destination")
    assert tomllib.loads(f"value = {mistake.allowed.removeprefix('a TOML list such as ')}")


def test_a_destination_variable_with_a_wrong_rule() -> None:
    (mistake,) = mistakes(environ={"STAMPEDE_DESTINATION": '[{pattern = "a", slow_consumer = "b"}]'})
    assert (mistake.source, mistake.key) == ("STAMPEDE_DESTINATION", "destination[0].slow_consumer")


def test_long_and_odd_values_stay_on_one_short_line(tmp_path: Path) -> None:
    path = write(tmp_path, '[log]\nlevel = "a\\nb\\u001b[31m' + "x" * 1000 + '"\n')
    (mistake,) = mistakes(path)
    assert mistake.value.startswith('"a\\nb\\u001b[31mxxx')
    assert mistake.value.isprintable()
    assert len(mistake.value) == 80


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:15613", "[::]:15613", "192.0.2.1:1", "broker.example:15613", "localhost.example:1"],
)
def test_management_is_for_this_machine_alone(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, {"STAMPEDE_MANAGEMENT_BIND": address}, {})
    (mistake,) = refused.value.mistakes
    assert mistake.key == "management.bind" and "not a loopback address: there is no password" in mistake.problem
    assert "127.0.0.1:15613" in mistake.allowed


@pytest.mark.parametrize("address", ["", "127.0.0.1:15613", "127.9.9.9:1", "[::1]:0", "localhost:15613", "LOCALHOST:1"])
def test_addresses_of_this_machine_are_taken_for_management(address: str) -> None:
    assert load_config(None, {"STAMPEDE_MANAGEMENT_BIND": address}, {}).management.bind == address


def test_management_has_a_port_of_its_own() -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(None, {"STAMPEDE_MANAGEMENT_BIND": "127.0.0.1:61613"}, {})
    assert "taken by listener[0].bind" in str(refused.value.mistakes[0])
    load_config(None, {"STAMPEDE_MANAGEMENT_BIND": "127.0.0.1:0", "STAMPEDE_BIND": "127.0.0.1:0"}, {})
