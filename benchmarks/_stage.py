"""A move that is caught between its copy and its stream: rows at both sites, and changes that wait in a slot.

Built once. Each run gets a database made from a template, and a slot copied from one that nobody reads, so that every
run finds the same rows and the same log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import AsyncConnection, sql

from domicile.control.figures import Figures
from domicile.control.lease import Lease
from domicile.control.membership import Membership
from domicile.control.moves import Moves
from domicile.control.orders import Orders
from domicile.directory.directory import Directory, SubjectHash
from domicile.model.datamap import DataMap, OwnerStep, Role, SubjectRule, TableRule
from domicile.model.plan import Cohort, Format, Limits, Plan, TablePlan
from domicile.model.schema import TableName
from domicile.model.site import DatasetName, MoveId, SiteName
from domicile.move.carrier import Carrier
from domicile.move.context import Move
from domicile.move.failpoints import Failpoints
from domicile.postgres import site_schema, waves
from domicile.postgres.introspect import read_schema
from domicile.sites.embedded import EmbeddedCluster
from domicile.stream import slot

SUBJECTS = 50_000
BASE_ROWS = 500_000  # there before the stream begins; two fifths of them go in the stream
TRANSACTION_ROWS = 1_000
MOVE = MoveId("bench")
SLOT_SECONDS_MAX = 30.0
USERS, EVENTS = TableName("public", "users"), TableName("public", "events")
DATA_MAP = DataMap(
    DatasetName("bench"),
    SubjectRule(USERS, "id"),
    {
        USERS: TableRule(USERS, Role.SUBJECT),
        EVENTS: TableRule(EVENTS, Role.OWNED, OwnerStep.parse("user_id -> public.users(id)")),
    },
)

# A row as in the lab: an identifier, a user, a time, a document of 230 bytes and a text of 100. The replica identity
# is an index over the key and the owner, as the lab had it for the server's own row filters.
_TABLES = """
create table public.users (id bigint primary key, name text not null);
create table public.events (
    id bigint primary key, user_id bigint not null, at timestamptz not null, doc jsonb not null, body text not null);
create unique index events_identity on public.events (id, user_id);
create index events_user on public.events (user_id, at);
alter table public.events replica identity using index events_identity;
create function public.some_events(first bigint, last bigint) returns setof public.events language sql as $$
    select g, 1 + (g * 7919) % 50000, timestamptz '2026-01-01' + g * interval '1 s',
        jsonb_build_object('k', g % 1000, 'kind', (array['view', 'like', 'post', 'share'])[1 + g % 4],
            'ref', md5(g::text), 'tags', jsonb_build_array('a' || g % 7, 'b' || g % 13, 'c' || g % 17),
            'geo', jsonb_build_object('lat', (g % 180) - 90.5, 'lon', (g % 360) - 180.25), 'note', md5((g + 1)::text)),
        md5((g + 2)::text) || md5((g + 3)::text) || md5((g + 4)::text) || 'xyz'
    from generate_series(first, last) as g
$$"""
_FILL = """
insert into public.users select n, 'user ' || n from generate_series(1, {subjects}) as n where n <= {members};
insert into public.events select * from public.some_events(1, {rows}) where user_id <= {members};
analyze public.users;
analyze public.events"""
# Per round two inserts, two updates, one delete; updates take the rows that stay, deletes those that do not.
_CHURN = """
do $$
declare n constant bigint := {transaction}; kept constant bigint := {base} * 3 / 5;
begin
    for i in 0 .. {rounds} - 1 loop
        for j in 2 * i .. 2 * i + 1 loop
            insert into public.events select * from public.some_events({base} + j * n + 1, {base} + (j + 1) * n);
            commit;
            update public.events set at = at + interval '1 min', body = reverse(body)
            where id > (j * n) % kept and id <= (j * n) % kept + n;
            commit;
        end loop;
        delete from public.events where id > kept + i * n and id <= kept + (i + 1) * n;
        commit;
    end loop;
end $$;
update public.events set body = 'end' where id = 1;
select pg_catalog.pg_logical_emit_message(false, 'end', '');
checkpoint"""
_MEMBERS = """
insert into domicile.member (wave, ordinal, subject) select {wave}, id, id from generate_series(1, {members}) as id;
analyze domicile.member"""
_SNAPSHOT = "select pg_catalog.pg_current_snapshot()::text"
_COPY_SLOT = "select pg_catalog.pg_copy_logical_replication_slot(%s, %s)"
_DROP_SLOT = "select pg_catalog.pg_drop_replication_slot(%s)"
_KEPT_SLOT = "bench_kept"


@dataclass(frozen=True, slots=True)
class Stage:
    """``rows``: how many changes wait. ``waves``: the number of each wave, by its name; the template of its target
    database is named after it."""

    source: str
    target: EmbeddedCluster
    move: Move
    rows: int
    waves: Mapping[str, int]
    control: AsyncConnection

    @asynccontextmanager
    async def database(self, wave: str) -> AsyncIterator[str]:
        """A target database of its own, as it is before the stream; its conninfo."""
        name = sql.Identifier("bench_run")
        async with await psycopg.AsyncConnection.connect(self.target.conninfo(), autocommit=True) as conn:
            await conn.execute(sql.SQL("create database {} template {}").format(name, sql.Identifier(f"wave_{wave}")))
            try:
                await conn.execute("checkpoint")
                yield self.target.conninfo("bench_run")
            finally:
                await conn.execute(sql.SQL("drop database {} with (force)").format(name))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[str]:
        """The move's slot, where it was before the changes; its name is that of the publication too."""
        name = slot.stream_name(MOVE, self.control.info.dbname)
        await self.control.execute(_COPY_SLOT, (_KEPT_SLOT, name))
        try:
            yield name
        finally:
            await slot.wait_free(self.control, MOVE)
            await self.control.execute(_DROP_SLOT, (name,))

    def carrier(self, target: str, source: str = "") -> Carrier:
        """What carries the move into that database. Nothing that the stream needs is in a control database."""
        at = self.control
        return Carrier(
            replace(self.move, target=target, source=source or self.source),
            Moves(at),
            Figures(at),
            Directory(at, SubjectHash(b"bench")),
            Orders(at),
            Lease(0, at),
            Membership(at),
            _nobody,
        )


