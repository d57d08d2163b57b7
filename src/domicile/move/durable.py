"""Moves as durable workflows on DBOS: steps that ended are not repeated after a crash, a step that was cut is
repeated whole.

A workflow is named ``<move>/<kind>/<attempt>``; its inputs and results are ids, numbers and outcomes, never a row. The
executor id is ``<move>/<kind>``, so that a process takes up again what it was ordered to and nothing else; the lease
keeps it to one process. The application version is fixed by hand and changes only when the order of steps does. Source:
DBOS 3.4, ``launch`` and ``_recovery``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote, urlencode

from dbos import DBOS, DBOSConfig, SetWorkflowID
from psycopg.conninfo import conninfo_to_dict

from domicile.model.phase import Phase, Status
from domicile.model.site import MoveId
from domicile.move import begin, purge
from domicile.move.carrier import Carrier
from domicile.move.run import PHASES, Outcome, run_edge, run_phase, run_purge

APPLICATION_VERSION = "domicile-cold-1"
SYSTEM_SCHEMA = "domicile_dbos"
CONNECTIONS_MAX = 4
POLLING_SECONDS = 0.1  # how often the end of a workflow that was taken up again is looked for
UNFINISHED = ("PENDING", "ENQUEUED", "DELAYED")

_carriers: dict[str, Carrier] = {}  # the moves this process carries; workflows get ids only


@asynccontextmanager
async def launched(carrier: Carrier, control: str, kind: str) -> AsyncIterator[None]:
    """DBOS runs for this move while the block does; what a crash left of the move's workflows is taken up
    again."""
    move_id = carrier.move.move_id
    _carriers[move_id] = carrier
    config = DBOSConfig(
        name="domicile",
        system_database_url=_url(control),
        dbos_system_schema=SYSTEM_SCHEMA,
        application_version=APPLICATION_VERSION,
        executor_id=f"{move_id}/{kind}",
        log_level="CRITICAL",
        sys_db_pool_size=CONNECTIONS_MAX,
        notification_listener_polling_interval_sec=0.1,
    )
    DBOS(config=config)
    try:
        DBOS.launch()
        yield
    finally:
        # DBOS made its own pool the loop's default and is about to close it: whoever comes after needs another.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
        await asyncio.to_thread(DBOS.destroy)
        del _carriers[move_id]


async def carry(move_id: MoveId, kind: str) -> Outcome:
    """Join the workflow that a crash left unfinished, or begin another attempt; returns how it ended."""
    workflow = {"move": move_workflow, "purge": purge_workflow}[kind]
    moves = _carriers[move_id].moves
    attempt = (await moves.get(move_id)).attempt
    while await _ended(name := f"{move_id}/{kind}/{attempt}"):
        attempt = await moves.next_attempt(move_id)
    with SetWorkflowID(name):
        handle = await DBOS.start_workflow_async(workflow, move_id)
    return Outcome(await handle.get_result(polling_interval_sec=POLLING_SECONDS))


async def _ended(workflow_id: str) -> bool:
    """True when an attempt is over, however it ended: it can only be followed by another."""
    known = await DBOS.get_workflow_status_async(workflow_id)
    return known is not None and known.status not in UNFINISHED


@DBOS.workflow(name="domicile.move")
async def move_workflow(move_id: str) -> str:
    """Every wave in order; stops at the first that is not handed over."""
    begun = await begin_step(move_id)
    if begun != Outcome.DONE:
        return begun
    for no in await waves_step(move_id):
        outcome = await gate_step(move_id)
        if outcome == Outcome.DONE:
            outcome = await wave_workflow(move_id, no)
        if outcome != Outcome.DONE:
            return await end_step(move_id, outcome)
    return await end_step(move_id, Outcome.DONE)


@DBOS.workflow(name="domicile.wave")
async def wave_workflow(move_id: str, no: int) -> str:
    """The phases of one wave, in order."""
    for phase in PHASES:
        outcome = await phase_step(move_id, no, phase.value)
        if outcome != Outcome.DONE:
            return outcome
    return str(Outcome.DONE)


@DBOS.workflow(name="domicile.purge")
async def purge_workflow(move_id: str) -> str:
    """The source copies of all waves that live at the target, removed one wave after the other."""
    for no in await soaking_step(move_id):
        outcome = await purge_step(move_id, no)
        if outcome != Outcome.DONE:
            return outcome
    return await purge_end_step(move_id)


@DBOS.step()
async def begin_step(move_id: str) -> str:
    return str(await run_edge(_carriers[move_id], begin.run))


@DBOS.step()
async def waves_step(move_id: str) -> list[int]:
    return [w.no for w in await _carriers[move_id].figures.waves(MoveId(move_id))]


@DBOS.step()
async def gate_step(move_id: str) -> str:
    """Between waves nobody is fenced: the place where a pause takes effect."""
    record = await _carriers[move_id].moves.get(MoveId(move_id))
    if record.abort_requested:
        return str(Outcome.ABORTED)
    return str(Outcome.PAUSED if record.pause_requested else Outcome.DONE)


@DBOS.step()
async def phase_step(move_id: str, no: int, phase: str) -> str:
    return str(await run_phase(_carriers[move_id], no, Phase(phase)))


@DBOS.step()
async def end_step(move_id: str, outcome: str) -> str:
    ended = await run_edge(_carriers[move_id], partial(begin.end, outcome=Outcome(outcome)))
    return outcome if ended is Outcome.DONE else str(ended)


@DBOS.step()
async def soaking_step(move_id: str) -> list[int]:
    waves = await _carriers[move_id].figures.waves(MoveId(move_id))
    return [w.no for w in waves if w.phase in (Phase.SOAK, Phase.PURGE)]


@DBOS.step()
async def purge_step(move_id: str, no: int) -> str:
    return str(await run_purge(_carriers[move_id], no))


@DBOS.step()
async def purge_end_step(move_id: str) -> str:
    return str(await run_edge(_carriers[move_id], _end_purge))


async def _end_purge(carrier: Carrier) -> None:
    move_id = carrier.move.move_id
    await purge.vacuum(carrier)
    await begin.release_guards(carrier)
    if all(w.status is Status.DONE for w in await carrier.figures.waves(move_id)):
        await carrier.moves.set_status(move_id, Status.DONE)
    await carrier.move.failpoints.reach("purge.done")


def _url(conninfo: str) -> str:
    """A libpq conninfo as the URL that DBOS wants; service, passfile and the like stay libpq's business."""
    given = {k: str(v) for k, v in conninfo_to_dict(conninfo).items() if v is not None}
    user, password, dbname = given.pop("user", ""), given.pop("password", ""), given.pop("dbname", "")
    host, port = given.pop("host", ""), given.pop("port", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    if host.startswith("/"):
        given, host = {**given, "host": host}, ""
    place = (f"{login}@" if login else "") + host + (f":{port}" if port else "")
    return f"postgresql://{place}/{quote(dbname, safe='')}" + (f"?{urlencode(given)}" if given else "")
