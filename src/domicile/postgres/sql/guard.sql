-- The guard: what its triggers run, and what is asked about them. Each block is used by postgres/guard.py or postgres/drain.py.
-- The functions run in sessions of the application, some as their owner: every name, type and operator is qualified, so that no
-- search_path can put another in its place. A SET clause would do the same at a cost for every row.

-- name: functions
-- {equals} compares two subject keys. {lock} is the class of the waves' locks (postgres/wave_lock.py).

-- Above READ COMMITTED a lookup sees the marks as they were at the snapshot. It is good enough when the latest fence is in the snapshot.
create or replace function domicile.guard_snapshot() returns void language plpgsql as $body$
declare
    fence pg_catalog.int8;
begin
    if pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.~~) 'read %' then
        return;
    end if;
    select s.last_value into fence from domicile.fence_xid as s;
    if pg_catalog.pg_visible_in_snapshot(fence::pg_catalog.text::pg_catalog.xid8,
                                         pg_catalog.pg_current_snapshot()) is not true then
        raise exception using errcode = '40001',
            message = 'could not serialize access: subjects were fenced after this transaction took its snapshot',
            hint = 'Repeat the transaction.';
    end if;
end
$body$;

-- The answer for one member: nothing, or DM001 (moved), or DM002 (moving).
create or replace function domicile.guard_answer(mark pg_catalog.text, home pg_catalog.text, epoch pg_catalog.int8,
                                                 dataset pg_catalog.text, relation pg_catalog.oid)
returns void language plpgsql as $body$
declare
    found_schema pg_catalog.name;
    found_table pg_catalog.name;
    facts pg_catalog.text := pg_catalog.json_build_object('home', home, 'epoch', epoch, 'dataset', dataset)::pg_catalog.text;
begin
    select n.nspname, c.relname into found_schema, found_table
    from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.relnamespace
    where c.oid operator(pg_catalog.=) relation;
    if mark operator(pg_catalog.=) 'departed' then
        raise exception using errcode = 'DM001', schema = found_schema, table = found_table, detail = facts,
            message = 'moved: the subject of this row lives at another site',
            hint = 'Repeat the transaction at the home that the detail names.';
    end if;
    raise exception using errcode = 'DM002', schema = found_schema, table = found_table, detail = facts,
        message = 'moving: the subject of this row is between two sites',
        hint = 'Repeat the transaction in a moment.';
end
$body$;

-- A member was met: of the waves its subject has been in, the one with the highest epoch decides. While a wave is closing, a writer holds
-- its lock shared to the end of the transaction, so that the mover, who takes it for himself, has nobody in flight. A departure is asked
-- about under the lock, too: one that is undone (the target said no) is told to nobody. entering: the statement may make rows of other
-- tables the member's, too, whose writers have found another owner, or none; the mover then drains once more. Not where the owner before
-- was of the same wave (came_from, which is what this function said of him), and the row itself names its owner, so that nobody else can
-- change him meanwhile: those writers hold the wave's lock.
create or replace function domicile.guard_ask(wave pg_catalog.int4, ordinal pg_catalog.int4, relation pg_catalog.oid,
                                              entering pg_catalog.bool, came_from pg_catalog.int4)
returns pg_catalog.int4 language plpgsql as $body$
declare
    latest pg_catalog.record;
    locked pg_catalog.int4;
begin
    loop
        select w.id, w.mark, w.home, w.epoch, v.dataset into latest
        from domicile.member as mine
        join domicile.member as m on m.subject {equals} mine.subject
        join domicile.wave as w on w.id operator(pg_catalog.=) m.wave
        join domicile.move as v on v.move_id operator(pg_catalog.=) w.move_id
        where mine.wave operator(pg_catalog.=) guard_ask.wave and mine.ordinal operator(pg_catalog.=) guard_ask.ordinal
        order by w.epoch desc limit 1;
        exit when (latest.mark operator(pg_catalog.=) any (array['closing', 'departed'])) is not true
            or (latest.id operator(pg_catalog.=) locked) is true;
        perform pg_catalog.pg_advisory_xact_lock_shared({lock}, latest.id);
        locked := latest.id;
        -- What the mover did meanwhile, READ COMMITTED sees in the next round, others not at all.
        perform domicile.guard_snapshot();
    end loop;
    if latest.mark operator(pg_catalog.=) 'closing' and entering and latest.id is distinct from came_from then
        perform pg_catalog.nextval('domicile.entered'::pg_catalog.regclass);
    end if;
    if latest.mark operator(pg_catalog.=) any (array['fenced', 'arriving', 'departed']) then
        perform domicile.guard_answer(latest.mark, latest.home, latest.epoch, latest.dataset, relation);
    end if;
    return locked;
