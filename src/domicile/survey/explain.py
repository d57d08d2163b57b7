"""`domicile survey --explain TABLE`: why one table got its role, with the other paths it could have. Changes nothing.

Counts, names and shares only: no value of a row is shown. Up to 250 values of a column are looked at by `classify`, as
in every survey.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
import difflib
from typing import Any

from psycopg import AsyncConnection, sql

from domicile.model.datamap import Direction, OwnerStep, Role
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Schema, Table, TableName
from domicile.postgres.introspect import read_schema
from domicile.survey.contained import contained, pair_of
from domicile.survey.discover import explore
from domicile.survey.measure import Owners, Path, owner_of
from domicile.survey.outline import Outline, outline
from domicile.survey.state import State, holds_rows, step_from, step_to

NEAR_MAX = 3
NEAR_SHARE = 0.75  # of a name's letters
PATHS_MAX = 8  # that are compared row by row


@dataclass(frozen=True, slots=True)
class Way:
    """One way to an owner. ``reached`` of ``rows`` looked at have one by it; None: not measured, or it leads to a table
    that has no owner path itself. ``found`` of ``distinct`` values are keys of the table it leads to."""

    step: str
    path: tuple[str, ...]  # down to the subject; empty: it does not lead there yet
    basis: str
    chosen: bool = False
    rows: int | None = None
    reached: int | None = None
    several: int = 0  # by a ``<-`` step a row may have several owners
    found: int | None = None
    distinct: int | None = None

    @property
    def share(self) -> float | None:
        """Of the rows looked at, those with an owner by this way."""
        return self.reached / self.rows if self.reached is not None and self.rows else None


@dataclass(frozen=True, slots=True)
class UsedBy:
    """A table that refers to this one: of ``rows`` referred to, ``several`` are used by three subjects or more."""

    table: TableName
    rows: int
    several: int
    most: int
    mean: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a table got its role. ``owners`` counts rows by how many owners all ``->`` ways together give them."""

    table: TableName
    role: Role
    subject: TableName
    rows_estimate: int
    path: tuple[str, ...]
    why: tuple[str, ...]
    ways: tuple[Way, ...]
    owners: Owners | None
    used_by: tuple[UsedBy, ...]
    structure: Outline


async def explain(conn: AsyncConnection[Any], table: str, *, subject: str | None = None) -> Explanation:
    """Survey the database behind ``conn`` and tell what it found of one table.

    Raises DomicileError (map-incomplete): no such table, or what `discover.draft` raises.
    """
    name = find_table(await read_schema(conn), table)  # a slip of the pen is not surveyed first
    state = await explore(conn, subject=subject)
    rule = state.rules[name]
    steps = _steps(state, name)
    ways = [await _way(state, state.table(name), step, basis) for step, basis in steps.items()]
    ways.sort(key=lambda w: (not w.chosen, -(w.share or 0.0), len(w.path) or PATHS_MAX, w.step))
    known = [path for step in steps if step.direction is Direction.TO and (path := _path(state, name, step))]
    return Explanation(
        table=name,
        role=rule.role,
        subject=state.subject,
        rows_estimate=state.table(name).rows_estimate,
        path=_texts(state.path(name)) if state.in_scope(name) else (),
        why=tuple(state.comments[name][1:]),  # the first is its size
        ways=tuple(ways),
        owners=await _owners(state, state.table(name), known[:PATHS_MAX]),
        used_by=tuple([use async for use in _used_by(state, name)]),
        structure=outline(state.table(name)),
    )


