-- What a live database looks like. Each block is one statement, run by postgres/introspect.py under an empty search_path, so that
-- every name of a type comes out qualified. Works on PostgreSQL 15 to 18.

-- name: database
select current_setting('server_version_num')::int,
       pg_catalog.pg_encoding_to_char(d.encoding),
       -- Columns differ by version (daticulocale until 16, datlocale since 17): read through jsonb.
       concat_ws(' ', d.datlocprovider, d.datcollate, to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale'),
       (select count(*) from pg_catalog.pg_largeobject_metadata)
from pg_catalog.pg_database d
where d.datname = current_database();

-- name: relations
-- Every relation with the root of its partition tree (itself where it is not a partition).
with recursive tree (oid, root) as (
    select c.oid, c.oid
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and not c.relispartition
      and n.nspname !~ '^pg_'
      and n.nspname not in ('information_schema', 'domicile')
  union all
    select i.inhrelid, t.root
    from tree t
    join pg_catalog.pg_inherits i on i.inhparent = t.oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition
)
select c.oid::bigint,
       t.root::bigint,
       n.nspname,
       c.relname,
       c.relkind::text,
       c.relpersistence::text,
       c.relrowsecurity,
       coalesce(s.heap, 0),
       case when c.relkind in ('r', 'm') then coalesce(pg_catalog.pg_total_relation_size(c.oid), 0) else 0 end,
       -- Rows as the planner would guess them: the density at the last ANALYZE times today's size. Null: nobody has looked yet, or
       -- there was nothing then.
       case when c.relkind not in ('r', 'm') or coalesce(s.heap, 0) = 0 then 0
            when c.reltuples <= 0 or c.relpages = 0 then null
            else (c.reltuples::float8 / c.relpages * (s.heap / current_setting('block_size')::float8))::bigint
       end,
       pg_catalog.has_table_privilege(c.oid, 'select') and not pg_catalog.row_security_active(c.oid),
       array(select i.inhparent::bigint
             from pg_catalog.pg_inherits i
             where i.inhrelid = c.oid and not c.relispartition
             order by i.inhseqno)
from tree t
join pg_catalog.pg_class c on c.oid = t.oid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join lateral (select pg_catalog.pg_relation_size(c.oid) as heap where c.relkind in ('r', 'm')) s on true
order by n.nspname, c.relname;

-- name: columns
with recursive base (type, at, not_null) as (  -- the type under any domains
    select t.oid, t.oid, t.typnotnull
    from pg_catalog.pg_type t
    where t.oid in (select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = any(%(relations)s::oid[]))
  union all
    select b.type, t.typbasetype, b.not_null or u.typnotnull
    from base b
    join pg_catalog.pg_type t on t.oid = b.at and t.typtype = 'd'
    join pg_catalog.pg_type u on u.oid = t.typbasetype
)
select a.attrelid::bigint,
       a.attname,
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       t.typname,
       tn.nspname,
       t.typtype::text,
       coalesce(e.typname, ''),
       coalesce(en.nspname, ''),
       coalesce(e.typtype::text, ''),
       t.typsend <> 0 and t.typreceive <> 0 and (e.oid is null or (e.typsend <> 0 and e.typreceive <> 0)),
       a.attnotnull or b.not_null,
       a.attgenerated <> '',
       a.attidentity::text,
       case when c.collname is null or c.collname = 'default' then ''
            when cn.nspname = 'pg_catalog' then c.collname
            else cn.nspname || '.' || c.collname
       end,
       coalesce(c.collisdeterministic, true),
       q.nspname,
       q.relname
from pg_catalog.pg_attribute a
join base b on b.type = a.atttypid
join pg_catalog.pg_type t on t.oid = b.at and t.typtype <> 'd'
join pg_catalog.pg_namespace tn on tn.oid = t.typnamespace
left join pg_catalog.pg_type e on e.oid = t.typelem and t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
left join pg_catalog.pg_namespace en on en.oid = e.typnamespace
left join pg_catalog.pg_collation c on c.oid = a.attcollation
left join pg_catalog.pg_namespace cn on cn.oid = c.collnamespace
-- The sequence that fills the column: that of the identity, else the one its default names, else the one it owns.
left join lateral (
    select sn.nspname, s.relname
    from pg_catalog.pg_depend d
    join pg_catalog.pg_class s
      on s.relkind = 'S' and s.oid = case when d.classid = 'pg_catalog.pg_class'::regclass then d.objid else d.refobjid end
    join pg_catalog.pg_namespace sn on sn.oid = s.relnamespace
    where (d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
           and d.refobjid = a.attrelid and d.refobjsubid = a.attnum and d.deptype in ('a', 'i'))
       or (d.classid = 'pg_catalog.pg_attrdef'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
           and d.objid = (select ad.oid from pg_catalog.pg_attrdef ad where ad.adrelid = a.attrelid and ad.adnum = a.attnum))
    order by array_position(array['i', 'n', 'a']::"char"[], d.deptype)
    limit 1
) q on true
where a.attrelid = any(%(relations)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum;

-- name: indexes
select i.indrelid::bigint,
       n.relname,
       array(select a.attname
             from unnest(i.indkey::int2[]) with ordinality k (attnum, position)
             join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
             where k.position <= i.indnkeyatts
             order by k.position),
       -- How many leading columns are plain: an expression (attnum 0) ends what an owner path can use.
       coalesce((select min(k.position) - 1
                 from unnest(i.indkey::int2[]) with ordinality k (attnum, position)
                 where k.attnum = 0 and k.position <= i.indnkeyatts), i.indnkeyatts),
       i.indisunique,
       i.indisprimary,
       i.indpred is not null,
       i.indexprs is not null,
       i.indnullsnotdistinct,
       pg_catalog.pg_get_indexdef(i.indexrelid),
       m.amname in ('btree', 'hash')
from pg_catalog.pg_index i
join pg_catalog.pg_class n on n.oid = i.indexrelid
join pg_catalog.pg_am m on m.oid = n.relam
where i.indrelid = any(%(relations)s::oid[]) and i.indisvalid
order by i.indrelid, i.indisprimary desc, n.relname;

-- name: references
-- A copy of a partitioned table's constraint on its leaves has a parent; a constraint declared on a leaf has none.
select f.conrelid::bigint,
       f.confrelid::bigint,
       array(select a.attname
             from unnest(f.conkey) with ordinality k (attnum, position)
             join pg_catalog.pg_attribute a on a.attrelid = f.conrelid and a.attnum = k.attnum
             order by k.position),
       array(select a.attname
             from unnest(f.confkey) with ordinality k (attnum, position)
             join pg_catalog.pg_attribute a on a.attrelid = f.confrelid and a.attnum = k.attnum
             order by k.position),
       f.conname,
       f.confdeltype::text,
       f.condeferrable,
       f.convalidated
from pg_catalog.pg_constraint f
where f.contype = 'f'
  and f.conparentid = 0
  and f.conrelid = any(%(relations)s::oid[])
  -- NOT ENFORCED (PostgreSQL 18) proves nothing about the rows.
  and coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
order by f.conrelid, f.conname;

-- name: triggers
-- The guard's own triggers come and go with a move: they are not part of what the application's owner made.
select t.tgrelid::bigint, t.tgname, t.tgenabled::text
from pg_catalog.pg_trigger t
join pg_catalog.pg_proc p on p.oid = t.tgfoid
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where t.tgrelid = any(%(relations)s::oid[]) and not t.tgisinternal and n.nspname <> 'domicile'
order by t.tgrelid, t.tgname;

-- name: enums
select n.nspname || '.' || t.typname, array_agg(e.enumlabel::text order by e.enumsortorder)
from pg_catalog.pg_enum e
join pg_catalog.pg_type t on t.oid = e.enumtypid
join pg_catalog.pg_namespace n on n.oid = t.typnamespace
group by 1
order by 1;
