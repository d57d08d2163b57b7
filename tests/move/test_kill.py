"""kill -9 at every named failpoint of a cold move, for real: the mover is a process of its own; what it leaves, another
continues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
import json
import os
from pathlib import Path
import signal
import sys

import pytest
from tests.move.live_kit import small_store
from tests.move.mover import Mover, mover
from tests.move.places import SOURCE, STORE_MAP, TARGET, Place, cloned, every_row, execute, scalar, together
from tests.move.test_cold_move import in_scope

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Limits, Mode, Plan, Question
from domicile.move.failpoints import POINTS
from domicile.sites.embedded import EmbeddedCluster

PROCESS_SECONDS_MAX = 120
STEP_BACK_POINTS = [p for p in POINTS if p.startswith("stepback.")]
PURGE_POINTS = [p for p in POINTS if p.startswith("purge.")]
# Those of waves that somebody leaves are met in test_joiners.py, those of live moves in test_live_kill.py.
MOVE_POINTS = [p for p in POINTS if p.startswith(("prepare.", "fence.", "copy.", "verify.", "handover."))]
LIMITS = Limits(wave_subjects_max=60, canary_subjects_max=5, chunk_rows=200, purge_chunk_rows=100)

# A user of the target who took an address that one of those who move has: the email is unique there.
_OCCUPY = """
    insert into store.user_account (email, phone, full_name, market, locale, created_at)
    values (%s, '+65 0000 0000', 'namesake', 'SG', 'en-SG', now()) returning id"""

CONFIG = """
version: 1
state: {state}
sites:
  beijing: {{jurisdiction: CN, conninfo: "{source}"}}
  singapore: {{jurisdiction: SG, conninfo: "{target}"}}
datasets:
  store:
    map: {map}
    at: [beijing, singapore]
limits:
  wave_subjects_max: 60
  canary_subjects_max: 5
  chunk_rows: 200
  purge_chunk_rows: 100
  settle_seconds: 0