def find_table(schema: Schema, text: str) -> TableName:
    """The table that an operator means. Raises DomicileError (map-incomplete), which names near ones."""
    known = [n for n, t in schema.tables.items() if holds_rows(t)]
    try:
        meant = TableName.parse(text)
    except ValueError:
        meant = TableName("", text)
    if meant in known:
        return meant
    alike = [n for n in known if n.name == meant.name or n.name.lower() == meant.name.lower()]
    if len(alike) == 1 and "." not in text:
        return alike[0]
    names = {str(n): n for n in known}
    near = [str(n) for n in alike] or difflib.get_close_matches(text, names, NEAR_MAX, NEAR_SHARE)
    near = near or [str(n) for n in known if meant.name in n.name][:NEAR_MAX]
    raise DomicileError(
        ErrorCode.MAP_INCOMPLETE,
        f"there is no table {text}",
        facts={"table": text, "near": near},
        hint=f"Did you mean {' or '.join(near)}?" if near else "Name it with its schema, as in: --explain store.orders",
    )


def _steps(state: State, name: TableName) -> Mapping[OwnerStep, str]:
    """Every step that this table could take, with what speaks for it."""
    steps: dict[OwnerStep, str] = {}
    for reference in state.table(name).references:
        if reference.to_table != name:
            steps.setdefault(step_to(reference), "foreign key")
    for found in state.proven.get(name, ()):
        steps.setdefault(found.step, f"no foreign key, proven: {found.said}")
    for found in state.guessed.get(name, ()):
        steps.setdefault(found.step, f"no foreign key, not proven: {found.said}")
    for reference in state.incoming.get(name, ()):
        if state.in_scope(reference.table) and not state.passes(reference.table, name):
            steps.setdefault(step_from(reference), f"{reference.table} refers to it")
    return steps


async def _way(state: State, table: Table, step: OwnerStep, basis: str) -> Way:
    path = _path(state, table.name, step)
    rows, reached, several = await _reach(state, table, path) if path else (None, None, 0)
    measured = await contained(state.measure, table, pair_of(step)) if table.rows_estimate else None
    return Way(
        str(step),
        _texts(path),
        basis,
        chosen=state.rules[table.name].owner == step,
        rows=rows,
        reached=reached,
        several=several,
        found=measured.found if measured else None,
        distinct=measured.distinct if measured else None,
    )


async def _reach(state: State, table: Table, path: Path) -> tuple[int | None, int | None, int]:
    """Rows looked at, those with an owner by the path, and those with several."""
    if path[0].direction is Direction.FROM:
        owners = await state.measure.owners(table, [(path[0], path[1:])], state.key)
        if owners is None:
            return None, None, 0
        return owners.none + owners.one + owners.several, owners.one + owners.several, owners.several
    owned = await state.measure.owned(table, path, state.key)
    return (owned[1], owned[0], 0) if owned else (None, None, 0)


def _path(state: State, name: TableName, step: OwnerStep) -> Path:
    known = state.in_scope(step.to_table) and not state.passes(step.to_table, name)
    return (step, *state.path(step.to_table)) if known else ()


def _texts(path: Path) -> tuple[str, ...]:
    return tuple(map(str, path))


async def _owners(state: State, table: Table, paths: list[Path]) -> Owners | None:
    """How many rows have no owner, one, or several, by all ways together, on a sample."""
    if not paths or not table.rows_estimate:
        return None
    owners = sql.SQL(", ").join(owner_of("t", path, state.key, f"w{n}_") for n, path in enumerate(paths))
    row = await state.measure.row(
        sql.SQL(
            "select count(*) filter (where o.n = 0), count(*) filter (where o.n = 1), count(*) filter (where o.n > 1),"
            " coalesce(max(o.n), 0) from"
            " (select (select count(distinct u.one) from unnest(array[{owners}]) as u (one)) as n"
            " from {sample} as t) as o"
        ).format(owners=owners, sample=state.measure.rows(table))
    )
    return None if row is None else Owners(*row)


async def _used_by(state: State, name: TableName) -> AsyncIterator[UsedBy]:
    for reference in state.incoming.get(name, ()):
        other = reference.table
        if other == name or name == state.subject or not state.in_scope(other) or state.passes(other, name):
            continue
        use = await state.measure.use(state.table(other), reference.columns, state.path(other), state.key)
        if use is not None:
            yield UsedBy(other, use.rows, use.hub, use.most, round(use.mean, 2))
