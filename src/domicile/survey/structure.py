"""The data map against the structure of a live schema. Pure: nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import re

from domicile.model.datamap import DataMap, Direction, OwnerStep, Role, TableRule
from domicile.model.schema import Column, Persistence, Reference, Schema, Table, TableKind, TableName, quote_name
from domicile.postgres import equality, party_nulls, shared_rows
from domicile.survey import drift
from domicile.survey.finding import COLUMN_NEEDED, Finding, Level
from domicile.survey.inside import JSON
from domicile.survey.state import holds_rows, step_to
from domicile.survey.subject import single_key
from domicile.survey.words import comparable

IN_SCOPE = (Role.SUBJECT, Role.OWNED)

_INTO = re.compile(r"[.\[]")


def check(data_map: DataMap, schema: Schema) -> Iterator[Finding]:
    """Every way in which map and schema do not fit."""
    yield from _tables(data_map, schema)
    yield from _subject(data_map, schema)
    inherited, copied = schema.inherited, data_map.copied()
    for name, rule in data_map.tables.items():
        table = schema.tables.get(name)
        if table is None:
            continue
        yield from _columns(rule, table)
        for step in steps_of(rule):
            yield from step_problems(name, step, schema)
        if rule.role in IN_SCOPE:
            yield from _kind(rule, table)
            yield from _needs(data_map, table)
            yield from _indexes(rule, schema, table)
        if rule.role in IN_SCOPE or name in copied:
            yield from _inherited(name, inherited.get(name, ()))
    for cannot in equality.reasons(data_map, schema):
        yield Finding(Level.ERROR, str(cannot.table), f"cannot be followed: {cannot.why}", cannot.hint)
    for cannot in party_nulls.reasons(data_map, schema):
        yield Finding(Level.ERROR, str(cannot.table), f"cannot be set to null by {cannot.why}", cannot.hint)
    for name, why in shared_rows.reasons(data_map, schema):
        yield Finding(Level.ERROR, str(name), f"cannot be copied: {why}", "Write the policy present or refuse.")
    yield from _aside(schema)


def steps_of(rule: TableRule) -> tuple[OwnerStep, ...]:
    """The owner step and the references that the map names for a table."""
    declared = tuple(OwnerStep.parse(r) for r in rule.references)
    declared = (*declared, *rule.parties)
    return declared if rule.owner is None else (rule.owner, *declared)


def references_of(rule: TableRule, table: Table) -> tuple[Reference | OwnerStep, ...]:
    """All references out of a table, by foreign key or by the map."""
    return (*table.references, *(OwnerStep.parse(r) for r in rule.references))


def step_problems(name: TableName, step: OwnerStep, schema: Schema) -> Iterator[Finding]:
    """What is wrong with one step of a path: columns, types, uniqueness."""
    table, other = schema.tables[name], schema.tables.get(step.to_table)
    if other is None:
        yield Finding(Level.ERROR, str(name), f"{step}: there is no table {step.to_table}", "Correct the step.")
        return
    known, theirs = {c.name: c for c in table.columns}, {c.name: c for c in other.columns}
    missing = [(name, c) for c in step.columns if c not in known]
    missing += [(step.to_table, c) for c in step.to_columns if c not in theirs]
    for where, column in missing:
        if said := _inside(column, known if where == name else theirs):
            yield Finding(Level.ERROR, str(name), f"{step}: {said}", COLUMN_NEEDED)
        else:
            yield Finding(Level.ERROR, str(name), f"{step}: {where} has no column {column}", "Correct the step.")
    if missing:
        return
    for ours, their in zip(step.columns, step.to_columns, strict=True):
        if comparable(known[ours], theirs[their]):
            continue
        if said := _inside(ours, known) or _inside(their, theirs):
            yield Finding(Level.ERROR, str(name), f"{step}: {said}", COLUMN_NEEDED)
        else:
            types = f"{known[ours].type_name} against {theirs[their].type_name}"
            yield Finding(Level.ERROR, str(name), f"{step}: the types do not fit ({types})", "Correct the step.")
    if step.direction is Direction.TO and not is_unique(other, step.to_columns):
        to = ", ".join(step.to_columns)
        yield Finding(
            Level.ERROR,
            str(name),
            f"{step}: {to} is not unique in {step.to_table}, so that a row could have several owners",
            "Refer to a column with a unique index, or add one.",
        )


def _inside(column: str, known: Mapping[str, Column]) -> str:
    """What a column of a step is that means keys in an array or a document (``user_ids[]``, ``payload.user.id``); ''
    for any other."""
    outer = known.get(column) or known.get(_INTO.split(column, maxsplit=1)[0])
    if outer is None or not (outer.element_type or outer.base_type in JSON):
        return ""
    what = "an array" if outer.element_type else "a JSON document"
    return f"{outer.name} is {what}: a survey finds keys in it, and no map carries them"


def is_unique(table: Table, columns: tuple[str, ...]) -> bool:
    """Whether a unique index covers these columns or some of them."""
    return any(
        set(k.columns) <= set(columns) for k in table.unique_keys if k.columns and not k.partial and not k.on_expression
    )


def has_index(table: Table, columns: tuple[str, ...]) -> bool:
    """Whether an index leads with these columns, in any order."""
    return any(set(p[: len(columns)]) == set(columns) for p in table.index_prefixes)


def _tables(data_map: DataMap, schema: Schema) -> Iterator[Finding]:
    for name, table in sorted(schema.tables.items()):
        if holds_rows(table) and name not in data_map.tables:
            yield Finding(
                Level.ERROR, str(name), "is not in the data map", "Give it a role; domicile survey proposes one."
            )
    for name, rule in data_map.tables.items():
        if name not in schema.tables:
            yield Finding(
                Level.ERROR, str(name), "is in the data map, but not in the database", "Remove or correct it."
            )
        elif rule.role is Role.UNDECIDED:
            yield Finding(Level.ERROR, str(name), "is undecided", "Give it a role; a plan is refused until then.")


def _subject(data_map: DataMap, schema: Schema) -> Iterator[Finding]:
    rule, table = data_map.subject, schema.tables.get(data_map.subject.table)
    if table is None:
        return
    if rule.key not in {c.name for c in table.columns}:
        yield Finding(
            Level.ERROR, str(rule.table), f"has no column {rule.key}, the subject's key", "Correct subject.key."
        )
    elif not is_unique(table, (rule.key,)) or not table.column(rule.key).not_null:
        hint = f"Use {found}." if (found := single_key(table)) else "Add a unique column that is never null."
        yield Finding(Level.ERROR, str(rule.table), f"{rule.key} is no key: it must be unique and never null", hint)


def _columns(rule: TableRule, table: Table) -> Iterator[Finding]:
    known = {c.name for c in table.columns}
    listed = (("personal", rule.personal), ("object_keys", rule.object_keys), ("identities", tuple(rule.identities)))
    for what, names in listed:
        for name in names:
            if name not in known:
                message = f"has no column {name}, which the data map lists under {what}"
                yield Finding(Level.ERROR, str(rule.table), message, "Correct the list.")
    yield from drift.columns(rule, table)


def _kind(rule: TableRule, table: Table) -> Iterator[Finding]:
    name = str(table.name)
    if table.kind not in (TableKind.ORDINARY, TableKind.PARTITIONED):
        yield Finding(Level.ERROR, name, f"is a {table.kind}: it cannot move", "Give it the role local.")
        return
    if table.persistence is not Persistence.PERMANENT:
        yield Finding(
            Level.ERROR, name, f"is {table.persistence}: a crash would empty it", "alter table ... set logged"
        )
    for parent in table.inherits:
        yield Finding(
            Level.ERROR, name, f"inherits {parent}, whose queries see its rows", "Inheritance is not supported."
        )
    if table.row_security:
        yield Finding(Level.INFO, name, "has row security: domicile's role must bypass it", "alter role ... bypassrls")
    if not table.primary_key and not any(_is_key(table, k.columns) for k in table.unique_keys):
        message = "has no key: a row that differs can be counted, not named"
        yield Finding(Level.WARNING, name, message, "Add a primary key.")
    for trigger in table.triggers:
        if trigger.enabled in ("A", "R"):
            when = "always" if trigger.enabled == "A" else "in replica mode"
            yield Finding(
                Level.WARNING,
                name,
                f"trigger {trigger.name} is enabled {when}: it fires for every row that domicile writes or removes",
                "alter table ... enable trigger (origin only), or make sure that it does no harm.",
            )
    if rule.role is Role.SUBJECT and table.partitions:
        yield Finding(Level.INFO, name, f"is partitioned ({len(table.partitions)} partitions)")


def _inherited(name: TableName, heirs: tuple[TableName, ...]) -> Iterator[Finding]:
    """No query of domicile says ONLY, which would leave out a table's own partitions."""
    for heir in heirs:
        yield Finding(
            Level.ERROR,
            str(name),
            f"is inherited by {heir}, whose rows would move and be removed as its own",
            f"alter table {heir} no inherit {name}; or give {name} the role local.",
        )


