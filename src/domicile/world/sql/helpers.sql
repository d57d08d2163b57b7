-- What the generator's SQL needs to know, as functions with constant bodies: the planner inlines them.
-- The values in braces are put in by store.py.
create schema store_build;
create function store_build.base() returns bigint language sql immutable return {base}::bigint;
create function store_build.site() returns integer language sql immutable return {site}::integer;
create function store_build.people() returns bigint language sql immutable return {people}::bigint;
create function store_build.sales() returns bigint language sql immutable return {sales}::bigint;
create function store_build.products() returns integer language sql immutable return {products}::integer;

-- A number in [0, n), the same for the same id and salt at every server; another seed or site gets other numbers.
create function store_build.pick(id bigint, salt integer, n integer) returns integer language sql immutable
    return ((hashint8extended(id, {salt}::bigint + salt) & 9223372036854775807) % n)::integer;

create unlogged table store_build.slot (n integer primary key, market text not null);