@asynccontextmanager
async def staged(
    source: EmbeddedCluster, target: EmbeddedCluster, rows: int, members: Mapping[str, int], *, base: int = 0
) -> AsyncIterator[Stage]:
    """Build it: ``members`` are the waves by name, each of the first so many subjects. About ``rows`` changes wait;
    ``base`` rows were there before."""
    base = base or min(BASE_ROWS, rows)
    for name, count in members.items():
        template = f"wave_{name}"
        await _run(target.conninfo(), f"create database {template}")
        await _run(target.conninfo(template), _TABLES)
        await _fill(target.conninfo(template), base, count)
    await _run(source.conninfo(), _TABLES)
    await _fill(source.conninfo(), base, SUBJECTS)
    async with await psycopg.AsyncConnection.connect(source.conninfo(), autocommit=True) as conn:
        await slot.create(conn, MOVE, DATA_MAP.in_scope(), seconds_max=SLOT_SECONDS_MAX)
        begun = await slot.inspect(conn, MOVE)
        assert begun is not None
        snapshot = await (await conn.execute(_SNAPSHOT)).fetchone()
        assert snapshot is not None
        name = slot.stream_name(MOVE, conn.info.dbname)
        await conn.execute(_COPY_SLOT, (name, _KEPT_SLOT))
        await conn.execute(_DROP_SLOT, (name,))
        numbers = {wave: no for no, wave in enumerate(members, 1)}
        for wave, no in numbers.items():
            await _register(source.conninfo(), "source", no, members[wave])
            await _register(
                target.conninfo(f"wave_{wave}"), "target", no, members[wave], (str(snapshot[0]), begun.confirmed)
            )
        rounds = max(1, rows // (5 * TRANSACTION_ROWS))
        await _run(source.conninfo(), _CHURN.format(transaction=TRANSACTION_ROWS, base=base, rounds=rounds))
        move = await _move(conn, source.conninfo(), base)
        yield Stage(source.conninfo(), target, move, rounds * 5 * TRANSACTION_ROWS + 1, numbers, conn)


async def _fill(conninfo: str, rows: int, members: int) -> None:
    await _run(conninfo, _FILL.format(subjects=SUBJECTS, rows=rows, members=members))
    await _run(conninfo, "vacuum public.events; checkpoint")


async def _register(conninfo: str, role: str, no: int, members: int, seam: tuple[str, int] | None = None) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        await site_schema.install(conn, "bigint")
        peer, mark = ("target", "open") if role == "source" else ("source", "arriving")
        record = waves.MoveAtSite(MOVE, DATA_MAP.dataset, SiteName(role), role, SiteName(peer), 0)
        await waves.register_move(conn, record)
        wave = await waves.insert_wave(conn, MOVE, no, waves.WaveRecord(0, mark, SiteName("source"), 1))
        if seam is not None:
            await waves.set_seam(conn, wave, *seam)
    await _run(conninfo, _MEMBERS.format(wave=wave, members=members))


async def _move(conn: AsyncConnection, source: str, rows: int) -> Move:
    schema = await read_schema(conn)
    tables = tuple(
        TablePlan(name, tuple(c.name for c in schema.tables[name].columns), count, count * 350, Format.BINARY)
        for name, count in ((USERS, SUBJECTS), (EVENTS, rows))
    )
    plan = Plan(
        version=1,
        dataset=DATA_MAP.dataset,
        source=SiteName("source"),
        target=SiteName("target"),
        cohort=Cohort("true", "", SUBJECTS, ""),
        tables=tables,
        waves=(),
        checks=(),
        limits=Limits(),
        config_digest="",
        map_digest="",
        source_schema_digest="",
        target_schema_digest="",
        estimate_basis="",
        made_at="",
    )
    return Move(MOVE, plan, DATA_MAP, source, "", schema, schema, 0, Failpoints())


async def _nobody(*_: object) -> int:
    return 0


async def _run(conninfo: str, script: str) -> None:
    """A script, of which each statement is a transaction of its own where it is one."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        for statement in _statements(script):
            await conn.execute(statement.encode())


def _statements(script: str) -> list[str]:
    """Cut at semicolons outside of dollar quotes."""
    parts = script.split("$$")
    found = [""]
    for number, part in enumerate(parts):
        if number % 2:
            found[-1] += f"$${part}$$"
        else:
            first, *others = part.split(";")
            found[-1] += first
            found += others
    return [statement for statement in found if statement.strip()]
