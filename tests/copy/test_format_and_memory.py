"""Which tables travel as text, and that memory does not grow with what travels."""

from __future__ import annotations

import resource

import pytest
from tests.copy.kit import Rig, data_map

from domicile.model.plan import Format
from domicile.model.schema import Column, Table, TableKind, TableName
from domicile.postgres.rows import choose_format

MEGABYTES = 150


def table(*columns: Column) -> Table:
    return Table(TableName("public", "t"), TableKind.ORDINARY, columns)


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (Column("c", "integer", "int4"), ""),
        (Column("c", "public.mood", "mood", base_schema="public", base_kind="e"), ""),
        (Column("c", "integer[]", "_int4", element_type="int4", element_schema="pg_catalog", element_kind="b"), ""),
        (Column("c", "int4range", "int4range", base_kind="r"), ""),
        (
            Column("c", "public.mood[]", "_mood", base_schema="public", element_type="mood", element_schema="public"),
            "object id of its element",
        ),
        (Column("c", "public.pair", "pair", base_schema="public", base_kind="c"), "may hold object ids"),
        (Column("c", "public.floats", "floats", base_schema="public", base_kind="r"), "may hold object ids"),
        (Column("c", "regclass", "regclass"), "holds object ids"),
        (Column("c", "regclass[]", "_regclass", element_type="regclass", element_schema="pg_catalog"), "object ids"),
        (Column("c", "aclitem", "aclitem", has_binary=False), "no binary form"),
        (Column("c", "public.citext", "citext", base_schema="public"), "extension"),
    ],
)
def test_choice(column: Column, why: str) -> None:
    chosen, because = choose_format(table(column), table(column))
    assert chosen is (Format.TEXT if why else Format.BINARY)
    assert why in because
    assert bool(because) == bool(why)


def test_types_that_differ_travel_as_text() -> None:
    ours, theirs = table(Column("c", "integer", "int4")), table(Column("c", "bigint", "int8"))
    assert choose_format(ours, theirs) == (Format.TEXT, "column c is integer here and bigint there")


def test_generated_columns_do_not_travel() -> None:
    computed = Column("c", "public.pair", "pair", base_schema="public", base_kind="c", generated=True)
    assert choose_format(table(computed), table(computed)) == (Format.BINARY, "")


async def test_memory_stays_flat(sites18: Rig) -> None:
    """One subject with 150 MB: rows pass through, they are not collected."""
    await sites18.both(
        """create table public.users (id int primary key); create table public.files (user_id int, body text);
        alter table public.files alter body set storage external"""
    )
    await sites18.source.execute("insert into public.users values (1)")
    await sites18.source.execute(
        "insert into public.files select 1, repeat('x', 1000000) from generate_series(1, %s)", (MEGABYTES,)
    )
    await sites18.register(data_map("public.users", {"public.files": "user_id -> public.users(id)"}), [1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await sites18.copy()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert sum(size for _, size in sites18.reported) > MEGABYTES * 1_000_000
    assert grown < 30, f"{grown:.0f} MB more for {MEGABYTES} MB that passed"
