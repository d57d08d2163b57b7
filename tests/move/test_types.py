"""Types and names that a copy, a stream or a purge could take for something else: moved whole, while they change."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql
import pytest
from tests.conftest import SitePair
from tests.move.live_kit import CATCHUP, COPY, PREPARE, begun, given_after_the_snapshot, through
from tests.move.places import SOURCE, TARGET, execute, scalar
from tests.move.types_kit import APP, MAP, MOVERS, PEOPLE, TOGETHER, place_of

from domicile import commands
from domicile.model.errors import DomicileError
from domicile.model.phase import Phase, Status
from domicile.model.plan import Mode, Question
from domicile.move import live_verify
from domicile.move.live_wave import open_live


async def number(conninfo: str, query: sql.SQL) -> object:
    """One value, of a query without parameters."""
    async with await psycopg.AsyncConnection.connect(conninfo) as conn:
        row = await (await conn.execute(query)).fetchone()
    return None if row is None else row[0]


PERCENT = (
    """create table "100%" ("%s" text primary key, "%(market)s" text not null)""",
    """create table "%t" (id bigint primary key, "% of" text not null references "100%", "{}" text)""",
)
PERCENT_ROWS = (
    """insert into "100%" select 'u' || n, case when n % 2 = 0 then 'IN' else 'CN' end
       from generate_series(1, 9) as n""",
    """insert into "%t" select n * 10 + k, 'u' || n, '%s'
       from generate_series(1, 9) as n, generate_series(1, 3) as k""",
)
PERCENT_MAP = """
version: 1
dataset: types
subject: {table: 'public."100%"', key: '%s', market: 'subject."%(market)s"'}
tables:
  'public."100%"': {role: subject}
  'public."%t"': {role: owned, owner: '"% of" -> public."100%"("%s")'}
