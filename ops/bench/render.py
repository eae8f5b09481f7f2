"""RESULTS.md from the recorded results: of each scenario the newest record, every ratio within one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scenarios import SCENARIOS
from workloads import Scenario

__all__ = ["render_page"]

_RIVALS = ("activemq", "rabbitmq", "nats")
_LOWER_IS_BETTER = (
    "_ms",
    "_us",
    "kib_per_connection",
    "_mib",
    "cpu_us_per_delivery",
    "cpu_us_per_connection",
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
        head = ["broker", *(_label(metric) for metric in metrics), *(f"x {rival}" for rival in rivals)]
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
    loads = {entry["generator"] for entry in measured.values()}
    return [*lines, "", *(f"    {load}" for load in sorted(loads)), ""]


def _summary(latest: Latest) -> list[str]:
    names = list(dict.fromkeys(name for _, _, record in latest.values() for name in record["brokers"]))
    rows = []
    for key, (_, _, record) in latest.items():
        scenario = SCENARIOS[key]
        medians = [_median(record["brokers"].get(name, {}), scenario.headline) for name in names]
        cells = ["" if value is None else _number(value) for value in medians]
        rows.append([scenario.name, _label(scenario.headline), *cells])
    return ["## Medians", "", *_table(["scenario", "measure", *names], rows)]


def _goals(latest: Latest) -> list[str]:
    rows = []
    for key, (_, _, record) in latest.items():
        scenario, brokers = SCENARIOS[key], record["brokers"]
        for name in (name for name in brokers if name.startswith("stampede")):
            for rival, goal in scenario.goal_ratios.items():
                ours = _median(brokers[name], scenario.headline)
                ratio = _ratio(scenario.headline, ours, _median(brokers.get(rival, {}), scenario.headline))
                if ratio is not None:
                    rows.append([key, name, f"{goal:g} x {rival}", f"{ratio:.2f} x", "yes" if ratio >= goal else "no"])
            for metric, goal in scenario.goal_values.items():
                if (value := _median(brokers[name], metric)) is not None:
                    low = _lower_is_better(metric)
                    met = value <= goal if low else value >= goal
                    wanted = f"{_label(metric)} {'at most' if low else 'at least'} {_number(goal)}"
                    rows.append([key, name, wanted, _number(value), "yes" if met else "no"])
    return ["## Goals", "", *_table(["scenario", "broker", "goal", "measured", "met"], rows)] if rows else []


def _flatness(latest: Latest) -> list[str]:
    """Broker CPU per delivery along each series, relative to its first point."""
    lines: list[str] = []
    for series in ("subscribers", "destinations"):
        points = []
        for key, (_, _, record) in latest.items():
            if (place := SCENARIOS[key].series) is not None and place[0] == series:
                points.append((place[1], record["brokers"]))
        points.sort(key=lambda point: point[0])
        names = list(dict.fromkeys(name for _, brokers in points for name in brokers))
        rows = []
        for name in names:
            costs = [_median(brokers.get(name, {}), "cpu_us_per_delivery") for _, brokers in points]
            if any(costs):
                rows.append([name, *("" if cost is None else f"{cost:.3g}" for cost in costs)])
        if len(points) > 1 and rows:
            head = ["broker", *(f"{count:,}" for count, _ in points)]
            lines += [f"## CPU microseconds per delivery, by number of {series}", "", *_table(head, rows)]
    return lines


def _machines(latest: Latest) -> list[str]:
    lines = ["## Runs", ""]
    for source, run in {source: run for source, run, _ in latest.values()}.items():
        machine = run["machine"]
        lines += [
            f"**{source}**: {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
            f"{machine['kernel']}, load {machine['load_average_at_start']} at the start.",
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
        lines += [*(f"    {command}" for command in commands.values()), ""]
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
        "## Scenarios",
        "",
    ]
    for name, (source, run, record) in latest.items():
        lines += _scenario_section(SCENARIOS[name], record, run, source)
    lines += _machines(latest)
    return "\n".join(lines).rstrip() + "\n"
