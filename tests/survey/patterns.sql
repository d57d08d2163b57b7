-- Patterns of public code bases, in small: what a name or a foreign key seems to say, and does not.

create table users (id bigint primary key, email text not null, name text);
insert into users select n * 3 + n / 7, 'p' || n || '@example.org', 'n' from generate_series(1, 300) n;

-- "group_users" are the users of a group; a "user" of another table of groups is still a user.
create table groups (id bigint primary key, title text not null);
insert into groups select n, 'g' || n from generate_series(1, 40) n;
create table group_users (id bigint primary key, group_id bigint not null, user_id bigint not null);
create index on group_users (user_id);
insert into group_users select n, n % 40 + 1, (n % 300 + 1) * 3 + (n % 300 + 1) / 7 from generate_series(1, 1500) n;
create table group_requests (
    id bigint primary key, group_id bigint not null, asking_user_id bigint not null, reason text
);
create index on group_requests (asking_user_id);
insert into group_requests
select n, n % 40 + 1, (n % 300 + 1) * 3 + (n % 300 + 1) / 7, 'r' from generate_series(1, 400) n;

create table group_labels (id bigint primary key, group_id bigint not null, label text);
insert into group_labels select n, n % 40 + 1, 'l' from generate_series(1, 80) n;

-- Uploads, and which user has which: a user's picture is an upload, not one of the "user_uploads".
create table uploads (id bigint primary key, user_id bigint not null, url text not null);
create index on uploads (user_id);
insert into uploads select n, (n % 300 + 1) * 3 + (n % 300 + 1) / 7, '/u/' || n from generate_series(1, 300) n;
create table user_uploads (id bigint primary key, upload_id bigint not null, user_id bigint not null);
create index on user_uploads (user_id);
insert into user_uploads select 301 - id, id, user_id from uploads;
create table user_cards (user_id bigint primary key, background_upload_id bigint, motto text);
insert into user_cards select user_id, id, 'm' from uploads;

create table user_visits (id bigint primary key, user_id bigint not null, at date);
create index on user_visits (user_id);
insert into user_visits select id, user_id, date '2026-01-01' from uploads;

-- A request, and the moderator who dealt with it: the owner is not in doubt, though the moderator has a foreign key.
create table requests (
    id bigint primary key, requester_id bigint not null references users, moderator_id bigint references users
);
insert into requests
select n, (n % 300 + 1) * 3 + (n % 300 + 1) / 7, (n % 5 + 1) * 3 from generate_series(1, 300) n;

-- A number without "id" in its name is no key of notices' permissions.
create table notice_permissions (id bigint primary key, user_id bigint not null references users);
insert into notice_permissions select n, id from users, lateral (select (id / 3)::bigint as n) x;
create table notice_rules (id bigint primary key, user_id bigint not null references users);
create table notice_marks (id bigint primary key, user_id bigint not null references users);
create table shelves (id bigint primary key, title text not null, permissions bigint not null);
insert into shelves select n, 's', n % 5 + 1 from generate_series(1, 50) n;

-- "room_type" is the room's, not the kind of what "room_id" means; "media_id" is the medium itself.
create table rooms (room_id text primary key, creator text);
insert into rooms select '!r' || n || ':example.org' from generate_series(1, 60) n;
create table room_states (room_id text not null, room_type text, topic text);
create unique index on room_states (room_id);
insert into room_states select room_id, 'space' from rooms;
create table media (media_origin text not null, media_id text not null, media_type text, size int);
create unique index on media (media_origin, media_id);
insert into media select 'example.net', 'm' || n, 'image/png', n from generate_series(1, 60) n;

-- Without rows a name is all there is: an author may be the owner, whoever created a row need not be.
create table letters (id bigint primary key, author_id bigint not null);
create table switches (id bigint primary key, created_by bigint not null);

analyze;
