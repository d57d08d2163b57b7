"""Verify as a phase: errors are failures, roots are stable, every level of the descent, the audit mode."""

from __future__ import annotations

from psycopg import sql
import pytest
from tests.conftest import SitePair, drop_database
from tests.verify.kit import Sites, data_map, open_sites, with_failpoint
from tests.verify.test_mutations import COLUMNS, ITEM, MAP, THING, fill, quoted

from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.verdict import Difference
from domicile.move import differences, verify
from domicile.postgres.checksum import mode_of, site_root
from domicile.postgres.connect import connect
from domicile.postgres.failures import told
from domicile.postgres.hashing import Mode, common_mode, probe
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster


async def test_a_table_dropped_at_the_target_is_an_error(sites18: Sites) -> None:
    await fill(sites18)
    move = await sites18.move(MAP)
    await sites18.target.execute("drop table app.item")
    with pytest.raises(DomicileError) as caught:
        await verify.run(move, await sites18.wave())
    assert caught.value.code is ErrorCode.SCHEMA_CHANGED
    assert "app.item" in caught.value.message


async def test_a_column_missing_at_the_target_is_an_error(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.target.execute("alter table app.item drop column text")
    with pytest.raises(DomicileError) as caught:
        await sites18.verify(MAP)
    assert caught.value.code is ErrorCode.SCHEMAS_DIFFER


@pytest.mark.parametrize("emptied", [False, True], ids=["rows at the source", "none at the source"])
async def test_hidden_rows_are_an_error_not_a_row_less(sites18: Sites, emptied: bool) -> None:
    await fill(sites18)
    if emptied:
        await sites18.source.execute("delete from app.item")
    name = f"reader_{sites18.target.info.dbname}"
    role = sql.Identifier(name)
    await sites18.target.execute(sql.SQL("create role {} login password 'secret'").format(role))
    try:
        for schema in ("app", "domicile"):
            await sites18.target.execute(
                sql.SQL("grant usage on schema {0} to {1}; grant select on all tables in schema {0} to {1}").format(
                    sql.Identifier(schema), role
                )
            )
        await sites18.target.execute("alter table app.item enable row level security")
        sites18.pair = SitePair(
            sites18.pair.source, f"{sites18.pair.target} user={name} password=secret", *_clusters(sites18), "18-18"
        )
        with pytest.raises(DomicileError) as caught:
            await sites18.verify(MAP)
        assert caught.value.code is ErrorCode.RIGHT_MISSING
    finally:
        await sites18.target.execute(sql.SQL("drop owned by {0}; drop role {0}").format(role))


def _clusters(sites: Sites) -> tuple[EmbeddedCluster, EmbeddedCluster]:
    return sites.pair.source_cluster, sites.pair.target_cluster


@pytest.mark.parametrize(
    "spoil",
    [
        "delete from domicile.member where ordinal = 10",
        "delete from domicile.member",
        "update domicile.member set subject = 19 where ordinal = 10",
        "update domicile.member set ordinal = 30 - ordinal",
    ],
)
async def test_other_members_at_the_target_are_an_error(sites18: Sites, spoil: str) -> None:
    await fill(sites18)
    await sites18.target.execute(spoil.encode())
    with pytest.raises(DomicileError) as caught:
        await sites18.verify(MAP)
    assert caught.value.code is ErrorCode.DISCREPANCY


async def test_a_wave_without_members_is_an_error(sites18: Sites) -> None:
    await fill(sites18)
    await sites18.both("delete from domicile.member")
    with pytest.raises(DomicileError):
        await sites18.verify(MAP)


async def test_more_or_fewer_members_than_the_wave_are_an_error(sites18: Sites) -> None:
    await fill(sites18)
    with pytest.raises(DomicileError):
        await sites18.verify(MAP, subjects=9)


async def test_a_site_that_does_not_answer_is_an_error(sites18: Sites) -> None:
    await fill(sites18)
    move = await sites18.move(MAP)
    object.__setattr__(move, "target", "host=127.0.0.1 port=1 dbname=none")
    with pytest.raises(DomicileError) as caught:
        await verify.run(move, await sites18.wave())
    assert caught.value.code is ErrorCode.SITE_UNREACHABLE


async def test_no_value_of_a_row_is_in_an_error(sites18: Sites) -> None:
    """A cast that fails quotes the value in PostgreSQL's message."""
    await fill(sites18)
    await sites18.target.execute(
        "create function app.bad(text) returns integer language sql immutable as 'select $1::integer'"
    )
    await sites18.target.execute("alter table app.users rename to users_rows")
    await sites18.target.execute(
        "create view app.users as select case when app.bad(email) > 0 then id end as id, name, email, address_id"
        " from app.users_rows"
    )
    move = await sites18.move(MAP)
    with pytest.raises(DomicileError) as caught:
        await verify.run(move, await sites18.wave())
    assert "example.com" not in f"{caught.value.message}{caught.value.facts}"
    assert caught.value.__cause__ is None


async def test_what_postgresql_says_does_not_hang_on_our_error(sites18: Sites) -> None:
    """Its message quotes the value: a log that prints causes would have it."""
    with pytest.raises(DomicileError) as caught, told("target", "a cast"):
        await sites18.target.execute("select 'someone@example.com'::integer")
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "example.com" not in f"{error}{error.as_dict()}"


@pytest.mark.parametrize("point", ["verify.before", "verify.done"])
async def test_failpoints(sites18: Sites, point: str) -> None:
    await fill(sites18)
    move = with_failpoint(await sites18.move(MAP), f"{point}:error")
    with pytest.raises(DomicileError):
        await verify.run(move, await sites18.wave())


async def test_the_root_is_the_same_at_both_sites_and_later(sites: Sites) -> None:
    await fill(sites)
    verdict = await sites.verify(MAP)
    assert verdict.clean
    for conn, wave in ((sites.source, 3), (sites.target, 8)):
        schema = await read_schema(conn)
        assert await verify.root_of(conn, MAP, schema, MAP.in_scope(), wave) == verdict.source_root
        assert conn.info.transaction_status.name == "IDLE"
    schema = await read_schema(sites.source)
    await sites.source.execute("update app.item set text = 'later' where no = 60")
    later = await verify.root_of(sites.source, MAP, schema, MAP.in_scope(), 3, verdict.source_root)
    assert later != verdict.source_root


@pytest.mark.parametrize(("groups", "slice_rows"), [(256, 50_000), (4, 7), (1, 1)])
async def test_descent_at_every_size(
    sites18: Sites, monkeypatch: pytest.MonkeyPatch, groups: int, slice_rows: int
) -> None:
    monkeypatch.setattr(differences, "GROUPS", groups)
    monkeypatch.setattr(differences, "SLICE_ROWS", slice_rows)
    await fill(sites18)
    await sites18.target.execute("delete from app.item where no % 7 = 0")
    await sites18.target.execute("update app.item set text = 'old' where no % 7 = 1")
    await sites18.target.execute("insert into app.item select thing_id, no + 1000, '' from app.item where no % 7 = 2")
    counts = await (
        await sites18.source.execute(
            "select count(*) filter (where no % 7 = 0), count(*) filter (where no % 7 = 1),"
            " count(*) filter (where no % 7 = 2)"
            " from app.item i join app.thing t on t.id = i.thing_id where t.user_id <= 10"
        )
    ).fetchone()
    assert counts is not None
    verdict = await sites18.verify(MAP)
    found = [d.difference for d in verdict.discrepancies]
    expected = dict(zip((Difference.MISSING, Difference.CHANGED, Difference.EXTRA), counts, strict=True))
    assert {difference: found.count(difference) for difference in expected} == expected
    assert verdict.discrepancies_total == sum(counts)
    assert {d.columns for d in verdict.discrepancies if d.difference is Difference.CHANGED} == {("text",)}


async def test_names_that_need_quotes_and_text_keys(sites: Sites) -> None:
    mapped = data_map('"Sch ema"."Us%er"', {'"Sch ema"."Or""der"': '"Us%er" -> "Sch ema"."Us%er"("id")'})
    await sites.both(
        """create schema "Sch ema";
        create table "Sch ema"."Us%er" (id text primary key, "na%me" text);
        create table "Sch ema"."Or""der" ("Us%er" text references "Sch ema"."Us%er", "No" integer, "%s" text,
            primary key ("No", "Us%er"));
        insert into "Sch ema"."Us%er" values ('a', 'A'), ('b%s', 'B'), ('Ü', 'C');
        insert into "Sch ema"."Or""der" values ('a', 1, 'x'), ('b%s', 2, 'y'), ('Ü', 3, 'z')"""
    )
    await sites.register(["a", "b%s"], "text")
    assert (await sites.verify(mapped)).clean
    await sites.target.execute(b"""update "Sch ema"."Or""der" set "%s" = '' where "No" = 2""")
    [found] = (await sites.verify(mapped)).discrepancies
    assert (found.key, found.columns) == (("2", "b%s"), ("%s",))


async def test_partitions_and_generated_columns(sites: Sites) -> None:
    mapped = data_map("app.users", {"app.paid": "user_id -> app.users(id)"})
    await sites.both(
        """create schema app; create table app.users (id bigint primary key);
        create table app.paid (id bigint, user_id bigint, at date, cents integer,
            euros numeric generated always as (cents / 100.0) stored, primary key (id, at)) partition by range (at);
        create table app.paid_1 partition of app.paid for values from ('2026-01-01') to ('2026-02-01');
        create table app.paid_2 partition of app.paid for values from ('2026-02-01') to ('2026-03-01');
        insert into app.users select generate_series(1, 4);
        insert into app.paid (id, user_id, at, cents)
        select n, 1 + n % 4, date '2026-01-01' + n, n from generate_series(1, 50) n"""
    )
    await sites.register([1, 2])
    assert (await sites.verify(mapped)).clean
    await sites.target.execute("update app.paid set at = '2026-02-20' where id = 4")
    verdict = await sites.verify(mapped)
    assert {d.key for d in verdict.discrepancies} == {("4", "2026-01-05"), ("4", "2026-02-20")}


async def test_nondeterministic_collation(sites15: Sites) -> None:
    """Such a collation hashes 'A' like 'a'; the verifier must not. Needs ICU, which the bundled build lacks."""
    sites = sites15
    mapped = data_map("app.users", {})
    table = "create schema app; create table app.users (id bigint primary key, name text {}); "
    fold = "create collation app.fold (provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
    rows = "insert into app.users select n, 'Name' from generate_series(1, 5) n"
    with_fold = table.format("collate app.fold").replace("create table", f"{fold}create table")
    await sites.source.execute((with_fold + rows).encode())
    await sites.target.execute((table.format("") + rows).encode())
    await sites.register([1, 2, 3])
    assert (await sites.verify(mapped)).clean
    await sites.source.execute("update app.users set name = 'NAME' where id = 2")
    assert [d.key for d in (await sites.verify(mapped)).discrepancies] == [("2",)]


async def test_servers_hash_alike(sites: Sites) -> None:
    ours, theirs = await probe(sites.source), await probe(sites.target)
    assert ours == theirs
    assert common_mode(ours, theirs) is Mode.EXACT
    assert common_mode(ours, (ours[0], ours[1] + 1)) is Mode.AUDIT
    assert common_mode(ours, ("LATIN1", ours[1])) is Mode.AUDIT


async def test_audit_sees_every_column_too(sites: Sites) -> None:
    await fill(sites)
    schemas = [await read_schema(conn) for conn in (sites.source, sites.target)]

    async def root(conn_no: int) -> str:
        conn, wave = ((sites.source, 3), (sites.target, 8))[conn_no]
        return await site_root(conn, MAP, schemas[conn_no], [THING, ITEM], wave, Mode.AUDIT)

    sealed = await root(0)
    assert sealed == await root(1)
    assert mode_of(sealed) is Mode.AUDIT
    for name, (_, first, other) in COLUMNS.items():
        await sites.target.execute(f"update app.thing set {quoted(name)} = {other} where id = 20".encode())
        assert await root(1) != sealed, name
        await sites.target.execute(f"update app.thing set {quoted(name)} = {first} where id = 20".encode())
    assert await root(1) == sealed


async def test_different_encodings_are_audited(pg18: EmbeddedCluster, sites18: Sites) -> None:
    latin = f"latin_{sites18.target.info.dbname}"
    async with await connect(pg18.conninfo()) as admin:
        await admin.execute(
            sql.SQL("create database {} encoding 'LATIN1' locale 'C' template template0").format(sql.Identifier(latin))
        )
    try:
        pair = SitePair(sites18.pair.source, pg18.conninfo(latin), pg18, pg18, "18-18")
        async with open_sites(pair) as sites:
            await fill(sites)
            await sites.both("update app.users set name = 'Müller' where id = 3")
            verdict = await sites.verify(MAP)
            assert verdict.clean, verdict
            assert mode_of(verdict.source_root) is Mode.AUDIT
            schema = await read_schema(sites.source)
            again = await verify.root_of(sites.source, MAP, schema, MAP.in_scope(), 3, verdict.source_root)
            assert again == verdict.source_root
            await sites.target.execute("update app.users set name = 'Muller' where id = 3")
            [found] = (await sites.verify(MAP)).discrepancies
            assert found.columns == ("name",)
    finally:
        await drop_database(pg18, latin)
