"""Text keys of another collation, names that need quotes, cycles, a table without a key: moved whole, and guarded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from tests.conftest import SitePair
from tests.move.places import (
    SMALL,
    SOURCE,
    TARGET,
    Place,
    apply_cold,
    every_row,
    execute,
    scalar,
    together,
    workspace_for,
)

from domicile import commands
from domicile.model.phase import Status
from domicile.model.plan import Mode, Question

_SCHEMA = """
    create schema "Odd Shop";
    create type "Odd Shop"."Mood" as enum ('gut', 'schlecht');
    create table "Odd Shop"."User" (
        "User Id" text collate "C" primary key, "select" text not null, mood "Odd Shop"."Mood", friend text collate "C"
            references "Odd Shop"."User" deferrable initially deferred, tags "Odd Shop"."Mood"[]);
    create table "Odd Shop"."order" (
        "User Id" text collate "C" not null references "Odd Shop"."User", no integer, "group" bigint generated always as
            identity, total numeric, twice numeric generated always as (total * 2) stored, primary key ("User Id", no));
    create table "Odd Shop"."Größe" (
        "User Id" text collate "C" not null, no integer not null, "table" jsonb,
        foreign key ("User Id", no) references "Odd Shop"."order" on delete cascade);
    create index on "Odd Shop"."Größe" ("User Id", no)"""
_ROWS = """
    insert into "Odd Shop"."User"
    select 'u' || n, case when n % 2 = 0 then 'IN' else 'CN' end, 'gut', case when n > 2 then 'u' || n - 2 end,
        array['schlecht', 'gut']::"Odd Shop"."Mood"[] from generate_series(1, 40) as n;
    insert into "Odd Shop"."order" ("User Id", no, total)
    select 'u' || n, k, n + k / 10.0 from generate_series(1, 40) as n, generate_series(1, 5) as k;
    insert into "Odd Shop"."Größe"
    select 'u' || n, 1 + k % 5, jsonb_build_object('k', k)
    from generate_series(1, 40) as n, generate_series(1, 9) as k"""
_MAP = """
version: 1
dataset: odd
subject: {table: '"Odd Shop"."User"', key: User Id, market: 'subject."select"'}
tables:
  '"Odd Shop"."User"': {role: subject}
  '"Odd Shop"."order"': {role: owned, owner: '"User Id" -> "Odd Shop"."User"("User Id")'}
  '"Odd Shop"."Größe"': {role: owned, owner: '"User Id", no -> "Odd Shop"."order"("User Id", no)'}
"""
INDIA = Question("odd", SOURCE, TARGET, where="market = 'IN'")
TOGETHER = replace(SMALL, canary_subjects_max=0)  # friends refer to friends: one wave for all
IN_SCOPE = {"Odd Shop.User", "Odd Shop.order", "Odd Shop.Größe"}


@pytest.fixture
async def odd(site_pair: SitePair, scratch: Path, tmp_path: Path, control: str) -> Place:
    await execute(site_pair.source, _SCHEMA, _ROWS)
    await execute(site_pair.target, _SCHEMA, """insert into "Odd Shop"."User" values ('x1', 'SG', 'gut', null, '{}')""")
    (tmp_path / "odd.map.yaml").write_text(_MAP)
    sites = (site_pair.source, site_pair.target)
    workspace = workspace_for(scratch / f"state-{tmp_path.name}", "odd", tmp_path / "odd.map.yaml", sites, control)
    return Place(workspace, site_pair.source, site_pair.target, "odd")


@pytest.mark.parametrize("mode", list(Mode))
async def test_an_odd_schema_moves_whole(odd: Place, mode: Mode) -> None:
    if mode is Mode.LIVE:  # the stream must be able to name the rows of a table without a key
        for site in (odd.source, odd.target):
            await execute(site, 'alter table "Odd Shop"."Größe" replica identity full')
    before = together(await every_row(odd.source), await every_row(odd.target), IN_SCOPE)
    plan = await commands.plan(odd.workspace, INDIA, limits=TOGETHER)
    assert not plan.refusals, plan.refusals
    moved = await commands.apply(odd.workspace, plan, mode=mode)
    assert moved.status is Status.WAITING, [(w.error_code, w.error_message) for w in moved.waves] + [
        moved.error_message
    ]
    assert (await commands.verify(odd.workspace, moved.move_id)).clean
    await commands.purge(odd.workspace, moved.move_id)
    assert together(await every_row(odd.source), await every_row(odd.target), IN_SCOPE) == before
    assert await scalar(odd.source, """select count(*) from "Odd Shop"."User" where "select" = 'IN'""") == 0
    assert (await commands.where(odd.workspace, "odd", "u2")).home == TARGET
    new = """insert into "Odd Shop"."order" ("User Id", no, total) values ('u2', 99, 1) returning "group" """
    assert int(str(await scalar(odd.target, new))) > 200, "the identity is past what arrived"


async def test_its_guard_answers_too(odd: Place) -> None:
    plan = await commands.plan(odd.workspace, INDIA, limits=TOGETHER)
    await apply_cold(odd.workspace, plan)
    write = """update "Odd Shop"."Größe" set "table" = '{}' where "User Id" = %s returning no"""
    with pytest.raises(psycopg.Error) as refused:
        await scalar(odd.source, write, "u2")
    assert refused.value.sqlstate == "DM001"
    assert await scalar(odd.source, write, "u1") is not None
    assert await scalar(odd.target, write, "u2") is not None


async def test_friends_in_different_waves_are_not_torn_apart(odd: Place) -> None:
    """A friend of the canary's would arrive later: the plan is refused. Who becomes friends behind it has the wave step
    back, and the error says what to do."""
    friends = """from "Odd Shop"."User" as u join "Odd Shop"."User" as f on f."User Id" = u.friend
        where u."select" = 'IN' and f."select" = 'IN' and u."User Id" < f."User Id" """
    one, friend = [await scalar(odd.source, f'select {who}."User Id" {friends}') for who in "uf"]
    befriend = """update "Odd Shop"."User" set friend = {} where "User Id" = '{}'"""
    refused = await commands.plan(odd.workspace, INDIA)
    assert [check.name for check in refused.refusals_of(Mode.COLD)] == ["references between waves"]
    await execute(odd.source, befriend.format("null", one))
    plan = await commands.plan(odd.workspace, INDIA)
    await execute(odd.source, befriend.format(f"'{friend}'", one))
    before = await every_row(odd.source), await every_row(odd.target)
    failed = await apply_cold(odd.workspace, plan)
    assert failed.status is Status.FAILED
    assert "rows without their parent" in failed.waves[0].error_message
    assert "one wave" in failed.waves[0].error_hint
    assert (await every_row(odd.source), await every_row(odd.target)) == before
