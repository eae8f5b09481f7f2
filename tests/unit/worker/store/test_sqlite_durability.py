"""Real processes that are killed, and real files that do not grow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.worker.store.harness import SqliteOpened, key, run

WRITING = """
import asyncio, os, sys
from common.log import EventLog
from worker.store.interface import Mark, PutQueue, SetCount, Unit
from worker.store.sqlite import SqliteStore
from tests.unit.worker.store.harness import key

async def main():
    store = SqliteStore(sys.argv[1], asyncio.get_running_loop(), EventLog("test"), wal_bytes=1 << 18)
    store.open()
    stop = asyncio.get_running_loop().create_future()
    def done(number, error):
        assert error is None
        os.write(1, b"%d\\n" % number)
        write(number + 20)
    def write(number):
        # Its five messages, two that leave again with the unit after the next, and its mark.
        store.write(
            Unit(
                inserts=[(key(5 * number + i), b"%d/%d" % (number, i) * 50) for i in range(5)],
                deletes=[key(5 * (number - 2) + i) for i in (3, 4)],
                depths=[(5, 5 - (2 if number > 2 else 0), 0)],
                changes=[Mark("o%d" % (number % 20), number), SetCount(key(5 * number), number)]
                + [PutQueue(5, "/queue/a", number, 0)],
            ),
            lambda error: done(number, error),
        )
    for number in range(1, 21):
        write(number)
    await stop

asyncio.run(main())
"""


@pytest.mark.parametrize("outcomes", [1, 50, 700])
def test_what_was_done_survives_a_kill_and_every_unit_is_whole(tmp_path: Path, outcomes: int) -> None:
    command = [sys.executable, "-c", WRITING, str(tmp_path / "store.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdout is not None
        for _ in range(outcomes):
            assert writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        # What was said before the kill counts, too.
        said = outcomes + len([line for line in writer.stdout.read().split(b"\n")[:-1] if line])
        writer.wait()

    async def main() -> None:
        async with SqliteOpened(tmp_path) as s:
            last = max(s.recovered.marks.values())
            assert last >= said
            # Units are written in order: all of them up to the last one are there, nothing of the next.
            assert sorted(s.recovered.marks.values()) == list(range(max(1, last - 19), last + 1))
            expected = [(n, i) for n in range(1, last + 1) for i in range(5 if n > last - 2 else 3)]
            assert await s.page() == [(key(5 * n + i), b"%d/%d" % (n, i) * 50, n if i == 0 else 0) for n, i in expected]
            assert [queue.messages for queue in s.recovered.queues] == [len(expected)]
            assert [queue.reserved for queue in s.recovered.queues] == [last]

    run(main)


def test_a_commit_is_done_when_it_is_on_the_disk(tmp_path: Path) -> None:
    async def main() -> None:
        async with SqliteOpened(tmp_path) as s:
            writing = s.store._connections[0]
            full = 2
            assert (writing.pragma("synchronous"), writing.pragma("journal_mode")) == (full, "wal")

    run(main)


LIMITED = """
import asyncio, json, resource, signal, sys
from common.log import EventLog
from tests.unit.worker.store.harness import SqliteOpened, key
from worker.store.interface import Mark, StoreError, Unit
from pathlib import Path

async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    said = {}
    async with SqliteOpened(Path(sys.argv[1])) as s:
        stored = 0
        try:
            while stored < 100:
                await s.write(inserts=[(key(stored + 1), b"x" * 50_000)])
                stored += 1
        except StoreError as error:
            said["error"], said["full"] = str(error), error.full
        said["stored"] = stored
        said["there"] = len(await s.page())
        said["failing"] = str(s.store.failing)
        outcome = s.begin(Unit(inserts=[(key(200), b"y" * 2_000_000)], changes=[Mark("o", 1)], must=True))
        try:
            await s.write(inserts=[(key(201), b"x" * 50_000)])
            said["overtaken"] = True
        except StoreError:
            said["overtaken"] = False
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await s.write(inserts=[(key(202), b"z")])
        said["kept"] = str(await outcome)
        said["healthy"] = s.store.failing is None
    print(json.dumps(said))

asyncio.run(main())
"""


def test_a_file_that_cannot_grow_harms_nothing_and_the_store_goes_on_when_it_can(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    said = json.loads(answer.stdout)
    stored = said.pop("stored")
    # The log alone would hold twenty: it was written back to where there was room.
    assert 25 < stored < 45
    assert said == {
        "error": "The disk is full",
        "full": True,
        "there": stored,
        "failing": "The disk is full",
        "overtaken": False,
        "kept": "None",
        "healthy": True,
    }

    async def main() -> None:
        async with SqliteOpened(tmp_path) as s:
            expected = [key(n) for n in (*range(1, stored + 1), 200, 202)]
            assert [number for number, _, _ in await s.page()] == expected
            assert s.recovered.marks == {"o": 1}

    run(main)
