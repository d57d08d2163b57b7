-- How the rows of each table are told apart in the change stream: one line per leaf of a partitioned table, one for any other.
-- relation is the table's number in the argument. Works on PostgreSQL 15 to 18.
with asked as (
    select t.no, c.oid as root
    from rows from (unnest(%(schemas)s::text[]), unnest(%(names)s::text[])) with ordinality t (schema, name, no)
    join pg_catalog.pg_namespace n on n.nspname = t.schema
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = t.name
),
leaf as (
    select a.no, l.relid::oid as oid
    from asked a
    cross join lateral pg_catalog.pg_partition_tree(a.root) l
    where l.isleaf
  union all
    select a.no, a.root
    from asked a
    join pg_catalog.pg_class c on c.oid = a.root and c.relkind = 'r' and not c.relispartition
    where not exists (select from pg_catalog.pg_partition_tree(a.root) l where l.isleaf)
),
candidate as (
    -- Indexes that can tell rows apart: unique at every instant, whole, over plain columns that are never null.
    select l.no, l.oid, i.indexrelid, i.indisprimary, i.indisreplident,
           (select array_agg(a.attname::text order by a.attname)
            from unnest(i.indkey::int2[]) with ordinality k (attnum, position)
            join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
            where k.position <= i.indnkeyatts) as columns,
           -- A key of a leaf holds for the whole table only where it has the columns that choose the leaf.
           not exists (
               select from pg_catalog.pg_partition_ancestors(l.oid) up
               join pg_catalog.pg_partitioned_table p on p.partrelid = up.relid
               cross join lateral unnest(p.partattrs::int2[]) part (attnum)
               left join pg_catalog.pg_attribute chosen on chosen.attrelid = p.partrelid and chosen.attnum = part.attnum
               where part.attnum = 0
                  or not exists (
                      select from unnest(i.indkey::int2[]) with ordinality k (attnum, position)
                      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                      where k.position <= i.indnkeyatts and a.attname = chosen.attname)) as whole
    from leaf l
    join pg_catalog.pg_index i on i.indrelid = l.oid
    where i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
      and not exists (select from unnest(i.indkey::int2[]) with ordinality k (attnum, position)
                      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                      where k.position <= i.indnkeyatts and not a.attnotnull)
)
select l.no::int, c.relreplident::text, coalesce(best.columns, '{}'), coalesce(best.whole, true)
from leaf l
join pg_catalog.pg_class c on c.oid = l.oid
left join lateral (
    select k.columns, k.whole
    from candidate k
    where k.oid = l.oid
      and case c.relreplident when 'd' then k.indisprimary
                              when 'i' then k.indisreplident
                              when 'f' then k.whole
                              else false end
    order by k.indisprimary desc, k.columns
    limit 1
) best on true
order by l.no, l.oid;
