"""Verify: both sites hold the same rows of the wave, found and hashed a second way.

Precondition: the wave is fenced at the source and copied. Postcondition: a verdict; clean only when every row of
every member is equal in every column at both sites, each site having found them by its own owner paths, and every
reference of these rows holds at the target. Changes nothing. Idempotent.

An error is a failure, never "no rows": it is raised, and the members themselves are compared first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from psycopg import AsyncConnection

from domicile.model.datamap import DataMap
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Reference, Schema, TableName
from domicile.model.verdict import TableDigest, Verdict
from domicile.move import differences
from domicile.move.context import Move, WaveAtSites
from domicile.move.differences import Excused
from domicile.move.reader import Reader, Sessions, open_sessions, together
from domicile.postgres import checksum, references
from domicile.postgres.checksum import Part, Shape
from domicile.postgres.hashing import Mode, common_mode, probe

Touched = Callable[[], Awaitable[tuple[Excused, int]]]  # keys to excuse, and how many rows they are
SAFE = "Nothing was changed by the comparison; the source serves."


async def nobody() -> tuple[Excused, int]:
    """Nobody writes: the wave is fenced."""
    return differences.NOBODY, 0


async def run(move: Move, wave: WaveAtSites) -> Verdict:
    """Compare the wave at both sites. Raises DomicileError when it cannot be compared."""
    await move.failpoints.reach("verify.before")
    count = max(1, move.plan.limits.streams)
    async with (
        open_sessions("source", move, count) as at_source,
        open_sessions("target", move, count) as at_target,
    ):
        mode = await common(at_source, at_target)
        source = Reader(at_source, wave.source_id, shapes(move, move.source_schema, mode))
        target = Reader(at_target, wave.target_id, shapes(move, move.target_schema, mode))
        verdict = await compare(move, wave, (source, target), mode)
    await move.failpoints.reach("verify.done")
    return verdict


async def root_of(
    conn: AsyncConnection,
    data_map: DataMap,
    schema: Schema,
    tables: Iterable[TableName],
    wave_id: int,
    sealed: str = "",
) -> str:
    """The root of the wave at this site now; equal to a verdict's while no row of it has changed.

    Taken in the mode of ``sealed``, the root it will be compared with. Reads one snapshot of its own unless a
    transaction is open.
    """
    return await checksum.site_root(conn, data_map, schema, tables, wave_id, checksum.mode_of(sealed))


async def compare(
    move: Move, wave: WaveAtSites, sites: tuple[Reader, Reader], mode: Mode, touched: Touched = nobody
) -> Verdict:
    """The verdict over one snapshot of each site, source first; ``touched`` is asked for the rows that users wrote
    between the two, once both are open."""
    source, target = sites
    members = await _same_members(source, target, wave, mode)
    tables = move.data_map.in_scope()
    ours, theirs = await together([_sums(source, tables), _sums(target, tables)])
    differing = [t for t in tables if ours[t] != theirs[t]]
    excused, rows_touched = await touched() if differing else (differences.NOBODY, 0)
    found, total = await differences.find(source, target, differing, members.rows, excused)
    return Verdict(
        subjects=members.rows,
        rows=sum(part.rows for part in ours.values()),
        tables=tuple(TableDigest(t, ours[t].rows, ours[t].digest) for t in tables),
        source_root=checksum.root(mode, members, ours),
        target_root=checksum.root(mode, members, theirs),
        discrepancies=found,
        discrepancies_total=total,
        rows_target=sum(part.rows for part in theirs.values()),
        broken_references=await _broken_references(move, source, target),
        touched=rows_touched,
    )


async def _sums(reader: Reader, tables: Sequence[TableName]) -> Mapping[TableName, Part]:
    parts = await together(reader.ask(table, checksum.whole) for table in tables)
    return dict(zip(tables, parts, strict=True))


async def _broken_references(move: Move, source: Reader, target: Reader) -> tuple[tuple[str, int], ...]:
    proofs = references.to_prove(move.data_map, move.source_schema, move.target_schema)
    counts = await together(_broken(move.data_map, source, target, proof) for proof in proofs)
    return tuple((references.shown(proof), rows) for proof, rows in zip(proofs, counts, strict=True) if rows)


async def _broken(data_map: DataMap, source: Reader, target: Reader, proof: Reference) -> int:
    """Rows whose parent the move has left behind. A reference that no site declares may dangle at the source as well:
    what dangled there before is not the move's doing."""
    rows = await _dangling(target, data_map, proof)
    if rows and not proof.declared:
        rows = max(0, rows - await _dangling(source, data_map, proof))
    return rows


async def _dangling(reader: Reader, data_map: DataMap, proof: Reference) -> int:
    return await reader.ask(proof.table, lambda conn, _, wave_id: references.broken(conn, data_map, proof, wave_id))


async def _same_members(source: Reader, target: Reader, wave: WaveAtSites, mode: Mode) -> Part:
    ours, theirs = await together([_members(source, mode), _members(target, mode)])
    if ours == theirs and ours.rows == wave.subjects > 0:
        return ours
    raise DomicileError(
        ErrorCode.DISCREPANCY,
        f"wave {wave.no} does not have the same {wave.subjects} members at both sites: {ours.rows} and {theirs.rows}",
        facts={"wave": wave.no, "source": ours.rows, "target": theirs.rows, "expected": wave.subjects},
        safe=SAFE,
        hint="The wave's registration was changed by somebody else. Step back (domicile abort) and plan again.",
    )


async def _members(reader: Reader, mode: Mode) -> Part:
    return await reader.sessions.ask("members of the wave", lambda conn: checksum.members(conn, reader.wave_id, mode))


async def common(source: Sessions, target: Sessions) -> Mode:
    """How hashes are made so that they mean the same at both sites."""
    ours, theirs = await together(sessions.ask("probe of the hash functions", probe) for sessions in (source, target))
    return common_mode(ours, theirs)


def shapes(move: Move, schema: Schema, mode: Mode) -> Mapping[TableName, Shape]:
    """How each table is hashed at a site: the source's columns and keys, by name, at both."""
    found = {}
    for name in move.data_map.in_scope():
        try:
            found[name] = Shape.of(move.data_map, schema.tables[name], mode, move.source_schema.tables[name])
        except KeyError as error:
            raise DomicileError(
                ErrorCode.SCHEMAS_DIFFER,
                f"{name} cannot be compared: {error.args[0]} is not there at one of the sites",
                facts={"table": str(name)},
                safe=SAFE,
                hint="Bring the schemas of both sites together, then plan again.",
            ) from None
    return found
