"""RESULTS.md from the recorded results: of each scenario the newest record, every ratio within one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from clients import ClientLoad
from profiling import PARTS, part_of
from scenarios import SCENARIOS
from workloads import BEST_RIVAL, Scenario

__all__ = ["render_page"]

_RIVALS = ("activemq", "rabbitmq", "nats", "stomp.py", "stompman")
_LOWER_IS_BETTER = (
    "_ms",
    "_us",
    "kib_per_connection",
    "_mib",
    "cpu_us_per_delivery",
    "cpu_us_per_connection",
    "cpu_us_per_message",
    "_over_disk",
)
_FLAT = (
    ("subscribers", "cpu_us_per_delivery", "CPU microseconds per delivery"),
    ("destinations", "cpu_us_per_delivery", "CPU microseconds per delivery"),
    ("standing messages", "enqueue_cpu_us", "CPU microseconds per message enqueued"),
    ("standing messages", "drain_cpu_us", "CPU microseconds per message drained"),
    ("standing messages", "enqueue_us", "Microseconds per message enqueued"),
    ("standing messages", "drain_us", "Microseconds per message drained"),
    ("standing messages", "largest_process_mib", "Peak resident MiB of the largest process"),
)
_HIDDEN = ("seconds", "messages", "other_cores", "lost", "p90_ms", "p999_ms")

Latest = dict[str, tuple[str, dict[str, Any], dict[str, Any]]]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _lower_is_better(metric: str) -> bool:
    return metric.endswith(_LOWER_IS_BETTER)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = "|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|"
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _kind(scenario: Scenario) -> str:
    return "client" if isinstance(scenario, ClientLoad) else "broker"


def _label(metric: str) -> str:
    return metric.replace("_per_s", "/s").replace("_", " ")


def _median(entry: dict[str, Any], metric: str) -> float | None:
    found = entry.get("summary", {}).get(metric)
    return None if found is None else float(found["median"])


def _ratio(metric: str, ours: float | None, theirs: float | None) -> float | None:
    """How many times better `ours` is than `theirs`."""
    if not ours or not theirs:
        return None
    return theirs / ours if _lower_is_better(metric) else ours / theirs


def _spread(entry: dict[str, Any], metric: str) -> str:
    found = entry["summary"][metric]
    return f"{_number(found['median'])} ({_number(found['min'])} to {_number(found['max'])})"


def _scenario_section(scenario: Scenario, record: dict[str, Any], run: dict[str, Any], source: str) -> list[str]:
    brokers: dict[str, dict[str, Any]] = record["brokers"]
    measured = {name: entry for name, entry in brokers.items() if entry.get("summary")}
    lines = [
        f"### {scenario.name}",
        "",
        f"{scenario.title}. [{source}](results/{source}), {run['rounds']} rounds.",
        "",
    ]
    if measured:
        metrics = [name for name in next(iter(measured.values()))["summary"] if name not in _HIDDEN]
        rivals = [name for name in _RIVALS if name in measured]
        head = [_kind(scenario), *(_label(metric) for metric in metrics), *(f"x {rival}" for rival in rivals)]
        rows = []
        for name, entry in measured.items():
            mine = _median(entry, scenario.headline)
            ratios = [_ratio(scenario.headline, mine, _median(measured[rival], scenario.headline)) for rival in rivals]
            cells = [_spread(entry, metric) if metric in entry["summary"] else "" for metric in metrics]
            rows.append([name, *cells, *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)])
        lines += _table(head, rows)
    for name, entry in brokers.items():
        if entry.get("skipped") or entry.get("error"):
            why = f"not run: {entry['skipped']}" if "skipped" in entry else f"failed: {entry['error']}"
            lines += [f"- {name}: {why}"]
        if (summary := entry.get("summary")) and summary.get("lost", {}).get("max"):
            lines += [f"- {name}: up to {_number(summary['lost']['max'])} deliveries of a run never arrived"]
        if summary and summary.get("other_cores", {}).get("max", 0) > 0.2:
            lines += [f"- {name}: other processes used up to {summary['other_cores']['max']:.1f} cores during a run"]
        if entry.get("configuration"):
            lines += [f"- {name} with `{entry['configuration']}`"]
    loads = {entry["generator"] for entry in measured.values()}
    return [*lines, "", *(f"    {load}" for load in sorted(loads)), ""]


def _summary(latest: Latest) -> list[str]:
    lines = ["## Medians", ""]
    for kind in ("broker", "client"):
        records = {key: record for key, (_, _, record) in latest.items() if _kind(SCENARIOS[key]) == kind}
        names = list(dict.fromkeys(name for record in records.values() for name in record["brokers"]))
        rows = []
        for key, record in records.items():
            scenario = SCENARIOS[key]
            medians = [_median(record["brokers"].get(name, {}), scenario.headline) for name in names]
            cells = ["" if value is None else _number(value) for value in medians]
            rows.append([scenario.name, _label(scenario.headline), *cells])
        if rows:
            lines += _table(["scenario", "measure", *names], rows)
    return lines


def _goals(latest: Latest) -> list[str]:
    rows = []
    for key, (_, _, record) in latest.items():
        scenario, brokers = SCENARIOS[key], record["brokers"]
        for name in (name for name in brokers if name.startswith("stampede")):
            ours = _median(brokers[name], scenario.headline)
            ratios = {
                rival: ratio
                for rival in _RIVALS
                if (ratio := _ratio(scenario.headline, ours, _median(brokers.get(rival, {}), scenario.headline)))
            }
            if ratios:
                ratios[BEST_RIVAL] = min(ratios.values())
            for rival, goal in scenario.goal_ratios.items():
                if (ratio := ratios.get(rival)) is not None:
                    rows.append([key, name, f"{goal:g} x {rival}", f"{ratio:.2f} x", "yes" if ratio >= goal else "no"])
            for metric, goal in scenario.goal_values.items():
                if (value := _median(brokers[name], metric)) is not None:
                    low = _lower_is_better(metric)
                    met = value <= goal if low else value >= goal
                    wanted = f"{_label(metric)} {'at most' if low else 'at least'} {_number(goal)}"
                    rows.append([key, name, wanted, _number(value), "yes" if met else "no"])
            for metric, goal in scenario.goal_flat.items():
                value, first = _median(brokers[name], metric), _median(_first_of_series(scenario, latest, name), metric)
                if value is not None and first:
                    wanted = f"{_label(metric)} at most {goal:g} x the first of its series"
                    times = value / first
                    rows.append([key, name, wanted, f"{times:.2f} x", "yes" if times <= goal else "no"])
    return ["## Goals", "", *_table(["scenario", "broker or client", "goal", "measured", "met"], rows)] if rows else []


def _series(latest: Latest, series: str) -> list[tuple[int, dict[str, Any]]]:
    """(place, what its brokers did) of every recorded scenario of a series, in order."""
    places = [(SCENARIOS[key].series, record["brokers"]) for key, (_, _, record) in latest.items()]
    return sorted(
        ((place[1], brokers) for place, brokers in places if place is not None and place[0] == series),
        key=lambda point: point[0],
    )


def _first_of_series(scenario: Scenario, latest: Latest, name: str) -> dict[str, Any]:
    points = _series(latest, scenario.series[0]) if scenario.series else []
    found: dict[str, Any] = points[0][1].get(name, {}) if points else {}
    return found


def _flatness(latest: Latest) -> list[str]:
    """What must not grow along each series, at each of its points."""
    lines: list[str] = []
    for series, metric, title in _FLAT:
        points = _series(latest, series)
        names = list(dict.fromkeys(name for _, brokers in points for name in brokers))
        rows = []
        for name in names:
            costs = [_median(brokers.get(name, {}), metric) for _, brokers in points]
            if any(costs):
                rows.append([name, *("" if cost is None else _number(cost) for cost in costs)])
        if len(points) > 1 and rows:
            head = ["broker", *(f"{count:,}" for count, _ in points)]
            lines += [f"## {title}, by number of {series}", "", *_table(head, rows)]
    return lines


def _profiles(latest: Latest) -> list[str]:
    """Where Stampede's workers spend their time, of the scenarios that were profiled."""
    rows = []
    for key, (_, _, record) in latest.items():
        for name, entry in record["brokers"].items():
            if found := entry.get("profile"):
                # From the files, not from the recorded parts: which file belongs to which part may change.
                charged = dict.fromkeys(PARTS, 0.0)
                for path, share in found["files"].items():
                    charged[part_of(path)] += share
                cells = [f"{charged[part]:.0%}" for part in PARTS]
                rows.append([key, name, *cells, f"{found['samples']:,}"])
    if not rows:
        return []
    return [
        "## Where the time goes",
        "",
        "Shares of the CPU time of the workers, sampled in a run of its own. What ZeroMQ, SQLite and the kernel do is",
        "charged to the part that asked for it.",
        "",
        *_table(["scenario", "broker", *PARTS, "samples"], rows),
    ]