end
$body$;

-- TRUNCATE takes everybody's rows, so it waits until nobody here is about to leave, between homes, or departed and not purged.
create or replace function domicile.guard_truncate() returns trigger language plpgsql security definer as $body$
declare
    latest pg_catalog.record;
begin
    perform domicile.guard_snapshot();
    select w.home, w.epoch, v.dataset into latest
    from domicile.wave as w join domicile.move as v on v.move_id operator(pg_catalog.=) w.move_id
    where w.mark operator(pg_catalog.=) any (array['closing', 'fenced', 'arriving', 'departed']) and w.purged_at is null
    order by w.epoch desc limit 1;
    if latest.home is not null then
        perform domicile.guard_answer('fenced', latest.home, latest.epoch, latest.dataset, tg_relid);
    end if;
    return null;
end
$body$;

revoke all on function domicile.guard_snapshot(), domicile.guard_truncate(),
    domicile.guard_ask(pg_catalog.int4, pg_catalog.int4, pg_catalog.oid, pg_catalog.bool, pg_catalog.int4),
    domicile.guard_answer(pg_catalog.text, pg_catalog.text, pg_catalog.int8, pg_catalog.text, pg_catalog.oid) from public;

-- name: filter
-- False for a key that no wave closing, between homes or departed has; true for all others and a few more. SQL, so that it is inlined into the
-- trigger functions and costs no call; replaced as a whole, so that all sessions have the latest: they hear of it when they lock a table,
-- and who holds his lock from before is waited for by the drain. note_fence makes it "true" with each fence whose members it does not know,
-- postgres/guard_filter.py narrows it again.
create or replace function domicile.guard_filter(key {type}) returns boolean language sql stable as {body};
revoke all on function domicile.guard_filter({type}) from public;

-- name: filter_type
-- What kind of key this database's filter takes, how many members it must know, and what it is now.
select pg_catalog.format_type(p.proargtypes[0], null),
       (select count(*) from domicile.wave as w join domicile.member as m on m.wave = w.id
        where w.mark in ('closing', 'fenced', 'arriving', 'departed') or w.id = %(soon)s),
       p.prosrc
from pg_catalog.pg_proc as p
where p.pronamespace = 'domicile'::regnamespace and p.proname = 'guard_filter';

-- name: filter_bits
select distinct {hash} & %(mask)s
from domicile.wave as w
join domicile.member as m on m.wave = w.id
cross join lateral (select m.subject::{type} as key) as subject
where w.mark in ('closing', 'fenced', 'arriving', 'departed') or w.id = %(soon)s;

-- name: fast_path
-- Before anything else, in every isolation level: the filter is outside all snapshots, and the row itself names its owner.
    if ({same_owner}) is not false and {owner} is not null and domicile.guard_filter({owner}::{type}) is not true then
        return new;
    end if;

-- name: trigger_function
-- One per table. {find_old}, {find_new} and {find_added} ask for every member that owns the row. In a short transaction each expression costs about as
-- much as a quarter of the probe of an index (PL/pgSQL prepares it anew in every transaction): hence the order, in which INSERT meets
-- few of them and an UPDATE that keeps the owner one more. In a DELETE new is null, so that no owner is the same.
create or replace function {function}() returns trigger language plpgsql security definer as $body$
declare
    came_from pg_catalog.int4;
begin
{fast_path}
    if pg_catalog.current_setting('transaction_isolation') operator(pg_catalog.<>) 'read committed' then
        perform domicile.guard_snapshot();
    end if;
    if tg_op operator(pg_catalog.=) 'INSERT' then
{unseen}        perform {find_added};
        return new;
    end if;
    select {find_old} into came_from;
    if ({same_owner}) is true then
        return new;
    end if;
    if tg_op operator(pg_catalog.=) 'DELETE' then
        return old;
    end if;
{unseen}    perform {find_new};
    return new;
end
$body$;
revoke all on function {function}() from public;
comment on function {function}() is {comment};

-- name: unseen
-- The row that leads to the owner is another transaction's and not committed: then nobody is found here. It may be by the time that the foreign
-- key is asked, at the statement's end. Such a writer does not hold the wave's lock, so he is counted, and the mover drains once more.
        if {linked} and not exists (select from {tables} where {leads}) then
            perform pg_catalog.nextval('domicile.entered'::pg_catalog.regclass);
        end if;