"""


@dataclass(frozen=True, slots=True)
class Company:
    """A store at two sites and a folder with the operator's files."""

    folder: Path
    source: str
    target: str

    async def run(self, *arguments: str, failpoint: str = "") -> tuple[int, str, str]:
        """One domicile command as its own process; exit code (negative: the signal), stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "domicile", *arguments,
            cwd=self.folder,
            env={**os.environ, "DOMICILE_FAILPOINT": failpoint, "NO_COLOR": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), PROCESS_SECONDS_MAX)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def ok(self, *arguments: str) -> str:
        """The same, and it must succeed; stdout."""
        code, out, err = await self.run(*arguments)
        assert code == 0, (arguments, out, err)
        return out

    async def move_id(self) -> str:
        """The only move there is."""
        moves = json.loads(await self.ok("status", "--json"))
        found = moves["moves"] if isinstance(moves, dict) else moves
        assert len(found) == 1
        return str(found[0]["move_id"])


@pytest.fixture
async def company(
    pg18: EmbeddedCluster, store_source: str, store_target: str, scratch: Path, tmp_path: Path
) -> AsyncIterator[Company]:
    async with cloned(pg18, store_source) as source, cloned(pg18, store_target) as target:
        text = CONFIG.format(state=scratch / f"state-{tmp_path.name}", map=STORE_MAP, source=source, target=target)
        (tmp_path / "domicile.yaml").write_text(text)
        yield Company(tmp_path, source, target)


async def planned(company: Company) -> None:
    await company.ok(
        "plan", "store", "--from", "beijing", "--to", "singapore", "--where", "market <> 'CN'", "-o", "plan.json"
    )


async def judge(at: Company | Place, before: object) -> None:
    """Nothing lost, nothing doubled, everybody where they belong."""
    after = together(await every_row(at.source), await every_row(at.target), in_scope())
    assert after == before
    assert await scalar(at.source, "select count(*) from store.user_account where market <> 'CN'") == 0
    assert await scalar(at.target, "select count(*) from store.user_account where market = 'CN'") == 0


async def total(at: Company | Place) -> object:
    return together(await every_row(at.source), await every_row(at.target), in_scope())


@pytest.fixture
async def place(
    pg18: EmbeddedCluster, store_source: str, store_target: str, scratch: Path, tmp_path: Path
) -> AsyncIterator[Place]:
    async with small_store((pg18, pg18), (store_source, store_target), scratch / tmp_path.name, LIMITS) as place:
        yield place


async def abroad(place: Place) -> Plan:
    plan = await commands.plan(place.workspace, Question(place.dataset, SOURCE, TARGET, where="market <> 'CN'"))
    assert len(plan.waves) > 2
    return plan


async def killed(process: Mover, order: str, *values: object, at: str, **named: object) -> None:
    """The order is carried out until it comes to the failpoint, and no further."""
    died = await process.do(order, *values, failpoint=at, **named)
    assert died.killed, (at, died)


async def finished(place: Place, process: Mover, move: str, before: object) -> None:
    moved = (await process.do("resume", move)).result
    assert moved.status is Status.WAITING, moved
    assert (await process.do("purge", move)).error == ""
    await judge(place, before)


@pytest.mark.campaign
async def test_killed_at_every_point_of_a_move_and_its_purge(place: Place) -> None:
    """One process after the other, each killed a little further on in the second wave: a finished one is there, too."""
    before = await total(place)
    async with mover(place.workspace) as process:
        first, *others = MOVE_POINTS
        await killed(process, "apply", await abroad(place), mode=Mode.COLD, at=f"{first}:kill:2")
        (move,) = [m.move_id for m in await commands.status(place.workspace)]
        for point in others:
            await killed(process, "resume", move, at=f"{point}:kill")
        assert (await process.do("resume", move)).result.status is Status.WAITING
        for point in PURGE_POINTS:
            await killed(process, "purge", move, at=f"{point}:kill")
        assert (await process.do("purge", move)).error == ""
        await judge(place, before)


@pytest.mark.campaign
@pytest.mark.parametrize("point", MOVE_POINTS)
async def test_killed_once(place: Place, point: str) -> None:
    """In the second wave; who comes then finds what one process alone has left."""
    before = await total(place)
    times = {"copy.chunk_committed": 12}.get(point, 2)
    async with mover(place.workspace) as process:
        await killed(process, "apply", await abroad(place), mode=Mode.COLD, at=f"{point}:kill:{times}")
        (move,) = [m.move_id for m in await commands.status(place.workspace)]
        await finished(place, process, move, before)


async def test_killed_while_stepping_back(place: Place) -> None:
    """A collision that appears after the plan fails a wave; the mover is killed in the middle of undoing it, twice."""
    before = await total(place)
    plan = await abroad(place)
    taken = await scalar(place.source, "select max(email) from store.user_account where market = 'IN'")
    await scalar(place.target, _OCCUPY, taken)
    async with mover(place.workspace) as process:
        first, second = STEP_BACK_POINTS
        await killed(process, "apply", plan, mode=Mode.COLD, at=f"{first}:kill")
        (move,) = [m.move_id for m in await commands.status(place.workspace)]
        await killed(process, "resume", move, at=f"{second}:kill")
        await execute(place.target, "delete from store.user_account where full_name = 'namesake'")
        await finished(place, process, move, before)


@pytest.mark.campaign
async def test_killed_again_and_again(company: Company) -> None:
    """Each attempt is killed a little further on; the last one finishes."""
    before = await total(company)
    await planned(company)
    code, _, _ = await company.run("apply", "plan.json", "--cold", "--yes", failpoint="copy.chunk_committed:kill:1")
    assert code == -signal.SIGKILL
    move = await company.move_id()
    for point in ("verify.done:kill", "handover.arrived:kill"):
        code, _, err = await company.run("resume", move, failpoint=point)
        assert code == -signal.SIGKILL, err
    await company.ok("resume", move)
    await company.ok("purge", move, "--yes")
    await judge(company, before)


async def test_a_purge_carries_nothing_else_on(company: Company) -> None:
    """Killed in the second wave; the order to purge the first does not resume the rest."""
    await planned(company)
    code, _, err = await company.run("apply", "plan.json", "--cold", "--yes", failpoint="copy.before:kill:2")
    assert code == -signal.SIGKILL, err
    move = await company.move_id()
    await company.ok("purge", move, "--yes")
    waves = json.loads(await company.ok("status", move, "--json"))["waves"]
    assert [w["phase"] for w in waves[:2]] == ["done", "copy"]
