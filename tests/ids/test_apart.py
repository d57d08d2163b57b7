"""Setting sites apart while they number: no value twice, none lost, whatever is killed or held."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
import pytest
from tests.cli.desk import Desk
from tests.ids.kit import HERE, TABLE, THERE, Shop

from domicile.model.errors import ErrorCode
from domicile.model.ids import Change, Style
from domicile.model.site import SiteName
from domicile.postgres import id_ranges

WRITERS = 3
IDS = "public.users_id_seq"


class Writers:
    """Sessions that insert all the time, at every site; ``drawn`` are the ids of acknowledged inserts, by site."""

    def __init__(self, shop: Shop) -> None:
        self._shop, self._stop = shop, asyncio.Event()
        self.drawn: dict[SiteName, list[int]] = {s: [] for s in shop.at}
        self._tasks: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._write(s)) for s in self._shop.at for _ in range(WRITERS)]
        await asyncio.sleep(0.3)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.3)
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _write(self, site: SiteName) -> None:
        insert = "insert into public.users (name) select 'x' from generate_series(1, 5) returning id"
        async with await psycopg.AsyncConnection.connect(self._shop.at[site]) as conn:
            while not self._stop.is_set():
                rows = await (await conn.execute(insert)).fetchall()
                await conn.commit()
                self.drawn[site] += [row[0] for row in rows]


def require_apart(shop: Shop, writers: Writers, before: dict[SiteName, int]) -> None:
    """No acknowledged insert is lost, no value was drawn twice, and what is drawn from now on is nobody's."""
    rows = {s: shop.ask(s, "select id from public.users") for s in shop.at}
    for site, drawn in writers.drawn.items():
        assert len(drawn) == len(set(drawn)), "a value was given twice"
        assert set(drawn) <= set(rows[site]), "an acknowledged insert is lost"
        assert len(rows[site]) == len(drawn) + before[site]
    used = {v for values in rows.values() for v in values}
    drawn_now = shop.draw(IDS, 50)
    assert set(drawn_now[HERE]).isdisjoint(drawn_now[THERE])
    assert used.isdisjoint(drawn_now[HERE] + drawn_now[THERE])


@pytest.mark.parametrize(("style", "cache"), [(Style.RANGES, 1), (Style.RANGES, 20), (Style.STEPS, 1)])
async def test_while_everybody_writes(shop: Shop, style: Style, cache: int) -> None:
    shop.both(TABLE.format(type="bigserial") + f"; alter sequence {IDS} cache {cache}")
    before = {HERE: 0, THERE: 4000}
    shop.run(THERE, "insert into public.users (name) select 'x' from generate_series(1, 4000)")
    async with Writers(shop) as writers:
        made = await shop.apply(style)
        assert not made.blocked
        at = {s: len(d) for s, d in writers.drawn.items()}
        await asyncio.sleep(0.3)
        again = await shop.apply(style)
    assert len(made.changes) >= 2
    assert not again.changes, "nothing to do the second time"
    # What was acknowledged 0.3 s after the change at the latest was drawn from the site's own values.
    later = {s: set(d[at[s] + 5 * WRITERS :]) for s, d in writers.drawn.items()}
    assert later[HERE]
    assert later[THERE]
    rows = {s: set(shop.ask(s, "select id from public.users")) for s in shop.at}
    assert later[HERE].isdisjoint(rows[THERE])
    assert later[THERE].isdisjoint(rows[HERE])
    require_apart(shop, writers, before)
    assert (await shop.ids()).apart


async def test_values_taken_in_advance_are_dropped(shop: Shop) -> None:
    """CACHE 20: a session that holds values drops them with its next transaction, and says nothing."""
    shop.both(TABLE.format(type="bigserial") + f"; alter sequence {IDS} cache 20")
    with psycopg.connect(shop.at[THERE], autocommit=True) as session:
        assert session.execute(f"select nextval('{IDS}')").fetchone() == (1,)
        made = await shop.apply()
        [restart] = [c.restart for c in made.changes if c.restart is not None]
        assert session.execute(f"select nextval('{IDS}')").fetchone() == (restart,)


async def test_stopped_between_two_sites(shop: Shop) -> None:
    """Ctrl-C after the first: what was done stays, the same order goes on, and ends as if nothing had been."""
    shop.both(TABLE.format(type="serial"))
    shop.both("insert into public.users (name) select 'x' from generate_series(1, 100)")

    shop.stop_after = 1
    error = await shop.refusal(shop.apply())
    assert error.code is ErrorCode.INTERRUPTED
    assert [c.before.site for c in shop.done] == [HERE]
    shop.stop_after = 0
    assert [c.before.site for c in (await shop.apply()).changes] == [THERE]
    assert not (await shop.apply()).changes
    drawn = shop.draw(IDS)
    assert drawn[HERE][0] > 100
    assert drawn[THERE][0] == 1_000_000_000


