"""Is the operator's condition one boolean expression over the subject, and does it give the same answer
twice?

PostgreSQL's own parser decides, not a copy of its grammar. The condition is put into two temporary views
that are rolled back at once: between parentheses, and between square brackets. A text that closes the
bracket around it fits one of them at most; a SELECT fits only the parentheses; so what passes both is one
expression. A view is analysed but not run, and its stored form lists the functions it calls.
"""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection, sql

from domicile.model.datamap import DataMap
from domicile.model.documents import storable
from domicile.model.errors import DomicileError, ErrorCode
from domicile.postgres import conditions
from domicile.postgres.ownership import Fragment, ident

VIEW = "domicile_condition"
# :funcid and :opfuncid are how a stored expression names the functions behind its calls and operators.
_VOLATILE = """
    select distinct p.proname
    from pg_rewrite as r
        cross join lateral
            regexp_matches(r.ev_action::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') as found (oid)
        join pg_proc as p on p.oid = found.oid[1]::oid
    where r.ev_class = %s::regclass and p.provolatile = 'v' order by 1"""


async def require_subject(conn: AsyncConnection, data_map: DataMap) -> tuple[str, ...]:
    """The subject table's columns. Raises map-invalid when the table or its key is not there."""
    table, key = data_map.subject.table, data_map.subject.key
    names = await conditions.columns_of(conn, table)
    if key not in names:
        found = f"has no column {key}" if names else "does not exist"
        raise DomicileError(
            ErrorCode.MAP_INVALID,
            f"the subject table {table} of the data map {found} at the source",
            facts={"table": str(table), "line": data_map.line_of.get(table, 0)},
            hint="Correct subject: in the data map, then run: domicile map check",
        )
    return names


async def subjects_from(conn: AsyncConnection, data_map: DataMap) -> tuple[Fragment, Fragment]:
    """The subjects as a condition speaks about them (`conditions.subject_rows`), and their key there. Raises
    map-invalid as ``require_subject`` does.
    """
    subject, names = data_map.subject, await require_subject(conn, data_map)
    return conditions.subject_rows(subject, names, ident(subject.table)), conditions.key_of(subject, names)


async def vet(conn: AsyncConnection, data_map: DataMap, where: str) -> None:
    """Refuse (condition-invalid) what is not one repeatable boolean expression. Needs a transaction that
    may write, or none; all is undone.
    """
    if not where.strip():
        raise invalid("it is empty")
    if not storable(where):
        raise invalid("it contains a NUL character, or characters that are not Unicode")
    async with conn.transaction(force_rollback=True):
        await conditions.set_search_path(conn, data_map.subject.table)
        subjects, _ = await subjects_from(conn, data_map)
        if data_map.subject.market:
            await _vet_market(conn, data_map, subjects)
        view = sql.SQL("create temp view {} as select ").format(sql.Identifier(VIEW))
        # The line breaks end a "--" comment inside the condition.
        head = sql.SQL("{}1 as one from {} where (\n").format(view, subjects).as_string(conn)
        await _analyse(conn, head, where, "\n)")
        await _refuse_volatile(conn, "the condition")
        await conn.execute(sql.SQL("drop view {}").format(sql.Identifier("pg_temp", VIEW)))
        head = sql.SQL("{}array[\n").format(view).as_string(conn)
        tail = sql.SQL("\n] as one from {}").format(subjects).as_string(conn)
        await _analyse(conn, head, where, tail)


async def _vet_market(conn: AsyncConnection, data_map: DataMap, subjects: Fragment) -> None:
    """The map's expression by itself, so that its errors are not blamed on the condition."""
    try:
        async with conn.transaction():
            await conn.execute(sql.SQL("select from {} limit 0").format(subjects))
    except psycopg.errors.InsufficientPrivilege as error:
        raise DomicileError(
            ErrorCode.RIGHT_MISSING,
            f"the subjects or their markets may not be read: {error.diag.message_primary}",
            facts={"table": str(data_map.subject.table)},
            hint="Grant the role SELECT on the subject table and on what the market expression reads.",
        ) from None
    except psycopg.Error as error:
        raise DomicileError(
            ErrorCode.MAP_INVALID,
            f"the market expression of the data map is not valid SQL: {error.diag.message_primary}",
            facts={"table": str(data_map.subject.table), "sqlstate": error.sqlstate or ""},
            hint="Correct subject.market in the data map, then run: domicile map check",
        ) from None


async def _analyse(conn: AsyncConnection, head: str, where: str, tail: str) -> None:
    try:
        # A binary cursor speaks the extended protocol, in which the server refuses more than one statement.
        await conn.cursor(binary=True).execute(sql.SQL(head + where + tail))
    except psycopg.Error as error:
        position = int(error.diag.statement_position or 0) - len(head)
        inside = 0 < position <= len(where)
        place = f" (character {position})" if inside else " (at its end)" if position > len(where) else ""
        raise invalid(f"{error.diag.message_primary}{place}", position=position if inside else 0) from None


async def _refuse_volatile(conn: AsyncConnection, what: str) -> None:
    row = await (await conn.execute(_VOLATILE, (f"pg_temp.{VIEW}",))).fetchall()
    if row:
        names = ", ".join(name for (name,) in row)
        raise invalid(f"{what} calls {names}, whose answer may change or which may change data", functions=names)


def invalid(message: str, **facts: object) -> DomicileError:
    """The error for a condition that cannot be used."""
    return DomicileError(
        ErrorCode.CONDITION_INVALID,
        f"the condition cannot be used: {message}",
        facts=facts,
        hint="Write one SQL expression over the subject's columns or market that is true for those who move, "
        "with stable functions only, for example: market = 'India'",
    )
