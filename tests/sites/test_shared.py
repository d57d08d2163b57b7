"""The shared control server: started by the first process, stopped by the last, whatever happens between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
import subprocess
import sys
import time

import psycopg
import pytest

from domicile.sites.process import processes_in, running
from domicile.sites.shared import control_cluster

LIMIT_S = 30.0

USER = """
import asyncio, sys
from pathlib import Path
from domicile.sites.shared import control_cluster
async def main():
    async with control_cluster(Path(sys.argv[1])) as cluster:
        print(cluster.pid, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


class User:
    """A real process that uses the control server until told to leave, or killed."""

    def __init__(self, state_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def server_pid(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def leave(self) -> None:
        self.process.communicate("\n", timeout=LIMIT_S)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def state_dir(scratch: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    path = scratch / f"state_{request.node.name}"
    yield path
    assert processes_in(path / "control" / "data") == (), "a test left its server behind"


def test_the_last_process_stops_it(state_dir: Path) -> None:
    first, second = (
        User(state_dir),
        User(state_dir),
    )  # at once: one of them makes the cluster, the other waits
    pid = first.server_pid()
    assert second.server_pid() == pid
    first.leave()
    assert pid in processes_in(state_dir / "control" / "data")
    second.leave()


def test_the_starter_may_be_killed_while_another_uses_it(state_dir: Path) -> None:
    starter = User(state_dir)
    pid = starter.server_pid()
    other = User(state_dir)
    assert other.server_pid() == pid
    starter.kill()
    time.sleep(0.3)
    assert pid in processes_in(state_dir / "control" / "data")
    other.leave()


async def test_a_killed_user_leaves_it_to_the_next_command(state_dir: Path) -> None:
    killed = User(state_dir)
    pid = killed.server_pid()
    killed.kill()
    server = running(state_dir / "control" / "data")
    assert server is not None
    assert server.pid == pid
    async with control_cluster(state_dir) as cluster:
        assert cluster.pid == pid
        async with await psycopg.AsyncConnection.connect(cluster.conninfo()) as connection:
            await connection.execute("create table kept (n int)")
    async with control_cluster(state_dir) as cluster:
        assert cluster.pid != pid
        async with await psycopg.AsyncConnection.connect(cluster.url()) as connection:
            await connection.execute("select from kept")


async def test_a_crashed_server_is_started_again(state_dir: Path) -> None:
    async with control_cluster(state_dir) as cluster:
        crashed = cluster.pid
        await cluster.kill()
    async with control_cluster(state_dir) as cluster:
        assert cluster.pid not in (None, crashed)


async def test_a_cancelled_user_still_stops_it(state_dir: Path) -> None:
    entered = asyncio.Event()

    async def use() -> None:
        async with control_cluster(state_dir):
            entered.set()
            await asyncio.sleep(600)

    task = asyncio.create_task(use())
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0.005)
    task.cancel()  # an impatient second Ctrl-C
    with pytest.raises(asyncio.CancelledError):
        await task