async def test_a_transaction_holds_a_sequence(shop18: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It drew a value and stays open: the order ends in time, names it, and goes on when it is given again."""
    monkeypatch.setattr(id_ranges, "LOCK_TRIES_MAX", 2)
    shop18.both(TABLE.format(type="bigserial"))
    async with await psycopg.AsyncConnection.connect(shop18.at[THERE], application_name="biller") as holder:
        await holder.execute("insert into public.users (name) values ('slow')")
        error = await shop18.refusal(shop18.apply())
        assert error.code is ErrorCode.FENCE_BUDGET
        assert "biller" in json.dumps(error.facts)
        assert [c.before.site for c in shop18.done] == [HERE]
        assert shop18.ask(THERE, f"select nextval('{IDS}')") == [2], "others go on drawing"
    [change] = (await shop18.apply()).changes
    assert change.before.site == THERE


async def test_two_at_once(shop18: Shop) -> None:
    """The second is refused, so that no sequence begins anew twice."""
    shop18.both(TABLE.format(type="bigserial"))
    results = await asyncio.gather(shop18.apply(), shop18.apply(), return_exceptions=True)
    [error] = [r for r in results if isinstance(r, Exception)]
    assert getattr(error, "code", None) is ErrorCode.MOVE_BUSY
    with psycopg.connect(shop18.at[HERE], autocommit=True) as conn:
        assert conn.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)


async def test_the_printed_sql_twice(shop18: Shop) -> None:
    """Run by hand it does what apply does; run again it fails, and changes nothing."""
    shop18.both(TABLE.format(type="bigserial"))
    shop18.both("insert into public.users (name) select 'x' from generate_series(1, 10)")
    plan = await shop18.plan()
    for change in plan.changes:
        for statement in id_ranges.statements(change):
            assert "%" not in statement.as_string(None)
    scripts = [
        (c.before.site, "; ".join(s.as_string(None) for s in id_ranges.statements(c)), c.restart) for c in plan.changes
    ]
    for site, script, _ in scripts:
        shop18.run(site, script)
    assert not (await shop18.plan()).changes
    first = shop18.draw(IDS)
    for site, script, restart in scripts:
        with pytest.raises(psycopg.errors.DivisionByZero):
            shop18.run(site, script)
        assert restart is None or first[site][0] == restart
    second = shop18.draw(IDS)
    assert all(second[s][0] == first[s][-1] + 1 for s in shop18.at)


async def test_the_sql_of_steps_twice_and_late(shop18: Shop) -> None:
    """Sites that step alike get other positions and no other shape: only the position tells that the SQL was run."""
    shop18.both(TABLE.format(type="bigserial") + f"; alter sequence {IDS} increment by 2")
    plan = await shop18.plan(Style.STEPS)
    *first, leaving = [
        (c.before.site, "; ".join(s.as_string(None) for s in id_ranges.statements(c))) for c in plan.changes
    ]
    for site, script in (*first, leaving):
        shop18.run(site, script)
    drawn = shop18.draw(IDS)
    with pytest.raises(psycopg.errors.DivisionByZero):
        shop18.run(*leaving)
    assert shop18.ask(leaving[0], f"select nextval('{IDS}')") == [drawn[leaving[0]][-1] + 2]
    shop18.both(f"alter sequence {IDS} restart with 1")
    plan = await shop18.plan(Style.STEPS)
    shop18.run(leaving[0], f"select setval('{IDS}', 5000001)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        shop18.run(leaving[0], "; ".join(s.as_string(None) for s in id_ranges.statements(plan.changes[-1])))


async def test_writers_overrun_the_room_left(shop18: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its lock is tried the leaving site comes past where the other was moved to: that one is moved again."""
    shop18.both(TABLE.format(type="bigserial"))
    overrun = []

    async def late(conn: psycopg.AsyncConnection, change: Change) -> bool:
        if change.restart is not None and not overrun:
            overrun.extend(shop18.ask(THERE, f"select setval('{IDS}', 300000)"))
        return await id_ranges.carry_out(conn, change)

    monkeypatch.setattr(sys.modules["domicile.commands.ids"], "carry_out", late)
    made = await shop18.apply()
    assert [c.before.site for c in made.changes] == [HERE, HERE, THERE]
    assert shop18.draw(IDS)[HERE][0] > 300_000


async def test_every_column_of_a_site_counts(shop18: Shop) -> None:
    """One sequence here, two there; one column is a text. A range is empty when none of the columns has a row in it."""
    shop18.both(TABLE.format(type="bigserial"))
    note = "create table public.note (id bigint primary key {}, user_id bigint references public.users (id))"
    bill = f"create table public.bill (no text primary key default 'B' || nextval('{IDS}'), user_id bigint)"
    shop18.run(HERE, note.format(f"default nextval('{IDS}')") + ";" + bill)
    shop18.run(THERE, note.format("generated by default as identity") + ";" + bill)
    owned = "{role: owned, owner: user_id -> public.users(id)}"
    shop18.mapped(f"  public.note: {owned}\n  public.bill: {owned}\n")
    shop18.run(HERE, "insert into public.note values (1000000000005), (2000000000005)")
    shop18.run(HERE, "insert into public.users values (3000000000005)")
    made = await shop18.apply()
    assert not made.blocked
    assert {c.restart for c in made.changes if c.restart is not None} == {4 * 10**12}


async def test_steps_with_room(shop18: Shop) -> None:
    """Steps of ten for two sites leave room for those to come. Who takes ids in blocks is left alone."""
    shop18.both(TABLE.format(type="int generated always as identity"))
    made = await shop18.apply(Style.STEPS, size=10)
    assert {c.increment for c in made.changes} == {10}
    residues = {s: {v % 10 for v in values} for s, values in shop18.draw(IDS).items()}
    assert residues == {HERE: {0}, THERE: {1}}
    shop18.run(HERE, f"alter sequence {IDS} increment by 3")
    blocked = (await shop18.plan(Style.STEPS)).blocked
    assert "takes so many ids" in blocked[0].why


@pytest.mark.parametrize(
    ("type_name", "used", "wish", "why"),
    [
        ("smallserial", 32_000, {}, "too small for ranges of 2 sites"),
        ("smallserial", 5, {"style": Style.STEPS, "size": 100}, "too small for steps of 100"),
        ("serial", 5, {"size": 2_000_000_000}, "too small for a range from"),
        ("serial", 5, {"start": 2_000_000_000, "size": 1_000_000_000}, "too small for a range from 2,000,000,000"),
        ("bigserial", 5_000, {"start": 4_000, "size": 1_000}, "is not free: here numbers there"),
        ("bigserial", 5, {"start": 700_000, "size": 1_000_000}, "is not free: rows have values there"),
    ],
)
async def test_what_does_not_fit(shop18: Shop, type_name: str, used: int, wish: dict[str, int], why: str) -> None:
    shop18.both(TABLE.format(type=type_name))
    shop18.both(f"select setval('{IDS}', {used})")
    if "rows" in why:
        shop18.run(THERE, "insert into public.users values (1234567, 'stray')")
    plan = await shop18.plan(**wish)  # type: ignore[arg-type]
    assert plan.changes == ()
    assert why in plan.blocked[0].why, plan.blocked
    assert plan.blocked[0].hint


async def test_empty_ranges_are_found(shop18: Shop) -> None:
    """A range with a row in it is passed by; small types get what fits at their end."""
    shop18.both(TABLE.format(type="bigserial"))
    shop18.run(HERE, "insert into public.users values (1000000000005, 'stray'), (2000000000005, 'stray')")
    made = await shop18.apply()
    assert [c.restart for c in made.changes] == [None, 3_000_000_000_000]
    assert made.changes[0].highest == 1_000_000_000_004, "who stays ends before the stray row"
    shop18.both("drop table public.users; " + TABLE.format(type="smallserial"))
    shop18.both(f"select setval('{IDS}', 20000)")
    made = await shop18.apply()
    assert [c.restart for c in made.changes] == [None, 32_768 - 6_000]


async def test_what_is_outside_the_map(shop18: Shop) -> None:
    shop18.both(TABLE.format(type="bigserial") + f"; create table public.log (id bigint default nextval('{IDS}'))")
    [blocked] = (await shop18.plan()).blocked
    assert "also fills public.log, outside of the data map" in blocked.why
    assert not (await shop18.apply()).changes
    shop18.mapped("  public.log: {role: local}\n")
    assert len((await shop18.apply()).changes) == 2


async def test_a_bigint_sequence_of_an_int_column(shop18: Shop) -> None:
    shop18.both(f"create sequence {IDS}; " + TABLE.format(type=f"int default nextval('{IDS}')"))
    made = await shop18.apply()
    assert made.changes[1].restart == 1_000_000_000
    assert made.changes[1].highest == 1_999_999_999


async def test_from_the_command_line(desk: Desk) -> None:
    """Checked, planned, killed between two sites, and given again."""
    for conninfo in (desk.source, desk.target):
        with psycopg.connect(conninfo, autocommit=True) as conn:
            conn.execute("alter table app.note alter id add generated by default as identity (start with 3001)")
    checked = desk.domicile("ids", "app", "--check", "--json")
    assert (checked.code, checked.json["apart"]) == (3, False)
    assert desk.domicile("ids", "app", "--plan", "ranges", "-o", "ids.sql").code == 0
    text = (desk.folder / "ids.sql").read_text()
    assert (text.count("\nalter sequence"), text.count("\n-- the way back: alter sequence")) == (4, 2)
    assert "-- at singapore" in text
    asked = desk.domicile("ids", "app", "--plan", "ranges", "--apply")
    assert (asked.code, "confirmation-missing" in asked.err) == (2, True)

    with psycopg.connect(desk.target) as holder:
        holder.execute("select nextval('app.note_id_seq')")
        process = desk.start("ids", "app", "--plan", "ranges", "--apply", "--yes")
        for _ in range(200):
            if "beijing: app.note_id_seq" in desk.talk():
                break
            await asyncio.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        await asyncio.sleep(0.5)  # the killed one's last statement waits for the lock no longer than that
    again = desk.domicile("ids", "app", "--plan", "ranges", "--apply", "--yes", "--json")
    assert again.code == 0, again.err
    assert [c["site"] for c in again.json["changes"]] == ["singapore"]
    assert str(conninfo_to_dict(desk.source)["password"]) not in text
