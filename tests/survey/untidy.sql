-- A database without most of its foreign keys. Keys of users have gaps; staff is numbered without.
create table users (id bigint primary key, email text not null unique, public_uuid uuid not null unique, full_name text);
insert into users select n + n / 10, 'u' || n || '@example.org', md5(n::text)::uuid, 'Person ' || n from generate_series(1, 600) n;
create function u(n bigint) returns bigint language sql return n + n / 10;

create table letters (id bigint primary key, user_id bigint not null, body text);
insert into letters select 5000 + n, u(1 + n % 600), 'x' from generate_series(1, 900) n;
create index on letters (user_id);
create table letter_pages (letter_id bigint not null, no int not null, primary key (letter_id, no));
insert into letter_pages select 5000 + n, 1 from generate_series(1, 900) n;
create table memos (userid bigint not null, body text);  -- glued, no key
insert into memos select u(1 + n % 500), 'x' from generate_series(1, 700) n;
create table drafts (id bigint primary key, "submittedBy" bigint not null);  -- says a person
insert into drafts select 9000 + n, u(1 + n % 590) from generate_series(1, 700) n;
create table newsletters (id bigint primary key, recipient text not null);  -- an e-mail address is the key
insert into newsletters select 9000 + n, 'u' || 1 + n % 300 || '@example.org' from generate_series(1, 400) n;
create table trackers (id bigint primary key, handle uuid not null);
insert into trackers select 9000 + n, md5((1 + n % 300)::text)::uuid from generate_series(1, 400) n;
create table legacy (id bigint primary key, whose bigint not null);  -- a name that says nothing
insert into legacy select 9000 + n, u(1 + n % 400) from generate_series(1, 800) n;
create index on legacy (whose);
create table levels_seen (id bigint primary key, position bigint not null);  -- keys by chance
insert into levels_seen select 90000 + n, 1 + n % 9 from generate_series(1, 400) n;
create index on levels_seen (position);
create table pilots (id bigint primary key, user_id bigint not null);  -- two rows show nothing
insert into pilots values (1, 1), (2, 2);
create table subscriptions (id bigint primary key, user_id bigint not null, email text not null);  -- the same person twice
insert into subscriptions select 9000 + n, u(1 + n % 600), 'u' || 1 + n % 600 || '@example.org' from generate_series(1, 700) n;
create table orphans (id bigint primary key, user_id bigint not null);
insert into orphans select 9000 + n, case n % 50 when 0 then 10 else u(1 + n % 600) end from generate_series(1, 700) n;
update orphans set user_id = 999999 where id % 50 = 0;

create table presences (id bigint primary key, host text not null);  -- people of other servers too
insert into presences select 9000 + n, 'u' || n || '@example.org' from generate_series(401, 900) n;

create table staff (id bigint primary key, email text);
insert into staff select n, 's' || n || '@example.com' from generate_series(1, 80) n;
create table cases (id bigint primary key, author_id bigint not null);  -- a subject's number, and a clerk's
insert into cases select 9000 + n, u(1 + n % 60) from generate_series(1, 300) n;
create table options (name text primary key, updated_by bigint not null);
insert into options select 'o' || n, u(1 + n % 200) from generate_series(1, 300) n;
create table ip_bans (ip inet primary key, banned_by bigint not null references users);  -- by those who act on it
insert into ip_bans select '10.0.0.0'::inet + n, u(1 + n % 200) from generate_series(1, 300) n;
create table coupons (code text primary key, "createdById" bigint not null references users);
insert into coupons select 'c' || n, u(1 + n % 200) from generate_series(1, 300) n;
create table coupon_uses (no bigint primary key, code text not null references coupons);
insert into coupon_uses select 90000 + n, 'c' || n from generate_series(1, 300) n;
create table feature_flags (name text primary key, enabledby bigint not null);
insert into feature_flags select 'f' || n, u(1 + n % 200) from generate_series(1, 300) n;
create table mutes (id bigint primary key, user_id bigint not null references users, muted_by bigint not null references users);
insert into mutes select 90000 + n, u(n), u(n) from generate_series(1, 300) n;
create table order_audits (id bigint primary key, user_id bigint not null);
insert into order_audits select 9000 + n, u(1 + n % 600) from generate_series(1, 700) n;
create table articles (id bigint primary key, user_id bigint not null, last_editor_id bigint);
insert into articles select 9000 + n, u(1 + n % 600), u(1 + n * 7 % 600) from generate_series(1, 700) n;
create table messages (id bigint primary key, sender_id bigint not null, recipient_id bigint not null);
insert into messages select 9000 + n, u(1 + n % 600), u(1 + n * 7 % 600) from generate_series(1, 700) n;

-- A payment for another one's letter; what hangs from it refers to an owned row as well.
create table bills (id bigint primary key, letter_id bigint not null, user_id bigint not null);
insert into bills select 9000 + n, 5000 + case n % 50 when 0 then n + 1 else n end, u(1 + n % 600) from generate_series(1, 800) n;
create table bills_notes (id bigint primary key, bill_id bigint not null references bills, letter_id bigint not null);
insert into bills_notes select 9000 + n, 9000 + n, 5000 + n from generate_series(1, 700) n;

