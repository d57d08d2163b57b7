"""read_schema: exact on what real databases hold, on PostgreSQL 18 and 15."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from psycopg import AsyncConnection
import pytest
from tests.conftest import create_database, drop_database
from tests.samples import load_pagila

from domicile.model.schema import Column, Persistence, Reference, TableKind, TableName, Trigger
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.introspect import read_schema, schema_digest
from domicile.sites.embedded import EmbeddedCluster

SCHEMA = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")

PARENT = TableName("app", "parent")
PART = TableName("app", "part")


@pytest.fixture(params=["pg18", "pg15"])
def cluster(request: pytest.FixtureRequest) -> EmbeddedCluster:
    found: EmbeddedCluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def conn(cluster: EmbeddedCluster) -> AsyncIterator[AsyncConnection]:
    name = await create_database(cluster, "introspect")
    async with await connect(cluster.conninfo(name), settings=SESSION) as connection:
        await connection.execute(SCHEMA)
        yield connection
    await drop_database(cluster, name)


async def test_tables_and_kinds(conn: AsyncConnection) -> None:
    schema = await read_schema(conn)
    kinds = {t.name.name: t.kind for t in schema.tables.values()}
    assert kinds == {
        "parent": TableKind.ORDINARY,
        "part": TableKind.PARTITIONED,
        'Quoted "Table"': TableKind.ORDINARY,
        "fleeting": TableKind.ORDINARY,
        "base": TableKind.ORDINARY,
        "derived": TableKind.ORDINARY,
        "seen": TableKind.VIEW,
        "far": TableKind.FOREIGN,
        "guarded": TableKind.ORDINARY,
    }
    assert schema.tables[TableName("app", "fleeting")].persistence is Persistence.UNLOGGED
    assert schema.tables[TableName("app", "derived")].inherits == (TableName("app", "base"),)
    assert schema.tables[TableName("app", "guarded")].row_security
    assert schema.enums == {"app.mood": ("sad", "ok", "happy")}
    assert (schema.large_objects, schema.encoding) == (1, "UTF8")
    assert schema.server_version // 10000 in (15, 18)


async def test_columns(conn: AsyncConnection) -> None:
    parent = (await read_schema(conn)).tables[PARENT]
    columns = {c.name: c for c in parent.columns}
    assert list(columns) == [
        "id", "serial_no", "odd", "code", "mood", "moods", "pair", "small", "amount", "twice",
    ]  # fmt: skip
    assert columns["id"] == Column(
        "id", "bigint", "int8", not_null=True, identity="a", default_sequence=TableName("app", "parent_id_seq")
    )
    assert columns["serial_no"].default_sequence == TableName("app", "parent_serial_no_seq")
    assert columns["odd"].default_sequence == TableName("app", "odd_seq")
    assert (columns["code"].type_name, columns["code"].collation) == ("character varying(10)", "C")
    mood, moods = columns["mood"], columns["moods"]
    assert (mood.type_name, mood.base_schema, mood.base_type, mood.base_kind) == ("app.mood", "app", "mood", "e")
    assert (moods.base_type, moods.element_kind) == ("_mood", "e")
    assert (moods.element_schema, moods.element_type) == ("app", "mood")
    assert columns["pair"].base_kind == "c"
    small = columns["small"]
    assert (small.type_name, small.base_type, small.base_kind, small.not_null) == ("app.small", "int4", "b", True)
    assert [c.name for c in parent.stored_columns if c.name in ("amount", "twice")] == ["amount"]


async def test_keys_indexes_triggers_sizes(conn: AsyncConnection) -> None:
    parent = (await read_schema(conn)).tables[PARENT]
    keys = {k.name: k for k in parent.unique_keys}
    assert parent.primary_key == ("id",)
    assert keys["parent_pkey"].primary
    assert keys["parent_lower"].on_expression
    assert keys["parent_partial"].partial
    assert keys["parent_nulls"].nulls_not_distinct
    assert parent.index_prefixes == (("amount", "code"), ("code",), ("id",), ("mood",))
    assert parent.triggers == (Trigger("t_always", "A"),)  # the guard's own is left out
    assert parent.rows_estimate == 25  # counted: nobody has analyzed it
    assert parent.bytes_total > parent.bytes_heap > 0


async def test_partitions_are_folded(conn: AsyncConnection) -> None:
    part = (await read_schema(conn)).tables[PART]
    leaves = tuple(TableName("app", n) for n in ("part_1", "part_2_a", "part_2_b"))
    assert part.partitions == leaves
    assert part.rows_estimate == 300
    declared = Reference(PART, ("parent",), PARENT, ("id",), name="part_parent_fkey", on_delete="c")
    on_leaves = Reference(
        PART, ("other",), PARENT, ("id",), name="part_1_other_fkey", leaves=("app.part_1", "app.part_2_a")
    )
    assert part.references == (on_leaves, declared)
    assert part.index_prefixes == (("id", "at"), ("other",))  # every leaf has one, though the root has none


async def test_a_foreign_key_that_nobody_has_validated_proves_nothing(conn: AsyncConnection) -> None:
    await conn.execute("alter table app.part_2_a drop constraint part_2_a_other_fkey")
    await conn.execute("alter table app.part_2_a add foreign key (other) references app.parent (id) not valid")
    await conn.execute("alter table app.guarded add foreign key (id) references app.parent (id) not valid")
    schema = await read_schema(conn)
    on_leaves, declared = schema.tables[PART].references
    assert (len(on_leaves.leaves), on_leaves.validated, on_leaves.proves) == (2, False, False)
    assert (declared.validated, declared.proves) == (True, True)
    [old] = schema.tables[TableName("app", "guarded")].references
    assert (old.declared, old.validated, old.proves) == (True, False, False)


async def test_estimate_follows_analyze_and_growth(conn: AsyncConnection) -> None:
    grow = "insert into app.parent (amount, small) select n, 1 from generate_series(%s::int, %s::int) n"
    await conn.execute(grow, (100, 3099))
    await conn.execute("analyze")
    await conn.execute(grow, (5000, 7999))
    rows = (await read_schema(conn)).tables[PARENT].rows_estimate
    assert 5500 < rows < 6500


async def test_digest_ignores_what_changes_in_normal_service(conn: AsyncConnection) -> None:
    before = schema_digest(await read_schema(conn), [PARENT, PART])
    await conn.execute("create table app.part_3 partition of app.part for values from ('2026-01-01') to ('2027-01-01')")
    await conn.execute("create index more on app.parent (moods)")
    await conn.execute("analyze")
    assert schema_digest(await read_schema(conn), [PART, PARENT]) == before


@pytest.mark.parametrize(
    "change",
    [
        "alter table app.parent add note text",
        "alter table app.parent drop pair",
        "alter table app.parent alter amount set not null",
        "alter type app.mood add value 'great'",
        "alter table app.part drop constraint part_parent_fkey",
        "create unique index fresh on app.parent (odd)",
        "alter table app.parent enable row level security",
        "drop table app.part",
        "create table app.heir () inherits (app.parent)",
    ],
)
async def test_digest_sees_structure(conn: AsyncConnection, change: str) -> None:
    before = schema_digest(await read_schema(conn), [PARENT, PART])
    await conn.execute(change)
    assert schema_digest(await read_schema(conn), [PARENT, PART]) != before


async def test_caller_in_a_transaction_sees_its_own_changes(conn: AsyncConnection) -> None:
    async with conn.transaction():
        await conn.execute("create table app.fresh (id integer)")
        assert TableName("app", "fresh") in (await read_schema(conn)).tables


async def test_pagila(pg18: EmbeddedCluster) -> None:
    async with await connect(load_pagila(pg18.conninfo()), settings=SESSION) as connection:
        schema = await read_schema(connection)
    payment = schema.tables[TableName("public", "payment")]
    assert (payment.rows_estimate, len(payment.partitions)) == (16049, 7)
    assert {r.to_table.name: len(r.leaves) for r in payment.references} == {"customer": 6, "rental": 6, "staff": 6}
    assert ("customer_id",) not in payment.index_prefixes  # the last leaf has none
    assert schema.tables[TableName("public", "film")].column("release_year").base_type == "int4"