"""


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_percent_sign_in_a_name_is_no_placeholder(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, mode: Mode
) -> None:
    state = scratch / f"state-{tmp_path.name}"
    place = await place_of(site_pair, state, PERCENT_MAP, control, PERCENT, PERCENT_ROWS)
    checked = await commands.map_check(place.workspace, "types", SOURCE)
    assert not [f for f in checked.findings if f.level == "error"]
    plan = await commands.plan(place.workspace, Question("types", SOURCE, TARGET, where=MOVERS))
    assert not plan.refusals_of(mode), plan.refusals_of(mode)
    moved = await commands.apply(place.workspace, plan, mode=mode)
    assert moved.status is Status.WAITING, [w.error_message for w in moved.waves]
    assert (await commands.verify(place.workspace, moved.move_id)).clean
    assert (await commands.where(place.workspace, "types", "u2")).home == TARGET
    if mode is Mode.LIVE:  # what a rollback leaves at the target is removed there
        await commands.rollback(place.workspace, moved.move_id)
        assert (await commands.where(place.workspace, "types", "u2")).home == SOURCE
    await commands.purge(place.workspace, moved.move_id)
    count = sql.SQL("""select count(*) from "%t" join "100%" on "% of" = "%s" where "%(market)s" = 'IN'""")
    left, gone = (site_pair.source, site_pair.target) if mode is Mode.LIVE else (site_pair.target, site_pair.source)
    assert await number(left, count) == 12
    assert await number(gone, count) == 0


async def test_a_wave_with_such_names_steps_back(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    state = scratch / f"state-{tmp_path.name}"
    place = await place_of(site_pair, state, PERCENT_MAP, control, PERCENT, PERCENT_ROWS)
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        assert await number(place.target, sql.SQL('select count(*) from "%t"')) == 12
        move_id = carrier.move.move_id
    await commands.abort(place.workspace, move_id)
    assert await number(place.target, sql.SQL('select count(*) from "%t"')) == 0


# Each with values that its binary form, or a cast from text, cannot carry.
ODD_TYPES = {
    "query": ("tsquery", "''", "'a & !b'"),
    "queries": ("tsquery[]", """'{"",a}'""", "'{}'"),
    "numbers": ("int2vector", "''", "'1 2'"),
    "oids": ("oidvector", "''", "'1 2'"),
    "class": ("regclass", "'-'", "'4294967295'"),
    "type": ("regtype", "'-'", "'text[]'"),
    "one": ('"char"', r"'\351'", "''"),
    "fixed": ("char(5)", "'a '", "'     '"),
}


async def test_values_that_a_binary_form_or_a_cast_cannot_carry(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    columns = ", ".join(f'"{name}" {facts[0]}' for name, facts in ODD_TYPES.items())
    schema = (
        APP,
        f"create table odd (id int primary key, app int not null references app, {columns})",
        # A cast of somebody's own, which is more than the type's input: a copy must not go through it.
        "create type mood as enum ('gut', 'schlecht')",
        """create function to_mood(text) returns mood immutable language sql as $$
            select case $1 when 'gut' then 'schlecht' else 'gut' end::mood $$""",
        "alter table odd add mood mood",
    )
    first, second = (", ".join(facts[at] for facts in ODD_TYPES.values()) for at in (1, 2))
    nulls = ", ".join("null" for _ in ODD_TYPES)
    rows = (
        PEOPLE,
        f"insert into odd select n, n, {first}, 'gut' from generate_series(1, 6) as n",
        f"insert into odd select 10 + n, n, {second}, 'gut' from generate_series(1, 6) as n",
        f"insert into odd select 20 + n, n, {nulls} from generate_series(1, 6) as n",
    )
    sets = [", ".join(f'"{n}" = {f[at]}' for n, f in ODD_TYPES.items()) for at in (1, 2)]
    place = await place_of(site_pair, scratch / f"state-{tmp_path.name}", MAP, control, schema, rows)
    for site in (place.source, place.target):
        await execute(site, "create cast (text as mood) with function to_mood(text)")
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(
            place.source,
            f"update odd set {sets[0]} where id = 12",
            f"update odd set {sets[0]} where id in (24, 26)",
            f"update odd set {sets[1]}, mood = 'schlecht' where id in (2, 4)",
            f"insert into odd select 30 + n, n, {first}, 'gut' from generate_series(1, 6) as n",
            f"insert into odd select 40 + n, n, {second}, 'gut' from generate_series(1, 6) as n",
        )
        await through(carrier, CATCHUP, Phase.VERIFY, Phase.HANDOVER)
    texts = "select string_agg(odd::text, '|' order by id) from odd where mod(app, 2) = 0"
    assert await scalar(place.target, texts) == await scalar(place.source, texts)


BY_INDEX = {
    "no primary key": "create table odd (a text not null, b int not null, app int not null references app)",
    "another than the primary key": """create table odd (id int generated always as identity primary key,
        a text not null, b int not null, app int not null references app)""",
}


@pytest.mark.parametrize("table", BY_INDEX)
async def test_rows_told_apart_by_an_index(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, table: str
) -> None:
    """The verifier names rows of a live wave by what the stream tells them apart by."""
    schema = (
        APP,
        BY_INDEX[table],
        "create unique index odd_b_a on odd (b, a)",
        "alter table odd replica identity using index odd_b_a",
    )
    rows = (
        PEOPLE,
        "insert into odd (a, b, app) select 'a' || n, n, n from generate_series(1, 6) as n",
    )
    place = await place_of(site_pair, scratch / f"state-{tmp_path.name}", MAP, control, schema, rows)
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            await execute(place.source, "update odd set a = a || '!' where b = 2")
            await live_verify.mark(live)
            keys = [*live.apply.dirty[1]]
            hashes = (await live.here.names(live.source, {1: keys}))[1]
            assert len(keys) == len(hashes) == 2, "before and afterwards"
            assert {key for key, _ in await live.here.rows(live.source, 1, keys)} < hashes.keys()
            assert {key for key, _ in await live.there.rows(live.target, 1, keys)} < hashes.keys()
            await execute(place.source, "update odd set a = a || '?'")
            assert (await live_verify.whole(live)).clean
        await through(carrier, CATCHUP, Phase.VERIFY, Phase.HANDOVER)
    texts = "select string_agg(a, '|' order by b) from odd where mod(app, 2) = 0"
    assert await scalar(place.target, texts) == "a2!?|a4?|a6?"


KEYLESS = (
    APP,
    "create table box (id int primary key, app int not null references app)",
    "create table odd (box int not null references box, exact numeric, doc json, note text)",
    "create table thing (app int not null references app, exact numeric, doc json, at timetz)",
    "alter table odd replica identity full",
    "alter table thing replica identity full",
)
KEYLESS_ROWS = (
    PEOPLE,
    "insert into box select n, n from generate_series(1, 6) as n",
    "insert into odd select n, 1.50, '{}', null from generate_series(1, 6) as n, generate_series(1, 2)",
    "insert into thing select n, 1.50, null, '12:00+01' from generate_series(1, 6) as n, generate_series(1, 2)",
)
KEYLESS_MAP = """
version: 1
dataset: types
subject: {table: app, key: id, market: subject.market}
tables:
  app: {role: subject}
  box: {role: owned, owner: app -> app(id)}
  odd: {role: owned, owner: box -> box(id)}
  thing: {role: owned, owner: app -> app(id)}
