"""What a stub holds: the subject's key, and where a column is never null, a value that says nothing of the person.

Which columns can be so filled follows from the catalogue alone (`reasons`); whether the table's checks take the values
the server itself is asked (`reasons_of_checks`). ``person.subject`` is the key in every fragment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
import re
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap, OwnerStep, PartyPolicy, Role
from domicile.model.schema import Column, Reference, Schema, TableName
from domicile.postgres import party_keys
from domicile.postgres.ownership import Fragment, ident
from domicile.postgres.party_keys import Obstacle
from domicile.postgres.references import of_scope

PREFIX = "stub-"  # of placeholders that must be unique
AT = "@stub.invalid"  # behind it in an e-mail address, of a domain that is nobody's (RFC 2606)
# Of a key as text, by its type; of others there is no bound.
KEY_CHARACTERS_MAX: Mapping[str, int] = {"int2": 6, "int4": 11, "int8": 20, "uuid": 36}
KEY = sql.SQL("person.subject")
HINT = "Let the column be null or have a default, or write null or refuse under parties in the data map."

EMAIL = "user.contact.email"
_REFUSE = "Write null or refuse under parties in the data map."

_TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})
_INTEGERS = frozenset({"int2", "int4", "int8"})
_PLACEHOLDERS = _TEXTS | {"bytea"}  # types of which one can be made of the key; a number might be a resident's
_LENGTH = re.compile(r"\((\d+)\)\Z")
# Of types whose values may stand twice.
_NEUTRAL: Mapping[str, str] = {
    **dict.fromkeys(_TEXTS | {"bytea", "tsvector"}, ""),
    **dict.fromkeys(_INTEGERS | {"numeric", "float4", "float8", "money", "oid"}, "0"),
    **dict.fromkeys(("date", "timestamp", "timestamptz"), "1970-01-01"),
    **dict.fromkeys(("time", "timetz"), "00:00"),
    **dict.fromkeys(("json", "jsonb"), "{}"),
    **dict.fromkeys(("inet", "cidr"), "0.0.0.0"),
    "bool": "false",
    "interval": "0",
}
_DEFAULTS = """
    select a.attname, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
    from pg_catalog.pg_attrdef as d
    join pg_catalog.pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where d.adrelid = pg_catalog.to_regclass(%s) and a.attgenerated = ''"""
# With exclusion constraints. Columns: those that its keys are made of, so far as their text tells of expressions.
_KEYS = """
    select ic.relname, i.indexprs is not null or x.oid is not null,
        i.indnullsnotdistinct,
        array(select a.attname from pg_catalog.pg_attribute as a
            where a.attrelid = i.indrelid and a.attnum > 0 and not a.attisdropped and exists (
                select from pg_catalog.generate_series(1, i.indnkeyatts::integer) as k
                where i.indkey[k - 1] = a.attnum or i.indkey[k - 1] = 0 and exists (
                    select from pg_catalog.pg_depend as d
                    where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = i.indexrelid
                        and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                        and d.refobjid = i.indrelid and d.refobjsubid = a.attnum)
                and pg_catalog.strpos(
                    pg_catalog.pg_get_indexdef(i.indexrelid, k, false), pg_catalog.quote_ident(a.attname)) > 0))
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as ic on ic.oid = i.indexrelid
    left join pg_catalog.pg_constraint as x on x.conindid = i.indexrelid and x.contype = 'x'
    where i.indrelid = pg_catalog.to_regclass(%s) and (i.indisunique or x.oid is not null) and i.indislive
    order by ic.relname"""
_CHECKS = """
    select conname, pg_catalog.pg_get_expr(conbin, conrelid) from pg_catalog.pg_constraint
    where conrelid = pg_catalog.to_regclass(%s) and contype = 'c' order by conname"""
_TRY = "select {tests} from (select {values} from (select {key} as subject) as person) as {alias}"


@dataclass(frozen=True, slots=True)
class Filling:
    """How the columns of a stub are filled, but for the key. ``default``: the column's own; ``value``: an expression
    over ``person.subject``; neither: null. ``unique``: two stubs never have the same there."""

    value: Fragment | None = None
    default: bool = False
    unique: bool = False

    @property
    def sql(self) -> Fragment:
        """As it stands in an UPDATE or VALUES."""
        return sql.SQL("default") if self.default else self.value or sql.SQL("null")


def parties(data_map: DataMap, schema: Schema) -> tuple[Reference, ...]:
    """The references whose policy is a stub, as this site declares them."""
    return tuple(r for r in of_scope(data_map, schema) if data_map.policy_of(r) is PartyPolicy.STUB)


def wanted(data_map: DataMap) -> bool:
    """Whether the map has a stub be made anywhere."""
    return any(p is PartyPolicy.STUB for rule in data_map.tables.values() for p in rule.parties.values())


@dataclass(frozen=True, slots=True)
class Key:
    """What no two rows may have in common: a unique index, or an exclusion constraint. ``plain``: of columns, by
    equality; of any other only the server knows when two rows meet."""

    name: str
    columns: frozenset[str]
    plain: bool
    nulls_equal: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What the subject's table at a site says of its rows beside their types: defaults by column, as expressions, and
    keys."""

    defaults: Mapping[str, str]
    keys: tuple[Key, ...]


