-- What real databases hold and tidy ones do not: names that need quotes, text keys, references to oneself, circles,
-- two owners by meaning, owners that may be null, polymorphic columns, rows that two subjects share.

create schema "Odd Shop";
create domain "Odd Shop".handle as text check (value <> '');
create type "Odd Shop"."état" as enum ('new', 'very "old"');

create table "Odd Shop"."User" (
    "User Name" "Odd Shop".handle primary key,
    email       text not null,
    "order"     integer,
    invited_by  text references "Odd Shop"."User",
    country     text not null,
    state       "Odd Shop"."état" not null default 'new'
);

create table "Odd Shop"."select" (  -- a reserved word
    id     bigint generated always as identity primary key,
    "user" text not null references "Odd Shop"."User",
    parent bigint references "Odd Shop"."select"
);

create table "Odd Shop".message (
    id        bigint generated always as identity primary key,
    sender    text not null references "Odd Shop"."User",
    recipient text not null references "Odd Shop"."User",
    body      text
);
create table "Odd Shop".attachment (
    message_id bigint not null references "Odd Shop".message,
    no         integer not null,
    path       text not null,
    primary key (message_id, no)
);

create table "Odd Shop".note (  -- a guest's note has no owner
    id     bigint generated always as identity primary key,
    author text references "Odd Shop"."User",
    body   text
);

create table "Odd Shop".comment (  -- on anything
    id               bigint generated always as identity primary key,
    commentable_type text not null,
    commentable_id   bigint not null,
    body             text not null
);

create table "Odd Shop".household (  -- of several people
    id     bigint primary key,
    street text not null
);
create table "Odd Shop".residence (
    who       text not null references "Odd Shop"."User",
    household bigint not null references "Odd Shop".household,
    primary key (who, household)
);

-- A circle: a basket has a current line, a line has a basket.
create table "Odd Shop".basket (
    id      bigint primary key,
    owner   text not null references "Odd Shop"."User",
    current bigint
);
create table "Odd Shop".line (
    basket bigint not null references "Odd Shop".basket,
    no     bigint not null,
    primary key (basket, no)
);
alter table "Odd Shop".basket add foreign key (id, current) references "Odd Shop".line deferrable initially deferred;

create unlogged table "Odd Shop".session (token text primary key, "user" text references "Odd Shop"."User");
create table "Odd Shop".base (id bigint primary key);
create table "Odd Shop".derived (extra text) inherits ("Odd Shop".base);
create foreign data wrapper nowhere;  -- cannot be read at all
create server nowhere foreign data wrapper nowhere;
create foreign table "Odd Shop".far (id bigint, email text) server nowhere;
create view "Odd Shop".users as select "User Name" from "Odd Shop"."User";

insert into "Odd Shop"."User" ("User Name", email, country)
select 'Ünal ' || n, 'u' || n || '@example.org', case n % 3 when 0 then 'CN' when 1 then 'IN' else 'SG' end
  from generate_series(1, 90) n;
update "Odd Shop"."User" set invited_by = 'Ünal 1' where "User Name" <> 'Ünal 1';
insert into "Odd Shop"."select" ("user", parent) select 'Ünal ' || n, null from generate_series(1, 90) n;
update "Odd Shop"."select" set parent = id - 1 where id % 10 = 0;
insert into "Odd Shop".message (sender, recipient) select 'Ünal ' || n, 'Ünal ' || n + 1 from generate_series(1, 89) n;
insert into "Odd Shop".attachment select n, 1, 'mail/' || n || '/photo.jpg' from generate_series(1, 89) n;
insert into "Odd Shop".note (author, body) select case when n % 5 > 0 then 'Ünal ' || n end, 'x' from generate_series(1, 90) n;
insert into "Odd Shop".comment (commentable_type, commentable_id, body)
select case n % 2 when 0 then 'Message' else 'Note' end, n, 'x' from generate_series(1, 80) n;
insert into "Odd Shop".household select n, n || ' Long Street' from generate_series(1, 45) n;
insert into "Odd Shop".residence select 'Ünal ' || n, (n + 1) / 2 from generate_series(1, 90) n;
insert into "Odd Shop".basket select n, 'Ünal ' || n, null from generate_series(1, 90) n;
insert into "Odd Shop".line select n, 1 from generate_series(1, 90) n;
update "Odd Shop".basket set current = 1;