def _machines(latest: Latest) -> list[str]:
    lines = ["## Runs", ""]
    for source, run in {source: run for source, run, _ in latest.values()}.items():
        machine = run["machine"]
        on_disk = f", data on {machine['file_system']}" if "file_system" in machine else ""
        lines += [
            f"**{source}**: {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
            f"{machine['kernel']}{on_disk}, load {machine['load_average_at_start']} at the start.",
            "",
            *(f"- {name}: {version}" for name, version in run["versions"].items()),
            "",
            f"    {run['command']}",
            "",
        ]
        commands: dict[str, str] = {}
        for record in run["scenarios"]:
            for name, entry in record["brokers"].items():
                if "broker" in entry:
                    commands.setdefault(name, entry["broker"])
        lines += [*(f"    {command}" for command in dict.fromkeys(commands.values())), ""]
    return lines


def render_page(records: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The page as Markdown. `records`: (file name, record), oldest first; unknown scenarios are left out."""
    found: Latest = {}
    for source, run in records:
        for record in run["scenarios"]:
            if record["name"] in SCENARIOS:
                found[record["name"]] = (source, run, record)
    latest = {name: found[name] for name in SCENARIOS if name in found}
    lines = [
        "# Benchmark results",
        "",
        "Written by `./ops/bench/run` from the files in `results/`; `README.md` says what each scenario",
        "measures. Each cell is the median of the rounds (smallest to largest). `x RIVAL` says how many times",
        "better than that rival in the same run, by the first measure of the table. Generator and brokers share",
        "the cores.",
        "",
        *_summary(latest),
        *_goals(latest),
        *_flatness(latest),
        *_profiles(latest),
        "## Scenarios",
        "",
    ]
    for name, (source, run, record) in latest.items():
        lines += _scenario_section(SCENARIOS[name], record, run, source)
    lines += _machines(latest)
    return "\n".join(lines).rstrip() + "\n"