"""
ONE_OF = "ctid = (select min(ctid) from thing where app = {})"


@pytest.mark.parametrize("form", ["binary", "text"])
async def test_equal_rows_without_a_key_come_and_go(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, form: str
) -> None:
    """With nulls, and of types that have no equality: counted, not looked up."""
    schema = KEYLESS if form == "binary" else (*KEYLESS, "alter table thing add tags text[]")
    state = scratch / f"state-{tmp_path.name}"
    place = await place_of(site_pair, state, KEYLESS_MAP, control, schema, KEYLESS_ROWS)
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(
            place.source,
            "update thing set app = 2 where app = 1",  # where two like them are already
            f"update thing set app = 3, exact = 1.5 where {ONE_OF.format(2)}",
            "update thing set app = 4, doc = '[1, 2]' where app = 3",
            f"delete from thing where {ONE_OF.format(2)}",
            "update box set app = 2 where id = 1",  # with two equal rows
            "insert into odd select box, exact, doc, note from odd where box = 1",
            "update box set app = 5 where id = 4",
            "update odd set box = 6 where box = 5",
            "delete from odd where ctid = (select min(ctid) from odd where box = 2)",
        )
        await through(carrier, CATCHUP, Phase.VERIFY, Phase.HANDOVER)
    for table, owner in (("thing", "app"), ("odd", "(select b.app from box as b where b.id = t.box)")):
        rows = f"select string_agg(t::text, '|' order by t::text) from {table} as t where mod({owner}, 2) = 0"
        wanted = await scalar(place.source, rows)
        assert await scalar(place.target, rows) == wanted
        assert await scalar(place.target, f"select count(*) from {table}") == str(wanted).count("|") + 1


async def test_a_row_without_a_key_changes_behind_the_snapshot_of_a_comparison(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a table is compared as a whole: a later change of any of its rows explains what differs."""
    place = await place_of(site_pair, scratch / f"state-{tmp_path.name}", KEYLESS_MAP, control, KEYLESS, KEYLESS_ROWS)
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            assert (await live_verify.whole(live)).clean
            await execute(place.source, "update thing set exact = 2.5 where app = 2")
            await live_verify.mark(live)
            given_after_the_snapshot(monkeypatch, place, "update thing set exact = 3.5 where app = 4")
            await live_verify.touched_rows(live)
            assert live.dirty_rows() > 0
            await live_verify.touched_rows(live)
            assert live.dirty_rows() == 0
            await execute(place.source, "update thing set exact = 4.5 where app = 2")
            await live_verify.mark(live)
            await execute(place.target, "set session_replication_role = replica; delete from thing where app = 4")
            with pytest.raises(DomicileError, match="not what was committed"):
                await live_verify.touched_rows(live)


async def test_a_key_of_which_the_server_gives_a_part(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str
) -> None:
    """The rest of it changes, and so does not all of the row come: what is large stays as it was."""
    schema = (
        APP,
        """create table odd (id int generated always as identity, part int, app int not null references app, body text,
            primary key (id, part))""",
        "alter table odd alter body set storage external",
    )
    rows = (
        PEOPLE,
        "insert into odd (part, app, body) select 1, n, repeat('x', 9000) from generate_series(1, 6) as n",
    )
    place = await place_of(site_pair, scratch / f"state-{tmp_path.name}", MAP, control, schema, rows)
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(
            place.source,
            "update odd set part = 2",
            "update odd set part = 3, body = 'short' where app = 4",
            "update odd set id = default, body = 'new' where app = 6",
        )
        await through(carrier, CATCHUP, Phase.VERIFY, Phase.HANDOVER)
    texts = "select string_agg(odd::text, '|' order by app) from odd where mod(app, 2) = 0"
    assert await scalar(place.target, texts) == await scalar(place.source, texts)


