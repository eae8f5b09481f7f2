"""`python -m worker --control-fd N`: started by the front (`broker`), never by hand."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import sys

import uvloop

from worker.process import WorkerProcess


async def _run(control_fd: int) -> int:
    return await WorkerProcess(asyncio.get_running_loop()).run(control_fd)


def main() -> int:
    # SIGABRT, which the front sends to a worker that hangs, then dumps every stack before it ends the process.
    faulthandler.enable()
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments.control_fd))


if __name__ == "__main__":
    sys.exit(main())
