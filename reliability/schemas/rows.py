"""Rows for a shop's tables: made, read back and told apart, by statements of our own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, sql

from domicile.postgres.connect import connect
from reliability.schemas.columns import HIGH, LOW
from reliability.schemas.shape import COPIED, Col, Identity, Name, Ref, Shop, Tab, ident, owned_rows

# Texts of values must be the same at both sites.
SETTINGS = (
    "set datestyle to 'ISO, MDY'; set intervalstyle to 'postgres'; set timezone to 'UTC'; set bytea_output to 'hex';"
    "set extra_float_digits to 3; set lc_monetary to 'C'; set search_path to ''"
)
ROWS_MAX = 4  # of a table, for one subject
DIGITS = 8  # of a column's digest
CONFLICTS = psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation

Row = Mapping[str, str | None]
Held = dict[Name, Counter[str]]
"""Rows by table: for each its columns' digests, one behind the other in the order of `Tab.cols`."""


class Values:
    """Values for new rows of a shop."""

    def __init__(self, shop: Shop, dice: Random, *, target: bool = False) -> None:
        self.shop, self.dice = shop, dice
        self._number = LOW if shop.low_source != target else HIGH

    def of(self, col: Col) -> str | None:
        """A value for this column; None where it may be null."""
        if not col.kind or (not col.not_null and self.dice.random() < 0.15):
            return None
        self._number += 1
        return self.shop.kinds[col.kind].make(self.dice, self._number)


async def insert(conn: AsyncConnection[Any], tab: Tab, row: Row) -> Row:
    """Insert it; returns its columns as text."""
    names = [name for name in row if not tab.col(name).filled]
    statement = sql.SQL("insert into {} ({}) values ({}) returning {}").format(
        ident(*tab.name),
        sql.SQL(", ").join(map(ident, names)),
        given(range(1, len(names) + 1)),
        sql.SQL(", ").join(sql.SQL("{}::text").format(ident(c.name)) for c in tab.cols),
    )
    found = await (await conn.execute(statement, [row[n] for n in names])).fetchone()
    assert found is not None, "no trigger of a shop drops rows"
    return dict(zip((c.name for c in tab.cols), found, strict=True))


def given(numbers: Iterable[int]) -> sql.Composed:
    """Parameters: not with a percent sign, which may stand in names."""
    return sql.SQL(", ").join(sql.SQL("${}").format(sql.Literal(n)) for n in numbers)


async def at_site(conninfo: str) -> AsyncConnection[Any]:
    """A session of the shop's application. Raises DomicileError."""
    conn = await connect(conninfo, application_name="shop application")
    await conn.execute(SETTINGS)
    conn.cursor_factory = AsyncRawCursor
    return conn


def fresh_row(values: Values, tab: Tab, known: Row) -> Row:
    """A row with these columns known, and the others made."""
    return {c.name: known[c.name] if c.name in known else values.of(c) for c in tab.cols if not c.filled}


def named(ref: Ref, row: Row | None) -> Row:
    """What the reference's columns hold to name this row."""
    return {
        ours: None if row is None else row[theirs] for ours, theirs in zip(ref.columns, ref.to_columns, strict=True)
    }


async def fill(conn: AsyncConnection[Any], values: Values, markets: Sequence[str]) -> list[str]:
    """One subject for each of ``markets``, with rows in every table; returns their keys as text."""
    shop, dice = values.shop, values.dice
    subjects = list[str]()
    rows: dict[tuple[str, Name], list[Row]] = defaultdict(list)
    for market in markets:
        inward = next((t for t in shop.tables if t.owner is not None and t.owner.inward), None)
        known: dict[str, str | None] = {shop.market: market}
        for ref in shop.subject.loose:  # friends are of one market
            near = [s for s, m in zip(subjects, markets, strict=False) if ref.party or m == market]
            friends = [s for s in near if dice.random() < 0.5]
            known |= {ref.columns[0]: friends[-1] if friends else None}
        if inward is not None and inward.owner is not None:
            row = await insert(conn, inward, fresh_row(values, inward, {}))
            known["named by"] = row["id"]
        made = await insert(conn, shop.subject, fresh_row(values, shop.subject, known))
        subject = made[shop.subject_key]
        assert subject is not None, "a key"
        subjects.append(subject)
        rows[subject, shop.subject.name].append(made)
        for tab in shop.tables[1:]:
            if tab is not inward:
                rows[subject, tab.name] = await _fill_table(conn, values, tab, subject, rows)
    await _drop_unneeded(conn, shop)
    return subjects


