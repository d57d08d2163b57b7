"""kill -9 at every named failpoint, for real: the mover is a process of its own; what it leaves, another continues."""

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
from tests.move.conftest import STORE_MAP
from tests.move.places import cloned, every_row, execute, scalar, together
from tests.move.test_cold_move import in_scope

from domicile.move.failpoints import POINTS
from domicile.sites.embedded import EmbeddedCluster

PROCESS_SECONDS_MAX = 120
STEP_BACK_POINTS = {p for p in POINTS if p.startswith("stepback.")}
PURGE_POINTS = {p for p in POINTS if p.startswith("purge.")}
EJECT_POINTS = {p for p in POINTS if p.startswith("eject.")}  # met by waves that somebody leaves: test_joiners.py
LIVE_POINTS = {p for p in POINTS if p.startswith(("live.", "rollback."))}  # test_live_kill.py
MOVE_POINTS = [p for p in POINTS if p not in STEP_BACK_POINTS | PURGE_POINTS | EJECT_POINTS | LIVE_POINTS]

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


async def judge(company: Company, before: object) -> None:
    """Nothing lost, nothing doubled, everybody where they belong."""
    after = together(await every_row(company.source), await every_row(company.target), in_scope())
    assert after == before
    assert await scalar(company.source, "select count(*) from store.user_account where market <> 'CN'") == 0
    assert await scalar(company.target, "select count(*) from store.user_account where market = 'CN'") == 0


async def total(company: Company) -> object:
    return together(await every_row(company.source), await every_row(company.target), in_scope())


@pytest.mark.parametrize("point", MOVE_POINTS)
async def test_killed_while_moving(company: Company, point: str) -> None:
    """Killed in the second wave, so that a finished wave is there too."""
    before = await total(company)
    await planned(company)
    times = {"copy.chunk_committed": 12}.get(point, 2)
    code, _, err = await company.run("apply", "plan.json", "--cold", "--yes", failpoint=f"{point}:kill:{times}")
    assert code == -signal.SIGKILL, err
    move = await company.move_id()
    await company.ok("status", move)
    await company.ok("resume", move)
    await company.ok("purge", move, "--yes")
    await judge(company, before)


@pytest.mark.parametrize("point", sorted(PURGE_POINTS))
async def test_killed_while_purging(company: Company, point: str) -> None:
    before = await total(company)
    await planned(company)
    await company.ok("apply", "plan.json", "--cold", "--yes")
    move = await company.move_id()
    code, _, err = await company.run("purge", move, "--yes", failpoint=f"{point}:kill:1")
    assert code == -signal.SIGKILL, err
    await company.ok("purge", move, "--yes")
    await judge(company, before)


@pytest.mark.parametrize("point", sorted(STEP_BACK_POINTS))
async def test_killed_while_stepping_back(company: Company, point: str) -> None:
    """A collision that appears after the plan fails a wave; the mover is killed in the middle of undoing it."""
    before = await total(company)
    await planned(company)
    taken = await scalar(company.source, "select max(email) from store.user_account where market = 'IN'")
    await scalar(company.target, _OCCUPY, taken)
    code, _, err = await company.run("apply", "plan.json", "--cold", "--yes", failpoint=f"{point}:kill:1")
    assert code == -signal.SIGKILL, err
    await execute(company.target, "delete from store.user_account where full_name = 'namesake'")
    move = await company.move_id()
    await company.ok("resume", move)
    await company.ok("purge", move, "--yes")
    await judge(company, before)


async def test_killed_again_and_again(company: Company) -> None:
    """Each attempt is killed a little further on; the last one finishes."""
    before = await total(company)
    await planned(company)
    code, _, _ = await company.run("apply", "plan.json", "--cold", "--yes", failpoint="copy.chunk_committed:kill:1")
    assert code == -signal.SIGKILL
    move = await company.move_id()
    for point in ("copy.chunk_committed:kill:2", "verify.done:kill", "handover.departed:kill", "handover.arrived:kill"):
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
