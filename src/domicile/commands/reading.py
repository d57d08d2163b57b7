"""Status, verify, report, where: what is, and what was proven."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from statistics import median

from psycopg import errors, sql

from domicile.commands.desk import carrier_for, load_map, open_desk, stored_plan
from domicile.control.membership import Membership
from domicile.model.datamap import DataMap, Role
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.handover import SourceMark, TargetMark
from domicile.model.phase import Phase
from domicile.model.plan import Mode
from domicile.model.report import (
    MoveReport,
    MoveStatus,
    Presence,
    VerifyReport,
    WaveCheck,
    WaveStatus,
    Whereabouts,
)
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.model.verdict import TableDigest
from domicile.model.workspace import Workspace
from domicile.move import shared
from domicile.move import verify as verifying
from domicile.move.carrier import Carrier
from domicile.move.context import WaveAtSites
from domicile.postgres import waves
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.ownership import ident

PURGED_NOTE = "The source copy was purged; the verdict that was sealed at the handover stands."
WRITTEN_NOTE = "The source copy is as it was sealed: the differences were written at the target since the handover."
CHANGED_NOTE = "The source copy has changed since the handover: somebody writes there past the guard. Do not purge."
UNSEALED_NOTE = "The mover was writing to the source copy when it stopped: it has no seal until the next soak or purge."
MOVED = (Phase.SOAK, Phase.PURGE, Phase.DONE)
_KEY_TYPE = """
    select pg_catalog.format_type(a.atttypid, a.atttypmod) from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %s and c.relname = %s and a.attname = %s"""


async def status(workspace: Workspace, move_id: str | None = None) -> tuple[MoveStatus, ...]:
    """One move, or all of them, oldest first. Raises move-unknown."""
    async with open_desk(workspace) as desk:
        if move_id is not None:
            return (await desk.status(MoveId(move_id)),)
        return tuple([await desk.status(r.move_id) for r in await desk.moves.all()])


async def verify(workspace: Workspace, move_id: str) -> VerifyReport:
    """Compare both sites again, for every wave that lives at the target and still has its source copy.

    ``source_intact`` must hold always: the source copy is fenced. ``equal`` holds until somebody writes at
    the target, which is what the target is for; subjects that differ then are counted, and the sealed verdict
    stays the proof of the handover.
    """
    async with open_desk(workspace) as desk, carrier_for(desk, MoveId(move_id)) as carrier:
        checks = [
            await _check_wave(carrier, wave)
            for wave in await desk.figures.waves(MoveId(move_id))
            if wave.phase in MOVED
        ]
    return VerifyReport(MoveId(move_id), all(c.source_intact for c in checks), tuple(checks))


async def _check_wave(carrier: Carrier, wave: WaveStatus) -> WaveCheck:
    move = carrier.move
    async with carrier.sites() as (source, target):
        at_source = await waves.find_wave(source, move.move_id, wave.no)
        at_target = await waves.find_wave(target, move.move_id, wave.no)
        assert at_source is not None, "a wave that moved is known at its source"
        assert at_target is not None, "and at its target"
        if wave.phase is not Phase.SOAK:
            return WaveCheck(wave.no, wave.phase, True, True, 0, wave.rows_copied, 0, note=PURGED_NOTE)
        tables = move.data_map.in_scope()
        root = await verifying.root_of(
            source, move.data_map, move.source_schema, tables, at_source.id, wave.source_root
        )
        drifted = await shared.differing(move, source, target, at_source.id)
    found = await verifying.run(move, WaveAtSites(wave.no, at_source.id, at_target.id, wave.subjects, at_target.epoch))
    intact = root == (wave.source_root or root)
    return WaveCheck(
        no=wave.no,
        phase=wave.phase,
        equal=found.clean,
        source_intact=intact,
        rows_source=found.rows,
        rows_target=found.rows_target,
        rows_differing=found.discrepancies_total,
        discrepancies=tuple(
            f"{d.table} ({', '.join(d.key)}) {d.difference}" + (f": {', '.join(d.columns)}" if d.columns else "")
            for d in found.discrepancies
        ),
        note=" ".join([*filter(None, [_note(wave, found.clean, intact)]), *_drifted(drifted)]),
    )


def _note(wave: WaveStatus, clean: bool, intact: bool) -> str:
    if not wave.source_root:
        return UNSEALED_NOTE
    return "" if clean else WRITTEN_NOTE if intact else CHANGED_NOTE


def _drifted(found: Mapping[tuple[TableName, tuple[str, ...]], int]) -> Iterator[str]:
    for (table, key), rows in found.items():
        yield f"{rows} shared rows of {table} that the wave refers to by {', '.join(key)} differ between the sites."


async def report(workspace: Workspace, move_id: str) -> MoveReport:
    """The account of a move so far."""
    async with open_desk(workspace) as desk:
        now = await desk.status(MoveId(move_id))
        tables = await desk.figures.tables(MoveId(move_id))
        seconds = await desk.figures.seconds(MoveId(move_id))
        record = await desk.moves.get(MoveId(move_id))
        ejected = await Membership(desk.conn).ejections(MoveId(move_id))
    discrepancies = await _discrepancies(workspace, now) if any(w.error_code for w in now.waves) else ()
    left = await _left_at_target(workspace, now) if any(w.rolled_back for w in now.waves) else 0
    moved = [w for w in now.waves if w.phase in MOVED]
    rows = sum(n for _, n in tables)
    pauses = [w.fence_seconds for w in moved if w.fence_seconds is not None]
    copying = sum(w.copy_seconds or 0.0 for w in moved)
    return MoveReport(
        status=now,
        rows=rows,
        bytes=sum(w.bytes_copied for w in moved),
        seconds=seconds,
        rows_per_second=rows / copying if copying else 0.0,
        verdict=_verdict(now),
        tables=tuple(TableDigest(TableName.parse(t), n, 0) for t, n in tables),
        fence_seconds_median=median(pauses) if pauses else None,
        fence_seconds_max=max(pauses) if pauses else None,
        stayed=_stayed(load_map(workspace, stored_plan(record).dataset), now),
        purged=_purged(now, left),
        discrepancies=discrepancies,
        ejected=ejected,
    )


async def where(workspace: Workspace, dataset: str, subject: str) -> Whereabouts:
    """Where a subject's data lives: the directory's answer, and what each site says itself. Raises
    condition-invalid for what is no key."""
    name = DatasetName(dataset)
    data_map = load_map(workspace, dataset)
    at = workspace.dataset(dataset).at
    answers = await asyncio.gather(*(_presence(data_map, s, conninfo, subject) for s, conninfo in at.items()))
    sites = tuple(presence for presence, _ in answers)
    async with open_desk(workspace) as desk:
        home = await desk.directory.look_up(name, next((key for _, key in answers if key), subject))
    if home is not None and not any(s.epoch > home.epoch for s in sites):
        return Whereabouts(name, home.site, home.epoch, "directory", sites)
    resident = [s for s in sites if s.mark == TargetMark.RESIDENT]
    if resident:
        newest = max(resident, key=lambda s: s.epoch)
        return Whereabouts(name, newest.site, newest.epoch, "site", sites)
    if any(s.mark in (SourceMark.FENCED, SourceMark.DEPARTED) for s in sites):
        return Whereabouts(name, None, max(s.epoch for s in sites), "between homes", sites)
    # A wave that is only prepared is "arriving" at its target; the home is still where the row stands without
    # a mark.
    present = [s for s in sites if s.row_present and s.mark != TargetMark.ARRIVING]
    if len(present) == 1:
        return Whereabouts(name, present[0].site, 0, "row", sites)
    return Whereabouts(name, None, 0, "several rows" if present else "nowhere", sites)


async def _presence(data_map: DataMap, site: SiteName, conninfo: str, subject: str) -> tuple[Presence, str]:
    """What one site says of the subject, and the subject's key as PostgreSQL writes it (empty when the site
    has no such table)."""
    rule = data_map.subject
    async with await connect(conninfo, settings=SESSION) as conn:
        found = await (await conn.execute(_KEY_TYPE, (rule.table.schema, rule.table.name, rule.key))).fetchone()
        if found is None:
            return Presence(site, False, "", 0), ""
        # format_type writes a type's name as SQL reads it.
        key = sql.SQL("{}::{}").format(subject, sql.SQL(found[0]))  # no parameter: "%" may stand in names
        statement = sql.SQL("select exists (select 1 from {} where {} = {key}), ({key})::text").format(
            ident(rule.table), sql.Identifier(rule.key), key=key
        )
        try:
            row = await (await conn.execute(statement)).fetchone()
        except (errors.DataError, UnicodeEncodeError):  # the latter: an argument that was not UTF-8
            raise DomicileError(
                ErrorCode.CONDITION_INVALID,
                f"that is not a key of {rule.table}: its type is {found[0]}",
                facts={"table": str(rule.table), "type": found[0]},
                hint="Give the subject's key as it stands in the subject table.",
            ) from None
        assert row is not None
        mark = await waves.presence(conn, subject, found[0]) if await waves.table_exists(conn) else None
    return Presence(site, row[0], mark.mark if mark else "", mark.epoch if mark else 0), row[1]


async def _discrepancies(workspace: Workspace, now: MoveStatus) -> tuple[str, ...]:
    """What verify named in failed waves: kept at the source, because row keys are personal."""
    async with await connect(workspace.conninfo(now.dataset, now.source), settings=SESSION) as conn:
        return tuple(await waves.read_discrepancies(conn, now.move_id))


async def _left_at_target(workspace: Workspace, now: MoveStatus) -> int:
    """Of how many waves that were rolled back the target still has its copy, as it says itself."""
    async with await connect(workspace.conninfo(now.dataset, now.target), settings=SESSION) as conn:
        found = [await waves.find_wave(conn, now.move_id, w.no) for w in now.waves if w.rolled_back]
    return sum(record is not None for record in found)


def _verdict(now: MoveStatus) -> str:
    moved = [w for w in now.waves if w.phase in MOVED]
    back = sum(w.rolled_back for w in now.waves)
    returned = f"{back} waves were rolled back, equal at both sites when they were handed back" if back else ""
    if not moved:
        return returned or "no wave has moved"
    return "; ".join(filter(None, (_clean(now, moved), returned)))


def _clean(now: MoveStatus, moved: list[WaveStatus]) -> str:
    clean = sum(w.verdict == "clean" for w in moved)
    of = f"clean: {clean} of {len(moved)} moved waves"
    if now.mode is Mode.COLD:
        return f"{of} have equal roots at both sites"
    return f"{of} were equal at both sites, row by row, when they were handed over"


def _stayed(data_map: DataMap, now: MoveStatus) -> tuple[str, ...]:
    """What stayed at the source, and why, in sentences."""
    waiting = sum(w.subjects for w in now.waves if w.phase not in MOVED and not w.rolled_back)
    back = sum(w.subjects for w in now.waves if w.rolled_back)
    sentences = [
        f"Subjects outside the cohort: the plan's condition did not name them; no row of theirs left {now.source}."
    ]
    if waiting:
        sentences.append(f"{waiting} subjects of the cohort: their waves have not been handed over.")
    if back:
        sentences.append(
            f"{back} subjects of the cohort: they are back at {now.source}, with what they wrote at {now.target}."
        )
    for role, why in (
        (Role.LOCAL, "they belong to the site"),
        (Role.REFERENCE, "they are the same at every site"),
        (Role.SHARED, "several subjects share their rows"),
    ):
        copied = data_map.copied()
        tables = [table for table in data_map.of_role(role) if table not in copied]
        if tables:
            sentences.append(f"Tables {', '.join(map(str, tables))}: {why}.")
        if role is Role.SHARED and copied:
            named = ", ".join(map(str, copied))
            sentences.append(f"Tables {named}: rows that are needed at both sites are at both; they are nobody's.")
    return tuple(sentences)


def _purged(now: MoveStatus, left_at_target: int) -> str:
    done = [w for w in now.waves if w.phase is Phase.DONE]
    back = sum(w.rolled_back for w in now.waves)
    said = []
    if done:
        rows = sum(w.rows_purged for w in done)
        said.append(
            f"{rows} rows of {len(done)} waves were deleted at {now.source}; this is removal, not proof of erasure."
        )
    elif any(w.phase in MOVED for w in now.waves):
        said.append(f"Nothing was purged: the source copy is still at {now.source}.")
    if left_at_target:
        said.append(f"The copies of {left_at_target} waves that were rolled back are kept at {now.target}, closed.")
    if back > left_at_target:
        said.append(f"The copies of {back - left_at_target} waves that were rolled back were deleted at {now.target}.")
    return " ".join(said) or "There is nothing to be purged: no wave has moved."
