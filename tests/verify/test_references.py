"""References are proven at the target by anti-joins; what would break by moving is told before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.conftest import SitePair
from tests.samples import chinook_map, load_chinook, load_pagila, pagila_map
from tests.verify.kit import Sites, data_map, open_sites

from domicile.model.datamap import Role, TableRule
from domicile.model.schema import TableName
from domicile.postgres import references
from domicile.postgres.collisions import Members
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster

MEMBERS = Members(TableName("domicile", "member"), 3)

SCHEMA = """
    create schema app;
    create table app.kind (code varchar(5), version integer, primary key (code, version));
    create table app.shop (id integer primary key);
    create table app.users (
        id bigint primary key, inviter_id bigint references app.users, shop_id integer references app.shop);
    create table app.paid (id bigint, user_id bigint, at date, code text, version integer, by_id bigint,
        primary key (id, at)) partition by range (at);
    create table app.paid_1 partition of app.paid for values from ('2026-01-01') to ('2026-02-01');
    create table app.paid_2 partition of app.paid for values from ('2026-02-01') to ('2026-03-01');
    alter table app.paid_1 add foreign key (code, version) references app.kind;
    create table app.log (id bigint primary key, user_id bigint references app.users);
    insert into app.kind values ('a', 1), ('b', 2), ('b''%s', 3);
    insert into app.shop values (1), (2);"""
ROWS = """
    insert into app.users select n, nullif(n - 1, 0), 1 from generate_series(1, 4) n;
    insert into app.paid select n, n, date '2026-01-10', 'a', 1, 1 from generate_series(1, 4) n;"""
MAP = data_map("app.users", {"app.paid": "user_id -> app.users(id)"}, paid=["by_id -> app.users(id)"])


async def fill(sites: Sites, subjects: tuple[int, ...] = (1, 2)) -> None:
    await sites.both(SCHEMA)
    await sites.both(ROWS)
    await sites.register(subjects)


async def test_whole_references_are_clean(sites: Sites) -> None:
    await fill(sites)
    verdict = await sites.verify(MAP)
    assert verdict.clean, verdict


async def test_broken_references_are_named(sites: Sites) -> None:
    """Rows of the wave are equal at both sites; what they refer to is missing at the target."""
    await fill(sites)
    await sites.source.execute("insert into app.paid values (10, 1, '2026-01-11', 'b', 2, 4)")
    await sites.target.execute("set session_replication_role = replica")
    await sites.target.execute("insert into app.paid values (10, 1, '2026-01-11', 'b', 2, 4)")
    await sites.target.execute("delete from app.kind where code = 'b'")
    await sites.target.execute("delete from app.users where id = 4")
    await sites.target.execute("delete from app.shop")
    verdict = await sites.verify(MAP)
    assert not verdict.clean
    assert not verdict.discrepancies_total
    assert dict(verdict.broken_references) == {
        "app.users(shop_id) -> app.shop(id)": 2,
        "app.paid(code, version) -> app.kind(code, version)": 1,
        "app.paid(by_id) -> app.users(id)": 1,
    }


async def test_nulls_and_undeclaring_leaves_refer_to_nothing(sites: Sites) -> None:
    await fill(sites)
    await sites.both(
        """insert into app.paid values
            (10, 1, '2026-01-11', 'nothing', null, null), (11, 1, '2026-02-11', 'nothing', 99, null)"""
    )
    assert (await sites.verify(MAP)).clean


async def test_what_dangles_at_the_source_already_is_not_the_moves_doing(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.both("insert into app.paid values (10, 1, '2026-02-11', null, null, 77)")
    assert (await sites18.verify(MAP)).clean
    await sites18.both("insert into app.paid values (11, 1, '2026-02-11', null, null, 4)")
    await sites18.target.execute("set session_replication_role = replica; delete from app.users where id = 4")
    assert (await sites18.verify(MAP)).broken_references == (("app.paid(by_id) -> app.users(id)", 1),)


async def test_a_foreign_key_of_the_target_alone_is_proven(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.target.execute("alter table app.users drop constraint users_shop_id_fkey")
    await sites18.source.execute("alter table app.users drop constraint users_shop_id_fkey")
    await sites18.target.execute("delete from app.shop")
    assert (await sites18.verify(MAP)).clean
    await sites18.target.execute(
        "alter table app.users add constraint shop foreign key (shop_id) references app.shop not valid"
    )
    assert (await sites18.verify(MAP)).broken_references == (("app.users(shop_id) -> app.shop(id)", 2),)


async def test_external_references(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.source.execute("insert into app.log select n, 1 + n % 4 from generate_series(1, 20) n")
    schema = await read_schema(sites18.source)
    [found] = references.external_references(schema, MAP)
    assert references.shown(found) == "app.log(user_id) -> app.users(id)"
    assert await references.referring_rows(sites18.source, MAP, found, MEMBERS) == 10
    guess = TableRule(TableName("app", "shop"), Role.LOCAL, references=("id -> app.users(id)",))
    mapped = replace(MAP, tables={**MAP.tables, guess.table: guess})
    assert len(references.external_references(schema, mapped)) == 2


async def test_missing_reference_rows(sites: Sites) -> None:
    await fill(sites, (2, 3))
    await sites.source.execute("insert into app.paid values (20, 2, '2026-01-12', 'b''%s', 3, 3)")
    await sites.source.execute("insert into app.paid values (21, 2, '2026-02-12', 'zzz', 3, 88)")
    await sites.target.execute("set session_replication_role = replica; delete from app.paid; delete from app.users")
    await sites.target.execute("delete from app.kind where version = 3; delete from app.shop")
    schema = await read_schema(sites.source)
    missing = await references.missing_reference_rows(sites.source, sites.target, MAP, schema, MEMBERS)
    assert [(references.shown(m.reference), m.count, m.examples) for m in missing] == [
        ("app.users(inviter_id) -> app.users(id)", 1, (("1",),)),
        ("app.users(shop_id) -> app.shop(id)", 1, (("1",),)),
        ("app.paid(code, version) -> app.kind(code, version)", 1, (("b'%s", "3"),)),
        ("app.paid(by_id) -> app.users(id)", 1, (("1",),)),
    ]


async def test_many_missing_keys_come_in_batches(sites18: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "KEYS_PER_BATCH", 7)
    await fill(sites18, (1,))
    await sites18.source.execute("insert into app.kind select 'k', n from generate_series(1, 50) n")
    await sites18.source.execute(
        "insert into app.paid select 100 + n, 1, '2026-01-12', 'k', n, 1 from generate_series(1, 50) n"
    )
    schema = await read_schema(sites18.source)
    [found] = await references.missing_reference_rows(sites18.source, sites18.target, MAP, schema, MEMBERS)
    assert found.count == 50
    assert len(found.examples) == references.EXAMPLES_MAX


@pytest.mark.parametrize("name", ["pagila", "chinook"])
async def test_samples_equal_themselves(site_clusters: tuple[EmbeddedCluster, EmbeddedCluster], name: str) -> None:
    """Published databases against a second copy of themselves, with every reference that they declare."""
    load, mapped = (load_pagila, pagila_map()) if name == "pagila" else (load_chinook, chinook_map())
    source, target = site_clusters
    pair = SitePair(load(source.conninfo()), load(target.conninfo()), source, target, "")
    async with open_sites(pair) as sites:
        await sites.register(range(1, 41), "integer")
        verdict = await sites.verify(mapped)
        assert verdict.clean, verdict
        assert verdict.rows > 500
        if name == "pagila":
            await sites.target.execute(
                "update public.payment set amount = amount + 0.01"
                " where payment_id = (select min(payment_id) from public.payment where customer_id = 5)"
            )
            await sites.target.execute("set session_replication_role = replica; delete from public.staff")
            verdict = await sites.verify(mapped)
            assert [(d.columns, len(d.key)) for d in verdict.discrepancies] == [(("amount",), 2)]
            assert {name for name, _ in verdict.broken_references} == {
                "public.payment(staff_id) -> public.staff(staff_id)",
                "public.rental(staff_id) -> public.staff(staff_id)",
            }
