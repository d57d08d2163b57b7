-- What domicile keeps inside a dataset's own database, at each site. Idempotent. {subject_type} is the type of the subject's key.
-- Names in this schema are part of the contract: see docs/decisions/0001.

create schema if not exists domicile;

-- One row per move that touches this database. The generation is the lease's fencing token: a mover that was taken over finds a
-- higher one and stops (statement assert_lease).
create table if not exists domicile.move (
    move_id    text primary key,
    dataset    text not null,
    here       text not null,
    role       text not null check (role in ('source', 'target')),
    peer       text not null,
    generation bigint not null default 0,
    created_at timestamptz not null default now(),
    -- Source only, while the move lasts. A condition may name a person, so it is kept nowhere else. Empty: a file named the cohort.
    condition  text not null default '',
    -- What the source answers now to new subjects who fit the condition.
    sign_ups   text not null default 'accept' check (sign_ups in ('refuse', 'accept'))
);

-- One row per wave; the mark decides what the guard answers for all its members at once, so that fencing, departing and arriving
-- are the update of one row.
create table if not exists domicile.wave (
    id      integer generated always as identity primary key,
    move_id text not null references domicile.move on delete cascade,
    no      integer not null check (no > 0),
    mark    text not null check (mark in ('open', 'closing', 'fenced', 'departed', 'arriving', 'resident')),
    home    text not null,   -- the site that is home under this mark
    epoch   bigint not null check (epoch >= 0),
    purged_at timestamptz,   -- the source copy is gone; the guard need not stand for this wave any more
    -- Of the stream that ends here: the snapshot it continues (pg_current_snapshot at the other site), and the position behind the last
    -- transaction applied, committed with its rows.
    seam     text,
    position pg_lsn,
    -- Up to here every snapshot at the other site sees what the stream has read: where it is read again from, so that it knows which of the
    -- transactions behind it are in the log and not yet visible.
    seen     pg_lsn,
    -- Of the stream back, which begins here: the snapshot of the transaction in which the wave arrived, and that transaction.
    arrival  text,
    -- Raised by whoever settles a doubt here, and by the arrival: what a stream had sent before is refused, however late it comes.
    term     bigint not null default 0,
    unique (move_id, no)
);

-- Who is in a wave. Ordinals run from 1 in each wave, in key order: chunks of copy, verify and purge are ranges of them.
create table if not exists domicile.member (
    wave    integer not null,
    ordinal integer not null,
    subject {subject_type} not null,
    primary key (wave, ordinal)
);
-- CREATE INDEX IF NOT EXISTS locks the table against writers first, and then looks: other moves are at work here.
do $body$ begin
    if pg_catalog.to_regclass('domicile.member_subject') is null then
        create index member_subject on domicile.member (subject);
    end if;
end $body$;

-- Rows that came into a wave were read in a snapshot ahead of the stream that ends here: what that has seen of them, up to until in the other
-- site's log, must not be applied again. Committed with the rows. An element is a row's key, for those that were entered also what other rows
-- refer to, behind the number of its table; known: rows that were the wave's before.
create table if not exists domicile.ahead (
    id      bigint generated always as identity primary key,
    wave    integer not null,
    seam    text not null,
    until   pg_lsn not null,
    entered bytea[] not null,
    known   bytea[] not null
);

-- Progress of the copy, committed with the rows (target only).
create table if not exists domicile.progress (
    wave       integer not null,
    table_name text not null,
    chunk      integer not null,
    rows       bigint not null,
    bytes      bigint not null,
    primary key (wave, table_name, chunk)
);

-- What verify found in a wave that failed (source only): row keys are personal, so they stay in the databases of the dataset.
create table if not exists domicile.discrepancy (
    wave       integer not null,
    table_name text not null,
    row_key    text[] not null,
    difference text not null,
    columns    text[] not null
);

-- Members who were taken out of their wave and stay home (source only). Written before anything is taken: an ejection that was cut
-- is found again by the member who is still there.
create table if not exists domicile.ejected (
    wave       integer not null,
    ordinal    integer not null,
    subject    {subject_type} not null,
    reason     text not null,
    ejected_at timestamptz not null default now(),
    primary key (wave, ordinal)
);

-- References to a second person, or to a row of hers, that the mover has set to null here, where the row lives, and the key that they named: one
-- row of the wave each, written in the transaction of the clearing. Keys of people, so a note goes as soon as it cannot be wanted: written back, or
-- with the wave, or with the row that it names.
create table if not exists domicile.cleared (
    wave        integer not null,
    table_name  text not null,
    column_name text not null,
    row_key     text[] not null,
    person      text not null,
    primary key (wave, table_name, column_name, row_key)
);
do $body$ begin
    if (select a.atttypid <> 'pg_catalog.text'::pg_catalog.regtype or a.attcollation <> 'pg_catalog."default"'::pg_catalog.regcollation from pg_catalog.pg_attribute as a
        where a.attrelid = 'domicile.cleared'::pg_catalog.regclass and a.attname = 'person') then
        alter table domicile.cleared alter column person type text collate pg_catalog."default" using person::text;  -- only people were named before
    end if;
    if pg_catalog.to_regclass('domicile.cleared_person') is null then
        create index cleared_person on domicile.cleared (person);
    end if;