-- A hub: a topic has an author, and posts of many others.
create table topics (id bigint primary key, user_id bigint not null references users);
insert into topics select 7000 + n, u(1 + n % 600) from generate_series(1, 100) n;
create table posts (id bigint primary key, topic_id bigint not null references topics, user_id bigint not null references users);
insert into posts select 9000 + n, 7001 + n % 100, u(1 + n * 7 % 600) from generate_series(1, 900) n;
create table topic_tags (topic_id bigint not null references topics, tag text not null, primary key (topic_id, tag));
insert into topic_tags select 7000 + n, 'tag' from generate_series(1, 100) n;
create table tag_uses (id bigint primary key, topic_id bigint not null, tag text not null);
alter table tag_uses add foreign key (topic_id, tag) references topic_tags;
insert into tag_uses select n, 7000 + n, 'tag' from generate_series(1, 100) n;

create table comments (id bigint primary key, commentable_type text not null, commentable_id bigint not null);
insert into comments select 9000 + n, case n % 2 when 0 then 'Letter' else 'Forum::Topic' end,
       case n % 2 when 0 then 5000 + n else 7001 + n % 100 end from generate_series(1, 400) n;
-- Kinds that are numbers: of the application alone, beside an owner, and of a framework's table that nothing declares.
create table ratings (id bigint primary key, rateable_type int not null, rateable_id bigint not null);
insert into ratings select 90000 + n, 1 + n % 2, 70000000 + n from generate_series(1, 300) n;
create table papers (id bigint primary key, user_id bigint not null references users, paper_type int, paper_code bigint);
insert into papers select 90000 + n, u(n), 1 + n % 2, 70000000 + n from generate_series(1, 300) n;
create table votes (id bigint primary key, user_id bigint not null references users, votable_type int, votable_id bigint);
insert into votes select 90000 + n, u(n), 1 + n % 2, 70000000 + n from generate_series(1, 300) n;
create table django_content_type (id int primary key, app_label text not null, model text not null);
insert into django_content_type values (1, 'order', 'audit'), (2, 'bills', 'note');
create table tagged (id bigint primary key, content_type_id int not null, object_id bigint not null);
insert into tagged select 90000 + n, 1 + n % 2, 9000 + n from generate_series(1, 300) n;
create table actions (id bigint primary key, target_content_type_id int not null, target_object_id text not null);
insert into actions select 90000 + n, 1 + n % 2, 'o' || n from generate_series(1, 300) n;
-- Pairs in tables without rows: two, one beside an owner, and three that are none.
create table reactions (id bigint primary key, reactable_type text not null, reactable_id bigint not null);
create table marks (id bigint primary key, markable_type smallint not null, markable_id uuid not null);
create table flags (id bigint primary key, user_id bigint not null references users, flaggable_type text, flaggable_id bigint);
create table gauges (id bigint primary key, folder_type text, folder_id bigint);
create table shapes (id bigint primary key, form_kind text, form_id bigint);
create table codes (id bigint primary key, origin_type text, origin_id boolean);
create table teams (id bigint primary key, user_ids bigint[] not null);
insert into teams select 9000 + n, array[u(n), u(n + 1)] from generate_series(1, 300) n;
create table events (id bigint primary key, payload jsonb not null);
insert into events select 9000 + n, jsonb_build_object('user', jsonb_build_object('id', u(1 + n % 600)), 'n', n,
       'k' || n || '@example.org', 1) from generate_series(1, 400) n;
-- One document holds many keys under a person's handle: no path. Documents that are no text, which cannot be measured.
create table folders (id bigint primary key, content jsonb not null);
insert into folders select 1, jsonb_build_object('alice', jsonb_agg(md5(n::text)::uuid)) from generate_series(1, 100) n;
create table cards (id bigint primary key, user_id bigint not null references users, content json not null);
insert into cards select 90000 + n, u(n), '{"a": "\u0000"}' from generate_series(1, 100) n;
-- Two collations of one column's kind; a sign that means a parameter to drivers.
create table shelves (id bigint primary key, email text collate "C" not null, user_id bigint not null references users);
insert into shelves select 90000 + n, 'u' || n || '@example.org', u(n) from generate_series(1, 100) n;
create table "notes%s" (id bigint primary key, "thing%_type" text not null, "thing%_id" bigint not null, "done%s" int);
insert into "notes%s" select 90000 + n, 'Letter', 5000 + n from generate_series(1, 100) n;
create table shop_orders (branch int, order_no bigint, user_id bigint not null, primary key (branch, order_no));
insert into shop_orders select 1 + n % 5, n, u(1 + n % 600) from generate_series(1, 500) n;
create table parcels (id bigint primary key, branch int not null, order_no bigint not null);
insert into parcels select 9000 + n, 1 + n % 5, n from generate_series(1, 500) n;
create table base (id bigint primary key, user_id bigint not null references users);
create table derived (more text) inherits (base);
insert into base select 9000 + n, u(n) from generate_series(1, 100) n;
create table visits (user_id bigint not null, at int) partition by hash (user_id);  -- a foreign key on one leaf of two
create table visits_0 partition of visits for values with (modulus 2, remainder 0);
create table visits_1 partition of visits for values with (modulus 2, remainder 1);
insert into visits select u(1 + n % 600), n from generate_series(1, 700) n;
alter table visits_0 add foreign key (user_id) references users;
drop function u;
analyze;