async def test_users_may_leave_loose_references_dangling(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that only the map knows: what came to dangle during the comparison did so at the source."""
    schema = (
        APP,
        "create table odd (id int primary key, app int not null references app, other int)",
    )
    rows = (
        PEOPLE,
        "insert into odd select n, n, null from generate_series(1, 6) as n",
        "insert into odd select 10 + n, n, n from generate_series(1, 6) as n",
    )
    map_text = """
version: 1
dataset: types
subject: {table: app, key: id, market: subject.market}
tables:
  app: {role: subject}
  odd: {role: owned, owner: app -> app(id), references: [other -> odd(id)]}
"""
    place = await place_of(site_pair, scratch / f"state-{tmp_path.name}", map_text, control, schema, rows)
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        async with open_live(carrier, 1) as live:
            given_after_the_snapshot(monkeypatch, place, "delete from odd where id in (2, 4)")
            assert not (await live_verify.whole(live)).broken_references
            await execute(place.target, "set session_replication_role = replica; delete from odd where id = 6")
            [(reference, count)] = (await live_verify.whole(live)).broken_references
            assert (reference, count) == ("public.odd(other) -> public.odd(id)", 1)


NO_FOREIGN_KEYS = (
    APP,
    """create table box (id int, app int not null references app, part int default 0, primary key (id, part))
        partition by list (part)""",
    "create table box_0 partition of box for values in (0)",
    "create table box_1 partition of box for values in (1)",
    "create table odd (id int primary key, box int not null)",
    "create table part (id int primary key, odd int not null references odd)",
)
NO_FOREIGN_KEYS_ROWS = (
    "insert into app select n, case when n % 2 = 0 then 'IN' else 'CN' end from generate_series(1, 16) as n",
    "insert into box select n, n from generate_series(1, 16) as n",
    "insert into odd select n, n from generate_series(1, 16) as n",
    "insert into odd select 20 + n, n from generate_series(1, 16) as n",
    "insert into part select n, n from generate_series(1, 16) as n",
)
NO_FOREIGN_KEYS_MAP = """
version: 1
dataset: types
subject: {table: app, key: id, market: subject.market}
tables:
  app: {role: subject}
  box: {role: owned, owner: app -> app(id)}
  odd: {role: owned, owner: box -> box(id)}
  part: {role: owned, owner: odd -> odd(id)}
"""


async def test_what_a_parent_without_foreign_keys_leaves_behind_is_nobodys(
    site_pair: SitePair, scratch: Path, tmp_path: Path, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays at the source, and its copy does not stay at the target; who compares meanwhile is not misled."""
    state = scratch / f"state-{tmp_path.name}"
    place = await place_of(site_pair, state, NO_FOREIGN_KEYS_MAP, control, NO_FOREIGN_KEYS, NO_FOREIGN_KEYS_ROWS)
    async with begun(place, MOVERS, TOGETHER) as carrier:
        await through(carrier, PREPARE, COPY)
        await execute(
            place.source,
            "delete from box where id = 2",
            "begin; delete from box where id = 4; delete from part where odd = 4;"
            " delete from odd where box = 4; commit",
            "begin; update box set app = 1 where id = 12; delete from part where odd = 12;"
            " delete from odd where id = 12; commit",
            "begin; delete from box where id = 6; insert into box values (6, 6); commit",  # as it was
            "update box set part = 1 where id = 16",  # deleted and inserted
            "begin; delete from box where id = 8; update odd set box = 6 where id = 8; commit",
            "update box set id = 52 where id = 14; update odd set box = 52 where box = 14",
            "delete from box where id = 1",
        )
        async with open_live(carrier, 1) as live:
            given_after_the_snapshot(monkeypatch, place, "delete from box where id in (10, 16)")
            assert (await live_verify.whole(live)).clean
        await through(carrier, CATCHUP, Phase.VERIFY, Phase.HANDOVER)
    for table, owner in (
        ("box", "t.app"),
        ("odd", "(select b.app from box as b where b.id = t.box)"),
        ("part", "(select b.app from odd as o join box as b on b.id = o.box where o.id = t.odd)"),
    ):
        rows = f"select string_agg(t::text, '|' order by t::text) from {table} as t"
        wanted = await scalar(place.source, f"{rows} where mod({owner}, 2) = 0")
        assert await scalar(place.target, rows) == wanted
