"""The point of no return: a purge waits for the undo window and for approvals by different people, and the log of
evidence shows that it did."""

from __future__ import annotations

from dataclasses import replace
import io

import psycopg
import pytest
from tests.move.live_kit import FEW, plan_of
from tests.move.mover import Mover
from tests.move.places import Place, scalar
from tests.move.test_evidence import acts, proven

from domicile import commands
from domicile.cli import render_move
from domicile.cli.output import Output
from domicile.commands.desk import carrier_for, open_desk
from domicile.model.errors import DomicileError as Refused
from domicile.model.errors import ErrorCode
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode
from domicile.model.report import MoveStatus
from domicile.model.site import MoveId
from domicile.move import begin
from domicile.move.run import Outcome, run_purge, run_purge_begin

LIMITS = replace(FEW, undo_hours=1.0, purge_approvals=2, approval_hours_max=10.0)
EARLIER = "update domicile_control.event set at = at - interval '2 hours'"
OLD = "update domicile_control.approval set given_at = given_at - interval '11 hours' where given_by <> 'ana'"
OLDER = "update domicile_control.event set at = at - interval '20 hours'"
SALTS = "select array_agg(wave order by wave) from domicile.evidence_salt"


async def control(place: Place, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(place.workspace.control, autocommit=True) as conn:
        await conn.execute(statement.encode())


async def refused(place: Place, move: str) -> Refused:
    rows = await scalar(place.source, "select count(*) from store.user_account")
    with pytest.raises(Refused) as caught:
        await commands.purge(place.workspace, move)
    assert await scalar(place.source, "select count(*) from store.user_account") == rows
    return caught.value


def shown(now: MoveStatus) -> str:
    out = io.StringIO()
    output = Output({"COLUMNS": "80"}, out)
    output.result({}, *render_move.move(now, output.stdout.width))
    return " ".join(out.getvalue().split())


async def _expired_meanwhile(place: Place, move: str) -> None:
    """The mover dies behind the point and is carried on days later: it asks again, and no wave has failed."""
    async with open_desk(place.workspace) as desk, carrier_for(desk, MoveId(move)) as carrier:
        await begin.enlist(carrier)
        assert await run_purge_begin(carrier) is Outcome.DONE
        await control(place, OLD)
        assert await run_purge(carrier, 1) is Outcome.FAILED
        now = await desk.status(MoveId(move))
    assert (now.status, now.error_code) == (Status.WAITING, ErrorCode.APPROVAL_MISSING)
    assert {(w.phase, w.error_code) for w in now.waves} == {(Phase.SOAK, "")}


async def test_a_purge_waits_for_its_date_and_for_two_people(place: Place, process: Mover) -> None:
    moved = await commands.apply(place.workspace, await plan_of(place, limits=LIMITS), mode=Mode.LIVE)
    move = moved.move_id
    assert "purge from 20" in shown(moved), "counted down"
    assert (await refused(place, move)).code is ErrorCode.UNDO_WINDOW
    await control(place, EARLIER)
    assert (await refused(place, move)).code is ErrorCode.APPROVAL_MISSING
    for person in ("ana", "ana"):
        now = await commands.approve(place.workspace, move, person=person)
    assert "approvals 1 of 2: ana (until 20" in shown(now)
    assert "approve its purge: domicile approve" in shown(now)
    assert "remove the source copy" not in shown(now)
    assert (await refused(place, move)).facts["by"] == ["ana"], "the same person twice is one"
    for person in ("bo", "cy"):
        now = await commands.approve(place.workspace, move, person=person)
    assert "remove the source copy with: domicile purge" in shown(now)
    await control(place, OLDER)
    await control(place, OLD)
    assert "expired: bo" in shown((await commands.status(place.workspace, move))[0])
    assert (await refused(place, move)).facts["by"] == ["ana"], "it has expired"
    await commands.approve(place.workspace, move, person="bo")
    await _expired_meanwhile(place, move)
    await commands.approve(place.workspace, move, person="bo")
    assert await scalar(place.source, SALTS) == [0, 1, 2, 3]
    died = await process.do("purge", move, failpoint="purge.deleted:kill")
    assert died.killed, died
    assert await scalar(place.source, SALTS) == [0, 2, 3], "what a wave's leaves commit to goes with its rows"
    await commands.purge(place.workspace, move)
    assert await scalar(place.source, SALTS) is None
    found = await proven(place, move)
    told = acts(found, "beijing")
    assert told.index(("approval", 0)) < told.index(("purge", 1))
    figures = found.report.figures
    assert (figures["approvals_asked"], figures["approvals"]) == (2, 2), "the third one had expired"
    assert "approvals 2 of 2: ana" in shown((await commands.status(place.workspace, move))[0])
    assert "<td>approvals</td><td>2</td>" in found.certificate
