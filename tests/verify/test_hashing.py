"""Why PostgreSQL's own hashes are not enough: the blind spots are real, and the default mode has none of them."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import AsyncConnection, sql
import pytest

from domicile.model.schema import Column, TableName
from domicile.postgres.connect import SESSION, connect
from domicile.postgres.hashing import Mode, bound_hash, hashed, row_hash, seed_of
from domicile.postgres.ownership import Fragment, column

PAIRS = [
    ("numeric", "5", "-5"),
    ("numeric", "1.0", "1.00"),
    ("numeric", "'NaN'", "'-Infinity'"),
    ("jsonb", """'{"vote": 1}'""", """'{"vote": -1}'"""),
    ("jsonb", "'[[1], 2]'", "'[[1, 2]]'"),
    ("float8", "0", "'-0'"),
    ("int8", "-1", "4294967295"),
    ("interval", "'24:00'", "'1 day'"),
    ("bpchar", "'a'", "'a '"),
    ("timestamptz", "'2000-01-01 00:00:00.000001+00'", "'2000-01-01 01:11:34.967296+00'"),
]
FIRST = Column("a", "", "")


def native(values: Sequence[Fragment], seed: int) -> Fragment:
    """What PostgreSQL offers: the hash that is not good enough."""
    return sql.SQL("hash_record_extended(row({}), {})").format(sql.SQL(", ").join(values), sql.Literal(seed))


async def hashes(conn: AsyncConnection, expression: Fragment, values: str) -> list[int]:
    statement = sql.SQL("select {} from (values {}) as t (id, a)").format(expression, sql.SQL(values))  # type: ignore[arg-type]  # written below
    return [row[0] for row in await (await conn.execute(statement)).fetchall()]


@pytest.mark.parametrize(("kind", "one", "other"), PAIRS)
async def test_blind_spots_of_the_native_hash(database: str, kind: str, one: str, other: str) -> None:
    values = f"(1, {one}::{kind}), (1, {other}::{kind})"
    col = Column("a", kind, kind)
    async with await connect(database, settings=SESSION) as conn:
        alike = await hashes(conn, native([column("t", "a")], 7), values)
        assert alike[0] == alike[1], "PostgreSQL sees it now: good news for the benchmark"
        for mode in (Mode.EXACT, Mode.AUDIT):
            apart = await hashes(conn, row_hash([hashed(col, mode)], 7, mode), values)
            assert apart[0] != apart[1]


async def test_plain_sums_hide_swapped_values_and_bound_ones_do_not(database: str) -> None:
    columns = [column("t", "id"), column("t", "a")]
    right, swapped = "(1, 'x'), (2, 'y')", "(1, 'y'), (2, 'x')"
    async with await connect(database, settings=SESSION) as conn:
        plain = native(columns, 7)
        bound = bound_hash(sql.Literal(1), plain, Mode.EXACT)
        assert (sum(await hashes(conn, plain, right)) - sum(await hashes(conn, plain, swapped))) % 2**64 == 0
        assert (sum(await hashes(conn, bound, right)) - sum(await hashes(conn, bound, swapped))) % 2**64 != 0


async def test_null_is_not_zero(database: str) -> None:
    """With seed 0 it would be."""
    async with await connect(database, settings=SESSION) as conn:
        values = "(1, 0::float8), (1, null)"
        zero_seed = await hashes(conn, native([column("t", "a")], 0), values)
        assert zero_seed[0] == zero_seed[1]
        own_seed = await hashes(conn, row_hash([column("t", "a")], seed_of(TableName("a", "b")), Mode.EXACT), values)
        assert own_seed[0] != own_seed[1]


# Values that differ in what no copy keeps: PostgreSQL remembers that an array once had a null.
HELD_A_NULL = [
    ("int4", "(array[null, 1])[2:]", "array[1]"),
    ("text", "array_replace((array[null, 'x'])[2:], 'y', 'z')", "array['x']"),
]


@pytest.mark.parametrize(("element", "once", "never"), HELD_A_NULL)
async def test_an_array_that_once_held_a_null(database: str, element: str, once: str, never: str) -> None:
    """And arrays that differ in a null, a bound or a dimension are told apart."""
    col = Column("a", f"{element}[]", f"_{element}", element_type=element, element_schema="pg_catalog")
    hashing = row_hash([hashed(col, Mode.EXACT)], 7, Mode.EXACT)
    others = ", ".join(f"(1, ({text})::{element}[])" for text in ("'{null}'", "'{}'", "null", f"array[{never}]"))
    async with await connect(database, settings=SESSION) as conn:
        found = await hashes(conn, hashing, f"(1, {once}), (1, {never}), (1, array_cat(null, {never})), {others}")
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 5


async def test_the_subject_is_part_of_the_hash(database: str) -> None:
    async with await connect(database, settings=SESSION) as conn:
        for mode in Mode:
            inner = row_hash([column("t", "a")], 7, mode)
            one, other = await hashes(conn, bound_hash(column("t", "id"), inner, mode), "(1, 'x'), (2, 'x')")
            assert one != other


def test_seeds_differ_and_are_never_zero() -> None:
    seeds = {seed_of(TableName("public", f"t{n}")) for n in range(1000)}
    assert len(seeds) == 1000
    assert 0 not in seeds