async def _drop_unneeded(conn: AsyncConnection[Any], shop: Shop) -> None:
    """Of the tables whose rows are copied, what no row here refers to: a move that needs it brings it."""
    for name in (name for name, role in shop.roles.items() if role == COPIED):
        table = ident(*name)
        for (code,) in await (await conn.execute(sql.SQL("select code from {}").format(table))).fetchall():
            with suppress(psycopg.errors.ForeignKeyViolation):
                await conn.execute(sql.SQL("delete from {} where code = $1").format(table), (code,))


async def _fill_table(
    conn: AsyncConnection[Any], values: Values, tab: Tab, subject: str, rows: Mapping[tuple[str, Name], list[Row]]
) -> list[Row]:
    assert tab.owner is not None, "subjects are made before"
    made = list[Row]()
    parents = rows[subject, tab.owner.to]
    for _ in range(values.dice.randrange(ROWS_MAX + 1) if parents else 0):
        known = dict(named(tab.owner, values.dice.choice(parents)))
        if not tab.col(tab.owner.columns[0]).not_null and values.dice.random() < 0.1:
            known = dict(named(tab.owner, None))
        for ref in tab.loose:
            others = [
                r for (s, name), found in rows.items() if name == ref.to and (ref.party or s == subject) for r in found
            ]
            known |= named(ref, values.dice.choice(others) if others and values.dice.random() < 0.6 else None)
        row = fresh_row(values, tab, known)
        for _ in range(2 if tab.identity in (Identity.FULL, Identity.NONE) and values.dice.random() < 0.4 else 1):
            try:
                new = await insert(conn, tab, row)
            except CONFLICTS:
                continue  # an enum has few values
            if known[tab.owner.columns[0]] is not None:
                made.append(new)
    return made


async def held(conn: AsyncConnection[Any], shop: Shop, subjects: Iterable[str] | None = None) -> dict[str | None, Held]:
    """Every row of these subjects, and of nobody (under None); without ``subjects`` of everybody there."""
    found: dict[str | None, Held] = defaultdict(dict)
    listed = None if subjects is None else list(subjects)
    for tab in shop.tables:
        rows, owner = owned_rows(shop, tab)
        digests = sql.SQL(" || ").join(
            sql.SQL("left(md5(row({})::text), {})").format(ident("t", c.name), DIGITS) for c in tab.cols
        )
        which = (
            sql.SQL("")
            if listed is None
            else sql.SQL("where {}::text = any($1::text[]) or {} is null").format(owner, owner)
        )
        statement = sql.SQL("select {}::text, {} from {} {}").format(owner, digests, rows, which)
        cursor = await conn.execute(statement, None if listed is None else (listed,))
        for subject, digest in await cursor.fetchall():
            found[subject].setdefault(tab.name, Counter())[digest] += 1
    return dict(found)


async def forget_persons(conn: AsyncConnection[Any], shop: Shop, persons: Iterable[str]) -> None:
    """No row there names them any more as its second person."""
    gone = list(persons)
    for tab, ref in shop.parties:
        name = ident(ref.columns[0])
        statement = sql.SQL("update {} set {} = null where {}::text = any($1::text[])").format(
            ident(*tab.name), name, name
        )
        await conn.execute(statement, (gone,))


async def named_persons(conn: AsyncConnection[Any], shop: Shop) -> set[str]:
    """Everybody whom a row there names as its second person."""
    found = set[str]()
    for tab, ref in shop.parties:
        name = ident(ref.columns[0])
        statement = sql.SQL("select distinct {}::text from {} where {} is not null").format(
            name, ident(*tab.name), name
        )
        found.update(key for (key,) in await (await conn.execute(statement)).fetchall())
    return found


async def codes_missing(conn: AsyncConnection[Any], shop: Shop) -> int:
    """How many rows there refer to a row of a copied table that is not there."""
    missing = 0
    for name in (name for name, role in shop.roles.items() if role == COPIED):
        for tab in shop.tables:
            for col in (col for col in tab.cols if col.kind == "code"):
                statement = sql.SQL(
                    "select count(*) from {} as t where t.{} is not null and not exists "
                    "(select from {} as c where c.code = t.{})"
                ).format(ident(*tab.name), ident(col.name), ident(*name), ident(col.name))
                missing += (await (await conn.execute(statement)).fetchall())[0][0]
    return missing


async def stubs_at(conn: AsyncConnection[Any]) -> frozenset[str]:
    """Whose row there is said to be a stub."""
    found = await conn.execute("select to_regclass('domicile.member') is not null")
    if not (await found.fetchall())[0][0]:
        return frozenset()
    rows = await conn.execute(
        "select m.subject::text from domicile.member as m join domicile.wave as w on w.id = m.wave "
        "where w.move_id = 'stubs'"
    )
    return frozenset(key for (key,) in await rows.fetchall())