-- name: refuse_disarm
-- Asked under the table's lock: another move may have put up a fence since its mover found the guard armed.
do $body$
begin
    if exists (select from domicile.wave where mark in ('closing', 'fenced', 'arriving') or (mark = 'departed' and purged_at is null)) then
        raise exception 'the guard is needed' using errcode = 'DM003';
    end if;
end
$body$;

-- name: relations
-- The tables named and all their partitions, roots first; the guard's triggers on each. leaf: one that holds rows.
with recursive tree (oid, root, depth) as (
    select c.oid, c.oid, 0
    from unnest(%(schemas)s::text[], %(names)s::text[]) as wanted (schema, name)
    join pg_catalog.pg_namespace as n on n.nspname = wanted.schema
    join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = wanted.name and c.relkind in ('r', 'p')
  union all
    select c.oid, t.root, t.depth + 1
    from tree as t
    join pg_catalog.pg_inherits as i on i.inhparent = t.oid
    join pg_catalog.pg_class as c on c.oid = i.inhrelid and c.relispartition and c.relkind in ('r', 'p')
)
select t.oid::bigint, t.root::bigint, n.nspname, c.relname,
       coalesce(array_agg(g.tgname::text order by g.tgname) filter (where g.tgname is not null), '{}'),
       coalesce(array_agg(g.tgname::text order by g.tgname) filter (where g.tgenabled <> 'D'), '{}')
from tree as t
join pg_catalog.pg_class as c on c.oid = t.oid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_trigger as g
    on g.tgrelid = t.oid and g.tgname in ('zz_domicile_guard', 'zz_domicile_guard_truncate')
group by t.oid, t.root, t.depth, n.nspname, c.relname
order by t.root, t.depth, n.nspname, c.relname;

-- name: later_triggers
-- Enabled row triggers that run after the guard and could put another owner into the row it has seen: BEFORE (bit 2) ROW (bit 1).
select n.nspname || '.' || c.relname || ': ' || g.tgname
from pg_catalog.pg_trigger as g
join pg_catalog.pg_class as c on c.oid = g.tgrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where g.tgrelid = any(%(relations)s::oid[]) and not g.tgisinternal and g.tgtype & 3 = 3
  and g.tgname > 'zz_domicile_guard' collate "C"
order by 1;

-- name: member_collation
-- Null where the type of the subject's key has none.
select cn.nspname, c.collname
from pg_catalog.pg_attribute as a
left join pg_catalog.pg_collation as c on c.oid = a.attcollation
left join pg_catalog.pg_namespace as cn on cn.oid = c.collnamespace
where a.attrelid = 'domicile.member'::regclass and a.attname = 'subject';

-- name: leftovers
-- Trigger functions that no trigger runs: of tables just freed of the guard, or dropped.
select p.proname from pg_catalog.pg_proc as p
where p.pronamespace = 'domicile'::regnamespace and p.proname ~ '^guard_[0-9]+$'
  and not exists (select from pg_catalog.pg_trigger as g where g.tgfoid = p.oid);

-- name: unregister
delete from domicile.guarded as d
where not exists (select from pg_catalog.pg_trigger as g where g.tgrelid = d.relation and g.tgname = 'zz_domicile_guard');

-- name: lock_holders
-- Transactions that hold a wave's lock, but for this session's; as "holders".
select l.virtualtransaction, l.pid, a.backend_type, a.application_name, extract(epoch from clock_timestamp() - a.xact_start)::float8
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'advisory' and l.granted and l.objsubid = 2
  and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
  and l.classid = %(class)s and l.objid = %(wave)s
  and l.pid is distinct from pg_catalog.pg_backend_pid()
order by 5 desc nulls last, 1;

-- name: holders
-- Transactions that hold a lock in one of the modes on one of the relations, but for this session's. pid is null for a prepared one;
-- age and application are null where this role may not see them.
select l.virtualtransaction, l.pid, max(a.backend_type), max(a.application_name),
       max(extract(epoch from clock_timestamp() - a.xact_start))::float8
from pg_catalog.pg_locks as l
left join pg_catalog.pg_stat_activity as a on a.pid = l.pid
where l.locktype = 'relation' and l.granted
  and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
  and l.relation = any(%(relations)s::oid[]) and l.mode = any(%(modes)s)
  and l.pid is distinct from pg_catalog.pg_backend_pid()
group by l.virtualtransaction, l.pid
order by 5 desc nulls last, 1;
