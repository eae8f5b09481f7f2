"""`python -m worker --control-fd N`: started by the front (`broker`), never by hand."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
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
    # Everything imported stays for good, and a connection's objects are freed by their reference counts: looking
    # through thousands of live ones for cycles took 10 % of the time to accept them, and shows in the latency.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    # The store's writer asks for the interpreter a few times per commit, and would wait for so long each time: at the
    # usual 5 ms, a busy loop made commits five times as long.
    sys.setswitchinterval(0.0005)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments.control_fd))


if __name__ == "__main__":
    sys.exit(main())