async def rules(conn: AsyncConnection[Any], table: TableName) -> Rules:
    """As they are now."""
    name = (ident(table).as_string(),)
    given = dict(await (await conn.execute(_DEFAULTS, name)).fetchall())
    keys = await (await conn.execute(_KEYS, name)).fetchall()
    return Rules(given, tuple(Key(key, frozenset(columns), not other, nulls) for key, other, nulls, columns in keys))


def fillings(data_map: DataMap, schema: Schema, rules: Rules) -> dict[str, Filling | None]:
    """Every stored column of the subject's table but its key; None for one that cannot be filled. Pure."""
    table = schema.tables[data_map.subject.table]
    key = table.column(data_map.subject.key)
    personal = data_map.tables[table.name].personal
    in_unique = {c for each in rules.keys if key.name not in each.columns for c in each.columns}
    found: dict[str, Filling | None] = {}
    for each in table.stored_columns:
        if each.name == key.name:
            continue
        if not each.not_null:
            found[each.name] = Filling()
        elif referred := [r for r in table.references if each.name in r.columns]:
            found[each.name] = _reference_row(data_map, referred)
        elif each.default_sequence is not None or each.identity:
            found[each.name] = Filling(default=True, unique=True) if each.identity != "a" else None
        elif each.name in rules.defaults and each.name not in in_unique and each.name not in personal:
            found[each.name] = Filling(default=True)
        else:
            categories = data_map.tables[table.name].categories.get(each.name, ())
            email = each.base_type in _TEXTS and any(c.startswith(EMAIL) for c in categories)
            suffix = AT if email else ""
            unique = suffix or (each.name in in_unique and each.base_type in _PLACEHOLDERS)
            found[each.name] = _unique(each, key, suffix) if unique else _neutral(each, schema)
    return found


def reasons(data_map: DataMap, schema: Schema, rules: Rules) -> Iterator[Obstacle]:
    """Why stubs cannot be made as the map says; nothing where they can. Pure."""
    subject = data_map.subject
    table = schema.tables[subject.table]
    for name, rule in sorted(data_map.tables.items()):
        for step, policy in rule.parties.items():
            if policy is not PartyPolicy.STUB:
                continue
            said = f"{name}({', '.join(step.columns)})"
            declared = _declared(schema, name, step)
            if (step.to_table, step.to_columns) != (subject.table, (subject.key,)):
                yield Obstacle(name, f"{said}: only rows of {subject.table} by {subject.key} have stubs", _REFUSE)
            elif not any(r.proves for r in declared):
                why, mend = party_keys.unproven(name, step, declared)
                yield Obstacle(name, f"{said}: {why}", mend)
    if table.partitions:
        yield Obstacle(table.name, f"{table.name} is partitioned", _REFUSE)
    filled = fillings(data_map, schema, rules)
    for each in (name for name, filling in filled.items() if filling is None):
        yield Obstacle(table.name, f"{table.name}.{each} is never null, and no neutral value is known for it", HINT)
    if None not in filled.values():
        own = table.column(subject.key)
        alike = (k.name for k in rules.keys if not _keeps_apart(k, own, filled))
        yield from (Obstacle(table.name, f"two stubs would be equal under {name}", HINT) for name in alike)


