"""Random rows and one random change: found when a row's text differs, and only then."""

from __future__ import annotations

from dataclasses import dataclass
import json
import random
from typing import Any

from psycopg import AsyncConnection, sql
import pytest
from tests.verify.kit import Sites, data_map

MAP = data_map("app.users", {"app.thing": "user_id -> app.users(id)", "app.event": "user_id -> app.users(id)"})
COLUMNS = ("user_id", "big", "text", "exact", "double", "doc", "at", "bytes")
SCHEMA = """
    create schema app; create table app.users (id bigint primary key);
    create table app.thing (id integer primary key, user_id bigint, big bigint, text text, exact numeric,
        "double" float8, doc jsonb, at timestamptz, bytes bytea);
    create table app.event (user_id bigint, big bigint, text text, exact numeric,
        "double" float8, doc jsonb, at timestamptz, bytes bytea);
    insert into app.users select generate_series(1, 9)"""
SUBJECTS = 6  # of 9: the others' rows must not count
ROUNDS = 25
TEXTS = """select coalesce(string_agg(t::text, E'\\n' order by t::text), '') from {} as t where t.user_id <= 6"""


@dataclass
class Dice:
    """Values that are likely to be close to one another."""

    random: random.Random

    def value(self, column: str) -> object:
        pick = self.random.choice
        if column == "user_id":
            return self.random.randrange(1, 10)
        if self.random.random() < 0.1:
            return None
        match column:
            case "big":
                return pick([0, -1, 1, 4294967295, 4294967296, -(2**63), 2**63 - 1, self.random.randrange(1000)])
            case "text":
                return "".join(self.random.choices("ab ÿ%'\\\n", k=self.random.randrange(4)))
            case "exact":
                return pick(["0", "0.0", "-0.5", "0.5", "0.50", "NaN", "Infinity", "-Infinity", "1e20", "-1e20"])
            case "double":
                return pick(["0", "-0", "NaN", "1", "-1", "Infinity", "4.9e-324", "0.1"])
            case "doc":
                return json.dumps(self._document(2))
            case "at":
                return pick(
                    ["infinity", "2026-01-01 00:00+00", "2026-01-01 00:00:00.000001+00", "0044-03-15 00:00+00 BC"]
                )
            case _:
                return bytes(self.random.choices(range(2), k=self.random.randrange(3)))

    def _document(self, depth: int) -> object:
        kind = self.random.randrange(6 if depth else 4)
        if kind == 4:
            return [self._document(depth - 1) for _ in range(self.random.randrange(3))]
        if kind == 5:
            return {key: self._document(depth - 1) for key in self.random.sample("abc", self.random.randrange(3))}
        return self.random.choice([None, True, False, 0, 1, -1, 1.5, -1.5, "", "a", "1"])


async def insert(conn: AsyncConnection[Any], table: str, key: int | None, values: list[object]) -> None:
    columns = (*(("id",) if key is not None else ()), *COLUMNS)
    statement = sql.SQL("insert into app.{} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() for _ in columns),
    )
    await conn.execute(statement, [*([key] if key is not None else []), *values])


async def change(sites: Sites, dice: Dice, keys: int) -> None:
    """One random change of the target."""
    column = dice.random.choice(COLUMNS)
    table = dice.random.choice(["thing", "event"])
    if dice.random.random() < 0.2:
        key = keys + 1000 if table == "thing" else None
        await insert(sites.target, table, key, [dice.value(c) for c in COLUMNS])
        return
    row = "(select ctid from app.{} order by random() limit 1)"
    deed = "delete from app.{} where ctid = " + row
    if dice.random.random() < 0.7:
        deed = "update app.{} set {} = %s where ctid = " + row
        names = [sql.Identifier(n) for n in (table, column, table)]
        await sites.target.execute(sql.SQL(deed).format(*names), (dice.value(column),))  # type: ignore[arg-type]  # of constants
        return
    await sites.target.execute(sql.SQL(deed).format(*[sql.Identifier(table)] * 2))  # type: ignore[arg-type]  # of constants


async def texts(conn: AsyncConnection[Any]) -> list[str]:
    found = []
    for table in ("thing", "event"):
        [(text,)] = await (await conn.execute(sql.SQL(TEXTS).format(sql.Identifier("app", table)))).fetchall()
        found.append(text)
    return found


@pytest.mark.timeout(240)
async def test_one_change_is_found_and_nothing_else(sites18: Sites, seed: int) -> None:
    dice = Dice(random.Random(seed))
    sites = sites18
    await sites.both(SCHEMA)
    await sites.register(range(1, SUBJECTS + 1))
    outcomes = []
    for round_no in range(ROUNDS):
        await sites.both("truncate app.thing, app.event")
        for key in range(dice.random.randrange(1, 12)):
            for table in ("thing", "event"):
                values = [dice.value(c) for c in COLUMNS]
                for conn in (sites.source, sites.target):
                    await insert(conn, table, key if table == "thing" else None, values)
        assert (await sites.verify(MAP)).clean
        await change(sites, dice, round_no)
        same = await texts(sites.source) == await texts(sites.target)
        verdict = await sites.verify(MAP)
        assert verdict.clean == same, (seed, round_no, verdict)
        assert bool(verdict.discrepancies_total) != same
        outcomes.append(same)
    assert not all(outcomes), "no change was visible"
