"""Command line of the benchmark harness."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from brokers import BROKER_NAMES, make_broker
from clients import CLIENT_NAMES, ClientLoad, client_versions, run_client_scenario
from disk import file_system, real_disk
from generator import build_generators
from processes import BenchError
from record import load_records, new_record, save_record
from render import render_page
from runner import run_scenario
from scenarios import SCENARIOS

__all__ = ["main"]

_HERE = Path(__file__).resolve().parent


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ops/bench/run", description="Measure Stampede and its rivals side by side, in one run."
    )
    parser.add_argument("--brokers", default=",".join(BROKER_NAMES), help="comma-separated; default: %(default)s")
    parser.add_argument(
        "--clients", default=",".join(CLIENT_NAMES), help="the same for the scenarios client-*; default: %(default)s"
    )
    parser.add_argument(
        "--loop", choices=("asyncio", "uvloop"), default="asyncio", help="event loop of clients that use asyncio"
    )
    parser.add_argument(
        "--scenarios", default="all", help="comma-separated names or prefixes ending in *; default: all"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="aimed length of a run; default: %(default)s")
    parser.add_argument("--name", default="run", help="the result file is results/DATE-NAME.json; default: %(default)s")
    parser.add_argument(
        "--into", type=Path, default=_HERE, help="folder for results/ and RESULTS.md; default: this one"
    )
    parser.add_argument(
        "--data-in",
        type=Path,
        default=Path("/var/tmp"),
        help="folder for the brokers' data, on a disk; default: %(default)s",
    )
    parser.add_argument(
        "--profile", action="store_true", help="after the measured rounds, one more of Stampede under py-spy"
    )
    parser.add_argument("--render", action="store_true", help="only write RESULTS.md anew from the recorded results")
    parser.add_argument("--list", action="store_true", help="list the brokers and the scenarios")
    return parser.parse_args(argv)


def _chosen(pattern: str) -> list[str]:
    if pattern == "all":
        return [name for name, scenario in SCENARIOS.items() if not scenario.by_name_only]
    names: list[str] = []
    for part in pattern.split(","):
        found = [
            name
            for name, scenario in SCENARIOS.items()
            if name == part or (part[-1:] == "*" and name.startswith(part[:-1]) and not scenario.by_name_only)
        ]
        if not found:
            raise BenchError(f"unknown scenario {part!r}; known: {', '.join(SCENARIOS)}")
        names += found
    return names


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace, argv: Sequence[str]) -> None:
    names = _chosen(options.scenarios)
    loads = [SCENARIOS[name] for name in names]
    for_clients = [isinstance(scenario, ClientLoad) for scenario in loads]
    brokers = ["stampede-1"] if all(for_clients) else options.brokers.split(",")
    for name in brokers:
        make_broker(name)
    clients = options.clients.split(",")
    versions = client_versions(clients, options.loop) if any(for_clients) else {}
    data_in = real_disk(options.data_in)
    build_generators()
    shown = [part for part in argv if "/" not in part and part not in ("--into", "--data-in")]
    command = shlex.join(["./ops/bench/run", *shown])
    record = new_record(options.name, brokers, options.rounds, options.seconds, command)
    record["machine"]["file_system"] = file_system(data_in)
    record["versions"].update(versions)
    for scenario in loads:
        if isinstance(scenario, ClientLoad):
            found = run_client_scenario(scenario, clients, options.rounds, options.seconds, data_in, options.loop)
        else:
            found = run_scenario(scenario, brokers, options.rounds, options.seconds, data_in, options.profile)
        record["scenarios"].append(found)
        save_record(record, options.into)  # after each, so that an interrupted run keeps what it has


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 when done, 2 on a usage or set-up error, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _arguments(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    if options.list:
        sys.stdout.write(f"brokers: {', '.join(BROKER_NAMES)}\nclients: {', '.join(CLIENT_NAMES)}\n")
        sys.stdout.writelines(f"{name:20} {scenario.title}\n" for name, scenario in SCENARIOS.items())
        return 0
    try:
        if not options.render:
            _run(options, arguments)
        page = options.into / "RESULTS.md"
        page.write_text(render_page(load_records(options.into)))
    except BenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(f"{page.name} written\n")
    return 0
