"""Users of a shop, who write while it moves: they follow the guard, and know what they were promised."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
import json
from random import Random
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from reliability.schemas.nulls import persons_of, promised
from reliability.schemas.rows import Held, Row, Values, at_site, forget_persons, fresh_row, held, insert, named
from reliability.schemas.shape import Col, Ref, Shop, Tab, ident, owned_rows

WAIT_S = 0.01
STAY = 3
PAUSE_S = 0.02  # between two transactions of a writer
DEEDS = ("insert", "insert", "update", "update", "update", "update", "key", "delete", "pass on", "pass on", "loose")
MOVED, MOVING = "DM001", "DM002"
AGAIN = ("40001", "40P01")
REFUSED = ("21", "22", "23", "27", "2F")  # what the shop's own rules refuse is no harm


class Nothing(Exception):
    """A transaction that would change nothing."""


@dataclass(slots=True)
class Ledger:
    """What was promised: ``rows`` by subject, ``nobody`` by site; ``home`` as the guard has told. ``strange``: answers
    that no application should ever get."""

    home: dict[str, str]
    rows: dict[str, Held]
    nobody: dict[str, Held]
    members: frozenset[str]
    may_leave: bool = False  # before the cohort is frozen, nobody leaves for good: the plan would be stale
    commits: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)  # those of them by which a member's rows were written
    refused: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)  # who has deleted himself, and does not come back
    persons: Mapping[str, str] = field(default_factory=dict)  # subjects by the digest of their key

    def moved(self, site: str) -> None:
        """Everybody of the cohort lives there now, also those who have not tried since."""
        for member in self.members:
            self.home[member] = site

    def committed(self, site: str, subjects: Sequence[str], read: Mapping[str | None, Held]) -> None:
        """What was read at the end of a transaction that has committed."""
        self.commits[site] += 1
        self.served[site] += not self.members.isdisjoint(subjects)
        for subject in subjects:
            self.rows[subject] = {} if subject in self.gone else read.get(subject, {})
        self.nobody[site] = read.get(None, {})


def ledger_of(
    shop: Shop, home: dict[str, str], rows: dict[str, Held], nobody: dict[str, Held], members: frozenset[str]
) -> Ledger:
    """What is promised before anybody writes."""
    return Ledger(home, rows, nobody, members, persons=persons_of(shop, rows))


async def forget_deleted(shop: Shop, conninfo: str, ledger: Ledger) -> None:
    """Who has deleted himself at the source is named by no row at the target any more. Nobody writes meanwhile."""
    gone = [who for who in ledger.gone if ledger.home[who] == "source"]
    async with await at_site(conninfo) as conn:
        await forget_persons(conn, shop, gone)
        read = await held(conn, shop)
    for who, home in ledger.home.items():
        if home == "target":
            ledger.rows[who] = read.get(who, {})
    ledger.nobody["target"] = read.get(None, {})


@dataclass(slots=True)
class Writer:
    """One of them. Nobody else writes for ``mine``. ``turn``: where rows may come to be nobody's, one writes at a
    time."""

    shop: Shop
    sites: Mapping[str, str]
    ledger: Ledger
    values: Values
    mine: Sequence[str]
    turn: asyncio.Lock
    dice: Random
    _leaving: set[str] = field(default_factory=set)  # with the transaction that is open

    async def run(self, stop: asyncio.Event) -> None:
        """Write until ``stop`` is set."""
        async with AsyncExitStack() as stack:
            conns = {}
            for site, conninfo in self.sites.items():
                conns[site] = await stack.enter_async_context(await at_site(conninfo))
            while not stop.is_set():
                await self._one(conns)
                await asyncio.sleep(PAUSE_S)

    async def _one(self, conns: Mapping[str, AsyncConnection[Any]]) -> None:
        if not (here := [one for one in self.mine if one not in self.ledger.gone]):
            return
        subject, other = self.dice.choice(here), self.dice.choice(here)
        site = self.ledger.home[subject]
        if self.ledger.home[other] != site:
            other = subject
        deeds = self.dice.choices(DEEDS, k=self.dice.choice((1, 1, 2, 4)))
        who = list(self.mine) if self.shop.crossing else sorted({subject, other})
        who = [one for one in who if self.ledger.home[one] == site]
        self._leaving.clear()
        try:
            async with self.turn:
                async with conns[site].transaction():
                    done = [d for d in deeds if await self._deed(conns[site], d, subject, other)]
                    if not done:
                        raise Nothing
                    read = await held(conns[site], self.shop, who)
                self.ledger.gone |= self._leaving
                for one in who:
                    read[one] = promised(self.shop, self.ledger.rows[one], read.get(one, {}), done)
                self.ledger.committed(site, who, read)
                self.ledger.deeds.update(done)
        except Nothing:
            return
        except psycopg.Error as error:
            if error.sqlstate == MOVED:
                await self._moved(conns[site], {subject, other} & self.ledger.members, site, error)
            await self._refused(error, site, deeds)

    async def _moved(self, conn: AsyncConnection[Any], who: set[str], site: str, error: psycopg.Error) -> None:
        """One of them lives elsewhere, or both: each is asked for alone."""
        if not who:
            self.ledger.strange.append(f"an outsider is told at {site} to have moved")
        told = {one: _home(error) for one in who if len(who) == 1 or await self._refuses(conn, one)}
        self.ledger.home |= told or dict.fromkeys(who, _home(error))

    async def _refuses(self, conn: AsyncConnection[Any], subject: str) -> bool:
        try:
            async with conn.transaction(force_rollback=True):
                await self._touch(conn, subject)
        except psycopg.Error as error:
            return error.sqlstate == MOVED
        return False

    async def _refused(self, error: psycopg.Error, site: str, deeds: Sequence[str]) -> None:
        state = error.sqlstate or "lost"
        self.ledger.refused[state] += 1
        if state == MOVING or state in AGAIN:
            await asyncio.sleep(WAIT_S)
        elif state != MOVED and not state.startswith(REFUSED):
            said = f"{error.diag.message_primary} ({error.diag.context or ''})"
            self.ledger.strange.append(f"{state} at {site} for {', '.join(deeds)}: {said}")

    async def _deed(self, conn: AsyncConnection[Any], deed: str, subject: str, other: str) -> bool:
        """One change; False when there was nothing to change."""
        tab = self.dice.choice(self.shop.tables)
        match deed:
            case "insert":
                return await self._insert(conn, tab, subject)
            case "update":
                cols = [c for c in tab.cols if c.kind and c.name not in (*tab.key, self.shop.subject_key)]
                if not cols and tab is self.shop.subject:
                    return await self._touch(conn, subject)
                return await self._update(conn, tab, subject, {c.name: self.values.of(c) for c in self._some(cols)})
            case "key":
                cols = [c for c in tab.cols if c.kind and c.name in tab.key and c.name != self.shop.subject_key]
                return await self._update(conn, tab, subject, {c.name: self.values.of(c) for c in cols})
            case "delete":
                return await self._delete(conn, tab, subject)
            case "pass on":
                return await self._pass_on(conn, tab, subject, other)
        given: dict[str, str | None] = {}
        for ref in tab.loose:
            friend = self.dice.choice(
                [s for s in self.mine if ref.party or (s in self.ledger.members) == (subject in self.ledger.members)]
            )
            given |= named(
                ref, await self._somewhere(conn, ref, friend if ref.to == self.shop.subject.name else subject)
            )
        if None in given.values() and any(ref.cleared for ref in tab.loose):
            return False  # a null in such a row is the mover's
        return bool(given) and await self._update(conn, tab, subject, given)

    def _some(self, among: Sequence[Col]) -> list[Col]:
        return [one for one in among if self.dice.random() < 0.3]

    async def _insert(self, conn: AsyncConnection[Any], tab: Tab, subject: str) -> bool:
        if tab.owner is None or tab.owner.inward:
            return False
        parent = await self._somewhere(conn, tab.owner, subject)
        if parent is None:
            return False
        given = {**named(tab.owner, parent)}
        for ref in tab.loose:
            given |= named(ref, await self._somewhere(conn, ref, self.dice.choice(self.mine) if ref.party else subject))
        await insert(conn, tab, fresh_row(self.values, tab, given))
        return True

    async def _update(self, conn: AsyncConnection[Any], tab: Tab, subject: str, given: Row) -> bool:
        at = await self._row(conn, tab, subject)
        if not given or at is None:
            return False
        sets = sql.SQL(", ").join(
            sql.SQL("{} = ${}").format(ident(name), sql.Literal(n)) for n, name in enumerate(given, 3)
        )
        statement = sql.SQL("update {} set {} where tableoid = $1::oid and ctid = $2::tid").format(
            ident(*tab.name), sets
        )
        return (await conn.execute(statement, [*at, *given.values()])).rowcount > 0

    async def _touch(self, conn: AsyncConnection[Any], subject: str) -> bool:
        """Write a subject's own row as it stands: in a shop with nothing else to update he could not write at all."""
        statement = sql.SQL("update {} set {market} = {market} where {}::text = $1").format(
            ident(*self.shop.subject.name), ident(self.shop.subject_key), market=ident(self.shop.market)
        )
        return (await conn.execute(statement, (subject,))).rowcount > 0

    async def _delete(self, conn: AsyncConnection[Any], tab: Tab, subject: str) -> bool:
        if tab.owner is None and not (self.ledger.may_leave and self._may_leave(subject)):
            return False
        at = await self._row(conn, tab, subject)
        if at is None:
            return False
        statement = sql.SQL("delete from {} where tableoid = $1::oid and ctid = $2::tid").format(ident(*tab.name))
        done = (await conn.execute(statement, at)).rowcount > 0
        if done and tab.owner is None:
            self._leaving.add(subject)
        return done

    def _may_leave(self, subject: str) -> bool:
        """Few leave for good; of the cohort some always stay, and nothing of who leaves is left behind."""
        hanging = [t.owner for t in self.shop.tables if t.owner is not None and t.owner.to == self.shop.subject.name]
        stays = self.shop.crossing or subject in sorted(self.ledger.members)[:STAY]
        return not stays and all(ref.options is not None for ref in hanging) and self.dice.random() < 0.3

    async def _pass_on(self, conn: AsyncConnection[Any], tab: Tab, subject: str, other: str) -> bool:
        """To another parent: of the same subject, of another one, or of nobody."""
        if tab.owner is None or tab.owner.inward:
            return False
        alone = all(ref.party for t in self.shop.tables for ref in t.loose)  # nothing is torn apart
        if not tab.col(tab.owner.columns[0]).not_null and alone and self.dice.random() < 0.2:
            return await self._update(conn, tab, subject, named(tab.owner, None))
        parent = await self._somewhere(conn, tab.owner, other if alone else subject)
        return parent is not None and await self._update(conn, tab, subject, named(tab.owner, parent))

    async def _somewhere(self, conn: AsyncConnection[Any], ref: Ref, subject: str) -> Row | None:
        """A row that the reference may name, of this subject."""
        tab = self.shop.tab(ref.to)
        rows, owner = owned_rows(self.shop, tab)
        columns = sql.SQL(", ").join(sql.SQL("{}::text").format(ident("t", name)) for name in ref.to_columns)
        statement = sql.SQL("select {} from {} where {}::text = $1").format(columns, rows, owner)
        found = await (await conn.execute(statement, (subject,))).fetchall()
        return dict(zip(ref.to_columns, self.dice.choice(found), strict=True)) if found else None

    async def _row(self, conn: AsyncConnection[Any], tab: Tab, subject: str) -> tuple[str, str] | None:
        """Where one of the subject's rows stands."""
        rows, owner = owned_rows(self.shop, tab)
        statement = sql.SQL("select t.tableoid::text, t.ctid::text from {} where {}::text = $1").format(rows, owner)
        found = await (await conn.execute(statement, (subject,))).fetchall()
        return self.dice.choice(found) if found else None


def _home(error: psycopg.Error) -> str:
    return str(json.loads(error.diag.message_detail or "{}").get("home", ""))
