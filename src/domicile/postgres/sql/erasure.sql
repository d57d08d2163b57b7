-- What a purge knows about erasure at the site where the rows were; one row per move. Idempotent. The fingerprints of the values it searches for
-- are sealed with a key that is not here, and go when nothing is left to wait for.
create table if not exists domicile.erasure (
    move_id    text primary key references domicile.move on delete cascade,
    rewrite    boolean not null default false,   -- tables are to be written anew, each under a lock
    kept       jsonb not null default '[]',      -- archives and backups: [path, until when]
    mb_per_s_max integer not null default 0,
    waves      integer[] not null default '{}',  -- whose values are among the fingerprints
    prints     bytea,
    canaries   bytea,
    plain      integer not null default 0,       -- values too plain to be searched for
    passed_over integer not null default 0,      -- values beyond the number that is kept
    shared     integer not null default 0,       -- values that others hold too
    begun_at   timestamptz not null default now(),
    deleted_at timestamptz,                      -- the last deletion
    deleted_lsn pg_lsn,                          -- the log was here then
    first      jsonb,                            -- the first scan, with canaries, before anything was deleted
    report     jsonb
)
