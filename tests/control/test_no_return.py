"""The point of no return is one of each arrival, and rests on events that are written with their phase."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
from tests.control.test_control import MOVE, a_plan

from domicile.control import approvals
from domicile.control.database import open_control
from domicile.control.figures import Figures
from domicile.control.moves import Moves
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.phase import Phase
from domicile.model.plan import Limits, Mode
from domicile.model.report import NoReturn
from domicile.move import approval

WAY = (Phase.PREPARE, Phase.FENCE, Phase.COPY, Phase.VERIFY)
LIMITS = replace(Limits(), undo_hours=1.0, purge_approvals=1)
EARLIER = "update domicile_control.event set at = at - interval '2 hours'"
REFUSING = """
    create function refuse() returns trigger language plpgsql as $$begin raise exception 'cut off'; end$$;
    create trigger refuse before insert on domicile_control.event for each row execute function refuse()"""


@pytest.fixture
async def conn(database: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await open_control(database) as connection:
        await Moves(connection).create(MOVE, a_plan(), "{}", Mode.COLD, "op")
        yield connection


async def arrives(conn: psycopg.AsyncConnection, no: int) -> None:
    moves = Moves(conn)
    for phase in WAY:
        await moves.enter(MOVE, no, phase)
    await conn.execute("update domicile_control.wave set verdict = 'clean' where no = %s", (no,))
    await moves.enter(MOVE, no, Phase.HANDOVER)
    await moves.enter(MOVE, no, Phase.SOAK)


async def asked(conn: psycopg.AsyncConnection) -> NoReturn | None:
    found = await approvals.no_return(conn, MOVE, LIMITS)
    approval.require(MOVE, found, await Figures(conn).waves(MOVE), way_back=False)
    return found


async def refused(conn: psycopg.AsyncConnection) -> DomicileError:
    with pytest.raises(DomicileError) as caught:
        await asked(conn)
    return caught.value


async def test_a_wave_that_arrives_after_a_purge_began_is_asked_for_anew(conn: psycopg.AsyncConnection) -> None:
    await arrives(conn, 1)
    assert (await refused(conn)).code is ErrorCode.UNDO_WINDOW
    await conn.execute(EARLIER)
    assert (await refused(conn)).code is ErrorCode.APPROVAL_MISSING
    await approvals.approve(conn, MOVE, "ana")
    assert (await asked(conn)) is not None
    await Moves(conn).enter(MOVE, 1, Phase.PURGE)
    await arrives(conn, 2)
    late = await refused(conn)
    assert late.code is ErrorCode.UNDO_WINDOW
    assert "rollback" not in late.hint
    await conn.execute(EARLIER)
    await conn.execute("update domicile_control.approval set given_at = given_at - interval '2 hours'")
    assert (await refused(conn)).code is ErrorCode.APPROVAL_MISSING, "ana has not approved of the second wave"
    await approvals.approve(conn, MOVE, "ana")
    await asked(conn)
    await Moves(conn).enter(MOVE, 1, Phase.PURGE)  # it goes on, and then comes the second
    await conn.execute("update domicile_control.approval set given_at = given_at - interval '100 hours'")
    begun = await asked(conn)
    assert begun is not None
    assert begun.begun, "it is not asked again"


async def test_no_phase_without_its_event(conn: psycopg.AsyncConnection) -> None:
    await arrives(conn, 1)
    await conn.execute(REFUSING)
    with pytest.raises(psycopg.errors.RaiseException):
        await Moves(conn).enter(MOVE, 1, Phase.PURGE)
    assert (await Figures(conn).wave(MOVE, 1)).phase is Phase.SOAK


async def test_an_arrival_that_nothing_tells_of_is_never_past_the_point(conn: psycopg.AsyncConnection) -> None:
    await arrives(conn, 1)
    await conn.execute("delete from domicile_control.event where what = 'phase soak'")
    assert (await refused(conn)).code is ErrorCode.UNDO_WINDOW
