"""Workers for real: processes that share a control database and are killed, stopped and cut off. Another goes on from
the last commit, and who comes back writes nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import signal
import sys
import time

from psycopg.conninfo import conninfo_to_dict, make_conninfo
import pytest
from tests.conftest import create_database, drop_database
from tests.move.places import STORE_MAP, cloned, scalar
from tests.move.test_kill import CONFIG, Company, judge, total

from domicile.sites.embedded import EmbeddedCluster

TAKEN_OVER_SECONDS_MAX = 30
MODES = [pytest.param("cold", marks=pytest.mark.campaign), "live"]
SECONDS_MAX = 120
WRITTEN = {
    "control": ("domicile_control.move", "domicile_control.wave", "domicile_control.event", "domicile_directory.home",
                "domicile_dbos.operation_outputs", "domicile_dbos.workflow_status"),
    "source": ("domicile.move", "domicile.wave", "domicile.member", "store.user_account"),
    "target": ("domicile.move", "domicile.wave", "domicile.progress", "store.user_account"),
}  # fmt: skip


async def until(true: Callable[[], Awaitable[bool]], seconds: float = SECONDS_MAX) -> float:
    """Wait until the question is answered with yes; how long that took. Fails when it takes longer than ``seconds``."""
    begun = time.monotonic()
    while not await true():
        assert time.monotonic() - begun < seconds, f"not so within {seconds} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


@dataclass(slots=True)
class Worker:
    """One ``domicile worker`` process; what it says goes to a file."""

    process: asyncio.subprocess.Process
    says: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), SECONDS_MAX)

    def said(self) -> str:
        return self.says.read_text()

    async def is_up(self) -> bool:
        assert self.process.returncode is None, self.said()
        return "at a time" in self.said()


@dataclass(slots=True)
class Firm:
    """A company with a control database that all its machines reach."""

    company: Company
    control: str
    workers: list[Worker] = field(default_factory=list)

    async def worker(self, *options: str, failpoint: str = "", config: str = "domicile.yaml") -> Worker:
        """A worker beside Beijing, as soon as it looks for work."""
        says = self.company.folder / f"worker{len(self.workers)}.log"
        with says.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "domicile", "--config", config, "worker", "--site", "beijing", *options,
                cwd=self.company.folder,
                env={**os.environ, "DOMICILE_FAILPOINT": failpoint, "NO_COLOR": "1"},
                stdout=file,
                stderr=file,
            )  # fmt: skip
        worker = Worker(process, says)
        self.workers.append(worker)
        await until(worker.is_up)
        return worker

    async def ordered(self, mode: str = "cold", *, where: str = "market <> 'CN'", plan: str = "plan.json") -> str:
        """A move that is left to the workers; its id."""
        options = ["--cold"] if mode == "cold" else []
        company = self.company
        await company.ok("plan", "store", "--from", "beijing", "--to", "singapore", "--where", where, "-o", plan)
        now = json.loads(await company.ok("apply", plan, *options, "--detach", "--yes", "--json"))
        assert (now["status"], now["ordered"]) == ("pending", "move")
        assert "domicile worker --site beijing" in now["next"]
        return str(now["move_id"])

    async def of(self, move: str, column: str) -> str:
        """One column of the move in the control database, as text."""
        return str(
            await scalar(self.control, f"select {column}::text from domicile_control.move where move_id = %s", move)
        )

    async def carried(self, move: str, by: Worker, seconds: float = SECONDS_MAX) -> float:
        """Wait until this worker carries the move; how long that took."""

        async def by_it() -> bool:
            return (await self.of(move, "runner")).endswith(f":{by.process.pid}")

        return await until(by_it, seconds)

    async def copying(self, move: str, rows: int = 1) -> None:
        """Wait until the copy of the second wave has begun, and so many of its rows are committed at the target."""
        query = """
            select count(*) from domicile_control.wave
            where move_id = %s and no > 1 and phase not in ('planned', 'prepare', 'fence') and rows_copied >= %s"""

        async def begun() -> bool:
            return await scalar(self.control, query, move, rows) != 0

        await until(begun)

    async def over(self, move: str, status: str) -> None:
        """Wait until the order is carried out, and the move has come to this status."""

        async def is_over() -> bool:
            return await self.of(move, "ordered") == ""

        await until(is_over)
        assert await self.of(move, "status") == status

    async def written(self) -> list[object]:
        """All that domicile has written of its moves: in the control database, in DBOS and at both sites."""
        at = {"control": self.control, "source": self.company.source, "target": self.company.target}
        return [
            await scalar(at[place], f"select md5(string_agg(t::text, '|' order by t::text)) from {table} as t")
            for place, tables in WRITTEN.items()
            for table in tables
        ]

    async def settled(self) -> list[object]:
        """The same, once whoever has carried the move has said that it is over, to DBOS as well."""
        before: list[object] = []
        while before != (now := await self.written()):
            before = now
            await asyncio.sleep(1.0)
        return now


@asynccontextmanager
async def firm_of(pg18: EmbeddedCluster, stores: tuple[str, str], scratch: Path, folder: Path) -> AsyncIterator[Firm]:
    """Its store is cloned from these two, and at the end none of its workers runs any more."""
    control = await create_database(pg18, "control")
    async with cloned(pg18, stores[0]) as source, cloned(pg18, stores[1]) as target:
        text = CONFIG.format(state=scratch / f"state-{folder.name}", map=STORE_MAP, source=source, target=target)
        text = text.replace("wave_subjects_max: 60", "wave_subjects_max: 30")  # several pause points
        (folder / "domicile.yaml").write_text(text + f'control: "{pg18.conninfo(control)}"\n')
        (folder / "embedded.yaml").write_text(text)
        firm = Firm(Company(folder, source, target), pg18.conninfo(control))
        yield firm
        for worker in firm.workers:
            if worker.process.returncode is None:
                worker.signal(signal.SIGKILL)
                await worker.process.wait()
    await drop_database(pg18, control)


@pytest.fixture
async def firm(
    pg18: EmbeddedCluster, store_source: str, store_target: str, scratch: Path, tmp_path: Path
) -> AsyncIterator[Firm]:
    async with firm_of(pg18, (store_source, store_target), scratch, tmp_path) as found:
        yield found


async def purged(firm: Firm, move: str, before: object) -> None:
    """The move is finished, and nothing is lost or doubled."""
    await firm.over(move, "waiting")
    await firm.company.ok("purge", move, "--yes")
    await judge(firm.company, before)


@pytest.mark.parametrize(
    ("mode", "point"),
    [
        pytest.param("cold", "prepare.reserved:kill:1", marks=pytest.mark.campaign),
        pytest.param("cold", "copy.chunk_committed:kill:12", marks=pytest.mark.campaign),
        pytest.param("cold", "handover.departed:kill:2", marks=pytest.mark.campaign),
        pytest.param("live", "copy.chunk_committed:kill:12", marks=pytest.mark.campaign),
        ("live", "live.departed:kill:2"),
    ],
)
async def test_a_killed_worker_is_taken_over(firm: Firm, mode: str, point: str) -> None:
    before = await total(firm.company)
    first = await firm.worker(failpoint=point)
    move = await firm.ordered(mode)
    await firm.carried(move, first)
    second = await firm.worker()
    assert await first.ended() == -signal.SIGKILL, first.said()
    seconds = await firm.carried(move, second, TAKEN_OVER_SECONDS_MAX)
    print(f"taken over {seconds:.1f} s after the kill")
    await purged(firm, move, before)
    assert "taken over from" in second.said()
    assert await firm.of(move, "attempt") == "1"  # the same workflow: its finished steps were not repeated


@pytest.mark.parametrize("mode", MODES)
async def test_a_stopped_worker_is_taken_over_and_writes_nothing_when_it_comes_back(firm: Firm, mode: str) -> None:
    """Stopped in the middle of a copy, wherever that is: within a transaction, likely."""
    before = await total(firm.company)
    first = await firm.worker()
    move = await firm.ordered(mode)
    await firm.copying(move)
    first.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    second = await firm.worker()
    await firm.carried(move, second, TAKEN_OVER_SECONDS_MAX)
    assert time.monotonic() - stopped < TAKEN_OVER_SECONDS_MAX
    print(f"taken over {time.monotonic() - stopped:.1f} s after the stop")
    await firm.over(move, "waiting")
    written = await firm.settled()
    first.signal(signal.SIGCONT)
    assert await first.ended() == 1, first.said()
    assert "lease-lost" in first.said()
    assert await firm.written() == written
    await purged(firm, move, before)


@pytest.mark.campaign
@pytest.mark.parametrize("mode", ["cold", "live"])
async def test_a_zombie_does_not_disturb_who_took_over(firm: Firm, mode: str) -> None:
    """It comes back while the other is at work, in the very step that it was stopped in."""
    before = await total(firm.company)
    first = await firm.worker()
    move = await firm.ordered(mode)
    await firm.copying(move)
    first.signal(signal.SIGSTOP)
    second = await firm.worker()
    await firm.carried(move, second)
    first.signal(signal.SIGCONT)
    assert await first.ended() == 1, first.said()
    await purged(firm, move, before)
    assert await firm.of(move, "attempt") == "1"


async def test_workers_share_the_moves_of_their_site(firm: Firm) -> None:
    """One move each at a time; both workers killed, a third has both in hand."""
    workers = [await firm.worker(failpoint="copy.before:pause") for _ in range(2)]
    moves = [
        await firm.ordered(where="market in ('IN', 'SG')", plan="one.json"),
        await firm.ordered(where="market not in ('CN', 'IN', 'SG')", plan="two.json"),
    ]
    pids = {str(w.process.pid) for w in workers}

    async def shared() -> bool:
        return {(await firm.of(move, "runner")).rpartition(":")[2] for move in moves} == pids

    await until(shared)
    for worker in workers:
        worker.signal(signal.SIGKILL)
    third = await firm.worker("--moves", "2")
    for move in moves:
        await firm.carried(move, third, TAKEN_OVER_SECONDS_MAX)
    for move in moves:
        await firm.over(move, "waiting")


class Line:
    """A line to the control database that can be cut without a word: nothing passes any more, and nobody is told."""

    def __init__(self, conninfo: str) -> None:
        self.to = conninfo_to_dict(conninfo)
        self.whole = asyncio.Event()
        self.whole.set()
        self.port = 0

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        """Yields the conninfo of its near end."""
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield make_conninfo(**{**self.to, "port": self.port})
        finally:
            server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(str(self.to["host"]), int(str(self.to["port"])))
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        for end in (writer, far_writer):
            end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.whole.wait()
            writer.write(data)
            await writer.drain()
        await self.whole.wait()
        writer.close()


@pytest.mark.campaign
async def test_a_worker_that_is_cut_off_is_taken_over(firm: Firm) -> None:
    """Its sessions stay open on both ends, as far as anybody can see."""
    before = await total(firm.company)
    line = Line(firm.control)
    async with line.laid() as near:
        folder = firm.company.folder
        (folder / "far.yaml").write_text((folder / "domicile.yaml").read_text().replace(firm.control, near))
        first = await firm.worker(config="far.yaml")
        move = await firm.ordered()
        await firm.copying(move)
        line.whole.clear()
        cut = time.monotonic()
        second = await firm.worker()
        await firm.carried(move, second, TAKEN_OVER_SECONDS_MAX)
        assert time.monotonic() - cut < TAKEN_OVER_SECONDS_MAX
        print(f"taken over {time.monotonic() - cut:.1f} s after the cut")
        await firm.over(move, "waiting")
        first.signal(signal.SIGKILL)
        await first.ended()
        line.whole.set()
    await purged(firm, move, before)
