-- The control database, first version. Rules of model/phase.py are repeated here, so that no program can break them.

create schema domicile_control;

-- Which wave phase may follow which (model/phase.py NEXT; a test compares).
create table domicile_control.phase_edge (
    before text not null,
    after  text not null,
    primary key (before, after)
);
insert into domicile_control.phase_edge (before, after) values
    ('planned', 'prepare'),
    ('prepare', 'fence'),    ('prepare', 'copy'),     ('prepare', 'planned'),
    ('fence', 'copy'),       ('fence', 'planned'),
    ('copy', 'verify'),      ('copy', 'catchup'),     ('copy', 'planned'),
    ('catchup', 'verify'),   ('catchup', 'planned'),
    ('verify', 'handover'),  ('verify', 'planned'),
    ('handover', 'soak'),    ('handover', 'planned'),
    ('soak', 'purge'),       ('soak', 'rollback'),
    ('rollback', 'soak'),    ('rollback', 'planned'),
    ('purge', 'done');

create table domicile_control.move (
    move_id         text primary key,
    dataset         text not null,
    source          text not null,
    target          text not null check (target <> source),
    mode            text not null default 'live' check (mode in ('live', 'cold')),
    status          text not null default 'pending'
                    check (status in ('pending', 'running', 'waiting', 'paused', 'failed', 'done', 'aborted')),
    plan            jsonb not null,          -- the plan without its condition, which may hold a personal value
    plan_digest     text not null,
    pause_requested boolean not null default false,
    abort_requested boolean not null default false,
    attempt         integer not null default 1 check (attempt > 0),
    generation      bigint not null default 0,   -- the lease's fencing token
    runner          text not null default '',
    runner_seen_at  timestamptz,                 -- the lease's pulse: the runner renews it every few seconds
    ordered         text not null default ''     -- what the workers of the source site are to carry on, if anything
                    check (ordered in ('', 'move', 'purge', 'rollback')),
    frozen          boolean not null default false,  -- the cohort is written down at the source
    error_code      text not null default '',    -- of the move's own edges; a wave's error stands with the wave
    error_message   text not null default '',
    error_hint      text not null default '',
    created_at      timestamptz not null default now(),
    ended_at        timestamptz,
    check ((ended_at is not null) = (status in ('done', 'aborted')))
);
-- A plan is applied once; an aborted move gives its plan free.
create unique index move_plan on domicile_control.move (plan_digest) where status <> 'aborted';

-- The session that holds the lock of a move's lease (control/lease.py), or null.
create function domicile_control.lock_holder(number bigint) returns integer language sql stable as $$
    select l.pid from pg_catalog.pg_locks as l
    where l.locktype = 'advisory' and l.granted and l.objsubid = 1
        and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
        and (l.classid::bigint << 32 | l.objid::bigint) = number
$$;

create table domicile_control.wave (
    move_id       text not null references domicile_control.move,
    no            integer not null check (no > 0),
    phase         text not null default 'planned'
                  check (phase in ('planned', 'prepare', 'fence', 'copy', 'catchup', 'verify', 'handover', 'soak',
                                   'rollback', 'purge', 'done')),
    status        text not null default 'pending'
                  check (status in ('pending', 'running', 'waiting', 'paused', 'failed', 'done', 'aborted')),
    subjects      integer not null check (subjects >= 0),
    rows_planned  bigint not null,
    bytes_planned bigint not null,
    rows_copied   bigint not null default 0,
    bytes_copied  bigint not null default 0,
    rows_purged   bigint not null default 0,
    fenced_at     timestamptz,
    fence_seconds double precision,
    copy_seconds  double precision,
    verdict       text not null default '' check (verdict in ('', 'clean', 'discrepancies')),
    source_root   text not null default '',
    target_root   text not null default '',
    tables        jsonb not null default '[]',   -- per table: rows and digest under the verdict
    live          jsonb not null default '{}',   -- model/report.py LiveFigures: lag, dirty rows, blockers, pause
    error_code    text not null default '',
    error_message text not null default '',
    error_hint    text not null default '',
    primary key (move_id, no),
    check (phase not in ('handover', 'soak', 'purge', 'done') or verdict = 'clean'),
    check ((status = 'failed') = (error_code <> '')),
    check ((phase = 'done') = (status = 'done')),
    check (status <> 'aborted' or phase = 'planned')
);

create function domicile_control.check_phase() returns trigger language plpgsql as $$
begin
    if new.phase <> old.phase and not exists (
        select 1 from domicile_control.phase_edge where before = old.phase and after = new.phase
    ) then
        raise exception 'a wave may not go from phase % to phase %', old.phase, new.phase using errcode = 'check_violation';
    end if;
    return new;
end
$$;
create trigger check_phase before update of phase on domicile_control.wave
    for each row execute function domicile_control.check_phase();

-- What happened, in order: for people and for the report.
create table domicile_control.event (
    id      bigint generated always as identity primary key,
    move_id text not null references domicile_control.move,
    wave_no integer,
    at      timestamptz not null default now(),
    what    text not null,
    detail  jsonb not null default '{}'
);
create index event_move on domicile_control.event (move_id, id);

-- Orders given by people: applied, aborted, purged.
create table domicile_control.approval (
    id         bigint generated always as identity primary key,
    move_id    text not null references domicile_control.move,
    what       text not null,
    given_by   text not null,
    given_at   timestamptz not null default now()
);

create schema domicile_directory;

-- What the installation's key makes of a fixed text: a machine that hashes with another key is refused.
create table domicile_directory.key_mark (
    one  boolean primary key default true check (one),
    mark bytea not null
);

-- Who lives where. Subjects appear as keyed hashes only; the key is not in this database.
create table domicile_directory.home (
    dataset  text not null,
    subject  bytea not null check (octet_length(subject) = 16),
    home     text not null,
    epoch    bigint not null check (epoch > 0),
    primary key (dataset, subject)
);

-- A wave's claim on the next epoch of its subjects: two moves can never take the same subject.
create table domicile_directory.reservation (
    dataset text not null,
    subject bytea not null check (octet_length(subject) = 16),
    move_id text not null,
    wave_no integer not null,
    primary key (dataset, subject)
);
create index reservation_wave on domicile_directory.reservation (move_id, wave_no);