async def reasons_of_checks(conn: AsyncConnection[Any], data_map: DataMap, schema: Schema, key: str) -> list[str]:
    """The same as the server sees it: what the table's checks and types say to the stub of the subject with this key
    (its text). For a table of which `reasons` has none. Changes nothing."""
    table = schema.tables[data_map.subject.table]
    given = await rules(conn, table.name)
    checks = await (await conn.execute(_CHECKS, (ident(table.name).as_string(),))).fetchall()
    key_column = table.column(data_map.subject.key)
    values = [_typed(sql.SQL("person.subject"), key_column)]
    tests: list[tuple[str, Fragment]] = [
        (f"check {name} of {table.name}", sql.SQL("({}) is false").format(sql.SQL(expression)))
        for name, expression in checks
    ]
    for name, filling in fillings(data_map, schema, given).items():
        each = table.column(name)
        assert filling is not None
        value = filling.value or sql.SQL("null")
        if filling.default:  # to ask a sequence would take a number of it
            value = sql.SQL("null") if filling.unique else sql.SQL("({})").format(sql.SQL(given.defaults[name]))
        elif filling.value is not None:
            tests.append((f"{table.name}.{name} is null", sql.SQL("{} is null").format(sql.Identifier(name))))
        values.append(_typed(value, each))
    tests.append(("", sql.SQL("true")))
    statement = sql.SQL(_TRY).format(
        tests=sql.SQL(", ").join(test for _, test in tests),
        values=sql.SQL(", ").join(values),
        key=sql.SQL("{}::{}").format(sql.Literal(key), sql.SQL(key_column.type_name)),
        alias=sql.Identifier(table.name.name),
    )
    try:
        async with conn.transaction():
            row = await (await conn.execute(statement)).fetchone()
    except psycopg.Error as error:
        named = ", ".join(filter(None, (error.diag.column_name, error.diag.constraint_name, error.diag.datatype_name)))
        return [f"{table.name} takes no stub (SQLSTATE {error.sqlstate}{f', {named}' if named else ''})"]
    assert row is not None
    return [f"{what}: a stub does not pass" for (what, _), failed in zip(tests, row, strict=True) if what and failed]


def _declared(schema: Schema, name: TableName, step: OwnerStep) -> list[Reference]:
    found = schema.tables[name].references if name in schema.tables else ()
    key = (step.columns, step.to_table, step.to_columns)
    return [r for r in found if (r.columns, r.to_table, r.to_columns) == key]


def _typed(value: Fragment, each: Column) -> sql.Composed:
    return sql.SQL("({})::{} as {}").format(value, sql.SQL(each.type_name), sql.Identifier(each.name))


def _reference_row(data_map: DataMap, referred: Iterable[Reference]) -> Filling | None:
    """A row of a table that is the same at every site: the first."""
    references = list(referred)
    rule = data_map.tables.get(references[0].to_table)
    if len(references) > 1 or len(references[0].columns) > 1 or rule is None or rule.role is not Role.REFERENCE:
        return None
    value = sql.SQL("(select least.{0} from {1} as least order by least.{0} limit 1)").format(
        sql.Identifier(references[0].to_columns[0]), ident(references[0].to_table)
    )
    return Filling(value)


def _neutral(each: Column, schema: Schema) -> Filling | None:
    text = "{}" if each.element_type else _NEUTRAL.get(each.base_type)
    if each.base_kind == "e":
        text = schema.enums[f"{each.base_schema}.{each.base_type}"][0]
    elif each.base_kind == "r":
        text = "empty"
    elif each.base_type == "uuid":
        return _unique(each, each)
    return None if text is None else Filling(sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(each.type_name)))


def _unique(each: Column, key: Column, suffix: str = "") -> Filling | None:
    """A value made of the key, by a rule that gives no two keys the same."""
    placeholder = sql.SQL("({} || {}::pg_catalog.text || {})").format(sql.Literal(PREFIX), KEY, sql.Literal(suffix))
    if each.base_type == "uuid":
        value: Fragment = sql.SQL("pg_catalog.md5({})::pg_catalog.uuid").format(placeholder)
    elif each.base_type in _TEXTS:
        length = _LENGTH.search(each.type_name)
        needed = len(PREFIX + suffix) + KEY_CHARACTERS_MAX.get(key.base_type, 1 << 30)
        if length and int(length[1]) < needed:
            return None
        value = sql.SQL("{}::{}").format(placeholder, sql.SQL(each.type_name))
    elif each.base_type == "bytea":
        value = sql.SQL("pg_catalog.convert_to({}, 'UTF8')").format(placeholder)
    else:
        return None
    return Filling(value, unique=True)


def _keeps_apart(unique: Key, key: Column, filled: Mapping[str, Filling | None]) -> bool:
    """Whether two stubs, by their columns alone, cannot meet under it. An expression may take two texts for one that
    differ in case: there only keys without letters' case tell them apart."""
    told_apart = unique.plain or key.base_type in KEY_CHARACTERS_MAX
    found = [filled.get(c) or Filling() for c in unique.columns if c != key.name]
    empty = any(f.value is None and not f.default for f in found)
    known = key.name in unique.columns or any(f.unique for f in found)
    return (known and told_apart) or (empty and not unique.nulls_equal)
