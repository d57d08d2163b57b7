"""A shop's statements for one site."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from reliability.schemas.columns import HIGH, LOW
from reliability.schemas.names import quoted
from reliability.schemas.shape import SITES, Col, Identity, Layout, Name, Part, Ref, Shop, Tab

# What fires for the application must not fire for the mover a second time.
_TRIGGER = """
create function {schema}."it fires" () returns trigger language plpgsql as $$
begin
    if current_setting('application_name') like 'domicile%' then
        raise exception 'a trigger of the application fired for the mover';
    end if;
    if tg_op = 'DELETE' then return old; end if;
    return new;
end $$"""


_EACH = """
do $$ declare leaf regclass; found name;
begin
    for leaf in select relid from pg_partition_tree({table}) union select {table}::regclass loop
        {deed}
    end loop;
end $$"""
_BY_INDEX = """
        select c.relname into strict found from pg_index as i join pg_class as c on c.oid = i.indexrelid
        where i.indrelid = leaf and i.indisunique and (
            select array_agg(a.attname order by k.no) from unnest(i.indkey::int2[]) with ordinality as k (at, no)
            join pg_attribute as a on a.attrelid = leaf and a.attnum = k.at) = array[{columns}]::name[];
        execute format('alter table %s replica identity using index %I', leaf, found);"""


def statements(shop: Shop, site: str) -> Iterator[str]:
    """In an order that works, in an empty database."""
    at = SITES.index(site)
    for extension in shop.extensions:
        yield f"create extension {quoted(extension)} schema public"
    for schema in shop.schemas:
        if schema != "public":
            yield f"create schema {quoted(schema)}"
    if at:
        for number in range(shop.filler):
            yield f"create type {quoted(shop.schemas[0], f'filler {number}')} as enum ('a', 'b')"
    yield from shop.types
    yield _TRIGGER.format(schema=quoted(shop.schemas[0]))
    yield from shop.beside
    for tab in shop.tables:
        yield from _table(tab, tab.layouts[at], LOW if shop.low_source != bool(at) else HIGH)
    for tab in shop.tables:
        yield from _key(tab)
    for tab in shop.tables:
        yield from _rest(shop, tab)
        yield from _identity(tab)
    yield from shop.target_only if at else shop.source_only


def _table(tab: Tab, layout: Layout, first: int) -> Iterator[str]:
    lines = [_gone(-at) if at < 0 else _column(tab.cols[at], first) for at in layout.order] + _checks(tab)
    by = f" partition by {layout.by}" if layout.by else ""
    yield f"create table {quoted(*tab.name)} ({', '.join(lines)}){by}"
    for at in layout.order:
        if at < 0:
            yield f"alter table {quoted(*tab.name)} drop column {quoted(_dropped(-at))}"
    for col in tab.cols:
        if col.type.endswith("serial"):
            sequence = f"pg_get_serial_sequence({_literal(quoted(*tab.name))}, {_literal(col.name)})"
            yield f"select setval({sequence}, {first}, false)"
    for number, part in enumerate(layout.parts):
        yield from _partition(tab, tab.name, part, f"part {number}", layout)


def _checks(tab: Tab) -> list[str]:
    """Under names of their own: a table that is attached must have them too."""
    found = [check for check in tab.checks if check.startswith("check")]
    return [f'constraint "check {number}" {check}' for number, check in enumerate(found)]


def _column(col: Col, first: int) -> str:
    clause = f"{col.clause} (start with {first})" if col.clause.endswith("identity") else col.clause
    return f"{quoted(col.name)} {col.type} {clause}{' not null' if col.not_null else ''}"


def _dropped(number: int) -> str:
    return f"dropped {number}"


def _gone(number: int) -> str:
    return f"{quoted(_dropped(number))} integer"


def _partition(tab: Tab, parent: Name, part: Part, suffix: str, layout: Layout) -> Iterator[str]:
    # A name of its own: those of tables may fill all the 63 bytes.
    name = (tab.name[0], f"{_number_of(tab.name)} {suffix}")
    bound = "default" if part.bound == "default" else f"for values {part.bound}"
    by = f" partition by {part.by}" if part.by else ""
    if part.apart:
        lines = [_column_of_leaf(tab.cols[at]) for at in reversed(layout.order) if at >= 0] + _checks(tab)
        yield f'create table {quoted(*name)} ("to be dropped" integer, {", ".join(lines)})'
        yield f'alter table {quoted(*name)} drop column "to be dropped"'
        yield f"alter table {quoted(*parent)} attach partition {quoted(*name)} {bound}"
    else:
        yield f"create table {quoted(*name)} partition of {quoted(*parent)} {bound}{by}"
    for number, below in enumerate(part.parts):
        yield from _partition(tab, name, below, f"{suffix} {number}", layout)


def _number_of(name: Name) -> int:
    """The same in every run, unlike Python's own."""
    return crc32(".".join(name).encode())


def _column_of_leaf(col: Col) -> str:
    """A serial's default and an identity are the root's."""
    written = {"serial": "integer", "bigserial": "bigint"}.get(col.type, col.type)
    clause = "" if col.clause.endswith("identity") else col.clause
    return f"{quoted(col.name)} {written} {clause}{' not null' if col.not_null else ''}"


def _key(tab: Tab) -> Iterator[str]:
    table, columns = quoted(*tab.name), ", ".join(map(quoted, tab.key))
    if tab.identity in (Identity.PRIMARY, Identity.FULL_KEYED):
        yield f"alter table {table} add primary key ({columns})"
    elif tab.identity is Identity.INDEX:
        yield f"create unique index on {table} ({columns})"
    for index in tab.indexes:
        if "unique" in index:
            yield index.replace("{table}", table)


def _rest(shop: Shop, tab: Tab) -> Iterator[str]:
    table = quoted(*tab.name)
    for index in tab.indexes:
        if "unique" not in index:
            yield index.replace("{table}", table)
    yield from (f"alter table {table} add {check}" for check in tab.checks if not check.startswith("check"))
    for ref in (tab.owner, *tab.loose):
        if ref is not None and ref.options is not None:
            yield _foreign_key(tab, ref)
    if tab.row_security:
        yield f"alter table {table} enable row level security"
    if tab.trigger:
        function = quoted(shop.schemas[0], "it fires")
        yield (
            f'create trigger "a %" before insert or update or delete on {table}'
            f" for each row execute function {function}()"
        )
        if tab.trigger == "always":
            yield f'alter table {table} enable always trigger "a %"'


def _identity(tab: Tab) -> Iterator[str]:
    """Of the table and of each of its partitions: none takes it from its root."""
    table = _literal(quoted(*tab.name))
    if tab.identity in (Identity.FULL, Identity.FULL_KEYED):
        yield _EACH.format(table=table, deed="execute format('alter table %s replica identity full', leaf);")
    elif tab.identity is Identity.INDEX:
        columns = ", ".join(map(_literal, tab.key))
        yield _EACH.format(table=table, deed=_BY_INDEX.format(columns=columns))


def _foreign_key(tab: Tab, ref: Ref) -> str:
    ours, theirs = (", ".join(map(quoted, names)) for names in (ref.columns, ref.to_columns))
    return (
        f"alter table {quoted(*tab.name)} add foreign key ({ours}) references {quoted(*ref.to)} ({theirs}){ref.options}"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
