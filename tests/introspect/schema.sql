-- One of everything that the catalogues tell apart.

create schema app;
create type app.mood as enum ('sad', 'ok', 'happy');
create type app.pair as (a integer, b text);
create domain app.positive as integer check (value > 0);
create domain app.small as app.positive not null;
create sequence app.odd_seq;
create table app.parent (
    id bigint generated always as identity primary key,
    serial_no serial,
    odd integer default nextval('app.odd_seq'),
    code varchar(10) collate "C" unique,
    mood app.mood not null default 'ok',
    moods app.mood[],
    pair app.pair,
    small app.small,
    amount numeric(12, 2),
    twice numeric generated always as (amount * 2) stored,
    gone text
);
alter table app.parent drop column gone;
create unique index parent_lower on app.parent (lower(code));
create unique index parent_partial on app.parent (amount) where mood = 'ok';
create unique index parent_nulls on app.parent (amount, code) nulls not distinct;
create index parent_mixed on app.parent (mood, lower(code), amount);
create index parent_brin on app.parent using brin (amount);
create table app.part (
    id bigint not null, at date not null, parent bigint not null references app.parent on delete cascade,
    other bigint, primary key (id, at)
) partition by range (at);
create table app.part_1 partition of app.part for values from ('2024-01-01') to ('2025-01-01');
create table app.part_2 partition of app.part for values from ('2025-01-01') to ('2026-01-01') partition by list (id);
create table app.part_2_a partition of app.part_2 for values in (1, 2);
create table app.part_2_b partition of app.part_2 default;
alter table app.part_1 add foreign key (other) references app.parent (id);
alter table app.part_2_a add foreign key (other) references app.parent (id);
create index on app.part_1 (other);
create index on app.part_2 (other);
create table app."Quoted ""Table""" ("a.b" integer primary key, "select" text);
create unlogged table app.fleeting (id integer);
create table app.base (id integer);
create table app.derived (more text) inherits (app.base);
create view app.seen as select id from app.parent;
create foreign data wrapper nowhere;
create server nowhere foreign data wrapper nowhere;
create foreign table app.far (id integer) server nowhere;
create table app.guarded (id integer);
alter table app.guarded enable row level security;
create function app.noop() returns trigger language plpgsql as 'begin return new; end';
create trigger t_always before insert on app.parent for each row execute function app.noop();
alter table app.parent enable always trigger t_always;
create schema domicile;
create table domicile.wave (id integer);
create function domicile.guard() returns trigger language plpgsql as 'begin return new; end';
create trigger domicile_guard before insert on app.parent for each row execute function domicile.guard();
insert into app.parent (amount, small) select n, 1 from generate_series(1, 25) n;
insert into app.part select n, date '2024-06-01' + n, 1, 1 from generate_series(1, 300) n;
select lo_create(0);