def _is_key(table: Table, columns: tuple[str, ...]) -> bool:
    return is_unique(table, columns) and all(table.column(c).not_null for c in columns)


def _needs(data_map: DataMap, table: Table) -> Iterator[Finding]:
    """What the target must have before these rows can arrive."""
    for reference in references_of(data_map.tables[table.name], table):
        rule = data_map.tables.get(reference.to_table)
        if rule is None:
            continue
        step = step_to(reference) if isinstance(reference, Reference) else reference
        if rule.role is Role.UNDECIDED:
            yield Finding(Level.ERROR, str(table.name), f"{step}: that table is undecided", "Give it a role.")
        elif rule.role is Role.LOCAL:
            yield Finding(
                Level.ERROR,
                str(table.name),
                f"{step}: that table is local, so the target may lack the rows referred to",
                "Make it reference if the same rows are at every site, else shared.",
            )


def _indexes(rule: TableRule, schema: Schema, table: Table) -> Iterator[Finding]:
    step = rule.owner
    if step is None or any(step_problems(table.name, step, schema)):
        return
    places = [(table, step.columns, "the rows of a wave are found by reading all of")]
    if step.direction is Direction.FROM:
        places.append((schema.tables[step.to_table], step.to_columns, "the owner of a row is found by reading all of"))
    for where, columns, why in places:
        if not has_index(where, columns):
            listed = ", ".join(map(quote_name, columns))
            yield Finding(
                Level.WARNING,
                str(table.name),
                f"no index on {where.name} ({listed}): {why} its about {where.rows_estimate:,} rows"
                f" ({where.bytes_heap / 1e6:,.1f} MB), each time",
                # A partitioned table's index cannot be built concurrently.
                f"create index {'' if where.partitions else 'concurrently '}on {where.name} ({listed});",
            )


def _aside(schema: Schema) -> Iterator[Finding]:
    for name, table in sorted(schema.tables.items()):
        if table.kind is TableKind.MATERIALIZED_VIEW:
            yield Finding(Level.INFO, str(name), "is a materialised view: it is not moved", "Refresh it after a move.")
    if schema.large_objects:
        yield Finding(
            Level.WARNING,
            "(database)",
            f"{schema.large_objects} large objects belong to no table: they are not moved",
            "Keep what belongs to subjects in a bytea column or in an object store.",
            schema.large_objects,
        )
