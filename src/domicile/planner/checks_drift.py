"""Checks of tables that moving rows refer to and that stay: are they the same at both sites?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from domicile.model.datamap import Role
from domicile.model.errors import ErrorCode
from domicile.model.plan import Check
from domicile.model.schema import Reference, Schema, Table, TableName
from domicile.planner.checks_rows import MEMBERS
from domicile.planner.checks_schema import listed
from domicile.planner.facts import Preflight
from domicile.postgres import drift
from domicile.postgres.drift import Drift, Pair
from domicile.postgres.failures import told
from domicile.postgres.hashing import common_mode, probe
from domicile.postgres.references import of_tables, shown

COLUMNS_NAMED_MAX = 5
LEFT = (
    "They are left as they are. If these are other rows under one key, moving rows would come to belong to them: give "
    "the sites ids of their own first (domicile ids)."
)


async def run_all(p: Preflight) -> tuple[Check, ...]:
    """Drift, which is a warning; and rows that would mean others, which is none."""
    data_map = p.request.data_map
    with told("source", "probe of the hash functions"):
        here = await probe(p.source)
    with told("target", "probe of the hash functions"):
        there = await probe(p.target)
    schemas = (p.source_schema, p.target_schema)
    pair = Pair(p.source, p.target, data_map, *schemas, MEMBERS, common_mode(here, there))
    reference = await _Look(p, pair).of(data_map.of_role(Role.REFERENCE))
    copied = await _Look(p, pair).of(data_map.copied())
    return (
        _drift("reference tables", p, reference, "Bring them together before the move, or expect the difference."),
        *(
            [
                _drift(
                    "shared rows at both sites",
                    p,
                    copied,
                    LEFT,
                )
            ]
            if data_map.copied()
            else []
        ),
        _meaning(p, (*reference.found, *copied.found)),
    )


class _Look:
    """What was found of some tables, and of which nothing could be said."""

    def __init__(self, p: Preflight, pair: Pair) -> None:
        self._p = p
        self._pair = pair
        self.found: list[Drift] = []
        self.notes: list[str] = []
        self.compared = 0

    async def of(self, tables: Iterable[TableName]) -> _Look:
        """Look at each of them."""
        for name in tables:
            here, there = self._p.source_schema.tables.get(name), self._p.target_schema.tables.get(name)
            if here is not None and there is not None:
                await self._table(here, there)
            elif here is not None:
                self.notes.append(f"{name} does not exist at {self._p.request.target}")
        return self

    async def _table(self, here: Table, there: Table) -> None:
        p, name = self._p, here.name
        for site, conn in ((p.request.source, p.source), (p.request.target, p.target)):
            if not await drift.readable(conn, name):
                self.notes.append(f"{name} is not readable at {site}, or row security hides rows of it")
                return
        referring = _referring(p, name)
        key = here.primary_key or next(iter(_keys(here)), ())
        keys = dict.fromkeys([key, *(r.to_columns for r in referring)] if key else [r.to_columns for r in referring])
        comparable = [k for k in keys if {*k} <= {c.name for c in there.stored_columns} and _is_key(here, k)]
        if not comparable:
            self.notes.append(f"{name} has no key to tell its rows by")
        whole = name not in p.request.data_map.copied()
        if max(here.rows_estimate, there.rows_estimate) > drift.ROWS_MAX:
            whole = False
        for number, each in enumerate(comparable):
            by = [r for r in referring if r.to_columns == each]
            if number and not by:
                continue
            # Rows without a value in the key are told apart by nothing: they would all be one.
            all_of_it = whole and not number and _is_key(here, each, not_null=True)
            found = await drift.compare(self._pair, name, each, by, whole=all_of_it)
            if name in p.request.data_map.copied():
                found = replace(found, only_source=0, whole=True)  # what is missing will be copied
            # What is said of the rows is said once; by another key only what is referred to by it.
            self.found.append(found if not number else Drift(name, found.whole, others=found.others))
        self.compared += bool(comparable)


def _drift(name: str, p: Preflight, look: _Look, hint: str) -> Check:
    said = [f"{d.table}: {', '.join(_said(p, d))}" for d in look.found if d.any]
    same = f"{look.compared} tables are the same at both sites, as far as they were compared" if look.compared else ""
    return Check(name, not said, "; ".join([*said, *look.notes]) or same or "none", hint=hint, blocking=False)


def _said(p: Preflight, found: Drift) -> Iterator[str]:
    source, target = p.request.source, p.request.target
    if found.only_source:
        yield f"{found.only_source} rows only at {source}"
    if found.only_target:
        yield f"{found.only_target} rows only at {target}"
    if found.different:
        columns = sorted(found.columns.items(), key=lambda c: (-c[1], c[0]))
        named = ", ".join(f"{name} in {rows}" for name, rows in columns[:COLUMNS_NAMED_MAX])
        yield f"{found.different} rows differ ({named})"
    for other in found.others:
        if other.rows:
            yield f"{other.rows} rows have another key for the same ({', '.join(other.columns)})"
    if not found.whole:
        yield "only rows that the cohort refers to were compared"


def _meaning(p: Preflight, found: Sequence[Drift]) -> Check:
    """A moved row must not point at another meaning."""
    said = [
        f"{keys} keys of {shown(reference)} by their ({', '.join(other.columns)})"
        for each in found
        for other in each.others
        for reference, keys in other.referred.items()
    ]
    return Check(
        "meaning of reference rows",
        not said,
        f"under these keys {p.request.target} has other rows: {listed(said)}" if said else "the same at both sites",
        hint="Give these rows the same key at both sites. Where the values named may differ for one row (a position), "
        "give the table the role shared with the policy present: then only the key must be there.",
        code=ErrorCode.KEYS_COLLIDE,
    )


def _referring(p: Preflight, table: TableName) -> list[Reference]:
    """References of moving rows to the table, by columns that both sites have."""
    data_map = p.request.data_map
    tables = [t for t in data_map.written() if t in p.source_schema.tables]
    found = {(r.table, r.columns, r.to_columns): r for r in of_tables(data_map, p.source_schema, tables)}
    return [r for r in found.values() if r.to_table == table and _known(p.source_schema, r)]


def _known(schema: Schema, reference: Reference) -> bool:
    here = {c.name for c in schema.tables[reference.table].columns}
    return {*reference.columns} <= here


def _keys(table: Table) -> list[tuple[str, ...]]:
    keys = [k for k in table.unique_keys if not (k.partial or k.on_expression)]
    return [k.columns for k in keys if all(table.column(c).not_null for c in k.columns)]


def _is_key(table: Table, columns: tuple[str, ...], *, not_null: bool = False) -> bool:
    """Whether these columns tell rows apart: those that have a value in them, or for ``not_null`` all."""
    if not_null:
        return any({*k} <= {*columns} for k in (table.primary_key, *_keys(table)) if k)
    keys = [table.primary_key, *(k.columns for k in table.unique_keys if not (k.partial or k.on_expression))]
    return any(k and {*k} <= {*columns} for k in keys)