end $body$;

-- What was removed, committed with the removal. At the target: of a copy that goes, until the wave is forgotten there.
create table if not exists domicile.purge_journal (
    wave       integer not null,
    table_name text not null,
    chunk      integer not null,
    rows       bigint not null,
    purged_at  timestamptz not null default now(),
    primary key (wave, table_name, chunk)
);

-- The site's log of evidence: statements of what moves did here, signed by the log's key, of which the private half is in no database. Its
-- leaves are never changed nor removed, and outlive what they are about: see docs/reference/evidence.md. One log a database.
create table if not exists domicile.evidence_log (
    origin text primary key,
    key    text not null,
    alone  boolean not null default true unique check (alone)
);

-- A leaf is committed with the act that it records. Its place in the tree is given by the next checkpoint, so that acts of two moves never wait
-- for each other. act: what may be recorded once only.
create table if not exists domicile.evidence_leaf (
    move_id  text not null,
    sequence integer not null check (sequence >= 0),
    id       bigint generated always as identity,
    act      text,
    leaf     bytea not null,
    hash     bytea not null generated always as (sha256('\x00'::bytea || leaf)) stored,
    place    bigint unique check (place >= 0),
    primary key (move_id, sequence),
    unique (move_id, act)
);
do $body$ begin
    if pg_catalog.to_regclass('domicile.evidence_leaf_waiting') is null then
        create index evidence_leaf_waiting on domicile.evidence_leaf (id) where place is null;
    end if;
end $body$;

-- Checkpoints of this site's log, with the roots of its perfect subtrees, and of other sites' logs as this site has cosigned them: the largest of
-- each is what the next one must have grown from.
create table if not exists domicile.evidence_checkpoint (
    origin text not null,
    size   bigint not null check (size >= 0),
    note   text not null,
    roots  bytea[],
    primary key (origin, size)
);

-- The salts of commitments in the log (32 random bytes): of a wave, for who is in it; of the move (0), for its cohort and for who approved. A
-- wave's goes in the transaction that says that its rows are gone. Destroying one is the erasure: the commitment says nothing then.
create table if not exists domicile.evidence_salt (
    move_id text not null,
    wave    integer not null default 0,
    salt    bytea not null,
    primary key (move_id, wave)
);

-- Written by the mover over and over: how long that takes tells it how the application's writes are served. A row per move and no index: it is
-- found by its place.
create table if not exists domicile.probe (
    move_id text not null references domicile.move on delete cascade,
    writes  bigint not null default 0
);

-- The xid of the transaction that last put up a fence. A sequence, because it is read outside every snapshot: a REPEATABLE READ writer whose
-- snapshot is older than the fence cannot see the marks, but sees this, and fails with 40001 instead of passing. An xid, because one
-- whose transaction was rolled back needs no repair: it counts as seen.
create sequence if not exists domicile.fence_xid minvalue 0 start 0;

-- How often rows of other tables may have come into a closing wave with a row of theirs: read before each drain and again under the wave's
-- lock. A sequence, because whoever takes the lock must see what was counted a moment ago, committed or not.
create sequence if not exists domicile.entered;

-- The tables that have the guard, by oid. joins: how many tables stand between a row and its owner; the drain needs one round more than that.
create table if not exists domicile.guarded (
    relation   oid primary key,
    table_name text not null,
    joins      integer not null check (joins >= 0)
);

-- From this transaction's commit on, snapshots from before it are too old for the guard. One such transaction at a time to its commit: then
-- whoever sees the latest fence sees all before it. A lock of its own, held for a commit only: a departure waits for it under its wave's lock.
create or replace function domicile.raise_fence() returns void language plpgsql as $body$
begin
    perform pg_advisory_xact_lock(7237123425614523494);
    perform setval('domicile.fence_xid', pg_current_xact_id()::text::bigint);
end
$body$;

-- Whoever writes a mark that the guard must look at, by whatever statement, also writes fence_xid, and voids the guard's filter unless that
-- knows every member: they cannot come apart. The members of a wave are stored before its mark says so, or in the same transaction.
create or replace function domicile.note_fence() returns trigger language plpgsql as $body$
declare
    key_type text;
    known boolean;
