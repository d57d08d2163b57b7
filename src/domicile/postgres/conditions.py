"""What a person's condition speaks about: a subject's columns and its market, found as in a plain session.

One definition for the plan, which asks the whole table; for the trigger that refuses sign-ups, which asks one new row;
and for whoever looks who has joined or left the cohort since.
"""

from __future__ import annotations

from collections.abc import Collection

from psycopg import AsyncConnection, sql

from domicile.model.datamap import SubjectRule
from domicile.model.schema import TableName
from domicile.postgres.ownership import Fragment

MARKET = "market"  # what a condition calls the map's market expression
_COLUMNS = """
    select attname from pg_catalog.pg_attribute
    where attrelid = pg_catalog.to_regclass(%s) and attnum > 0 and not attisdropped order by attnum"""
_KEPT = "select condition from domicile.move where move_id = %s"


def subject_rows(subject: SubjectRule, columns: Collection[str], rows: Fragment) -> Fragment:
    """``(select <columns>, (<market>) as market from <rows> as subject) as subject``.

    Where the map has a market expression, it hides a column of the same name. A key of that name is there under another
    one: `key_of`.
    """
    market = subject.market
    items: list[Fragment] = [sql.Identifier("subject", n) for n in columns if not (market and n == MARKET)]
    if market:
        # The map's own SQL, vetted like the condition.
        items.append(sql.SQL("({}) as {}").format(sql.SQL(market), sql.Identifier(MARKET)))
    if (key := _key_name(subject, columns)) != subject.key:
        items.append(sql.SQL("{} as {}").format(sql.Identifier("subject", subject.key), sql.Identifier(key)))
    return sql.SQL("(select {} from {} as subject) as subject").format(sql.SQL(", ").join(items), rows)


def key_of(subject: SubjectRule, columns: Collection[str]) -> Fragment:
    """The subject's key as `subject_rows` of these columns has it."""
    return sql.Identifier("subject", _key_name(subject, columns))


def _key_name(subject: SubjectRule, columns: Collection[str]) -> str:
    if not subject.market or subject.key != MARKET:
        return subject.key
    name = "domicile_key"
    while name in columns:
        name += "_"
    return name


def fits(subject: SubjectRule, columns: Collection[str], where: str, rows: Fragment, key: Fragment) -> Fragment:
    """True when ``rows`` has a subject with this key who fits the condition; without one, everybody fits."""
    # The line breaks end a "--" comment inside the condition.
    return sql.SQL("exists (select from {} where {} = {} and (\n{}\n))").format(
        subject_rows(subject, columns, rows), key_of(subject, columns), key, sql.SQL(where or "true")
    )


def search_path(table: TableName) -> Fragment:
    """The subject's own schema, then ``public``. Temporary objects come last, so that they hide nothing."""
    return sql.SQL(", ").join(map(sql.Identifier, ("pg_catalog", table.schema, "public", "pg_temp")))


async def set_search_path(conn: AsyncConnection, table: TableName) -> None:
    """Let a person's SQL find what it finds in a plain session. Until the transaction ends.

    Without it, an operator of an extension (citext's =) would silently be another one.
    """
    await conn.execute(sql.SQL("set local search_path to {}").format(search_path(table)))


async def reset_search_path(conn: AsyncConnection) -> None:
    """Back to the engine's own setting: nothing is found that is not qualified."""
    await conn.execute("select pg_catalog.set_config('search_path', '', true)")


async def columns_of(conn: AsyncConnection, table: TableName) -> tuple[str, ...]:
    """The table's columns in their order; none where it is not there."""
    name = sql.Identifier(table.schema, table.name).as_string(conn)
    return tuple(column for (column,) in await (await conn.execute(_COLUMNS, (name,))).fetchall())


async def kept(conn: AsyncConnection, move_id: str) -> str:
    """The condition of a move as its source keeps it while the move lasts; empty where a file named the cohort."""
    row = await (await conn.execute(_KEPT, (move_id,))).fetchone()
    return "" if row is None else str(row[0])
