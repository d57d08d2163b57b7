"""Keys that are taken at the target are found before anything is copied, and nothing personal crosses for a plan."""

from __future__ import annotations

import pytest
from tests.copy.kit import Rig, data_map

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.postgres import collisions
from domicile.postgres.collisions import Collision, Members
from domicile.postgres.introspect import read_schema

USERS = TableName("public", "users")
COHORT = Members(TableName("pg_temp", "cohort"), 0)


async def found(sites: Rig, *, private: bool) -> dict[str, Collision]:
    """By ``table.key``."""
    schema = await read_schema(sites.target)
    if private:
        await sites.source.execute("drop table if exists pg_temp.cohort")
        await sites.source.execute(
            "create temp table cohort as select 0 as wave, ordinal, subject from domicile.member where wave = 1"
        )
        result = await collisions.find_for_cohort(sites.source, sites.target, sites.data_map, schema, COHORT)
    else:
        wave = sites.wave
        result = await collisions.find_for_wave(
            sites.source, sites.target, sites.data_map, schema, wave.source_id, wave.target_id
        )
    leftovers = await sites.texts(sites.target, "select relname from pg_class where relname ~ '^domicile_'")
    assert leftovers == []
    return {f"{c.table.name}.{c.key}": c for c in result}


@pytest.fixture(params=[False, True], ids=["wave", "plan"])
def private(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_none(sites: Rig, private: bool) -> None:
    await sites.both("create table public.users (id int primary key, mail text unique)")
    await sites.source.execute("insert into public.users values (1, 'a@x'), (2, 'b@x')")
    await sites.target.execute("insert into public.users values (2, 'b@x'), (9, 'z@x')")
    await sites.register(data_map("public.users", {}), [1])
    assert await found(sites, private=private) == {}, "user 2 does not move: its keys are of no interest"


async def test_each_kind_of_key(sites: Rig, private: bool) -> None:
    await sites.both(
        """
create table public.users (id int primary key, mail text, name text, active bool, code uuid);
create unique index users_mail on public.users (lower(mail));
create unique index users_name on public.users (name) where active;
create unique index users_both on public.users (name, code) nulls not distinct;
create unique index users_plain on public.users (code)"""
    )
    await sites.source.execute(
        """insert into public.users values
            (1, 'Ann@x', 'ann', true, null), (2, 'bob@x', 'bob', false, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
            (3, 'cid@x', 'cid', true, null), (4, null, null, null, null), (5, 'eve@x', 'eve', true, null)"""
    )
    await sites.target.execute(
        """insert into public.users values
            (11, 'aNN@X', 'other', true, null), (12, 'bob2@x', 'bob', true, 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'),
            (13, null, 'cid', false, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (14, null, 'x', null, null),
            (15, null, 'ann', true, 'c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (5, null, 'cid', false, null)"""
    )
    await sites.register(data_map("public.users", {}), [1, 2, 3, 4, 5])
    result = await found(sites, private=private)
    assert result == {
        "users.users_pkey": Collision(USERS, "users_pkey", 1, (("5",),)),
        "users.users_mail": Collision(USERS, "users_mail", 1, (("11",),)),
        "users.users_name": Collision(USERS, "users_name", 1, (("15",),)),
        "users.users_plain": Collision(USERS, "users_plain", 1, (("13",),)),
        "users.users_both": Collision(USERS, "users_both", 1, (("5",),)),
    }


async def test_rows_owned_already(sites: Rig, private: bool) -> None:
    await sites.both(
        """
create table public.users (id text primary key);
create table public.notes (id int primary key, user_id text)"""
    )
    await sites.source.execute(
        "insert into public.users values ('ann'), ('bob'); insert into public.notes values (1, 'ann')"
    )
    await sites.target.execute("insert into public.notes select n, 'ann' from generate_series(10, 17) n")
    await sites.target.execute("insert into public.notes values (1, 'zoe'), (2, 'bob')")
    await sites.register(data_map("public.users", {"public.notes": "user_id -> public.users(id)"}), ["ann"])
    result = await found(sites, private=private)
    assert result["notes.notes_pkey"] == Collision(TableName("public", "notes"), "notes_pkey", 1, (("1",),))
    assert result["notes.owner"].count == 8
    assert len(result["notes.owner"].examples) == collisions.EXAMPLES_MAX
    assert len(result) == 2


async def test_collations_and_exclusion(sites18: Rig) -> None:
    """Equality is the index' own, not that of the bytes."""
    await sites18.both(
        """
create table public.users (id int primary key);
create table public.rooms (id int primary key, user_id int, stay int4range, label varchar(8) unique,
    exclude using gist (stay with &&))"""
    )
    await sites18.source.execute("insert into public.users values (1)")
    await sites18.source.execute("insert into public.rooms values (1, 1, '[1,5)', 'A'), (2, 1, '[5,9)', 'B')")
    await sites18.target.execute("insert into public.rooms values (7, 9, '[4,5)', 'b'), (8, 9, '[20,30)', 'c')")
    await sites18.register(data_map("public.users", {"public.rooms": "user_id -> public.users(id)"}), [1])
    result = await found(sites18, private=False)
    assert {k: (c.count, c.examples) for k, c in result.items()} == {"rooms.rooms_stay_excl": (1, (("7",),))}
    assert await found(sites18, private=True) == {}


async def test_partitions(sites: Rig, private: bool) -> None:
    """The root's key, and keys that only a leaf has: they hold within the leaf's bounds."""
    await sites.both(
        """
create table public.users (id int primary key);
create table public.pay (id int, user_id int, at date, ref text, primary key (id, at)) partition by range (at);
create table public.pay_1 partition of public.pay for values from ('2024-01-01') to ('2024-02-01');
create table public.pay_2 partition of public.pay for values from ('2024-02-01') to ('2024-03-01');
create unique index pay_1_ref on public.pay_1 (ref)"""
    )
    await sites.source.execute(
        """insert into public.users values (1); insert into public.pay values
        (1, 1, '2024-01-05', 'r1'), (2, 1, '2024-02-05', 'r2'), (3, 1, '2024-02-06', 'r3')"""
    )
    await sites.target.execute(
        """insert into public.pay values (1, 9, '2024-01-05', 'x'), (5, 9, '2024-01-06', 'r1'),
        (6, 9, '2024-01-06', 'r2'), (7, 9, '2024-02-06', 'r3')"""
    )
    await sites.register(data_map("public.users", {"public.pay": "user_id -> public.users(id)"}), [1])
    result = await found(sites, private=private)
    assert {k: (c.count, c.examples) for k, c in result.items()} == {
        "pay.pay_pkey": (1, (("1", "2024-01-05"),)),
        "pay.pay_1_ref": (1, (("5", "2024-01-06"),)),
    }


async def test_names_that_need_quotes(sites: Rig, private: bool) -> None:
    await sites.both(
        """create schema "S.x"; create table "S.x"."Us ers%" ("Id" int primary key, "select" text);
        create unique index "In dex" on "S.x"."Us ers%" (("select" || 'x')) where "Id" > 0"""
    )
    await sites.source.execute("""insert into "S.x"."Us ers%" values (1, 'a')""")
    await sites.target.execute("""insert into "S.x"."Us ers%" values (2, 'a')""")
    await sites.register(data_map('"S.x"."Us ers%"', {}, "Id"), [1])
    assert set(await found(sites, private=private)) == {"Us ers%.In dex"}


async def test_no_value_crosses_for_a_plan(sites18: Rig) -> None:
    """What the target is told, seen from its own statistics of temporary tables: integers and eight bytes."""
    await sites18.both("create table public.users (id text primary key, n int unique, mail text unique)")
    await sites18.source.execute("insert into public.users values ('ann', 7, 'ann@x')")
    await sites18.register(data_map("public.users", {}), ["ann"])
    await sites18.target.execute("truncate domicile.member")
    schema = await read_schema(sites18.target)
    seen: list[object] = []
    original = collisions.transfer

    async def watching(source, target, statements, stop, what):  # type: ignore[no-untyped-def]
        moved = await original(source, target, statements, stop, what)
        into = statements[1].as_string(target).split()[1]
        cursor = await target.execute(f"select * from {into}".encode())
        seen.extend(v for row in await cursor.fetchall() for v in row)
        return moved

    await sites18.source.execute("create temp table cohort as select 0 as wave, 1 as ordinal, 'ann'::text as subject")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(collisions, "transfer", watching)
    try:
        await collisions.find_for_cohort(sites18.source, sites18.target, sites18.data_map, schema, COHORT)
    finally:
        monkeypatch.undo()
    assert len(seen) == 5
    assert all(isinstance(v, int) or (isinstance(v, bytes) and len(v) == 8) for v in seen)


async def test_deferrable_key(sites18: Rig) -> None:
    """A deferrable unique constraint is not enforced under the replica role: the copy itself must look."""
    await sites18.both(
        "create table public.users (id int primary key, place int unique deferrable initially immediate)"
    )
    await sites18.source.execute("insert into public.users values (1, 5), (2, 6)")
    await sites18.register(data_map("public.users", {}), [1])
    await sites18.target.execute("insert into public.users values (9, 5)")
    assert set(await found(sites18, private=False)) == {"users.users_place_key"}
    with pytest.raises(DomicileError) as failed:
        await sites18.copy()
    assert failed.value.code is ErrorCode.KEYS_COLLIDE