begin
    if tg_op = 'UPDATE' and (old.mark in ('fenced', 'departed', 'arriving') or new.mark = old.mark) then
        return null;  -- the guard looks at them already
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a wave is fenced under READ COMMITTED only: an older snapshot might not see the filter';
    end if;
    if tg_op = 'UPDATE' and old.mark = 'closing' then
        perform domicile.raise_fence();
        return null;  -- the filter has known the members since: nothing is defined anew while writers wait for the wave's lock
    end if;
    perform pg_advisory_xact_lock(7237123425614523493);  -- "domicile" read as a number
    for key_type in
        select format_type(p.proargtypes[0], null) from pg_proc as p
        where p.pronamespace = 'domicile'::regnamespace and p.proname = 'guard_filter'
    loop
        execute format('select exists (select from domicile.member where wave = %1$L) and not exists (select from domicile.member
                        where wave = %1$L and domicile.guard_filter(subject::%2$s) is not true)', new.id, key_type)
        into known;
        if not known then
            execute format('create or replace function domicile.guard_filter(key %s) returns boolean language sql stable as %L',
                           key_type, 'select true');
        end if;
    end loop;
    perform domicile.raise_fence();
    return null;
end
$body$;

-- Ends a transaction of the mover from inside a statement: it is sent ahead whole, its COMMIT too, and must not commit when a statement found
-- other rows than it was sent for. The message is the reason, never a value.
create or replace function domicile.refuse(reason text, about text default '') returns text language plpgsql as $body$
begin
    raise exception using errcode = 'DM004', message = reason, table = about;
end
$body$;

-- Deferred to the commit, so that a transaction that also stores a million members does not make the sequence run ahead of the marks for
-- long. ALWAYS, because the mover's sessions have the replica role, in which ordinary triggers rest.
do $body$
begin
    if not exists (select from pg_trigger
                   where tgrelid = 'domicile.wave'::regclass and tgname = 'note_fence') then
        create constraint trigger note_fence after insert or update of mark on domicile.wave
            deferrable initially deferred for each row
            when (new.mark in ('closing', 'fenced', 'departed', 'arriving')) execute function domicile.note_fence();
        alter table domicile.wave enable always trigger note_fence;
    end if;
end
$body$;

-- Under a wave's lock, in one call: the mover still has its lease (else DM004), and the wave's mark is one of those expected and becomes
-- another. A departure that is undone is a fence, too: a snapshot that has seen it would answer "moved".
create or replace function domicile.turn_wave(its_move text, its_generation bigint, its_wave integer, expected text[],
                                              new_mark text, new_home text, new_epoch bigint)
returns void language plpgsql as $body$
declare
    old_mark text;
begin
    perform from domicile.move where move_id = its_move and generation = its_generation for share;
    if not found then
        raise exception 'another mover has the lease' using errcode = 'DM004';
    end if;
    select mark into old_mark from domicile.wave where id = its_wave and move_id = its_move for update;
    if (old_mark = any (expected)) is not true then
        raise exception 'wave % is %, and not %', its_wave, coalesce(old_mark, 'unknown'), expected;
    end if;
    update domicile.wave set mark = new_mark, home = new_home, epoch = new_epoch where id = its_wave;
    if old_mark = 'departed' and new_mark <> old_mark then
        perform domicile.raise_fence();
    end if;
end
$body$;

-- A wave's lock for the session, under time limits of its own ('100ms'): for the wait, and for the silence behind it. Returns domicile.entered as
-- it is under the lock, and the session's limits as they were. Where the lock is not had, they are what they were.
create or replace function domicile.lock_wave(lock_class integer, its_wave integer, wait_max text, silence_max text,
                                              out entered bigint, out limits text[])
language plpgsql as $body$
begin
    limits := array[current_setting('lock_timeout'), current_setting('idle_session_timeout')];
    perform set_config('lock_timeout', wait_max, false), set_config('idle_session_timeout', silence_max, false);
    perform from domicile.entered;  -- whoever has this locked is waited for now: what fails behind the wave's lock would keep it
    perform pg_advisory_lock(lock_class, its_wave);
    select case when is_called then last_value else 0 end into entered from domicile.entered;
end
$body$;

-- The departure and its message in the stream; returns the position behind the message. The other site takes over on the strength of this
-- commit, so it must not be one that a crash can take back, nor one that a standby lacks which is promoted, where any is synchronous.
create or replace function domicile.depart_wave(its_move text, its_generation bigint, its_wave integer, new_home text, new_epoch bigint,
                                                content bytea)
returns bigint language plpgsql as $body$
begin
    if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    perform domicile.turn_wave(its_move, its_generation, its_wave, array['closing'], 'departed', new_home, new_epoch);
    return pg_logical_emit_message(true, 'domicile', content) - '0/0'::pg_lsn;
end
$body$;
